"""Named convolutions against MLX's own, and the CPU's forms against the plain ones."""

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops import conv
from LTX_2_MLX.ops.conv import conv2d_3x3, conv2d_3x3_stride2, conv3x3_chain, conv_transpose2d_2x, prelu
from LTX_2_MLX.ops.cpu import images as cpu
from LTX_2_MLX.ops.cpu import winograd
from LTX_2_MLX.ops.device import as_backend

# Name of the operation, of its CPU form, kernel, and channels in and out.
OPERATIONS = [
    (conv2d_3x3, cpu, "conv2d_3x3", 3),
    (conv2d_3x3_stride2, cpu, "conv2d_3x3_stride2", 3),
    (conv_transpose2d_2x, cpu, "conv_transpose2d_2x", 4),
]


def arrays(size: tuple[int, int], kernel: int, batch: int = 2) -> list[mx.array]:
    """Input ``(B, H, W, 5)``, weight ``(6, k, k, 5)`` and bias ``(6,)``."""
    mx.random.seed(1)
    return [mx.random.normal((batch, *size, 5)), mx.random.normal((6, kernel, kernel, 5)), mx.random.normal((6,))]


@pytest.fixture
def always_cpu_form(monkeypatch):
    """CPU forms at any size."""
    monkeypatch.setattr(conv, "_LARGE_UNFOLDED_BYTES", 0)
    monkeypatch.setattr(conv, "_LARGE_STRIDED_BYTES", 0)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("size", [(5, 7), (1, 4), (6, 1), (34, 42), (33, 41)])
@pytest.mark.parametrize(("operation", "module", "form", "kernel"), OPERATIONS, ids=["plain", "stride2", "transposed"])
def test_the_cpu_form_equals_the_plain_one(always_cpu_form, operation, module, form, kernel, size, batch):
    x, weight, bias = arrays(size, kernel, batch)
    with as_backend("gpu"):
        expected = operation(x, weight, bias)
    with as_backend("cpu"):
        computed = operation(x, weight, bias)
    assert computed.shape == expected.shape
    np.testing.assert_allclose(np.array(computed), np.array(expected), atol=1e-4)


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
@pytest.mark.parametrize(("operation", "module", "form", "kernel"), OPERATIONS[:2], ids=["plain", "stride2"])
def test_pieces_of_rows_give_the_whole(always_cpu_form, monkeypatch, operation, module, form, kernel, rows):
    x, weight, bias = arrays((14, 8), kernel)
    with as_backend("cpu"):
        expected = np.array(operation(x, weight, bias))
        monkeypatch.setattr(cpu, "_rows_at_once", lambda values: rows)
        computed = np.array(operation(x, weight, bias))
    np.testing.assert_allclose(computed, expected, atol=1e-5)


@pytest.mark.parametrize(("operation", "module", "form", "kernel"), OPERATIONS, ids=["plain", "stride2", "transposed"])
def test_the_gradient_passes_through_the_cpu_form(always_cpu_form, operation, module, form, kernel):
    inputs = arrays((6, 8), kernel)
    gradients = []
    for backend in ("gpu", "cpu"):
        with as_backend(backend):
            gradients.append(mx.grad(lambda *x: (operation(2 * x[0], *x[1:]) ** 2).sum(), argnums=(0, 1, 2))(*inputs))
    for plain, computed in zip(*gradients, strict=True):
        assert mx.abs(plain - computed).max() < 1e-4 * mx.abs(plain).max()


@pytest.mark.parametrize(
    ("backend", "dtype", "takes_cpu_form"),
    [("cpu", mx.float32, True), ("cpu", mx.float16, False), ("cpu", mx.bfloat16, False), ("gpu", mx.float32, False)],
)
@pytest.mark.parametrize(("operation", "module", "form", "kernel"), OPERATIONS, ids=["plain", "stride2", "transposed"])
def test_the_cpu_form_is_for_float32_on_a_cpu(
    always_cpu_form, monkeypatch, operation, module, form, kernel, backend, dtype, takes_cpu_form
):
    calls = []
    plain_form = getattr(module, form)
    monkeypatch.setattr(module, form, lambda *args: calls.append(form) or plain_form(*args))
    x, weight, bias = (array.astype(dtype) for array in arrays((6, 8), kernel))
    with as_backend(backend):
        computed = operation(x, weight, bias)
    assert computed.dtype == dtype
    assert bool(calls) == takes_cpu_form


def test_small_images_and_odd_sides_at_stride_2_take_the_plain_form(monkeypatch):
    monkeypatch.setattr(cpu, "conv2d_3x3_stride2", lambda *args: pytest.fail("the CPU form was taken"))
    monkeypatch.setattr(cpu, "conv2d_3x3", lambda *args: pytest.fail("the CPU form was taken"))
    with as_backend("cpu"):
        x, weight, bias = arrays((32, 32), 3)
        assert conv2d_3x3(x, weight, bias).shape == (2, 32, 32, 6)
        assert conv2d_3x3_stride2(x, weight, bias).shape == (2, 16, 16, 6)
        monkeypatch.setattr(conv, "_LARGE_STRIDED_BYTES", 0)
        assert conv2d_3x3_stride2(x[:, 1:], weight, bias).shape == (2, 16, 16, 6)


def chain(channels: int, width: int = 48) -> list[conv.Convolution]:
    """Two convolutions, with slopes of both signs after the first."""
    mx.random.seed(3)
    first = mx.random.normal((width, 3, 3, channels)) / 5, mx.random.normal((width,)), mx.random.normal((width,))
    second = mx.random.normal((7, 3, 3, width)) / 20, mx.random.normal((7,)), None
    return [first, second]


def test_a_chain_by_winograd_equals_the_plain_one():
    x = mx.random.normal((2, 65, 67, 5))
    with as_backend("gpu"):
        expected = conv3x3_chain(x, chain(5))
    with as_backend("cpu"):
        computed = conv3x3_chain(x, chain(5))
    np.testing.assert_allclose(np.array(computed), np.array(expected), atol=2e-5)


@pytest.mark.parametrize(
    ("backend", "dtype", "size", "width", "takes_cpu_form"),
    [
        ("cpu", mx.float32, (65, 67), 48, True),
        ("cpu", mx.float16, (65, 67), 48, False),
        ("gpu", mx.float32, (65, 67), 48, False),
        ("cpu", mx.float32, (63, 64), 48, False),
        ("cpu", mx.float32, (65, 67), 47, False),
    ],
)
def test_winograd_is_for_large_images_and_wide_layers_in_float32_on_a_cpu(
    monkeypatch, backend, dtype, size, width, takes_cpu_form
):
    calls = []
    form = winograd.conv3x3_chain
    monkeypatch.setattr(winograd, "conv3x3_chain", lambda *args: calls.append(1) or form(*args))
    layers = [tuple(a if a is None else a.astype(dtype) for a in layer) for layer in chain(3, width)]
    with as_backend(backend):
        computed = conv3x3_chain(mx.ones((1, *size, 3), dtype), layers)
    assert computed.dtype == dtype
    assert bool(calls) == takes_cpu_form


def test_prelu_multiplies_negative_values_by_any_slope():
    x = mx.array([[2.0, -2.0, -3.0, 1.0]])
    assert prelu(x, mx.array([0.5, 0.25, -1.0, 3.0])).tolist() == [[2, -0.5, 3, 1]]
