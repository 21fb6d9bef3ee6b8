"""What a stage's activations will take, from configs and sizes alone. Nothing is loaded or computed.

The counts follow the arrays that live at once; on the CPU backend, whose convolutions unfold their input and whose
attention stores its scores, the factors were measured (tests/pipelines/test_memory.py holds them within 15 %). Those of
a GPU are counted from the arrays of one block, and are not held by a test. All grow with height, width and frames.
"""

from dataclasses import dataclass, replace

import mlx.core as mx

from LTX_2_MLX.checkpoints.gemma import GemmaConfig
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscalerConfig
from LTX_2_MLX.models.ltx.text_features import ConnectorConfig, TextFeaturesConfig
from LTX_2_MLX.models.ltx.transformer import TransformerConfig
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder, VideoEncoder, default_piece_bytes, run_bytes
from LTX_2_MLX.models.ltx.video_vae_blocks import Upsample
from LTX_2_MLX.models.ltx.video_vae_config import VideoVAEConfig
from LTX_2_MLX.pipelines.video_latents import BLEND_COPIES, choose_tiling
from LTX_2_MLX.shapes import LatentShape, VideoShape

_FLOAT_BYTES = mx.float32.size
# Values that a 3×3×3 convolution reads for one that it writes: the CPU backend copies them side by side.
_TAPS = 27


@dataclass(frozen=True)
class _Factors:
    """How many arrays of a kind live at once.

    Attributes:
        scores: Of attention, ``(B, heads, N, N)``, in the connectors.
        text_scores, self_scores: The same in a transformer block, to the text and among the tokens.
        streams: Token arrays ``(N, D)`` of the block that runs and of the one behind it.
        text_streams: The same of the text: keys, values and what they are made from.
        unfolded: Convolutions whose unfolded input is there, in the latent upscaler.
        clip: Copies of a latent clip at the upscaler's width.
    """

    scores: float
    text_scores: float
    self_scores: float
    streams: float
    text_streams: float
    unfolded: float
    clip: float


_CPU = _Factors(scores=2.33, text_scores=0.61, self_scores=1.6, streams=9.4, text_streams=5.8, unfolded=2.15, clip=0.0)
_GPU = _Factors(scores=0.0, text_scores=0.0, self_scores=0.0, streams=18.0, text_streams=6.0, unfolded=0.0, clip=6.0)
# The decoder's largest piece on the CPU: unfolded for a convolution, with the arrays around it;
# pieces hold whole frames, so they are a little smaller than they might be.
_DECODER_COPIES, _HEAD_COPIES, _PIECE_SHARE = 41, 6, 0.97
# On a GPU, arrays of a residual block.
_GPU_DECODER_COPIES = 8
# Bytes of a picture's pixel while it is resized, and what the encoder's own start takes.
_PICTURE_PIXEL_BYTES, _ENCODER_START_BYTES = 126, 3_000_000


def _factors() -> _Factors:
    return _CPU if mx.default_device() == mx.Device(mx.cpu) else _GPU


def text_encoder_bytes(config: GemmaConfig, *, prompts: int, tokens: int, length: int, item_bytes: int) -> int:
    """Gemma's turn: every state, padded, and one layer's arrays over the valid tokens.

    Args:
        config: Of the language model.
        prompts: In the batch.
        tokens: Of the longest prompt.
        length: Of a padded prompt.
        item_bytes: Of one value.
    """
    states = context_states_bytes(config, prompts=prompts, length=length, item_bytes=item_bytes)
    scores = prompts * config.num_attention_heads * tokens**2 * _FLOAT_BYTES
    layer = prompts * tokens * (8 * config.hidden_size + 6 * config.intermediate_size) * item_bytes
    return states + scores + layer


def context_states_bytes(config: GemmaConfig, *, prompts: int, length: int, item_bytes: int) -> int:
    """All of Gemma's states, which wait for the text features."""
    return (config.num_hidden_layers + 1) * prompts * length * config.hidden_size * item_bytes


def text_features_bytes(config: TextFeaturesConfig, *, prompts: int, length: int, item_bytes: int) -> int:
    """Both connectors over padded prompts."""

    def connector(part: ConnectorConfig | None) -> int:
        return 0 if part is None else prompts * length * 12 * part.width * item_bytes

    scores = _factors().scores * prompts * config.video.heads * length**2 * item_bytes
    return int(scores) + max(connector(config.video), connector(config.audio))


def transformer_bytes(
    config: TransformerConfig, *, tokens: int, audio_tokens: int, text_tokens: int, prompts: int, item_bytes: int
) -> int:
    """One call of the transformer with the contexts of all its passes.

    Args:
        config: Of the network.
        tokens: Of the video latent.
        audio_tokens: Of the audio latent; without effect where the network has none.
        text_tokens: Of a context.
        prompts: 2 where guidance has a negative one.
        item_bytes: Of one value.
    """
    factors, audio = _factors(), config.audio
    widths = config.video.width + (0 if audio is None else audio.width)
    contexts = (
        0 if config.caption_channels is None else prompts * text_tokens * 2 * config.caption_channels * _FLOAT_BYTES
    )
    text = (prompts + factors.text_streams) * text_tokens * widths * item_bytes
    streams = tokens * config.video.width + (0 if audio is None else audio_tokens * audio.width)
    scores = factors.text_scores * tokens * text_tokens + factors.self_scores * tokens**2
    return int(contexts + text + factors.streams * streams * item_bytes + config.video.heads * scores * item_bytes)


def upscaler_bytes(config: LatentUpscalerConfig, latent: LatentShape, *, item_bytes: int, waiting_bytes: int) -> int:
    """A latent upscaler's turn: its last layers, at the larger size.

    ``waiting_bytes`` are those of results that other stages wait with.
    """
    factors, larger = _factors(), config.output_shape(latent)
    values = larger.num_tokens * config.mid_channels * item_bytes
    # The widest weight is turned to MLX's axis order while it loads.
    widest = 6 * 9 * config.mid_channels**2 * item_bytes
    return int((factors.unfolded * _TAPS + factors.clip) * values) + widest + waiting_bytes


def encoder_bytes(config: VideoVAEConfig, picture: VideoShape, *, item_bytes: int) -> int:
    """One picture's way to a latent frame."""
    pixels = picture.height * picture.width
    if _factors() is _CPU:
        unfolded = _TAPS * config.in_channels * _FLOAT_BYTES
        return pixels * (unfolded + _PICTURE_PIXEL_BYTES) + _ENCODER_START_BYTES
    return run_bytes(VideoEncoder(config).levels(), (1, 1, picture.height, picture.width, 3), item_bytes)


def decoder_bytes(config: VideoVAEConfig, latent: LatentShape, *, item_bytes: int) -> int:
    """What decoding a latent piece by piece takes, for whole frames or for one tile."""
    levels = (decoder := VideoDecoder(config)).levels(batch=1)
    frame_bytes, piece_bytes = latent.height * latent.width * item_bytes, default_piece_bytes()
    held = int(sum(level.held for level in levels) * frame_bytes)
    if _factors() is not _CPU:
        frames = [level.elements * frame_bytes for level in levels]
        late = [2 + level.frames_late for level in levels]
        pieces = [max(piece_bytes, frame) + more * frame for frame, more in zip(frames, late, strict=True)]
        return held + int(_GPU_DECODER_COPIES * max(pieces))
    largest, area, num_frames = 0.0, 1.0, latent.num_frames
    for block in decoder.up_blocks:
        if isinstance(block, Upsample):
            time, height, width = block.stride
            area, num_frames = area * height * width, (num_frames - 1) * time + 1
            continue
        frame = block.widest_channels * area * frame_bytes
        largest = max(largest, min(num_frames * frame, max(_PIECE_SHARE * piece_bytes, frame)))
    # The last convolution writes the pixels of whole patches, wider than what it reads.
    read, written = decoder.up_blocks[-1].out_channels * area, decoder.conv_out.conv.weight.shape[0] * area
    frames = min(num_frames, max(piece_bytes / (max(read, written) * frame_bytes), 1))
    head = frames * frame_bytes * (_TAPS * read + _HEAD_COPIES * written)
    return held + int(max(_DECODER_COPIES * largest, head))


def decode_bytes(
    config: VideoVAEConfig, latent: LatentShape, *, item_bytes: int, tile_size: int | None, budget: int | None = None
) -> int:
    """Decoding a latent to the end: piece by piece, or in tiles where the pieces do not fit or tiles are asked for.

    ``budget`` is that of ``choose_tiling``.

    Raises:
        MemoryBudgetError: If no tile is small enough.
    """
    decoder = VideoDecoder(config)
    decoder.set_dtype({4: mx.float32, 2: mx.bfloat16}[item_bytes])
    tiling = choose_tiling(decoder, latent, tile_size, budget)
    if tiling is None:
        return decoder_bytes(config, latent, item_bytes=item_bytes)
    sides = {"height": tiling.height, "width": tiling.width, "num_frames": tiling.time}
    tile = LatentShape(**{name: min(getattr(latent, name), side.size) for name, side in sides.items()})
    span = replace(latent, num_frames=tile.num_frames).pixels(config.decoder_compression)
    blended = BLEND_COPIES * 3 * _FLOAT_BYTES * span.num_frames * span.height * span.width
    return decoder_bytes(config, tile, item_bytes=item_bytes) + blended
