"""Rotary position embedding: positions to tables, and their application to queries and keys.

Angles reach 15,708, so the rounding of float32 is part of the function: every product is formed in float32
in the reference's order, cosines and sines are taken by NumPy, and only the result is cast.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal

import mlx.core as mx
import numpy as np

from LTX_2_MLX.layers.norm import gated_add

Pairing = Literal["split", "interleaved"]
Precision = Literal["float32", "float64"]
# One table for each stage of a two-stage run. A table takes the memory of a few activations.
_CACHED_TABLES = 2


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines for every token and head.

    Attributes:
        cos, sin: ``(B, N, heads, head_dim / 2)``, B = 1 where all samples have the same positions. Each head
            has its own slice of the frequencies: the first heads rotate slowly, the last ones fast.
        pairing: Elements of a head that rotate together: i and i + head_dim / 2 (``split``), or 2i and 2i + 1
            (``interleaved``).
    """

    cos: mx.array
    sin: mx.array
    pairing: Pairing


def rotate(x: mx.array, table: RotaryTable) -> mx.array:
    """Rotate ``(B, N, heads, head_dim)`` by the table's angles."""
    if table.pairing == "interleaved":
        pairs = x.reshape(*x.shape[:-1], -1, 2)
        first = pairs[..., 0]
        second = pairs[..., 1]
    else:
        first, second = mx.split(x, 2, axis=-1)
    # In 16 bit the second product and the sum are rounded once, as the reference does.
    rotated = [
        gated_add(first * table.cos, second, -table.sin),
        gated_add(second * table.cos, first, table.sin),
    ]
    if table.pairing == "interleaved":
        return mx.stack(rotated, axis=-1).reshape(x.shape)
    return mx.concatenate(rotated, axis=-1)


@lru_cache(maxsize=16)
def frequency_ladder(width: int, axes: int, theta: float = 10000.0, precision: Precision = "float64") -> np.ndarray:
    """``width // (2 * axes)`` frequencies from pi / 2 to theta * pi / 2, evenly spaced in logarithm; float32.

    Args:
        width: Features of all heads together.
        axes: Number of coordinates of a position.
        theta: Ratio of the last frequency to the first.
        precision: float64 rounds once at the end, float32 at every step.
    """
    count = width // (2 * axes)
    if precision == "float64":
        return (np.power(theta, np.linspace(0.0, 1.0, count)) * np.pi / 2).astype(np.float32)
    # As torch.linspace does: from both ends in float32, the far half with one rounding for each value.
    step = np.float32(1) / np.float32(max(count - 1, 1))
    order = np.arange(count)
    near = order.astype(np.float32) * step
    far = (1 - (count - 1 - order) * np.float64(step)).astype(np.float32)
    exponents = np.where(order < max(count // 2, 1), near, far).astype(np.float64)
    frequencies = np.power(float(theta), exponents).astype(np.float32)
    return np.asarray(frequencies * np.float32(np.pi) / np.float32(2))


def rotary_table(
    positions: mx.array | np.ndarray,
    *,
    width: int,
    heads: int,
    max_positions: Sequence[float],
    theta: float = 10000.0,
    precision: Precision = "float64",
    pairing: Pairing = "split",
    dtype: mx.Dtype = mx.float32,
) -> RotaryTable:
    """Cosines and sines of a set of positions.

    Args:
        positions: ``(B, axes, N, 2)`` float32 bounds ``[start, end)``, whose middle counts, or ``(B, axes, N)``.
        width: Features of all heads together.
        heads: Number of heads.
        max_positions: Positions are divided by these, one entry for each axis.
        theta: Ratio of the last frequency to the first.
        precision: Of the frequencies, see ``frequency_ladder``.
        pairing: Pairing of the table.
        dtype: Dtype of the table.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/transformer/rope.py at 400fd31.
    """
    middle = np.asarray(positions, dtype=np.float32)
    if middle.ndim == 4:
        middle = (middle[..., 0] + middle[..., 1]) / np.float32(2)
    batch, axes, tokens = middle.shape
    ladder = frequency_ladder(width, axes, theta, precision)
    cosines = []
    sines = []
    for axis in range(axes):
        cos, sin = _axis(middle[:, axis], max_positions[axis], ladder, dtype)
        cosines.append(cos)
        sines.append(sin)

    def interleave_axes(tables: list[mx.array], unrotated: float) -> mx.array:
        flat = mx.stack(tables, axis=-1).reshape(batch, tokens, -1)
        # Elements that the axes do not fill come first and are not rotated.
        fill = mx.full((batch, tokens, width // 2 - flat.shape[-1]), unrotated, dtype=dtype)
        return mx.concatenate([fill, flat], axis=-1).reshape(batch, tokens, heads, -1)

    return RotaryTable(cos=interleave_axes(cosines, 1.0), sin=interleave_axes(sines, 0.0), pairing=pairing)


def _axis(middle: np.ndarray, max_position: float, ladder: np.ndarray, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
    # A video's tokens share few coordinates along one axis, so each distinct one is computed once and gathered.
    values, inverse = np.unique(middle, return_inverse=True)
    index = mx.array(inverse.reshape(middle.shape).astype(np.int32))
    fractions = values / np.float32(max_position) * np.float32(2) - np.float32(1)
    angles = (ladder * fractions[:, None]).astype(np.float64)
    cos = mx.array(np.cos(angles).astype(np.float32)).astype(dtype)
    sin = mx.array(np.sin(angles).astype(np.float32)).astype(dtype)
    return cos[index], sin[index]


class RotaryEmbedding:
    """Rotary tables of one attention. The last two are cached: positions stay the same from step to step."""

    def __init__(
        self,
        *,
        width: int,
        heads: int,
        max_positions: Sequence[float],
        theta: float = 10000.0,
        precision: Precision = "float64",
        pairing: Pairing = "split",
    ):
        self._table = partial(
            rotary_table,
            width=width,
            heads=heads,
            max_positions=tuple(max_positions),
            theta=theta,
            precision=precision,
            pairing=pairing,
        )
        self._tables: OrderedDict[tuple[bytes, tuple[int, ...], mx.Dtype], RotaryTable] = OrderedDict()

    def __call__(self, positions: mx.array | np.ndarray, dtype: mx.Dtype) -> RotaryTable:
        """The table of these positions, see ``rotary_table``."""
        host = np.ascontiguousarray(np.asarray(positions, dtype=np.float32))
        if (host == host[:1]).all():
            host = host[:1]
        key = (hashlib.sha256(host.tobytes()).digest(), host.shape, dtype)
        if key not in self._tables:
            self._tables[key] = self._table(host, dtype=dtype)
        self._tables.move_to_end(key)
        while len(self._tables) > _CACHED_TABLES:
            self._tables.popitem(last=False)
        return self._tables[key]
