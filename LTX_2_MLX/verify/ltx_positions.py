"""Golden cases of LTX-2's tokens, positions, latent sizes and rotary tables."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.diffusion.state import (
    AudioClock,
    VideoGrid,
    patchify_audio,
    patchify_video,
    unpatchify_audio,
    unpatchify_video,
)
from LTX_2_MLX.layers.transformer import RotaryEmbedding, RotaryTable, frequency_ladder, rotate
from LTX_2_MLX.shapes import Compression, LatentShape, VideoShape
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.layout import channels_first, channels_last

# Frames, rows and columns of pixels per latent step, of every published LTX-2 video VAE.
COMPRESSION = Compression(8, 32, 32)


def compression_of(case: Case) -> Compression:
    """Pixels per latent step; the published one unless the case gives another."""
    return Compression(*case.parameters["compression"]) if "compression" in case.parameters else COMPRESSION


def patchify_positions(case: Case) -> Outputs:
    """Tokens, positions, latent sizes, rotary tables and their use."""
    return _tokens(case) | _positions(case) | _ladders(case) | _tables(case)


def _tokens(case: Case) -> Outputs:
    io = case.inputs()
    video = channels_last(io["video.latent"])
    audio = channels_last(io["audio.latent"])
    video_shape = LatentShape(*video.shape[1:4])
    audio_channels = audio.shape[-1]
    return {
        "video.tokens": patchify_video(video),
        "video.unpatchified": channels_first(unpatchify_video(mx.array(io["video.tokens_in"]), video_shape)),
        "audio.tokens": patchify_audio(audio),
        "audio.unpatchified": channels_first(unpatchify_audio(mx.array(io["audio.tokens_in"]), audio_channels)),
    }


def _positions(case: Case) -> Outputs:
    compression = compression_of(case)
    sizes = [_latent_size(compression, *row) for row in case.parameter("pixel")]
    outputs: Outputs = {"latent_sizes": np.array(sizes, dtype=np.int32)}
    for k, (num_frames, height, width, frame_rate) in enumerate(case.parameter("grids")):
        grid = VideoGrid(LatentShape(num_frames, height, width), compression, frame_rate)
        outputs[f"video.positions.{k}"] = grid.positions()
    for k, length in enumerate(case.parameter("audio_lengths")):
        outputs[f"audio.positions.{k}"] = AudioClock().positions(length)
    return outputs


def _latent_size(
    compression: Compression, num_frames: int, height: int, width: int, frame_rate: float
) -> tuple[int, ...]:
    latent = VideoShape(num_frames, height, width).latent(compression)
    audio_frames = AudioClock().num_latents(num_frames, frame_rate)
    return latent.num_frames, latent.height, latent.width, audio_frames


def _ladders(case: Case) -> Outputs:
    outputs: Outputs = {}
    for width, axes in case.parameter("ladders"):
        for precision in ("float32", "float64"):
            outputs[f"ladder.{precision}.{width}.{axes}"] = frequency_ladder(width, axes, precision=precision)
    return outputs


def _tables(case: Case) -> Outputs:
    io = case.inputs()
    outputs: Outputs = {}
    for name, width, heads, max_positions, stream, precision, pairing in case.parameter("tables"):
        # Cross-modal attention turns by time alone.
        positions = io[f"positions.{stream}"][:, : len(max_positions)]
        embedding = RotaryEmbedding(
            width=width, heads=heads, max_positions=max_positions, precision=precision, pairing=pairing
        )
        table = embedding.table(positions)
        outputs[f"rope.{name}.cos"] = _published(table, table.cos)
        outputs[f"rope.{name}.sin"] = _published(table, table.sin)
        if name == f"small_{pairing}":
            x = mx.array(io["rotate"])[:, : table.cos.shape[1]]
            heads_apart = x.reshape(*x.shape[:2], heads, -1)
            outputs[f"rotated.{pairing}"] = rotate(heads_apart, table).reshape(x.shape)
    return outputs


def _published(table: RotaryTable, values: mx.array) -> mx.array:
    """The reference's layout: heads before tokens, or each value twice where pairs are interleaved."""
    if table.pairing == "split":
        return values.swapaxes(1, 2)
    return mx.repeat(values.flatten(2, 3), 2, axis=-1)
