"""Convolutions as Metal computes them: errors of one layer, and golden cases with them."""

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.runtime.this_machine import winograd_convolutions
from LTX_2_MLX.verify import run_case
from LTX_2_MLX.verify.as_metal import fused_attention, metal_convolutions
from LTX_2_MLX.verify.bands import TABLE, Bands

IMAGES = ((1, 64, 70, 128), (128, 3, 3, 128), (1, 1))
CLIP = ((1, 4, 51, 47, 128), (128, 3, 3, 3, 128), (0, 1, 1))


def layer_error(sizes, dtype, *, winograd=False):
    """Root mean square error of one layer of random values over that of its result."""
    shape, kernel, padding = sizes
    random = np.random.default_rng(0)
    x, weight = (
        mx.array(random.standard_normal(size) / scale).astype(dtype)
        for size, scale in ((shape, 1.0), (kernel, np.sqrt(np.prod(kernel[1:]))))
    )
    convolve = mx.conv2d if len(padding) == 2 else mx.conv3d
    wanted = convolve(x.astype(mx.float32), weight.astype(mx.float32), padding=padding)
    with winograd_convolutions(winograd), metal_convolutions():
        made = (mx.conv2d if len(padding) == 2 else mx.conv3d)(x, weight, padding=padding)
    assert made.dtype == dtype and made.shape == wanted.shape
    return float(mx.sqrt(((made.astype(mx.float32) - wanted) ** 2).mean() / (wanted**2).mean()))


@pytest.mark.parametrize(
    ("sizes", "dtype", "winograd", "error"),
    [
        (IMAGES, mx.bfloat16, False, 1.7e-3),
        (CLIP, mx.bfloat16, False, 2.9e-3),
        (IMAGES, mx.bfloat16, True, 5.8e-2),
        (CLIP, mx.bfloat16, True, 5.8e-2),
        (IMAGES, mx.float16, False, 2.1e-4),
        (CLIP, mx.float16, False, 3.6e-4),
        (IMAGES, mx.float16, True, 7.5e-3),
        (IMAGES, mx.float32, True, 5e-6),
    ],
)
def test_a_layer_has_the_error_that_metal_has(sizes, dtype, winograd, error):
    assert layer_error(sizes, dtype, winograd=winograd) == pytest.approx(error, rel=0.2)


def test_small_narrow_and_strided_convolutions_never_go_by_winograd():
    narrow = ((1, 64, 70, 96), (96, 3, 3, 96), (1, 1))
    small = ((1, 63, 65, 128), (128, 3, 3, 128), (1, 1))
    for sizes in (narrow, small):
        assert layer_error(sizes, mx.bfloat16, winograd=True) < 2e-3
    x = mx.ones((1, 130, 130, 128), mx.bfloat16)
    with winograd_convolutions(True), metal_convolutions():
        assert mx.array_equal(mx.conv2d(x, mx.ones((128, 3, 3, 128), mx.bfloat16), 2), mx.full((1, 64, 64, 128), 1152))


def test_functions_of_mlx_are_put_back():
    own = (mx.conv1d, mx.conv2d, mx.conv3d, mx.fast.scaled_dot_product_attention)
    with pytest.raises(ZeroDivisionError), metal_convolutions(), fused_attention():
        raise ZeroDivisionError
    assert own == (mx.conv1d, mx.conv2d, mx.conv3d, mx.fast.scaled_dot_product_attention)


@pytest.mark.parametrize(
    "name", ["ltx2/video_vae_2_3/decode_image", "flashvsr/tcdecoder", "ltx2/transformer_video_2_0"]
)
def test_a_case_in_bfloat16_is_in_its_band_as_metal_would_compute_it(name):
    with fused_attention(), as_backend("gpu"), metal_convolutions():
        result = run_case(TABLE.parent / name, dtype=mx.bfloat16, bands=Bands.read("bf16"))
    assert result.ok, result.reason
