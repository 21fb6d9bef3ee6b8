"""Planes with the pixels of even and odd rows and columns apart: what a convolution of stride 2 reads.

``(B, C, 2, 2, H / 2, W / 2)``, the first 2 for rows, the second for columns. The convolution then is two products
with planes as they lie.
"""

import mlx.core as mx

from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.ops.pad import pad_edge

# The tap, counted from 1, that the even and the odd place of a pair are to its own output and to the next one; 0: none.
_TAP_OF_PLACE = mx.array([2, 3, 0, 1])


def cells_apart(planes: mx.array, step: int) -> mx.array:
    """The pixels whose mean a bilinear reduction by ``step``, 1 or even, takes, those of even and odd places apart.

    Args:
        planes: ``(B, C, H, W)``; H and W are multiples of ``2 * step``.
        step: Rows and columns that become one; the 2 x 2 in the middle count.

    Returns:
        ``(B, C, 2, 2, n, n, H / step / 2, W / step / 2)``; n is 1 for a step of 1, else 2.
    """
    batch, channels, height, width = planes.shape
    middle = _middle(step)
    cells = planes.reshape(batch, channels, height // (2 * step), 2, step, width // (2 * step), 2, step)
    return cells[:, :, :, :, middle, :, :, middle].transpose(0, 1, 3, 6, 4, 7, 2, 5)


def places_apart(size: int, step: int) -> mx.array:
    """The places along one axis that ``cells_apart`` takes: ``(2, n, size / step / 2)``, float32."""
    return mx.arange(size, dtype=mx.float32).reshape(-1, 2, step)[..., _middle(step)].transpose(1, 2, 0)


def _middle(step: int) -> slice:
    return slice((step - 1) // 2, step // 2 + 1)


def cell_means(cells: mx.array) -> mx.array:
    """The mean of each cell of ``cells_apart``: ``(B, C, 2, 2, H, W)``."""
    if cells.shape[4] == 1:
        return cells[:, :, :, :, 0, 0]
    rows = cells[:, :, :, :, 0] + cells[:, :, :, :, 1]
    return (rows[:, :, :, :, 0] + rows[:, :, :, :, 1]) * 0.25


def doubled_apart(planes: mx.array) -> mx.array:
    """Planes ``(B, C, H, W)`` at twice their size, bilinear: ``(B, C, 2, 2, H, W)``."""
    places = [part for rows in _halves(planes, axis=2) for part in _halves(rows, axis=3)]
    return mx.stack(places, axis=2).reshape(*planes.shape[:2], 2, 2, *planes.shape[2:])


def _halves(planes: mx.array, axis: int) -> list[mx.array]:
    quarter = planes * 0.25
    padded, rest = pad_edge(quarter, axis, 1, 1), planes - quarter
    before, after = mx.split(padded, [planes.shape[axis]], axis=axis)[0], mx.split(padded, [2], axis=axis)[1]
    return [rest + before, rest + after]


def convolve_apart(parts: list[mx.array], weight: mx.array, bias: mx.array) -> mx.array:
    """Convolution with a kernel of 3 x 3 at stride 2, zeros around the picture.

    Args:
        parts: Planes ``(B, c, 2, 2, H, W)``, one after another C of them.
        weight: ``(O, 3, 3, C)``.
        bias: ``(O,)``.

    Returns:
        ``(B, H, W, O)``.
    """
    planes = mx.concatenate([part.transpose(0, 2, 3, 1, 4, 5) for part in parts], axis=3)
    batch, _, _, channels, height, width = planes.shape
    if not on_cpu() or planes.dtype != mx.float32:
        pixels = planes.transpose(0, 4, 1, 5, 2, 3).reshape(batch, 2 * height, 2 * width, channels)
        return mx.conv2d(pixels, weight, stride=2, padding=1) + bias
    kernels = _products(weight)
    pictures = [_by_quarters(picture, kernels, bias)[None] for picture in planes]
    return mx.concatenate(pictures).transpose(0, 2, 3, 1)


def _products(weight: mx.array) -> tuple[mx.array, mx.array]:
    """A kernel ``(O, 3, 3, C)`` as matrices for the quarters: what they give to the output of their own pair of rows,
    and what the odd rows give to that of the next pair; both for the own pair of columns, then for the next one.

    ``(2 * O, 2 * 2 * C)`` and ``(2 * O, 2 * C)``. The tap of an even place is 1, of an odd one 2; tap 0 is the odd
    place of the pair before, and no tap stands for its even one: some values are zero.
    """
    outputs, _, _, channels = weight.shape
    columns = mx.pad(weight, [(0, 0), (0, 0), (1, 0), (0, 0)])[:, :, _TAP_OF_PLACE]
    # (column shift, O, row tap, column, C)
    columns = columns.reshape(outputs, 3, 2, 2, channels).transpose(2, 0, 1, 3, 4)
    return tuple(part.reshape(2 * outputs, -1) for part in (columns[:, :, 1:], columns[:, :, 0]))


def _by_quarters(picture: mx.array, kernels: tuple[mx.array, mx.array], bias: mx.array) -> mx.array:
    """Planes ``(O, H, W)`` of one picture ``(2, 2, C, H, W)``."""
    height, width = picture.shape[3:]
    here, below = (
        (kernel @ rows.reshape(kernel.shape[1], -1)).reshape(2, -1, height, width)
        for kernel, rows in zip(kernels, (picture, picture[1]), strict=True)
    )
    here = here + _moved(below, axis=2)
    return here[0] + _moved(here[1], axis=2) + bias[:, None, None]


def _moved(planes: mx.array, axis: int) -> mx.array:
    """Every row or column one place later, zeros before the first."""
    first, kept = mx.split(planes, [1], axis=axis)[0], mx.split(planes, [planes.shape[axis] - 1], axis=axis)[0]
    return mx.concatenate([mx.zeros_like(first), kept], axis=axis)
