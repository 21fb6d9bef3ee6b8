import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops.cpu import images
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.ops.sampling import mean_of_samples, resize, to_be_warped, warp

PIXELS = np.random.default_rng(0).random((2, 7, 11, 3), dtype=np.float32)
BACKENDS = pytest.mark.parametrize("backend", ["cpu", "gpu"])


def sample(pixels: np.ndarray, x: float, y: float) -> np.ndarray:
    """One bilinear sample of ``(H, W, C)``, in float64."""
    height, width = pixels.shape[:2]
    x = min(max(x, 0), width - 1)
    y = min(max(y, 0), height - 1)
    left = int(x)
    top = int(y)
    right = min(left + 1, width - 1)
    bottom = min(top + 1, height - 1)
    rows = [(1 - (x - left)) * pixels[row, left] + (x - left) * pixels[row, right] for row in (top, bottom)]
    return (1 - (y - top)) * rows[0] + (y - top) * rows[1]


@BACKENDS
def test_warp_samples_each_pixel_at_its_position_plus_flow_and_clamps_at_the_border(backend):
    flow = np.random.default_rng(1).normal(scale=4, size=(2, 7, 11, 2)).astype(np.float32)
    with as_backend(backend):
        warped = np.array(warp(mx.array(PIXELS), mx.array(flow)))
    for b, row, column in np.ndindex(2, 7, 11):
        dx, dy = flow[b, row, column].astype(np.float64)
        np.testing.assert_allclose(warped[b, row, column], sample(PIXELS[b], column + dx, row + dy), atol=2e-6)


@BACKENDS
def test_an_image_that_is_moved_to_be_warped_keeps_its_pixels(backend):
    flow = mx.random.normal((2, 7, 11, 2), key=mx.random.key(8))
    with as_backend(backend):
        moved = to_be_warped(mx.array(PIXELS))
        np.testing.assert_array_equal(np.array(moved), PIXELS)
        np.testing.assert_array_equal(np.array(warp(moved, flow)), np.array(warp(mx.array(PIXELS), flow)))


@BACKENDS
def test_warp_without_flow_gives_the_same_pixels(backend):
    with as_backend(backend):
        warped = np.array(warp(mx.array(PIXELS), mx.zeros((2, 7, 11, 2))))
    np.testing.assert_allclose(warped, PIXELS, atol=1e-7)


@BACKENDS
def test_whole_pixels_of_flow_shift_the_image(backend):
    flow = mx.broadcast_to(mx.array([2.0, -1.0]), (2, 7, 11, 2))
    with as_backend(backend):
        warped = np.array(warp(mx.array(PIXELS), flow))
    np.testing.assert_allclose(warped[:, 1:, :-2], PIXELS[:, :-1, 2:], atol=1e-7)


@BACKENDS
@pytest.mark.parametrize("size", [(1, 5), (4, 1), (1, 1)])
def test_images_of_a_single_row_or_column_are_sampled(backend, size):
    pixels = mx.random.uniform(shape=(1, *size, 2))
    with as_backend(backend):
        warped = np.array(warp(pixels, mx.full((1, *size, 2), 0.25)))
    for row, column in np.ndindex(*size):
        expected = sample(np.array(pixels[0]), column + 0.25, row + 0.25)
        np.testing.assert_allclose(warped[0, row, column], expected, atol=1e-6)


@pytest.mark.parametrize("form", [mean_of_samples, images.mean_of_samples])
def test_samples_of_an_output_pixel_are_averaged(form):
    last = PIXELS.shape[2] - 1
    x = mx.array([0.25, 3.5, last, 5.0]).reshape(1, 2, 1, 2)
    y = mx.array([6.0, 2.75, 0.0, 5.5]).reshape(1, 2, 1, 2)
    means = np.array(form(mx.array(PIXELS[:1]), x, y))
    assert means.shape == (1, 1, 2, 3)
    first = (sample(PIXELS[0], 0.25, 6.0) + sample(PIXELS[0], last, 0.0)) / 2
    second = (sample(PIXELS[0], 3.5, 2.75) + sample(PIXELS[0], 5.0, 5.5)) / 2
    np.testing.assert_allclose(means[0, 0], [first, second], atol=1e-6)


@BACKENDS
@pytest.mark.parametrize("step", [0.25, 0.5, 1, 2, 4, 8])
def test_warping_to_another_size_equals_warping_and_resizing(backend, step):
    mx.random.seed(4)
    pixels = mx.random.uniform(shape=(2, 16, 24, 5))
    flow = mx.random.normal((2, 16, 24, 2)) * 3
    with as_backend(backend):
        expected = resize(warp(pixels, flow), int(16 / step), int(24 / step))
        computed = warp(pixels, flow, step)
    assert computed.shape == expected.shape
    np.testing.assert_allclose(np.array(computed), np.array(expected), atol=2e-6)


def test_the_cpu_form_equals_the_plain_one():
    mx.random.seed(5)
    pixels = mx.random.uniform(shape=(2, 13, 27, 4))
    x = mx.random.uniform(0, 26, (2, 3, 5, 9))
    y = mx.random.uniform(0, 12, (2, 3, 5, 9))
    plain = mean_of_samples(pixels, x, y)
    computed = images.mean_of_samples(pixels, x, y)
    np.testing.assert_allclose(np.array(computed), np.array(plain), atol=2e-6)


def test_the_cpu_form_takes_large_images_in_pieces(monkeypatch):
    mx.random.seed(6)
    pixels = mx.random.uniform(shape=(2, 13, 27, 3))
    x, y = mx.random.uniform(0, 26, (2, 2, 13, 27)), mx.random.uniform(0, 12, (2, 2, 13, 27))
    whole = images.mean_of_samples(pixels, x, y)
    monkeypatch.setattr(images, "_PIECE_PIXELS", 100)
    assert np.array_equal(np.array(images.mean_of_samples(pixels, x, y)), np.array(whole))


def test_the_gradient_passes_through_the_cpu_form():
    mx.random.seed(7)
    pixels, flow = mx.random.uniform(shape=(1, 7, 11, 2)), mx.random.normal((1, 7, 11, 2))
    gradients = []
    for backend in ("gpu", "cpu"):
        with as_backend(backend):
            gradients.append(mx.grad(lambda p, f: (warp(2 * p, f) ** 2).sum(), argnums=(0, 1))(pixels, flow))
    for plain, computed in zip(*gradients, strict=True):
        np.testing.assert_allclose(np.array(computed), np.array(plain), atol=1e-4)
        assert mx.abs(plain).max() > 1


@BACKENDS
@pytest.mark.parametrize("width", [2048, 4096])
def test_float16_images_are_sampled_at_float32_positions(backend, width):
    ramp = mx.broadcast_to((mx.arange(width) % 2).astype(mx.float16)[:, None], (1, 2, width, 1))
    flow = mx.broadcast_to(mx.array([0.25, 0.0]), (1, 2, width, 2))
    with as_backend(backend):
        warped = warp(ramp, flow)
    assert warped.dtype == mx.float16
    assert np.array_equal(np.unique(np.array(warped)[0, 0, :-1, 0]), np.array([0.25, 0.75], np.float16))
