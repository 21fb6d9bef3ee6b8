"""Many convolutions of 3 x 3 in a row over one picture, on the CPU, with a quarter of the multiplications.

The picture is cut into tiles of 4 x 4 pixels, and the pixels with the same place in their tiles lie together, each
place an array of its own. Four outputs in a row share their inputs, so that six products of sums of inputs with sums
of the kernel serve instead of twelve, along both axes 36 instead of 144. By places all of these sums are over whole
contiguous arrays, several of them in one pass where MLX finds a compiler (``g++``).

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308, F(4 x 4, 3 x 3).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial, reduce
from itertools import pairwise
from operator import add

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.ops.streams import Steps, side_by_side

_SIDE = 4
# Below this many pixels the sums cost more than the products they save, and with fewer channels (measured, two cores).
_FEW_PIXELS, _FEW_CHANNELS = 4096, 48
# One place's pixels of a band: less makes too many operations, more takes memory.
_BAND_BYTES = 2**20
# Products of polynomials are told by their values at these points and at infinity. With 1 and 2 instead of these
# roots rounding errors are several times as large.
_POINTS = np.array([0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)])
# Sums of inputs are scaled, the kernel's the other way, so that no two of them share a product: the compiler would
# make a pass of its own for it.
_SCALES = 2.0 ** np.array([0, 0, 1, -3, -4, 0])[:, None]


def tiles_pay(pictures: mx.array, channels: int) -> bool:
    """Whether convolutions of pictures ``(B, H, W, C)`` to so many channels are faster by tiles.

    They are for large pictures in float32 on the CPU.
    """
    large = pictures.shape[1] * pictures.shape[2] >= _FEW_PIXELS and channels >= _FEW_CHANNELS
    return large and pictures.dtype == mx.float32 and on_cpu()


@dataclass(frozen=True)
class Tiles:
    """A picture cut into tiles.

    Attributes:
        places: For each row and column of a tile its pixels, ``(pixels, C)``: one tile after another, with one more
            on the right of each row of tiles, one row of tiles more above and below, and one pixel more before and
            after all. What is not of the picture is zero.
        height: Rows of the picture.
        width: Columns of the picture.
    """

    places: list[list[mx.array]]
    height: int
    width: int

    @classmethod
    def of(cls, picture: mx.array) -> "Tiles":
        """The tiles of ``(H, W, C)``."""
        height, width, channels = picture.shape
        tall, wide = _tiles(height), _tiles(width)

        def place(i: int, j: int) -> mx.array:
            part = picture[i::_SIDE, j::_SIDE]
            rows, columns = (1, tall + 1 - part.shape[0]), (0, wide + 1 - part.shape[1])
            return mx.pad(mx.pad(part, [rows, columns, (0, 0)]).reshape(-1, channels), [(1, 1), (0, 0)])

        return cls([[place(i, j) for j in range(_SIDE)] for i in range(_SIDE)], height, width)

    @property
    def tall(self) -> int:
        """Rows of tiles."""
        return _tiles(self.height)

    @property
    def step(self) -> int:
        """Pixels of a place from one row of tiles to the next."""
        return _tiles(self.width) + 1

    def joined(self) -> mx.array:
        """The picture, ``(H, W, C)``."""
        rows = [
            mx.stack([place[1:-1].reshape(self.tall + 2, self.step, -1)[1:-1, :-1] for place in row], axis=2)
            for row in self.places
        ]
        whole = mx.stack(rows, axis=1)
        return whole.reshape(_SIDE * self.tall, _SIDE * (self.step - 1), -1)[: self.height, : self.width]

    def convolved(self, weight: mx.array, bias: mx.array, slope: mx.array | None = None) -> "Tiles":
        """The picture convolved by ``(O, 3, 3, C)``, zeros around it; then negative values times a ``slope`` each."""
        slope = mx.ones_like(bias) if slope is None else slope
        band = partial(self._band, kernels=_kernels(weight), bias=bias, slope=slope)
        bands = side_by_side(band, self._bands(max(weight.shape[0], weight.shape[-1]) * weight.dtype.size))
        border = mx.zeros((self.step + 1, weight.shape[0]))

        def rows_of_places(rows: range) -> Steps[list[list[mx.array]]]:
            places = [
                [mx.concatenate([border, *(band[j][i] for band in bands), border]) for j in range(_SIDE)] for i in rows
            ]
            yield places
            return places

        upper, lower = side_by_side(rows_of_places, [range(_SIDE // 2), range(_SIDE // 2, _SIDE)])
        return Tiles([*upper, *lower], self.height, self.width)

    def _bands(self, pixel_bytes: int) -> Iterator[tuple[int, int]]:
        """Rows of tiles, first and last, to work through at a time; more than one band are even in number."""
        count = -(-self.tall * self.step * pixel_bytes // _BAND_BYTES)
        count = min(count + count % 2, self.tall)
        return pairwise(self.tall * k // count for k in range(count + 1))

    def _band(
        self, rows: tuple[int, int], kernels: list[list[mx.array]], bias: mx.array, slope: mx.array
    ) -> Steps[list[list[mx.array]]]:
        """What a convolution makes of some rows of tiles: by column of a tile, then by row of it."""
        start, stop = (1 + (row + 1) * self.step for row in rows)

        def seen(i: int, j: int) -> mx.array:
            """Pixels in row i of the tiles, -1 to 4, with one before and one after, as neighbours are read there."""
            away = self.step * (i // _SIDE)
            return self.places[i % _SIDE][j][start + away - 1 : stop + away + 1]

        over_rows = [_input_sums([seen(i, j) for i in range(-1, _SIDE + 1)]) for j in range(_SIDE)]
        yield over_rows
        over_columns = []
        for i, row in enumerate(kernels):
            over_columns.append(_products([sums[i] for sums in over_rows], row))
            yield over_columns[-1]
        bias = mx.contiguous(mx.broadcast_to(bias, (stop - start, bias.size)))
        places, slopes = [], self._slopes(rows, slope)
        for j in range(_SIDE):
            places.append(_outputs([sums[j] for sums in over_columns], bias, [row[j] for row in slopes]))
            yield places[-1]
        return places

    def _slopes(self, rows: tuple[int, int], slope: mx.array) -> list[list[tuple[mx.array, mx.array]]]:
        """For each place of a tile the factors of values and of their sizes, which are zero beyond the picture."""

        @lru_cache
        def factors(tall: int, wide: int) -> tuple[mx.array, mx.array]:
            halves = np.zeros((rows[1] - rows[0], self.step), np.float32)
            halves[: tall - rows[0], :wide] = 0.5
            halves = mx.array(halves.reshape(-1, 1))
            return halves * (1 + slope), halves * (1 - slope)

        tall, wide = ([_tiles(size - k) for k in range(_SIDE)] for size in (self.height, self.width))
        return [[factors(tall[i], wide[j]) for j in range(_SIDE)] for i in range(_SIDE)]


def _tiles(size: int) -> int:
    return -(-size // _SIDE)


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums of inputs ``(6, 6)``, of the kernel ``(6, 3)`` and of products ``(4, 6)``."""
    others = np.array([np.delete(_POINTS, k) for k in range(len(_POINTS))])
    inputs = np.zeros((_SIDE + 2, _SIDE + 2))
    inputs[:-1, :-1] = [np.poly(other)[::-1] for other in others]
    inputs[-1] = np.poly(_POINTS)[::-1]
    kernel = _POINTS[:, None] ** np.arange(3) / np.prod(_POINTS[:, None] - others, axis=1, keepdims=True)
    products = _POINTS ** np.arange(_SIDE)[:, None]
    highest = np.eye(1, 3, 2), np.eye(1, _SIDE, _SIDE - 1).T
    kernel, products = np.concatenate([kernel, highest[0]]), np.concatenate([products, highest[1]], axis=1)
    return (inputs * _SCALES).round(12), kernel / _SCALES, products


_INPUTS, _KERNEL, _PRODUCTS = _matrices()


def _kernels(weight: mx.array) -> list[list[mx.array]]:
    """A kernel ``(O, 3, 3, C)`` as 6 x 6 of ``(C, O)``."""
    taps = weight.transpose(1, 2, 3, 0)
    sums = mx.array(np.kron(_KERNEL, _KERNEL).astype(np.float32)) @ taps.reshape(9, -1)
    return [list(row) for row in sums.reshape(*[_SIDE + 2] * 2, *taps.shape[2:])]


@mx.compile
def _input_sums(terms: list[mx.array]) -> list[mx.array]:
    return [_weighted(row, terms) for row in _INPUTS.tolist()]


@mx.compile
def _products(columns: list[mx.array], kernels: list[mx.array]) -> list[mx.array]:
    """For one sum over rows, by column of a tile: what each column of a tile's output takes of it."""
    sums = _input_sums([columns[-1][:-2], *(column[1:-1] for column in columns), columns[0][2:]])
    products = [x @ kernel for x, kernel in zip(sums, kernels, strict=True)]
    return [_weighted(row, products) for row in _PRODUCTS.tolist()]


@mx.compile
def _outputs(products: list[mx.array], bias: mx.array, slopes: list[tuple[mx.array, mx.array]]) -> list[mx.array]:
    places = []
    for row, (half, fold) in zip(_PRODUCTS.tolist(), slopes, strict=True):
        total = _weighted(row, products) + bias
        places.append(half * total + fold * mx.abs(total))
    return places


def _weighted(factors: list[float], terms: list[mx.array]) -> mx.array:
    used = [(factor, term) for factor, term in zip(factors, terms, strict=True) if factor]
    return reduce(add, (term if factor == 1 else factor * term for factor, term in used))
