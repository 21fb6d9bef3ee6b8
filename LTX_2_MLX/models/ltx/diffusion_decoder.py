"""Latent to video: LTX-2.5's diffusion decoder.

Four stages of neighbourhood attention turn the latent into features at twice the latent's detail and more; a fifth
denoises pixels under their guidance, in one step in the published files. Knows nothing of tiles, files or uint8.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/video_vae/{diffusion_video_decoder,transformer} at
400fd31.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.layers.embedding import SINUSOID_WIDTH, sinusoid
from LTX_2_MLX.models.ltx.diffusion_decoder_config import Axes, DiffusionDecoderConfig, UpsampleSpec
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, LatentStatisticsConfig
from LTX_2_MLX.ops.neighborhood_attention import neighborhood_attention
from LTX_2_MLX.ops.resample import pixel_shuffle, pixel_unshuffle
from LTX_2_MLX.shapes import Compression

# "combined": attention over the whole width, as the kernels for CUDA compute it. "chunked": the published pipelines'
# default, four slabs of the width in stage 5, whose outer columns see repeated ones.
AttentionMode = Literal["chunked", "combined"]

_EPS = 1e-6
_MLP_RATIO = 4
_MODULATION_ROWS = 7
_NUM_SLABS = 4
_ROPE_BASE = 10000.0
# Tokens of a feed-forward pass: its hidden layer is four times as wide as the tokens.
_MLP_TOKENS = 32768
# Published name of an optional gate -> the layer whose output rows it scales.
_GATES = {"gate_msa": "attn.proj", "gate_mlp": "mlp.w_down", "gate_ctx": "context_proj"}
_UNUSED = ("type_emb", "coarse_")


class NeighborhoodAttention(nn.Module):
    """Self-attention to a window of neighbours, with normed queries and keys and rotary positions.

    Shape:
        ``(B, T, H, W, C)`` -> the same.
    """

    def __init__(self, width: int, kernel: Axes, head_dim: int):
        super().__init__()
        self.kernel = kernel
        self.head_dim = head_dim
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = nn.RMSNorm(head_dim, eps=_EPS)
        self.k_norm = nn.RMSNorm(head_dim, eps=_EPS)
        self.proj = nn.Linear(width, width)

    def __call__(self, x: mx.array, first_column: int = 0) -> mx.array:
        """Attention; ``first_column`` is the position of the first column in the whole width."""
        queries, keys, values = (
            part.reshape(*x.shape[:-1], -1, self.head_dim) for part in mx.split(self.qkv(x), 3, axis=-1)
        )
        _, frames, height, width, _ = x.shape
        tables = rotary_tables((frames, height, width), self.head_dim, first_column)
        queries = rotate(self.q_norm(queries) * self.head_dim**-0.5, tables)
        keys = rotate(self.k_norm(keys), tables)
        attended = neighborhood_attention(queries, keys, values, self.kernel)
        return self.proj(attended.reshape(x.shape))


class SwiGLU(nn.Module):
    """Gated feed-forward layer, computed for a bounded number of tokens at a time."""

    def __init__(self, width: int):
        super().__init__()
        hidden = -(-_MLP_RATIO * width // 16) * 16
        self.w_gate = nn.Linear(width, hidden, bias=False)
        self.w_up = nn.Linear(width, hidden, bias=False)
        self.w_down = nn.Linear(hidden, width, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        tokens = x.reshape(-1, x.shape[-1])
        outputs = []
        for start in range(0, tokens.shape[0], _MLP_TOKENS):
            chunk = tokens[start : start + _MLP_TOKENS]
            outputs.append(self.w_down(nn.silu(self.w_gate(chunk)) * self.w_up(chunk)))
            mx.eval(outputs[-1])
        return mx.concatenate(outputs).reshape(x.shape)


class NABlock(nn.Module):
    """Attention and feed-forward layer, each added to its input."""

    def __init__(self, width: int, kernel: Axes, head_dim: int):
        super().__init__()
        self.norm1 = nn.RMSNorm(width, eps=_EPS)
        self.attn = NeighborhoodAttention(width, kernel, head_dim)
        self.norm2 = nn.RMSNorm(width, eps=_EPS)
        self.mlp = SwiGLU(width)

    def __call__(self, x: mx.array) -> mx.array:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class LinearUpsample(nn.Module):
    """Linear layer and pixel shuffle.

    Where time is doubled, the frame that the clip's first one would add is left out.
    """

    def __init__(self, width: int, spec: UpsampleSpec):
        super().__init__()
        self.stride = spec.stride
        self.proj = nn.Linear(width, width // spec.reduction * int(np.prod(spec.stride)))

    def __call__(self, x: mx.array, starts_clip: bool = True) -> mx.array:
        x = pixel_shuffle(self.proj(x), self.stride)
        return x[:, 1:] if self.stride[0] == 2 and starts_clip else x


class DiffusionNABlock(nn.Module):
    """Block of the diffusion stage: context added, attention and feed-forward layer modulated by the noise level."""

    def __init__(self, width: int, context_width: int, kernel: Axes, head_dim: int):
        super().__init__()
        self.context_proj = nn.Linear(context_width, width)
        self.scale_shift_table = mx.zeros((_MODULATION_ROWS, width))
        self.norm1 = nn.RMSNorm(width, eps=_EPS)
        self.attn = NeighborhoodAttention(width, kernel, head_dim)
        self.norm2 = nn.RMSNorm(width, eps=_EPS)
        self.mlp = SwiGLU(width)

    def __call__(self, x: mx.array, context: mx.array, modulation: mx.array, mode: AttentionMode) -> mx.array:
        """One block.

        Args:
            x: ``(B, T, H, W, C)``.
            context: ``(B, T, H, W, context width)``.
            modulation: ``(B, 7, C)``: scale, shift, unused; scale, shift, unused; unused.
            mode: See ``AttentionMode``.
        """
        rows = (modulation + self.scale_shift_table.astype(modulation.dtype))[:, :, None, None, None]
        attention_scale, attention_shift, _, mlp_scale, mlp_shift, _, _ = (rows[:, i] for i in range(_MODULATION_ROWS))
        x = x + self.context_proj(context)

        def attend(columns: mx.array, first_column: int = 0) -> mx.array:
            return self.attn(self.norm1(columns) * (1 + attention_scale) + attention_shift, first_column)

        x = x + (attend(x) if mode == "combined" else _in_slabs(x, attend, self.attn.kernel[2] // 2))
        return x + self.mlp(self.norm2(x) * (1 + mlp_scale) + mlp_shift)


def _in_slabs(x: mx.array, attend: Callable[[mx.array, int], mx.array], halo: int) -> mx.array:
    """Attention in slabs of the width, each with ``halo`` columns of its neighbours on both sides.

    Every slab has the same width. Where there is no neighbour the slab's own outer column is repeated; columns that
    a left neighbour is too narrow to give are zero.
    """
    width = x.shape[3]
    slab = -(-width // _NUM_SLABS)
    outputs = []
    for start in range(0, width, slab):
        stop = min(start + slab, width)
        left = x[:, :, :, max(start - min(halo, slab), 0) : start]
        right = x[:, :, :, stop : stop + halo]
        missing = halo - left.shape[3]
        if start == 0:
            front = mx.repeat(x[:, :, :, :1], missing, axis=3)
        else:
            front = mx.zeros((*x.shape[:3], missing, x.shape[4]), x.dtype)
        behind = slab + halo - (stop - start) - right.shape[3]
        end = mx.repeat(x[:, :, :, stop - 1 : stop], behind, axis=3)
        columns = mx.concatenate([front, left, x[:, :, :, start:stop], right, end], axis=3)
        outputs.append(attend(columns, start - halo)[:, :, :, halo : halo + stop - start])
        mx.eval(outputs[-1])
    return mx.concatenate(outputs, axis=3)


class TimestepEmbedder(nn.Module):
    """Timesteps ``(B,)`` to embeddings ``(B, width)``."""

    def __init__(self, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOID_WIDTH, width)
        self.linear_2 = nn.Linear(width, width)

    def __call__(self, timesteps: mx.array) -> mx.array:
        return self.linear_2(nn.silu(self.linear_1(sinusoid(timesteps).astype(self.linear_1.weight.dtype))))


class SharedModulation(nn.Module):
    """Embedding of the noise level to the rows that every block of the diffusion stage adds its own to."""

    def __init__(self, width: int, timestep_width: int):
        super().__init__()
        self.proj = nn.Linear(timestep_width, _MODULATION_ROWS * width)

    def __call__(self, embedding: mx.array) -> mx.array:
        return self.proj(nn.silu(embedding)).reshape(embedding.shape[0], _MODULATION_ROWS, -1)


class DiffusionVideoDecoder(nn.Module):
    """Diffusion decoder of LTX-2.5.

    ``features`` runs the first three stages, ``decode_features`` the fourth and the diffusion stage on them or on a
    tile of them; tiling is left to ``diffusion_decoder_tiling``.
    """

    Config = DiffusionDecoderConfig

    def __init__(self, config: DiffusionDecoderConfig):
        super().__init__()
        self.config = config
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
        self.norm_out = nn.RMSNorm(widths[-1], eps=_EPS)
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

    def features(self, latent: mx.array, *, starts_clip: bool = True) -> mx.array:
        """Stages 1 to 3.

        Args:
            latent: Normalised ``(B, T, H, W, C)``, no smaller than ``config.smallest_latent``, its last frame repeated
                ``config.ghost_frames`` times.
            starts_clip: Whether it begins with the clip's first frame.

        Returns:
            Stage 4's input ``(B, T', H', W', C')``.
        """
        x = self.conv_in(self.per_channel_statistics.denormalise(latent).astype(self.conv_in.weight.dtype))
        for stage in range(3):
            x = self._stage(x, stage, starts_clip=starts_clip)
        return x

    def context(self, features: mx.array, *, starts_clip: bool, ends_clip: bool) -> mx.array:
        """Stage 4: features, or a tile of them, to the context of the diffusion stage, ghost frames cut off."""
        x = self._stage(features, 3, starts_clip=starts_clip)
        if not ends_clip:
            return x
        content = x.shape[1] - self.config.ghost_frames * self.compression.time
        return x[:, : max(content, self.config.stage5_kernel[0])]

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
        mx.eval(context)
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

    def predict(self, video: mx.array, context: mx.array, timestep: float, mode: AttentionMode) -> mx.array:
        """The diffusion stage's output for noisy pixels ``(B, F, H, W, C)`` at a timestep in (0, 1]."""
        patch = (1, self.config.patch_size, self.config.patch_size)
        x = self.conv_in_x_t(_swap_patch(pixel_unshuffle(video.astype(context.dtype), patch), patch))
        timesteps = mx.full((video.shape[0],), self.config.timestep_scale_multiplier * timestep)
        modulation = self.shared_adaln(self.t_embedder(timesteps))
        for block in self.diff_blocks:
            x = block(x, context, modulation, mode)
            mx.eval(x)
        x = self.conv_out(self.norm_out(x))
        return pixel_shuffle(_swap_patch(x, patch), patch)

    def _stage(self, x: mx.array, stage: int, *, starts_clip: bool) -> mx.array:
        for block in self.det_stages[stage]:
            x = block(x)
            mx.eval(x)
        return self.upsamples[stage](x, starts_clip)


def _swap_patch(x: mx.array, patch: Axes) -> mx.array:
    """Channels of patches with the offset in width before that in height, or back."""
    _, height, width = patch
    x = x.reshape(*x.shape[:-1], -1, height, width)
    return mx.swapaxes(x, -1, -2).reshape(*x.shape[:-3], -1)


def rotary_split(head_dim: int) -> Axes:
    """Channels of a head that carry the position in time, height and width."""
    time = head_dim // 4 // 2 * 2
    space = (head_dim - time) // 2
    if space % 2:
        time -= 2
        space = (head_dim - time) // 2
    return time, space, space


def rotary_tables(shape: Axes, head_dim: int, first_column: int = 0) -> tuple[mx.array, mx.array]:
    """Cosines and sines ``(T, H, W, 1, head_dim / 2)`` of positions 0, 1, 2 ... along each axis, float32."""
    angles = []
    for axis, (length, width) in enumerate(zip(shape, rotary_split(head_dim), strict=True)):
        positions = np.arange(length, dtype=np.float32) + np.float32(first_column if axis == 2 else 0)
        frequencies = (1.0 / _ROPE_BASE ** (np.arange(0, width, 2) / width)).astype(np.float32)
        table = positions[:, None] * frequencies
        view = [1, 1, 1, table.shape[1]]
        view[axis] = length
        angles.append(np.broadcast_to(table.reshape(view), (*shape, table.shape[1])))
    joined = mx.array(np.concatenate(angles, axis=-1)[..., None, :])
    return mx.cos(joined), mx.sin(joined)


def rotate(x: mx.array, tables: tuple[mx.array, mx.array]) -> mx.array:
    """Rotate adjacent pairs of channels of ``(B, T, H, W, heads, D)``, in float32."""
    cosines, sines = tables
    pairs = x.astype(mx.float32).reshape(*x.shape[:-1], -1, 2)
    even = pairs[..., 0]
    odd = pairs[..., 1]
    rotated = mx.stack([even * cosines - odd * sines, even * sines + odd * cosines], axis=-1)
    return rotated.reshape(x.shape).astype(x.dtype)
