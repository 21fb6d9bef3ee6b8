"""Many convolutions of 3 x 3 in a row over one picture, on the CPU, with less than half of the multiplications.

The picture is kept as four quarters, the pixels of even and of odd rows and columns. Two outputs in a row share
their inputs, so that four products of sums of inputs with sums of the kernel serve instead of six, along both axes
16 instead of 36. In quarters all of these sums are over whole contiguous arrays.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, arXiv 1509.09308, F(2 x 2, 3 x 3).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.streams import side_by_side

_BOTH = (0, 1)
# Below these the sums cost more than the products they save (measured, two cores).
_FEW_PIXELS, _FEW_CHANNELS = 4096, 48
_KERNEL_SUMS = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)


def quarters_pay(x: mx.array) -> bool:
    """Whether convolutions over pictures ``(B, H, W, C)`` are faster by quarters: large ones in float32 on the CPU.

    At 128 x 224 pixels with 64 channels one takes 30 ms of a core instead of 40, its activation included.
    """
    large = x.shape[1] * x.shape[2] >= _FEW_PIXELS and x.shape[3] >= _FEW_CHANNELS
    return large and x.dtype == mx.float32 and mx.default_device() == mx.cpu


@dataclass(frozen=True)
class Quarters:
    """A picture in four parts.

    Attributes:
        parts: The pixels of rows ``2 * y + i`` and columns ``2 * x + j``, ``i`` and ``j`` as in ``_places``, in the
            upper left of each part; what lies beyond them has no meaning.
        height: Rows of the picture.
        width: Columns of the picture.
    """

    parts: list[mx.array]
    height: int
    width: int

    @classmethod
    def of(cls, picture: mx.array) -> "Quarters":
        """The quarters of ``(H, W, C)``."""
        return cls([picture[i::2, j::2] for i, j in _places()], *picture.shape[:2])

    def joined(self) -> mx.array:
        """The picture, ``(H, W, C)``."""
        tall, wide = -(-self.height // 2), -(-self.width // 2)
        whole = mx.stack([_sized(part, tall, wide) for part in self.parts])
        whole = whole.reshape(2, 2, tall, wide, -1).transpose(2, 0, 3, 1, 4)
        return whole.reshape(2 * tall, 2 * wide, -1)[: self.height, : self.width]

    def map(self, change: Callable[[mx.array], mx.array]) -> "Quarters":
        """``change`` of every part; it may not depend on a pixel's place."""
        return Quarters(side_by_side(change, self.parts), self.height, self.width)

    def convolved(self, weight: mx.array, bias: mx.array) -> "Quarters":
        """The picture convolved by ``(O, 3, 3, C)``, zeros around it."""
        sums = mx.array(_KERNEL_SUMS)
        kernels = mx.contiguous(mx.einsum("ia,oabc,jb->ijco", sums, weight, sums))
        # One padded column serves both sides: a row's right border is the next row's left one.
        tall, wide = -(-self.height // 2), -(-self.width // 2) + 1
        count = tall * wide
        even, odd = self._sums_over_rows(tall, wide)

        def outputs_over_columns(i: int) -> list[mx.array]:
            inputs = _input_sums([even[i][:count], odd[i][:count], even[i][1:], odd[i][1:]])
            # The product in the middle counts once in every output, so the bias comes in with it.
            products = [
                mx.addmm(bias, x, kernel) if i == j == 1 else x @ kernel
                for j, (x, kernel) in enumerate(zip(inputs, kernels[i], strict=True))
            ]
            return _output_sums(products)

        columns = list(zip(*side_by_side(outputs_over_columns, range(4)), strict=True))
        left, right = side_by_side(lambda j: _output_sums(columns[j]), _BOTH)
        parts = [part.reshape(tall, wide, -1) for part in (left[0], right[0], left[1], right[1])]
        return Quarters(parts, self.height, self.width)

    def _sums_over_rows(self, tall: int, wide: int) -> list[list[mx.array]]:
        """For even and for odd columns, the four sums of neighbouring rows; each has one pixel more than is used."""
        padded = side_by_side(lambda place: self._padded(*place, tall + 2, wide), _places())

        def sums(j: int) -> list[mx.array]:
            return _input_sums([padded[2 * (i % 2) + j][i // 2 * wide :][: tall * wide + 1] for i in range(4)])

        return side_by_side(sums, _BOTH)

    def _padded(self, i: int, j: int, tall: int, wide: int) -> mx.array:
        """Rows and columns of parity ``i`` and ``j`` of the picture with zeros around it: ``(tall * wide, C)``."""
        part = self.parts[2 * (1 - i) + 1 - j][: (self.height + i) // 2, : (self.width + j) // 2]
        # The first even row and column is the border, the first odd one belongs to the picture.
        rows, columns = ((1 - k, size - (1 - k) - given) for k, size, given in zip((i, j), (tall, wide), part.shape))  # noqa: B905
        return mx.pad(part, [rows, columns, (0, 0)]).reshape(tall * wide, -1)


def _places() -> Iterator[tuple[int, int]]:
    return ((i, j) for i in _BOTH for j in _BOTH)


def _sized(part: mx.array, tall: int, wide: int) -> mx.array:
    part = part[:tall, :wide]
    return mx.pad(part, [(0, tall - part.shape[0]), (0, wide - part.shape[1]), (0, 0)])


def _input_sums(x: list[mx.array]) -> list[mx.array]:
    return [x[0] - x[2], x[1] + x[2], x[2] - x[1], x[1] - x[3]]


def _output_sums(x: list[mx.array]) -> list[mx.array]:
    return [x[0] + (x[1] + x[2]), x[1] - x[2] - x[3]]
