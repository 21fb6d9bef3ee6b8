"""Timestep embedding: timesteps to the shift, scale and gate rows of adaptive layer norm."""

import math
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.ops.activation import silu

SINUSOID_WIDTH = 256
_MAX_PERIOD = 10000


def sinusoid(timesteps: mx.array, width: int = SINUSOID_WIDTH) -> mx.array:
    """Cosines, then sines, of ``(K,)`` timesteps at ``width / 2`` frequencies: ``(K, width)``, float32."""
    # Products are formed in float32 in this order: a timestep of 1000 makes the rounding visible.
    exponents = np.float32(-math.log(_MAX_PERIOD)) * np.arange(width // 2, dtype=np.float32) / np.float32(width // 2)
    angles = timesteps.astype(mx.float32)[:, None] * mx.array(np.exp(exponents))[None]
    return mx.concatenate([mx.cos(angles), mx.sin(angles)], axis=-1)


@dataclass(frozen=True)
class ModulationRows:
    """Shifts, scales and gates of the distinct timesteps, and the index of each token's timestep.

    A text-to-video call has one timestep for all tokens, image-to-video two or three. Rows and an index give the
    same numbers as rows for every token, without the ``(B, N, rows * D)`` array.

    Attributes:
        values: ``(K, rows, D)`` for K distinct timesteps.
        index: ``(B, N)`` into the K timesteps, or ``(B, 1)`` where all tokens of a sample share one.
    """

    values: mx.array
    index: mx.array

    def plus(self, table: mx.array) -> "ModulationRows":
        """The rows plus a block's table ``(rows, D)``, in the rows' dtype."""
        return ModulationRows(self.values + table.astype(self.values.dtype), self.index)

    def row(self, number: int) -> mx.array:
        """One row for every token, ``(B, N or 1, D)``."""
        return self.values[:, number][self.index]


class TimestepModulation(nn.Module):
    """Timesteps to modulation rows. The reference's ``AdaLayerNormSingle``.

    Shape:
        timesteps ``(K,)`` float32 -> rows ``(K, rows, width)`` and the timestep embedding ``(K, width)``.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/transformer/{adaln,timestep_embedding}.py
    at 400fd31.
    """

    def __init__(self, width: int, rows: int):
        super().__init__()
        self.linear_1 = nn.Linear(SINUSOID_WIDTH, width)
        self.linear_2 = nn.Linear(width, width)
        self.linear = nn.Linear(width, rows * width)

    def __call__(self, timesteps: mx.array) -> tuple[mx.array, mx.array]:
        dtype = self.linear_1.weight.dtype
        embedded = self.linear_2(silu(self.linear_1(sinusoid(timesteps).astype(dtype))))
        rows = self.linear(silu(embedded))
        return rows.reshape(len(timesteps), -1, embedded.shape[-1]), embedded


def distinct_timesteps(timesteps: mx.array) -> tuple[mx.array, mx.array]:
    """The distinct values of timesteps ``(B, N, 1)``, and the index of each token's value.

    Returns:
        values ``(K,)`` float32 and index ``(B, N)``, or ``(B, 1)`` if every sample has a single timestep.
    """
    host = np.asarray(timesteps.astype(mx.float32)).reshape(timesteps.shape[:2])
    values, index = np.unique(host, return_inverse=True)
    index = index.reshape(host.shape)
    if (index == index[:, :1]).all():
        index = index[:, :1]
    return mx.array(values), mx.array(index.astype(np.int32))
