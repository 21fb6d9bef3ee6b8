"""Positions to rotary tables, and their use on queries and keys.

Angles reach 15,708, so the rounding of float32 is part of the function: every product is formed in float32
in the reference's order, cosines and sines are taken by NumPy, and only the result is cast.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import mlx.core as mx
import numpy as np

Pairing = Literal["split", "interleaved"]
Precision = Literal["float32", "float64"]
# One for each stage of a two-stage run. A table takes as much memory as a few activations.
_KEPT_TABLES = 2


@dataclass(frozen=True)
class RotaryTable:
    """Cosines and sines for every token and head.

    Attributes:
        cos, sin: ``(B, N, heads, head_dim / 2)``, B = 1 where all samples have the same positions. Each head
            has its own slice of the frequencies: the first ones turn slowly, the last ones fast.
        pairing: Which elements of a head turn together: ``split`` takes i and i + head_dim / 2,
            ``interleaved`` 2i and 2i + 1.
    """

    cos: mx.array
    sin: mx.array
    pairing: Pairing


def rotate(x: mx.array, table: RotaryTable) -> mx.array:
    """``(B, N, heads, head_dim)`` turned by the table's angles."""
    if table.pairing == "interleaved":
        pairs = x.reshape(*x.shape[:-1], -1, 2)
        first, second = pairs[..., 0], pairs[..., 1]
    else:
        first, second = mx.split(x, 2, axis=-1)
    turned = [first * table.cos - second * table.sin, second * table.cos + first * table.sin]
    if table.pairing == "interleaved":
        return mx.stack(turned, axis=-1).reshape(x.shape)
    return mx.concatenate(turned, axis=-1)


@lru_cache(maxsize=16)
def frequency_ladder(width: int, axes: int, theta: float = 10000.0, precision: Precision = "float64") -> np.ndarray:
    """``width // (2 * axes)`` frequencies from pi / 2 to theta * pi / 2, evenly spaced in logarithm; float32.

    Args:
        width: All heads together.
        axes: Coordinates of a position.
        theta: Ratio of the last frequency to the first.
        precision: float64 rounds once at the end, float32 at every step.
    """
    count = width // (2 * axes)
    if precision == "float64":
        return (np.power(theta, np.linspace(0.0, 1.0, count)) * np.pi / 2).astype(np.float32)
    # As torch.linspace spaces them: from both ends in float32, the far half with one rounding for each value.
    step, order = np.float32(1) / np.float32(max(count - 1, 1)), np.arange(count)
    near = order.astype(np.float32) * step
    far = (1 - (count - 1 - order) * np.float64(step)).astype(np.float32)
    exponents = np.where(order < max(count // 2, 1), near, far).astype(np.float64)
    return np.power(float(theta), exponents).astype(np.float32) * np.float32(np.pi) / np.float32(2)


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
        width: All heads together.
        heads: Number of heads.
        max_positions: What a coordinate of 1 stands for, one entry for each axis.
        theta: Ratio of the last frequency to the first.
        precision: Of the frequencies, see ``frequency_ladder``.
        pairing: Passed on to the table.
        dtype: Of the finished table.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/transformer/rope.py at 400fd31.
    """
    middle = np.asarray(positions, dtype=np.float32)
    if middle.ndim == 4:
        middle = (middle[..., 0] + middle[..., 1]) / np.float32(2)
    batch, axes, tokens = middle.shape
    ladder = frequency_ladder(width, axes, theta, precision)
    parts = [_axis(middle[:, axis], max_positions[axis], ladder, dtype) for axis in range(axes)]

    def laid_out(columns: list[mx.array], front: float) -> mx.array:
        flat = mx.stack(columns, axis=-1).reshape(batch, tokens, -1)
        # What the axes do not fill stands at the front and does not turn.
        still = mx.full((batch, tokens, width // 2 - flat.shape[-1]), front, dtype=dtype)
        return mx.concatenate([still, flat], axis=-1).reshape(batch, tokens, heads, -1)

    return RotaryTable(
        cos=laid_out([cos for cos, _ in parts], 1.0), sin=laid_out([sin for _, sin in parts], 0.0), pairing=pairing
    )


def _axis(middle: np.ndarray, max_position: float, ladder: np.ndarray, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
    # A video's tokens share few coordinates along one axis, so each distinct one is computed once and gathered.
    values, index = np.unique(middle, return_inverse=True)
    index = mx.array(index.reshape(middle.shape).astype(np.int32))
    fractions = values / np.float32(max_position) * np.float32(2) - np.float32(1)
    angles = (ladder * fractions[:, None]).astype(np.float64)
    return tuple(mx.array(f(angles).astype(np.float32)).astype(dtype)[index] for f in (np.cos, np.sin))


class RotaryEmbedding:
    """Rotary tables of one attention, the last two kept: positions stay the same from step to step."""

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
        self._settings = {
            "width": width, "heads": heads, "max_positions": tuple(max_positions),
            "theta": theta, "precision": precision, "pairing": pairing,
        }  # fmt: skip
        self._tables: OrderedDict[tuple, RotaryTable] = OrderedDict()

    def __call__(self, positions: mx.array | np.ndarray, dtype: mx.Dtype) -> RotaryTable:
        """The table of these positions, as ``rotary_table`` makes it."""
        host = np.ascontiguousarray(np.asarray(positions, dtype=np.float32))
        if (host == host[:1]).all():
            host = host[:1]
        key = (hashlib.sha256(host).digest(), host.shape, dtype)
        if key not in self._tables:
            self._tables[key] = rotary_table(host, dtype=dtype, **self._settings)
        self._tables.move_to_end(key)
        while len(self._tables) > _KEPT_TABLES:
            self._tables.popitem(last=False)
        return self._tables[key]
