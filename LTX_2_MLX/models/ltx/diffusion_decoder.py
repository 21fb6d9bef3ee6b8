"""Latent to video: LTX-2.5's diffusion decoder.

Four stages of neighbourhood attention turn the latent into features at twice the latent's detail and more; a fifth
denoises pixels under their guidance, in one step in the published files. Knows nothing of tiles, files or uint8.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/video_vae/{diffusion_video_decoder,transformer} at
400fd31.
"""

from collections.abc import Mapping, Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.layers.transformer import SINUSOID_WIDTH, sinusoid
from LTX_2_MLX.models.ltx.diffusion_decoder_blocks import (
    MODULATION_ROWS,
    NORM_EPS,
    AttentionMode,
    DiffusionNABlock,
    LinearUpsample,
    NABlock,
    Pieces,
    between,
    in_pieces,
    split_again,
)
from LTX_2_MLX.models.ltx.diffusion_decoder_config import Axes, DiffusionDecoderConfig
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, LatentStatisticsConfig
from LTX_2_MLX.ops.activation import silu
from LTX_2_MLX.ops.conv import pixel_shuffle, pixel_unshuffle
from LTX_2_MLX.shapes import Compression

# Tokens of a piece of frames that blocks run on at a time.
PIECE_TOKENS = 65536
# Published name of an optional gate -> the layer whose output rows it scales.
_GATES = {"gate_msa": "attn.proj", "gate_mlp": "mlp.w_down", "gate_ctx": "context_proj"}
_UNUSED = ("type_emb", "coarse_")


class TimestepEmbedder(nn.Module):
    """Timesteps ``(B,)`` to embeddings ``(B, width)``."""

    def __init__(self, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOID_WIDTH, width)
        self.linear_2 = nn.Linear(width, width)

    def __call__(self, timesteps: mx.array) -> mx.array:
        return self.linear_2(silu(self.linear_1(sinusoid(timesteps).astype(self.linear_1.weight.dtype))))


class SharedModulation(nn.Module):
    """Embedding of the noise level to the rows that every block of the diffusion stage adds its own to."""

    def __init__(self, width: int, timestep_width: int):
        super().__init__()
        self.proj = nn.Linear(timestep_width, MODULATION_ROWS * width)

    def __call__(self, embedding: mx.array) -> mx.array:
        return self.proj(silu(embedding)).reshape(embedding.shape[0], MODULATION_ROWS, -1)


class DiffusionVideoDecoder(nn.Module):
    """Diffusion decoder of LTX-2.5.

    ``features`` runs the first three stages, ``decode_features`` the fourth and the diffusion stage on them or on a
    tile of them; tiling is left to ``diffusion_decoder_tiling``.
    """

    Config = DiffusionDecoderConfig

    def __init__(self, config: DiffusionDecoderConfig):
        super().__init__()
        self.config = config
        self.piece_tokens = PIECE_TOKENS
        widths = config.stage_channels
        self.per_channel_statistics = LatentStatistics(LatentStatisticsConfig(config.in_channels))
        self.conv_in = nn.Linear(config.in_channels, widths[0])
        self.det_stages = [
            [NABlock(widths[i], config.stage_kernels[i], config.head_dim) for _ in range(config.stage_depths[i])]
            for i in range(len(config.upsamples))
        ]
        self.upsamples = [LinearUpsample(widths[i], spec) for i, spec in enumerate(config.upsamples)]
        patch_channels = config.out_channels * config.patch_size**2
        self.conv_in_x_t = nn.Linear(patch_channels, widths[-1])
        self.t_embedder = TimestepEmbedder(config.timestep_width)
        self.shared_adaln = SharedModulation(widths[-1], config.timestep_width)
        self.diff_blocks = [
            DiffusionNABlock(widths[-1], widths[-1], config.stage5_kernel, config.head_dim)
            for _ in range(config.stage_depths[-1])
        ]
        self.norm_out = nn.RMSNorm(widths[-1], eps=NORM_EPS)
        self.conv_out = nn.Linear(widths[-1], patch_channels)

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Parameter name of a tensor; None for other networks' and for the tensors that no reference reads."""
        statistics = LatentStatistics.parameter_name(published)
        if statistics is not None:
            return f"per_channel_statistics.{statistics}"
        name = published.removeprefix("vae.")
        if not name.startswith("decoder."):
            return None
        name = name.removeprefix("decoder.")
        if name.startswith(_UNUSED):
            return None
        return name.replace("t_embedder.mlp.0.", "t_embedder.linear_1.").replace(
            "t_embedder.mlp.2.", "t_embedder.linear_2."
        )

    @staticmethod
    def prepare(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """Weights with the static gates of older files multiplied into the layers that they scale."""
        prepared = {name: value for name, value in weights.items() if name.rpartition(".")[2] not in _GATES}
        for name, gate in weights.items():
            block, _, last = name.rpartition(".")
            for kind in ("weight", "bias") if last in _GATES else ():
                layer = f"{block}.{_GATES[last]}.{kind}"
                if layer in prepared:
                    value = prepared[layer]
                    rows = gate.astype(mx.float32).reshape(-1, *[1] * (value.ndim - 1))
                    prepared[layer] = (value.astype(mx.float32) * rows).astype(value.dtype)
        return prepared

    @property
    def compression(self) -> Compression:
        """Pixels per latent step."""
        return self.config.compression

    def features(
        self, latent: mx.array, *, starts_clip: bool = True, wanted: tuple[int, int] | None = None
    ) -> mx.array:
        """Stages 1 to 3.

        Args:
            latent: Normalised ``(B, T, H, W, C)``, no smaller than ``config.smallest_latent``, its last frame repeated
                ``config.ghost_frames`` times.
            starts_clip: Whether it begins with the clip's first frame.
            wanted: The latent frames, from the first to before the second, whose features are returned; the others are
                only seen. All unless given.

        Returns:
            Stage 4's input ``(B, T', H', W', C')``.
        """
        x = self.conv_in(self.per_channel_statistics.denormalise(latent).astype(self.conv_in.weight.dtype))
        pieces = in_pieces(x, self.piece_tokens)
        del x
        for stage in range(3):
            self._blocks(pieces, stage)
            if stage == 2 and wanted is not None:
                first, last = (self.config.frames_before(frame, stage, starts_clip=starts_clip) for frame in wanted)
                pieces = between(pieces, first, last)
                starts_clip = starts_clip and first == 0
            self.upsamples[stage](pieces, starts_clip)
            pieces = split_again(pieces, self.piece_tokens)
        return mx.concatenate(pieces, axis=1)

    def context(self, features: mx.array, *, starts_clip: bool, ends_clip: bool) -> Pieces:
        """Stage 4: features, or a tile of them, to the context of the diffusion stage, ghost frames cut off."""
        pieces = in_pieces(features, self.piece_tokens)
        self._blocks(pieces, 3)
        self.upsamples[3](pieces, starts_clip)
        pieces = split_again(pieces, self.piece_tokens)
        if not ends_clip:
            return pieces
        content = sum(piece.shape[1] for piece in pieces) - self.config.ghost_frames * self.compression.time
        return between(pieces, 0, max(content, self.config.stage5_kernel[0]))

    def decode_features(
        self,
        features: mx.array,
        noise: mx.array,
        *,
        starts_clip: bool = True,
        ends_clip: bool = True,
        mode: AttentionMode = "chunked",
    ) -> mx.array:
        """Stages 4 and 5.

        Args:
            features: Stage 4's input or a tile of it; the tile that ends the clip has the ghost frames with it.
            noise: Standard normal ``(B, F, H, W, out_channels)`` of the context's size in pixels.
            starts_clip: Whether the tile begins with the clip's first frame.
            ends_clip: Whether it reaches the clip's last one.
            mode: See ``AttentionMode``.

        Returns:
            Video ``(B, F, H, W, out_channels)``, float32, about [-1, 1].
        """
        context = self.context(features, starts_clip=starts_clip, ends_clip=ends_clip)
        video = noise.astype(mx.float32)
        steps = self.config.num_steps
        timesteps = [*np.linspace(1.0, 1.0 / steps, steps, dtype=np.float32).tolist(), 0.0]
        for step in range(steps):
            timestep = timesteps[step]
            prediction = self.predict(video, context, timestep, mode).astype(mx.float32)
            if self.config.prediction == "x0":
                if step == steps - 1:
                    return prediction
                prediction = (video - prediction) / timestep
            video = video - (timestep - timesteps[step + 1]) * prediction
        return video

    def predict(self, video: mx.array, context: Sequence[mx.array], timestep: float, mode: AttentionMode) -> mx.array:
        """The diffusion stage's output for noisy pixels ``(B, F, H, W, C)`` at a timestep in (0, 1]."""
        patch = (1, self.config.patch_size, self.config.patch_size)
        pieces = []
        start = 0
        for part in context:
            frames = video[:, start : start + part.shape[1]].astype(part.dtype)
            start += part.shape[1]
            pieces.append(self.conv_in_x_t(_swap_patch(pixel_unshuffle(frames, patch), patch)))
            mx.eval(pieces[-1])
        timesteps = mx.full((video.shape[0],), self.config.timestep_scale_multiplier * timestep)
        modulation = self.shared_adaln(self.t_embedder(timesteps))
        for block in self.diff_blocks:
            block(pieces, context, modulation, mode)
        for number, piece in enumerate(pieces):
            x = self.conv_out(self.norm_out(piece))
            pieces[number] = pixel_shuffle(_swap_patch(x, patch), patch)
            mx.eval(pieces[number])
        return mx.concatenate(pieces, axis=1)

    def _blocks(self, pieces: Pieces, stage: int) -> None:
        for block in self.det_stages[stage]:
            block(pieces)


def _swap_patch(x: mx.array, patch: Axes) -> mx.array:
    """Channels of patches with the offset in width before that in height, or back."""
    _, height, width = patch
    x = x.reshape(*x.shape[:-1], -1, height, width)
    return mx.swapaxes(x, -1, -2).reshape(*x.shape[:-3], -1)
