import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from LTX_2_MLX.ops.cpu import images as cpu
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.ops.sampling import middle_pixels, resize

PIXELS = mx.array(np.random.default_rng(0).random((2, 6, 12, 3), dtype=np.float32))


@pytest.mark.parametrize("factor", [2, 3, 4, 8, 0.5, 1 / 3])
@pytest.mark.parametrize(("kernel", "mode", "error"), [("linear", "linear", 2e-6), ("cubic", "cubic", 2e-5)])
def test_resize_matches_upsample_of_the_framework(factor, kernel, mode, error):
    wanted = nn.Upsample(scale_factor=factor, mode=mode, align_corners=False)(PIXELS)
    got = resize(PIXELS, *wanted.shape[1:3], kernel)
    np.testing.assert_allclose(np.array(got), np.array(wanted), atol=error)


@pytest.mark.parametrize("kernel", ["linear", "cubic", "lanczos4"])
@pytest.mark.parametrize("size", [(6, 9), (13, 4), (12, 18), (5, 31), (1, 1)])
def test_a_plain_picture_stays_plain_at_any_size(kernel, size):
    got = resize(mx.full((1, 6, 9, 2), 0.75), *size, kernel)
    assert got.shape == (1, *size, 2)
    np.testing.assert_allclose(np.array(got), 0.75, atol=1e-6)


def test_the_same_size_is_the_same_picture():
    assert resize(PIXELS, 6, 12, "cubic") is PIXELS


def test_halving_takes_the_mean_of_the_middle_and_eighths_skip_the_rest():
    eighth = resize(mx.repeat(PIXELS, 1, axis=0)[:, :, :8], 6, 1)
    np.testing.assert_allclose(np.array(eighth[:, :, 0]), np.array((PIXELS[:, :, 3] + PIXELS[:, :, 4]) / 2), atol=1e-6)


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_a_ramp_enlarged_is_a_ramp_between_the_outermost_centres(factor):
    ramp = mx.broadcast_to(mx.arange(5, dtype=mx.float32)[None, :, None, None], (1, 5, 3, 1))
    got = np.array(resize(ramp, 5 * factor, 3))[0, :, 1, 0]
    places = (np.arange(5 * factor) + 0.5) / factor - 0.5
    np.testing.assert_allclose(got, np.clip(places, 0, 4), atol=1e-6)


@pytest.mark.parametrize("channels", [1, 4, 16, 17])
@pytest.mark.parametrize("factor", [2, 3, 8])
def test_the_cpu_form_equals_the_plain_one(factor, channels):
    pixels = mx.array(np.random.default_rng(1).random((2, 3, 5, channels), dtype=np.float32))
    with as_backend("gpu"):
        plain = resize(pixels, 3 * factor, 5 * factor)
    with as_backend("cpu"):
        computed = resize(pixels, 3 * factor, 5 * factor)
    assert computed.shape == (2, 3 * factor, 5 * factor, channels)
    np.testing.assert_allclose(np.array(computed), np.array(plain), atol=1e-6)


@pytest.mark.parametrize(("backend", "dtype"), [("gpu", mx.float32), ("cpu", mx.float16)])
def test_the_cpu_form_is_for_float32_on_a_cpu(monkeypatch, backend, dtype):
    monkeypatch.setattr(cpu, "enlarge", lambda *args: pytest.fail("the CPU form was taken"))
    with as_backend(backend):
        assert resize(PIXELS.astype(dtype), 12, 24).dtype == dtype


@pytest.mark.parametrize("step", [2, 4, 8])
def test_middle_pixels_are_those_that_a_reduction_reads(step):
    pixels = mx.random.uniform(shape=(2, 16, 24, 3))
    middle = middle_pixels(pixels, step)
    assert middle.shape == (2, 4, 16 // step, 24 // step, 3)
    first = step // 2 - 1
    expected = pixels[1, step + first : step + first + 2, first : first + 2].reshape(4, 3)
    assert mx.array_equal(middle[1, :, 1, 0], expected)
