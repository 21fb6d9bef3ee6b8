"""Chains of 3×3 convolutions with a quarter of the multiplications, by Winograd's algorithm F(4×4, 3×3).

The image is cut into tiles of 4×4 pixels. The pixels at one position of their tiles form an array of their own, so
that all sums of the algorithm run over whole contiguous arrays, several of them in one pass where MLX finds a C++
compiler. Four outputs in a row share their inputs: six products of sums replace twelve, along both axes 36 replace
144.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import pairwise
from operator import add

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.device import one_blas_thread

TILE = 4
WINDOW = TILE + 2
# Below these sizes the sums cost more than the products they save (measured, two cores).
_FEW_PIXELS = 4096
FEW_CHANNELS = 48
# Bytes of one position's pixels in a band: smaller bands make too many operations, larger ones take memory.
_BAND_BYTES = 2**20
# The polynomials are evaluated at these points and at infinity. With 1 and 2 instead of these roots rounding errors
# are several times as large.
_POINTS = np.array([0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)])
# Input sums are scaled by these and the kernel by their inverse, so that no two input sums share a product: the
# compiler would make a pass of its own for it.
_SCALES = 2.0 ** np.array([0, 0, 1, -3, -4, 0])[:, None]

# For each row and column of a tile an array.
Grid = list[list[mx.array]]


def is_faster(x: mx.array, layers: Sequence[tuple[mx.array, mx.array, mx.array | None]]) -> bool:
    """Whether this form of ``ops.conv.conv3x3_chain`` is the faster one: for large images and wide layers."""
    channels = layers[0][0].shape[0]
    return x.shape[1] * x.shape[2] >= _FEW_PIXELS and channels >= FEW_CHANNELS


def conv3x3_chain(x: mx.array, layers: Sequence[tuple[mx.array, mx.array, mx.array | None]]) -> mx.array:
    """Convolutions with zeros around the image, and the slopes of the activations after them.

    Args:
        x: ``(B, H, W, C)``, float32.
        layers: Weight ``(O, 3, 3, C)``, bias ``(O,)``, and slopes of the PReLU ``(O,)`` or None.

    Returns:
        ``(B, H, W, O)`` of the last layer.
    """
    images = []
    for image in x:
        tiles = Tiles.from_image(image)
        for weight, bias, slope in layers:
            tiles = tiles.convolve(weight, bias, slope)
        images.append(tiles.to_image())
        mx.eval(images[-1])
    return mx.stack(images)


@dataclass(frozen=True)
class Tiles:
    """An image cut into tiles.

    Attributes:
        grid: For each row and column of a tile the pixels there, ``(pixels, C)``, tile after tile. Zeros pad them: one
            tile to the right of each row of tiles, one row of tiles above and below, one pixel before and after all,
            and what the last tiles reach beyond the image.
        height: Rows of the image.
        width: Columns of the image.
    """

    grid: Grid
    height: int
    width: int

    @classmethod
    def from_image(cls, image: mx.array) -> "Tiles":
        """Tiles of ``(H, W, C)``."""
        height, width, channels = image.shape
        tile_rows = _num_tiles(height)
        tile_columns = _num_tiles(width)
        grid: Grid = []
        for i in range(TILE):
            grid.append([])
            for j in range(TILE):
                pixels = image[i::TILE, j::TILE]
                below = tile_rows + 1 - pixels.shape[0]
                right = tile_columns + 1 - pixels.shape[1]
                pixels = mx.pad(pixels, [(1, below), (0, right), (0, 0)]).reshape(-1, channels)
                grid[i].append(mx.pad(pixels, [(1, 1), (0, 0)]))
        return cls(grid, height, width)

    @property
    def tile_rows(self) -> int:
        """Rows of tiles."""
        return _num_tiles(self.height)

    @property
    def row_step(self) -> int:
        """Pixels of a grid array from one row of tiles to the next."""
        return _num_tiles(self.width) + 1

    def to_image(self) -> mx.array:
        """The image, ``(H, W, C)``."""
        rows = []
        for row in self.grid:
            columns = [pixels[1:-1].reshape(self.tile_rows + 2, self.row_step, -1)[1:-1, :-1] for pixels in row]
            rows.append(mx.stack(columns, axis=2))
        padded = mx.stack(rows, axis=1)
        padded = padded.reshape(TILE * self.tile_rows, TILE * (self.row_step - 1), -1)
        return padded[: self.height, : self.width]

    def convolve(self, weight: mx.array, bias: mx.array, slope: mx.array | None = None) -> "Tiles":
        """Convolve with ``(O, 3, 3, C)``, add the bias, and multiply negative values by a slope per channel."""
        kernel = _transform_kernel(weight)
        slope = mx.ones_like(bias) if slope is None else slope
        pixel_bytes = max(weight.shape[0], weight.shape[-1]) * weight.dtype.size
        bands: list[Grid] = []
        with one_blas_thread():
            edges = self._band_edges(pixel_bytes)
            for start in range(0, len(edges), 2):
                # Operations other than products keep one core busy each, so two bands are computed at once.
                pair = []
                for stream, (first, stop) in zip(_streams(), edges[start : start + 2], strict=False):
                    with mx.stream(stream):
                        pair.append(self._convolve_band(first, stop, kernel, bias, slope))
                        mx.async_eval(pair[-1])
                mx.eval(pair)
                bands += pair
        return Tiles(self._join_bands(bands, weight.shape[0]), self.height, self.width)

    def _band_edges(self, pixel_bytes: int) -> list[tuple[int, int]]:
        """First row of tiles of each band, and the one after its last; more than one band are even in number."""
        bands = -(-self.tile_rows * self.row_step * pixel_bytes // _BAND_BYTES)
        bands = min(bands + bands % 2, self.tile_rows)
        return list(pairwise(self.tile_rows * k // bands for k in range(bands + 1)))

    def _convolve_band(self, first: int, stop: int, kernel: Grid, bias: mx.array, slope: mx.array) -> Grid:
        """The grid of rows ``first`` to ``stop`` of tiles after the convolution, without padding above and below."""
        begin = 1 + (first + 1) * self.row_step
        end = 1 + (stop + 1) * self.row_step
        row_sums = []
        for j in range(TILE):
            rows = []
            for i in range(-1, TILE + 1):
                # Rows -1 and 4 belong to the tiles above and below; one pixel more at both ends is read as a neighbour.
                offset = self.row_step * (i // TILE)
                rows.append(self.grid[i % TILE][j][begin + offset - 1 : end + offset + 1])
            row_sums.append(_sum_inputs(rows))
        products = []
        for i, kernel_row in enumerate(kernel):
            products.append(_multiply([sums[i] for sums in row_sums], kernel_row))
        bias = mx.contiguous(mx.broadcast_to(bias, (end - begin, bias.size)))
        slopes = self._slopes(first, stop, slope)
        columns = []
        for j in range(TILE):
            columns.append(_activate([row[j] for row in products], bias, [row[j] for row in slopes]))
        return [[columns[j][i] for j in range(TILE)] for i in range(TILE)]

    def _slopes(self, first: int, stop: int, slope: mx.array) -> list[list[tuple[mx.array, mx.array]]]:
        """Factors of the value and of its absolute value at each position of a tile; zero beyond the image."""

        @lru_cache
        def factors(tile_rows: int, tile_columns: int) -> tuple[mx.array, mx.array]:
            halves = np.zeros((stop - first, self.row_step), np.float32)
            halves[: tile_rows - first, :tile_columns] = 0.5
            inside = mx.array(halves.reshape(-1, 1))
            return inside * (1 + slope), inside * (1 - slope)

        rows = [_num_tiles(self.height - i) for i in range(TILE)]
        columns = [_num_tiles(self.width - j) for j in range(TILE)]
        return [[factors(tile_rows, tile_columns) for tile_columns in columns] for tile_rows in rows]

    def _join_bands(self, bands: list[Grid], channels: int) -> Grid:
        border = mx.zeros((self.row_step + 1, channels))
        grid: Grid = []
        for i in range(TILE):
            grid.append([mx.concatenate([border, *(band[i][j] for band in bands), border]) for j in range(TILE)])
            mx.eval(grid[-1])
        return grid


@lru_cache(maxsize=1)
def _streams() -> tuple[mx.ThreadLocalStream, mx.ThreadLocalStream]:
    return mx.new_thread_local_stream(mx.cpu), mx.new_thread_local_stream(mx.cpu)


def _num_tiles(size: int) -> int:
    return -(-size // TILE)


def _matrices() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matrices of the sums of inputs ``(6, 6)``, of the kernel ``(6, 3)`` and of products ``(4, 6)``."""
    others = np.array([np.delete(_POINTS, k) for k in range(len(_POINTS))])
    inputs = np.zeros((WINDOW, WINDOW))
    inputs[:-1, :-1] = [np.poly(other)[::-1] for other in others]
    inputs[-1] = np.poly(_POINTS)[::-1]
    kernel = _POINTS[:, None] ** np.arange(3) / np.prod(_POINTS[:, None] - others, axis=1, keepdims=True)
    kernel = np.concatenate([kernel, np.eye(1, 3, 2)])
    products = _POINTS ** np.arange(TILE)[:, None]
    products = np.concatenate([products, np.eye(1, TILE, TILE - 1).T], axis=1)
    return (inputs * _SCALES).round(12), kernel / _SCALES, products


# Sums of the inputs, of the kernel and of the products along one axis.
INPUT_SUMS, KERNEL_SUMS, PRODUCT_SUMS = _matrices()


def _transform_kernel(weight: mx.array) -> Grid:
    """A kernel ``(O, 3, 3, C)`` as 6×6 of ``(C, O)``."""
    taps = weight.transpose(1, 2, 3, 0)
    sums = mx.array(np.kron(KERNEL_SUMS, KERNEL_SUMS).astype(np.float32)) @ taps.reshape(9, -1)
    return [list(row) for row in sums.reshape(WINDOW, WINDOW, *taps.shape[2:])]


@mx.compile
def _sum_inputs(terms: list[mx.array]) -> list[mx.array]:
    return [_weighted_sum(row, terms) for row in INPUT_SUMS.tolist()]


@mx.compile
def _multiply(columns: list[mx.array], kernel_row: list[mx.array]) -> list[mx.array]:
    """Sums over a row of the window to the contributions of its products to each output column of a tile."""
    before = columns[-1][:-2]
    after = columns[0][2:]
    sums = _sum_inputs([before, *(column[1:-1] for column in columns), after])
    products = [x @ kernel for x, kernel in zip(sums, kernel_row, strict=True)]
    return [_weighted_sum(row, products) for row in PRODUCT_SUMS.tolist()]


@mx.compile
def _activate(products: list[mx.array], bias: mx.array, slopes: list[tuple[mx.array, mx.array]]) -> list[mx.array]:
    """One output column of a tile, row by row, after bias and activation."""
    outputs = []
    for row, (value_factor, absolute_factor) in zip(PRODUCT_SUMS.tolist(), slopes, strict=True):
        total = _weighted_sum(row, products) + bias
        outputs.append(value_factor * total + absolute_factor * mx.abs(total))
    return outputs


def _weighted_sum(factors: list[float], terms: list[mx.array]) -> mx.array:
    used = [(factor, term) for factor, term in zip(factors, terms, strict=True) if factor]
    return reduce(add, (term if factor == 1 else factor * term for factor, term in used))
