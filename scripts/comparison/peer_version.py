"""One call of a network, by names that this repository has long had."""

import tempfile
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import LTX_2_MLX  # noqa: F401 - the package first: it sets MLX's switches

import mlx.core as mx  # isort: skip
import mlx.nn as nn
import numpy as np
from comparison import peer_ours
from comparison.peer_work import WORKS, Work
from mlx.utils import tree_map

from LTX_2_MLX.models.rife import IFNet, IFNetConfig
from LTX_2_MLX.models.rrdbnet import RRDBNet, RRDBNetConfig
from LTX_2_MLX.models.srvgg import SRVGG, SRVGGConfig
from LTX_2_MLX.models.wan.vae import PRESETS, WanDecoder, WanEncoder

# Features of FlashVSR's transformer, its blocks, and channels of its decoder.
_FLASHVSR_SIZES = (256, 2, 64)


def make(work: Work) -> Callable[[], object]:
    """The call at frames x rows x columns: of the latent for LTX-2's networks, else in pixels."""
    if work.name in WORKS:
        return peer_ours.make(work)
    calls: dict[str, Callable[[int, int, int], Callable[[], object]]] = {
        "ifnet": _interpolation,
        "srvgg": partial(_upscaling, lambda: SRVGG(SRVGGConfig(64, 16, 4))),
        # Two of the published 23 blocks, which are all alike.
        "rrdbnet": partial(_upscaling, lambda: RRDBNet(RRDBNetConfig(num_blocks=2))),
        "wan-encoder": partial(_encoding, "wan2.1"),
        "wan-decoder": partial(_decoding, "wan2.1"),
        "light-decoder": partial(_decoding, "light"),
        "flashvsr": _super_resolution,
    }
    return calls[work.name](*work.shape)


def _interpolation(frames: int, height: int, width: int) -> Callable[[], object]:
    """The frame between two; ``frames`` is not used."""
    network = _random(IFNet(IFNetConfig()))
    first, second = _pixels(1, height, width), _pixels(1, height, width)
    return lambda: mx.eval(network(first, second))


def _upscaling(build: Callable[[], nn.Module], frames: int, height: int, width: int) -> Callable[[], object]:
    network = _random(build())
    pixels = _pixels(frames, height, width)
    return lambda: mx.eval(network(pixels))


def _encoding(preset: str, frames: int, height: int, width: int) -> Callable[[], object]:
    network = _random(WanEncoder(PRESETS[preset]))
    clip = _pixels(frames, height, width)[None]
    return lambda: mx.eval(network.encode(clip))


def _decoding(preset: str, frames: int, height: int, width: int) -> Callable[[], object]:
    network = _random(WanDecoder(PRESETS[preset]))
    size = PRESETS[preset].compression
    latent = mx.random.normal((1, 1 + (frames - 1) // size.time, height // size.height, width // size.width, 16))
    mx.eval(latent)
    return lambda: mx.eval(network.decode(latent))


def _super_resolution(frames: int, height: int, width: int) -> Callable[[], object]:
    """FlashVSR with stand-in weights, from a clip to frames of twice the size."""
    from LTX_2_MLX.bench.flashvsr import write_files
    from LTX_2_MLX.media.frames import FrameStream
    from LTX_2_MLX.pipelines.super_resolve import Request, super_resolve
    from LTX_2_MLX.runtime.runner import StageRunner

    folder = tempfile.TemporaryDirectory()
    write_files(Path(folder.name), *_FLASHVSR_SIZES)
    levels = np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)

    def call(folder: tempfile.TemporaryDirectory = folder) -> None:
        stream = FrameStream(
            chunks=iter([levels]), height=height, width=width, frame_rate=Fraction(24), num_frames=frames
        )
        for _ in super_resolve(stream, Request(weights=folder.name, scale=2.0), StageRunner()):
            pass

    return call


def _random(network: nn.Module) -> nn.Module:
    """The network with random weights."""
    network.update(tree_map(lambda like: mx.random.normal(like.shape) * 0.02, network.parameters()))
    mx.eval(network.parameters())
    return network


def _pixels(*shape: int) -> mx.array:
    pixels = mx.random.uniform(shape=(*shape, 3))
    mx.eval(pixels)
    return pixels
