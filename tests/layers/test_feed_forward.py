"""GELU in 16 bit against float64."""

import math

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.layers.feed_forward import gelu
from LTX_2_MLX.ops.device import as_backend


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_bfloat16_gelu_is_rounded_once(backend):
    x = mx.arange(-6, 6, 1 / 64).astype(mx.bfloat16)
    exact = np.array(x.astype(mx.float32), np.float64)
    exact = 0.5 * exact * (1 + np.tanh(math.sqrt(2 / math.pi) * (exact + 0.044715 * exact**3)))
    with as_backend(backend):
        rounded = np.array(gelu(x).astype(mx.float32))
    # Half a unit of the last of bfloat16's eight digits; for the smallest values, that of float32's rounding.
    assert (np.abs(rounded - exact) <= np.abs(exact) * 2.0**-8 + 1e-7).all()
