"""Every pipeline from a video to a video, with frames of ten bits."""

from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny_checkpoints import write_upscaler, write_vae
from tiny_flashvsr import write_flashvsr

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.models.srvgg import SRVGG, SRVGGConfig
from LTX_2_MLX.pipelines import super_resolve
from LTX_2_MLX.pipelines.interpolate import Request as Interpolation
from LTX_2_MLX.pipelines.interpolate import interpolate
from LTX_2_MLX.pipelines.upscale import Request as Upscaling
from LTX_2_MLX.pipelines.upscale import upscale
from LTX_2_MLX.pipelines.upscale_temporal import Request as TemporalUpscaling
from LTX_2_MLX.pipelines.upscale_temporal import upscale_temporal
from LTX_2_MLX.verify.case import Case

CASE = Path(__file__).parents[1] / "goldens/rife/procedure"
HEIGHT, WIDTH = 34, 50
# One level of eight bits.
LEVEL = 257


def made(run, bit_depth: int) -> np.ndarray:
    """What a pipeline makes of a smooth clip of four frames."""
    rows, columns = np.mgrid[0:HEIGHT, 0 : WIDTH + 4] / 7
    wide = (127 + 100 * np.sin(rows) * np.cos(columns)).round()
    frames = np.stack([np.repeat(wide[:, index : index + WIDTH, None], 3, axis=-1) for index in range(4)])
    levels = frames.astype(np.uint8) if bit_depth == 8 else (frames * LEVEL).astype(np.uint16)
    stream = run(FrameStream([levels], HEIGHT, WIDTH, Fraction(24), 4, bit_depth=bit_depth))
    assert stream.bit_depth == bit_depth
    return stream.array()


def write_compact(path: Path) -> str:
    mx.random.seed(1)
    weights = {}
    for name, value in tree_flatten(SRVGG(SRVGGConfig(8, 2, 2)).parameters()):
        weights[name] = mx.contiguous(value.transpose(0, 3, 1, 2)) if value.ndim == 4 else value
    mx.save_safetensors(str(path), weights)
    return str(path)


def run_of(name: str, folder: Path):
    """The pipeline as a function of a stream, with small weights."""
    if name == "interpolate":
        rife = str(Case.open(CASE, folder).write_checkpoint("flownet.safetensors"))
        return lambda stream: interpolate(stream, Interpolation(rife))
    if name == "upscale":
        request = Upscaling(write_compact(folder / "compact.safetensors"), scale=2, color_fix="wavelet")
        return lambda stream: upscale(stream, request)
    if name == "upscale_temporal":
        weights = write_vae(folder / "weights.safetensors")
        temporal = write_upscaler(folder / "temporal.safetensors", temporal=True)
        return lambda stream: upscale_temporal(stream, TemporalUpscaling(str(weights), str(temporal)))
    request = super_resolve.Request(weights=str(write_flashvsr(folder)), scale=2, unload_dit=True)
    return lambda stream: super_resolve.super_resolve(stream, request)


def test_resizing_in_eight_bits_is_refused_with_ten(tmp_path):
    request = super_resolve.Request(weights=str(tmp_path), resize="8bit")
    with pytest.raises(RequestError, match="--resize 8bit"):
        super_resolve.super_resolve(FrameStream([], HEIGHT, WIDTH, Fraction(24), 4, bit_depth=10), request)


@pytest.mark.parametrize("name", ["interpolate", "upscale", "upscale_temporal", "super_resolve"])
def test_ten_bits_go_through_every_pipeline_and_are_finer(name, tmp_path):
    run = run_of(name, tmp_path)
    coarse, fine = made(run, 8), made(run, 10)
    assert (coarse.dtype, fine.dtype) == (np.uint8, np.uint16)
    assert np.abs(coarse.astype(int) * LEVEL - fine).max() <= LEVEL
    assert (fine % LEVEL != 0).any()
