"""The paths that the published networks' convolutions take on Metal, with the switches that the package sets."""

import math
import os
from collections import Counter
from functools import cache
from pathlib import Path

import mlx.core as mx
import pytest
from metal_convolutions import path

from LTX_2_MLX.bench.workloads import PUBLISHED, vae_config
from LTX_2_MLX.checkpoints.load import config_of
from LTX_2_MLX.development.full_size import write_hollow
from LTX_2_MLX.development.network_calls import VIDEO, calls, record_call
from LTX_2_MLX.development.work_record import recorded_work
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_memory import decoder_bytes
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.runtime.this_machine import winograd_convolutions
from LTX_2_MLX.shapes import Compression, VideoShape

MANIFESTS = Path(__file__).parents[1] / "manifests"
CALLS = {call.name: call for call in calls(by_diffusion=VideoShape(25, 256, 384))}
# Waveforms are one-dimensional: Metal unfolds their transposed convolutions, a few MiB at a time.
SOUND = [name for name in CALLS if name.startswith(("sound", "audio"))]
MOST_UNFOLDED_BYTES = 256 * 2**20


@cache
def convolutions(name, folder):
    return record_call(CALLS[name], MANIFESTS, folder).convolutions


def paths(name, folder, *, winograd):
    return [path(call, winograd=winograd) for call in convolutions(name, folder)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hollow")


def is_on(name):
    """What MLX reads at every convolution, as the package left it."""
    return os.environ.get(name, "1") != "0"


@pytest.mark.parametrize("name", CALLS)
def test_no_convolution_goes_by_winograd_or_unfolds_an_image(name, folder):
    taken = paths(name, folder, winograd=is_on("MLX_CONV_WINOGRAD"))
    assert not [each for each in taken if "winograd" in each.name]
    for each in taken:
        assert "explicit" not in each.name or (name in SOUND and each.scratch <= MOST_UNFOLDED_BYTES), each


def test_winograd_would_take_most_of_the_decoders_convolutions(folder):
    counted = Counter(each.name for each in paths("video decoder 2.0", folder, winograd=True))
    assert counted["3d_as_2d:winograd"] > counted.total() // 2


def test_what_a_convolution_holds_beside_its_arrays_is_planned(folder):
    latent = VIDEO.latent(Compression(8, 32, 32))
    with as_backend("gpu"):
        planned = decoder_bytes(vae_config(PUBLISHED), latent, item_bytes=mx.bfloat16.size)
    for call in convolutions("video decoder 2.0", folder):
        scratch = path(call, winograd=is_on("MLX_CONV_WINOGRAD")).scratch
        read, weight, result = (math.prod(shape) * call.item_bytes for shape in (call.input, call.weight, call.result))
        # Of a convolution over frames, the results of two slices of the kernel.
        assert scratch <= 2 * result
        assert scratch + read + weight + result <= planned


@pytest.mark.parametrize("name", ["2.0", "2.3"])
def test_what_winograd_holds_in_float32_is_planned(name, folder):
    file = {"2.0": "ltx-2-19b-dev", "2.3": "ltx-2.3-22b-dev"}[name]
    checkpoint = write_hollow(folder / f"{name}.hollow", MANIFESTS / f"{file}.safetensors.vae.json.gz")
    latent = VIDEO.latent(Compression(8, 32, 32))
    config = config_of(VideoDecoder, checkpoint)
    with as_backend("gpu"), recorded_work() as record:
        decoder = VideoDecoder(config)
        for chunk in decoder.stream([mx.zeros((1, latent.num_frames, latent.height, latent.width, 128))]):
            mx.eval(chunk)
    with as_backend("gpu"):
        plain, planned = (decoder_bytes(config, latent, item_bytes=4, winograd=by) for by in (False, True))
    with winograd_convolutions(True):
        held = max(path(call, winograd=is_on("MLX_CONV_WINOGRAD")).scratch for call in record.convolutions)
    assert held <= planned - plain <= 2 * held
    print(held, planned - plain)
