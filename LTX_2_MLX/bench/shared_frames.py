"""Work on frames by one process and by several, to be timed in turns; all networks have stand-in weights."""

import tempfile
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX.bench.flashvsr import write_files
from LTX_2_MLX.bench.workloads import Widths, stand_in, vae_config
from LTX_2_MLX.bench.writing import moving_waves
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.models.rife import IFNet, IFNetConfig
from LTX_2_MLX.models.srvgg import SRVGG, SRVGGConfig
from LTX_2_MLX.pipelines.generation.decode import decode_frames
from LTX_2_MLX.pipelines.generation.encode import encode_frames
from LTX_2_MLX.pipelines.interpolate import Timeline, interpolated_chunks
from LTX_2_MLX.pipelines.requests import InterpolateRequest, SuperResolveRequest, UpscaleRequest
from LTX_2_MLX.pipelines.sharing import run_group
from LTX_2_MLX.pipelines.super_resolve import super_resolve
from LTX_2_MLX.pipelines.upscale import upscaled_chunks
from LTX_2_MLX.runtime.progress import SilentProgress
from LTX_2_MLX.shapes import VideoShape

_RATE = Fraction(24)
_WIDTHS = Widths()
# FlashVSR's transformer and decoder in a fraction of their width.
_FLASHVSR = {"dim": 384, "layers": 8, "widths": 32}
_SCALE = 2.0
_TILE = 64


def shared_work(name: str, shape: VideoShape, opened: ExitStack) -> Callable[[], object]:
    """The work of that name, ready to be done by the processes of the run.

    Args:
        name: One of ``WORK``.
        shape: Of the video that is made, or read.
        opened: Removes the files that it needs.
    """
    return WORK[name](shape, opened)


def _decode(shape: VideoShape, opened: ExitStack, tile: int | None = None) -> Callable[[], object]:
    decoder = stand_in(VideoDecoder(vae_config(_WIDTHS)), mx.float32)
    assert isinstance(decoder, VideoDecoder)
    size = shape.latent(decoder.compression)
    latent = mx.random.normal((1, size.num_frames, size.height, size.width, _WIDTHS.latent), key=mx.random.key(1))
    mx.eval(decoder.parameters(), latent)
    return lambda: _read(decode_frames(decoder, latent, tile, group=run_group()))


def _encode(shape: VideoShape, opened: ExitStack) -> Callable[[], object]:
    encoder = stand_in(VideoEncoder(vae_config(_WIDTHS)), mx.float32)
    assert isinstance(encoder, VideoEncoder)
    mx.eval(encoder.parameters())
    frames = moving_waves(shape)
    size = (shape.height, shape.width)
    return lambda: encode_frames(encoder, iter([frames]), size=size, num_frames=shape.num_frames, group=run_group())


def _interpolate(shape: VideoShape, opened: ExitStack) -> Callable[[], object]:
    network = stand_in(IFNet(IFNetConfig()), mx.float32)
    assert isinstance(network, IFNet)
    mx.eval(network.parameters())
    frames = moving_waves(shape)
    settings: dict[str, Any] = {
        "request": InterpolateRequest(), "timeline": Timeline(_RATE, 2 * _RATE, factor=2), "progress": SilentProgress()
    }  # fmt: skip
    return lambda: _read(interpolated_chunks(network, stream=_clip(frames), **settings))


def _upscale(shape: VideoShape, opened: ExitStack) -> Callable[[], object]:
    network = stand_in(SRVGG(SRVGGConfig(64, 16, 4)), mx.float32)
    assert isinstance(network, SRVGG)
    mx.eval(network.parameters())
    frames = moving_waves(shape)
    progress = SilentProgress()
    return lambda: _read(upscaled_chunks(network, stream=_clip(frames), request=UpscaleRequest(), progress=progress))


def _super_resolve(shape: VideoShape, opened: ExitStack, **options: Any) -> Callable[[], object]:
    folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
    write_files(folder, **_FLASHVSR)
    frames = moving_waves(shape)
    request = SuperResolveRequest(weights=str(folder), scale=_SCALE, **options)
    return lambda: _read(super_resolve(_clip(frames), request))


WORK: dict[str, Callable[[VideoShape, ExitStack], Callable[[], object]]] = {
    "decode": _decode,
    "decode-tiles": partial(_decode, tile=_TILE),
    "encode": _encode,
    "interpolate": _interpolate,
    "upscale": _upscale,
    "super-resolve": _super_resolve,
    "super-resolve-full": partial(_super_resolve, mode="full", vae_type="light"),
    "super-resolve-tiles": partial(_super_resolve, tile_dit=True, tile_size=_TILE, overlap=8),
}


def _clip(frames: np.ndarray) -> FrameStream:
    num_frames, height, width = frames.shape[:3]
    return FrameStream(iter(frames[:, None]), height, width, _RATE, num_frames)


def _read(chunks: Iterable[np.ndarray]) -> None:
    deque(chunks, maxlen=0)
