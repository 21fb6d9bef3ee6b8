"""Convolutions of 3×3×3 on a CPU against MLX's own."""

import mlx.core as mx
import pytest

from LTX_2_MLX.ops.conv import conv3d_3x3x3
from LTX_2_MLX.ops.cpu import numpy_forms as cpu
from LTX_2_MLX.ops.device import as_backend


def _arrays(batch: int, frames: int, height: int, width: int, channels: int, out_channels: int) -> list[mx.array]:
    keys = mx.random.split(mx.random.key(7), 3)
    weight = mx.random.normal((out_channels, 3, 3, 3, channels), key=keys[0]) * (27 * channels) ** -0.5
    x = mx.random.normal((batch, frames + 2, height, width, channels), key=keys[1])
    return [x, weight, mx.random.normal((out_channels,), key=keys[2])]


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("windows_bytes", [1, 2**27])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 3, 3, 1, 1), (2, 2, 5, 4, 3, 7), (1, 3, 7, 9, 40, 70), (2, 2, 17, 22, 32, 33), (1, 1, 34, 19, 64, 48)],
    ids=str,
)
def test_both_forms_equal_mlx(shape, padding, windows_bytes, monkeypatch):
    monkeypatch.setattr(cpu, "_WINDOWS_BYTES", windows_bytes)
    arrays = _arrays(*shape)
    with as_backend("gpu"):
        expected = conv3d_3x3x3(*arrays, spatial_padding=padding)
    with as_backend("cpu"):
        result = conv3d_3x3x3(*arrays, spatial_padding=padding)
    assert result.shape == expected.shape
    assert mx.abs(result - expected).max() < 1e-5 * mx.abs(expected).max()


@pytest.mark.parametrize("shape", [(1, 1, 3, 4, 2, 3), (1, 2, 16, 12, 32, 32)])
def test_gradients_are_those_of_mlx(shape):
    def gradients(backend):
        def loss(x, weight, bias):
            return (conv3d_3x3x3(2 * x, 2 * weight, 2 * bias, spatial_padding=1) ** 2).sum()

        with as_backend(backend):
            return mx.grad(loss, argnums=(0, 1, 2))(*_arrays(*shape))

    for ours, expected in zip(gradients("cpu"), gradients("gpu"), strict=True):
        assert mx.abs(ours - expected).max() < 1e-4 * mx.abs(expected).max()
