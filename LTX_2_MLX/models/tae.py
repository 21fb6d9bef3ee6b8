"""Latent to video in a few layers: the tiny autoencoders, and FlashVSR's decoder that also looks at the input.

Convolutions act on single frames; a ``MemoryBlock`` sees the frame before, and only that, so a clip in pieces gives
exactly what the whole clip gives. Layers keep their published places in the lists ``encoder`` and ``decoder``.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.layers.streaming import WHOLE_CLIP, StreamState, convolve_each, join_frames, stream_layer
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.ops.conv import pad_edge, pixel_shuffle, pixel_unshuffle
from LTX_2_MLX.ops.device import largest_array_bytes
from LTX_2_MLX.ops.row_bands import in_row_bands
from LTX_2_MLX.shapes import Compression

# Latent frames hold four frames each, those of LTX-2 eight, except a clip's first, which holds one.
_TIME = 4
# The encoder's last layer that joins frames: its kernel tells whether it joins two, as in LTX-2.
_LAST_POOL = "encoder.12.conv.weight"
# What the conditional decoder sees of its input: blocks of 4 frames, 8 rows and 8 columns of RGB.
_CONDITION_BLOCK = (_TIME, 8, 8)
_CONDITION_CHANNELS = 3 * _TIME * 8 * 8
# Rows before the last doubling that a row beside them depends on: up to three convolutions of 3×3 follow it.
_HALO = 2


@dataclass(frozen=True)
class TinyConfig:
    """One tiny autoencoder; all its facts but the two after the widths are in the tensors' shapes.

    Attributes:
        latent_channels: Channels of the latent: 16 (Wan 2.1), 48 (Wan 2.2), 32 (Hunyuan 1.5) or 128 (LTX-2).
        patch_size: Pixels folded into channels along each side.
        encoder_width: Channels of every encoder layer.
        decoder_widths: Channels of the decoder's four levels, from the latent on.
        negative_slope: Of the activation below zero; 0 is ReLU.
        signed_output: The decoder gives [-1, 1] instead of [0, 1].
        time: Frames in a latent frame: 4, or 8 (LTX-2).
    """

    latent_channels: int
    patch_size: int
    encoder_width: int
    decoder_widths: tuple[int, int, int, int]
    negative_slope: float = 0.0
    signed_output: bool = False
    time: int = _TIME

    @property
    def compression(self) -> Compression:
        """Pixels per latent step."""
        return Compression(time=self.time, height=8 * self.patch_size, width=8 * self.patch_size)

    @classmethod
    def from_header(cls, header: Header) -> Self | None:
        """Widths, latent channels and patch size from the shapes."""
        shapes = {name: info.shape for name, info in header.tensors.items()}
        names = ("encoder.0", "decoder.1", "decoder.8", "decoder.14", "decoder.20", "decoder.22")
        found = [shapes.get(f"{name}.weight", ()) for name in names]
        if any(len(shape) != 4 for shape in found):
            return None
        encoder, first, *levels, last = found
        return cls(
            latent_channels=first[1],
            patch_size=round((last[0] / 3) ** 0.5),
            encoder_width=encoder[0],
            decoder_widths=(first[0], levels[0][0], levels[1][0], levels[2][0]),
            time=_TIME * _last_stride(encoder[0], shapes.get(_LAST_POOL, ())),
        )


def _last_stride(width: int, pool: tuple[int, ...]) -> int:
    """Frames that the encoder's last level joins, by the shape of its kernel: 1 or 2."""
    return 2 if len(pool) == 4 and pool[1] == 2 * width else 1


PRESETS = {
    "tae-w2.1": TinyConfig(16, 1, 64, (256, 128, 64, 64)),
    "tae-w2.2": TinyConfig(48, 2, 64, (256, 128, 64, 64)),
    "taehv1.5": TinyConfig(32, 2, 64, (256, 128, 64, 64)),
    "tae-hv": TinyConfig(32, 2, 64, (256, 128, 64, 64), negative_slope=0.2, signed_output=True),
    "taeltx2.3": TinyConfig(128, 4, 64, (256, 128, 64, 64), time=8),
}


class SoftClamp(nn.Module):
    """Keep values within (-3, 3): ``3 * tanh(x / 3)``."""

    def __call__(self, x: mx.array) -> mx.array:
        return mx.tanh(x / 3) * 3


class Activation(nn.Module):
    """ReLU, or leaky ReLU with the given slope below zero."""

    def __init__(self, negative_slope: float):
        super().__init__()
        self.negative_slope = negative_slope

    def __call__(self, x: mx.array) -> mx.array:
        return mx.maximum(x, x * self.negative_slope) if self.negative_slope else mx.maximum(x, 0)


class MemoryBlock(nn.Module):
    """Three convolutions over a frame and the one before, added to the frame; zeros before a clip's first."""

    def __init__(self, channels: int, negative_slope: float):
        super().__init__()
        act = Activation(negative_slope)
        self.conv = [
            nn.Conv2d(2 * channels, channels, 3, padding=1),
            act,
            nn.Conv2d(channels, channels, 3, padding=1),
            act,
            nn.Conv2d(channels, channels, 3, padding=1),
        ]
        self.act = act

    def __call__(self, x: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        before = state.window(x, 2, before=1, padding="zeros")[:, :-1]
        pairs = mx.concatenate([x, before], axis=-1)
        return self.act(run_layers(self.conv, pairs, state["conv"]) + x)


class TimePool(nn.Module):
    """``stride`` consecutive frames to one, earlier channels first."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels * stride, channels, 1, bias=False)

    def __call__(self, x: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        x = state.window(x, self.stride, stride=self.stride)
        batch, frames, height, width, channels = x.shape
        x = x.reshape(batch, frames // self.stride, self.stride, height, width, channels)
        x = x.transpose(0, 1, 3, 4, 2, 5)
        return convolve_each(self.conv, x.reshape(*x.shape[:4], self.stride * channels))


class TimeGrow(nn.Module):
    """One frame to ``stride`` consecutive ones, earlier channels first."""

    def __init__(self, channels: int, stride: int):
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels * stride, 1, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        batch, frames, height, width, channels = x.shape
        x = convolve_each(self.conv, x).reshape(batch, frames, height, width, self.stride, channels)
        return x.transpose(0, 1, 4, 2, 3, 5).reshape(batch, frames * self.stride, height, width, channels)


class Double(nn.Module):
    """Every pixel four times."""

    def __call__(self, x: mx.array) -> mx.array:
        return mx.repeat(mx.repeat(x, 2, axis=2), 2, axis=3)


def run_layers(layers: list[nn.Module], x: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
    """``layers`` one after another over ``(B, T, H, W, C)``, the working memory of one layer at a time."""
    for number, layer in enumerate(layers):
        if isinstance(layer, nn.Conv2d):
            x = convolve_each(layer, x)
        elif isinstance(layer, (MemoryBlock, TimePool)):
            x = layer(x, state[number])
        else:
            x = layer(x)
        x = state.checkpoint(x)
    return x


def _decode(layers: list[nn.Module], x: mx.array, state: StreamState) -> mx.array:
    """Run the layers of a decoder; those at full size, which see no other frame, take one frame at a time."""
    last_doubling = max(number for number, layer in enumerate(layers) if isinstance(layer, Double))
    x = run_layers(layers[:last_doubling], x, state)
    full_size = state["full_size"]
    tail = layers[last_doubling:]

    def decode_frame(frame: mx.array) -> mx.array:
        band = partial(run_layers, tail, state=full_size)
        return in_row_bands(band, frame, rows=_rows_at_once(tail, frame), halo=_HALO, scale=2)

    return state.each_frame(decode_frame, x)


def _rows_at_once(tail: list[nn.Module], frame: mx.array) -> int:
    """Rows of frames ``(B, T, H, W, C)`` that keep the largest array at full size within what the device holds."""
    limit = largest_array_bytes(frame.itemsize)
    if limit is None:
        return frame.shape[2]
    (grow,) = (layer for layer in tail if isinstance(layer, TimeGrow))
    channels = max(layer.weight.shape[0] for layer in tail if isinstance(layer, nn.Conv2d))
    values = max(grow.conv.weight.shape[0], grow.stride * channels)
    num_frames = frame.shape[0] * frame.shape[1]
    row_bytes = num_frames * 2 * 2 * frame.shape[3] * values * frame.itemsize
    return max(limit // row_bytes - 2 * _HALO, 1)


def _last_rows(weights: dict[str, mx.array]) -> dict[str, mx.array]:
    """Kernels of ``TimeGrow`` cut to the rows for the frames that are made: the last ones."""
    pool = weights.get(_LAST_POOL)
    first = 1 if pool is None else _last_stride(pool.shape[0], pool.shape)
    for place, stride in ((7, first), (13, 2), (19, 2)):
        name = f"decoder.{place}.conv.weight"
        if name in weights and weights[name].ndim == 4:
            weights[name] = weights[name][-stride * weights[name].shape[1] :]
    return weights


class TinyAutoencoder(nn.Module):
    """A tiny autoencoder of the TAEHV family, both ways.

    Shape:
        frames ``(B, T, H, W, 3)`` in [-1, 1] <-> latent ``(B, ceil(T / 4), H / 8p, W / 8p, C)``;
        decoding f latent frames gives 4f - 3 frames, clipped to [-1, 1]. For LTX-2, 8 takes the place of 4.

    It takes the latent as the diffusion model gives it, without any statistics.

    Source: madebyollin/taehv, taehv.py at 1f14a56.
    """

    Config = TinyConfig

    def __init__(self, config: TinyConfig):
        super().__init__()
        self.config = config
        self.compression = config.compression
        self.encoder = _encoder_layers(config)
        self.decoder = _decoder_layers(config)

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """The published name itself."""
        return published if published.startswith(("encoder.", "decoder.")) else None

    @staticmethod
    def prepare(weights: dict[str, mx.array]) -> dict[str, mx.array]:
        """A published file may hold kernels for more frames than are made."""
        return _last_rows(weights)

    def encode(self, frames: mx.array) -> mx.array:
        """Frames in [-1, 1] to a latent; the last frame is repeated until the last latent frame is whole."""
        if lacking := -frames.shape[1] % self.config.time:
            frames = mx.concatenate([frames, mx.repeat(frames[:, -1:], lacking, axis=1)], axis=1)
        patch = self.config.patch_size
        pixels = ((frames.astype(mx.float32) + 1) / 2).astype(self.encoder[0].weight.dtype)
        x = pixel_unshuffle(pixels, (1, patch, patch))
        return join_frames(*stream_layer(partial(run_layers, self.encoder), [x], self.config.time))

    def __call__(self, latent: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        """Frames of a latent, or of the next latent frames of one."""
        x = _decode(self.decoder, latent.astype(self.decoder[1].weight.dtype), state["decoder"])
        _, x = state.split_start(x, self.config.time - 1)
        x = pixel_shuffle(x, (1, self.config.patch_size, self.config.patch_size))
        return mx.clip(x, -1, 1) if self.config.signed_output else mx.clip(x, 0, 1) * 2 - 1

    def decode(self, latent: mx.array) -> mx.array:
        """The frames of a whole clip."""
        return join_frames(*self.stream([latent]))

    def stream(self, latents: Iterable[mx.array]) -> Iterator[mx.array]:
        """One chunk of frames per latent frame: the first has one frame, every later one four, or eight."""
        return stream_layer(self, latents, 1)


@dataclass(frozen=True)
class LightTinyConfig(TinyConfig):
    """``lighttaehy1_5``: shapes as ``taehv1_5``, with two facts that no tensor tells."""

    @classmethod
    def from_header(cls, header: Header) -> Self | None:
        """The preset of the 32-channel tiny autoencoders, made leaky and signed."""
        config = super().from_header(header)
        if config is None or (config.latent_channels, config.patch_size) != (32, 2):
            return None
        return replace(config, negative_slope=0.2, signed_output=True)


class LightTinyAutoencoder(TinyAutoencoder):
    """``lighttaehy1_5``: the layers of ``TinyAutoencoder`` with leaky activations and an output in [-1, 1].

    A class of its own because its tensors are those of ``taehv1_5``: the caller chooses the class.
    Its latents are Hunyuan 1.5's divided by 1.03682, which is the caller's to do.

    Source: ModelTC/LightX2V, lightx2v/models/video_encoders/hf/tae.py at f8aee98.
    """

    Config = LightTinyConfig


def _encoder_layers(config: TinyConfig) -> list[nn.Module]:
    width, slope = config.encoder_width, config.negative_slope
    layers: list[nn.Module] = [nn.Conv2d(3 * config.patch_size**2, width, 3, padding=1), Activation(slope)]
    for stride in (2, 2, config.time // _TIME):
        layers += [TimePool(width, stride), nn.Conv2d(width, width, 3, stride=2, padding=1, bias=False)]
        layers += [MemoryBlock(width, slope) for _ in range(3)]
    return [*layers, nn.Conv2d(width, config.latent_channels, 3, padding=1)]


def _decoder_layers(config: TinyConfig) -> list[nn.Module]:
    widths, slope = config.decoder_widths, config.negative_slope
    layers: list[nn.Module] = [
        SoftClamp(),
        nn.Conv2d(config.latent_channels, widths[0], 3, padding=1),
        Activation(slope),
    ]
    for width, next_width, stride in zip(widths[:-1], widths[1:], (config.time // _TIME, 2, 2), strict=True):
        layers += [MemoryBlock(width, slope) for _ in range(3)]
        layers += [Double(), TimeGrow(width, stride), nn.Conv2d(width, next_width, 3, padding=1, bias=False)]
    return [*layers, Activation(slope), nn.Conv2d(widths[-1], 3 * config.patch_size**2, 3, padding=1)]


@dataclass(frozen=True)
class ConditionalConfig:
    """FlashVSR's tiny conditional decoder.

    Attributes:
        latent_channels: Channels of the latent alone; the published ``latent_channels`` counts the condition's too.
        widths: Channels of the four levels, ``channels``.
    """

    latent_channels: int
    widths: tuple[int, int, int, int]

    @property
    def compression(self) -> Compression:
        """Pixels per latent step."""
        return Compression(time=_TIME, height=8, width=8)

    @classmethod
    def from_header(cls, header: Header) -> "ConditionalConfig | None":
        """Widths and latent channels from the shapes."""
        shapes = {name: info.shape for name, info in header.tensors.items()}
        found = [shapes.get(f"decoder.{place}.weight", ()) for place in (1, 10, 16, 22, 26)]
        if any(len(shape) != 4 for shape in found):
            return None
        latent_channels = found[0][1] - _CONDITION_CHANNELS
        if latent_channels < 1:
            raise CheckpointError(
                f"The conditional decoder takes {found[0][1]} channels, expected more than the "
                f"{_CONDITION_CHANNELS} of its condition. Use FlashVSR's TCDecoder."
            )
        return cls(latent_channels=latent_channels, widths=(found[0][0], found[1][0], found[2][0], found[3][0]))


class ConditionalDecoder(nn.Module):
    """FlashVSR's TCDecoder: latent and low-quality frames to frames.

    Shape:
        latent ``(B, T, H, W, C)`` and lq_frames ``(B, 4T - 3, 8H, 8W, 3)`` in [-1, 1] -> frames of the
        same size, about [-1, 1], not clipped.

    Source: Hakaze/wan2gp-flashvsr, src/models/TCDecoder.py at 4f0afc1 (``build_tcdecoder``, ``decode_video``).
    """

    Config = ConditionalConfig

    def __init__(self, config: ConditionalConfig):
        super().__init__()
        self.config = config
        self.compression = config.compression
        self.decoder = _conditional_layers(config)

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """The published name itself."""
        return published if re.match(r"decoder\.\d+\.", published) else None

    def __call__(self, latent: mx.array, lq_frames: mx.array, state: StreamState = WHOLE_CLIP) -> mx.array:
        """Frames of a clip, or of the next latent frames of one and their low-quality frames.

        Args:
            latent: ``(B, T, H, W, C)``.
            lq_frames: ``(B, 4T, 8H, 8W, 3)``, at a clip's start 3 fewer.
            state: Of the stream.

        Raises:
            RequestError: If frames and latent do not belong together.
        """
        first_latent, _ = state.split_start(latent, 1)
        # The first latent frame stands for one frame: as many copies of it come before the clip.
        num_copies = (_TIME - 1) * first_latent.shape[1]
        num_expected = latent.shape[1] * _TIME - num_copies
        if lq_frames.shape[1] != num_expected:
            raise RequestError(
                f"{lq_frames.shape[1]} low-quality frames do not fit {latent.shape[1]} latent frames: "
                f"expected {num_expected}."
            )
        dtype = self.decoder[1].weight.dtype
        condition = pixel_unshuffle(pad_edge(lq_frames, 1, before=num_copies, after=0), _CONDITION_BLOCK)
        x = mx.concatenate([condition.astype(dtype), latent.astype(dtype)], axis=-1)
        return _decode(self.decoder, x, state["decoder"])[:, num_copies:] * 2 - 1


def _conditional_layers(config: ConditionalConfig) -> list[nn.Module]:
    widths = config.widths
    layers: list[nn.Module] = [
        SoftClamp(),
        nn.Conv2d(_CONDITION_CHANNELS + config.latent_channels, widths[0], 3, padding=1),
        Activation(0),
        nn.Conv2d(widths[0], widths[0], 3, padding=1, bias=False),
        Activation(0),
    ]
    for width, next_width, stride in zip(widths[:-1], widths[1:], (1, 2, 2), strict=True):
        layers += [MemoryBlock(width, 0) for _ in range(3)]
        layers += [Double(), TimeGrow(width, stride), nn.Conv2d(width, next_width, 3, padding=1, bias=False)]
    return [
        *layers,
        Activation(0),
        nn.Conv2d(widths[-1], widths[-1], 3, padding=1, bias=False),
        Activation(0),
        nn.Conv2d(widths[-1], 3, 3, padding=1),
    ]
