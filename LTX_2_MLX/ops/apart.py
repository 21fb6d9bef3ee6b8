"""Planes with the pixels of even and odd rows and columns apart: what a convolution of stride 2 reads.

``(B, C, 2, 2, H / 2, W / 2)``, the first 2 for rows, the second for columns. The convolution then is one product with
all planes as they lie.
"""

import mlx.core as mx

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
    return _halves(_halves(planes, axis=2, new_axis=2), axis=4, new_axis=3)


def _halves(planes: mx.array, axis: int, new_axis: int) -> mx.array:
    quarter = planes * 0.25
    padded, rest = pad_edge(quarter, axis, 1, 1), planes - quarter
    before, after = mx.split(padded, [planes.shape[axis]], axis=axis)[0], mx.split(padded, [2], axis=axis)[1]
    return mx.stack([rest + before, rest + after], axis=new_axis)


def convolve_apart(planes: mx.array, weight: mx.array, bias: mx.array) -> mx.array:
    """Convolution with a kernel of 3 x 3 at stride 2, zeros around the picture.

    Args:
        planes: ``(B, C, 2, 2, H, W)``.
        weight: ``(O, 3, 3, C)``.
        bias: ``(O,)``.

    Returns:
        ``(B, H, W, O)``.
    """
    batch, channels, _, _, height, width = planes.shape
    if mx.default_device() != mx.cpu or planes.dtype != mx.float32:
        pixels = planes.transpose(0, 4, 2, 5, 3, 1).reshape(batch, 2 * height, 2 * width, channels)
        return mx.conv2d(pixels, weight, stride=2, padding=1) + bias
    pictures = [_by_quarters(picture, _products(weight), bias) for picture in planes]
    return mx.stack(pictures).transpose(0, 2, 3, 1)


def _products(weight: mx.array) -> mx.array:
    """A kernel ``(O, 3, 3, C)`` as one matrix for all four quarters and the four places an output may be shifted to.

    An output's even place is tap 1, its odd one tap 2; tap 0 is the odd place of the pair before, and there is no even
    one: ``(2 * 2 * O, C * 2 * 2)``, some of it zero.
    """
    outputs, _, _, channels = weight.shape
    rows = mx.pad(weight, [(0, 0), (1, 0), (1, 0), (0, 0)])[:, _TAP_OF_PLACE][:, :, _TAP_OF_PLACE]
    places = rows.reshape(outputs, 2, 2, 2, 2, channels).transpose(1, 3, 0, 5, 2, 4)
    return places.reshape(4 * outputs, 4 * channels)


def _by_quarters(picture: mx.array, products: mx.array, bias: mx.array) -> mx.array:
    """Planes ``(O, H, W)`` of one picture: every pair's products, those that belong to the next pair moved there."""
    channels, _, _, height, width = picture.shape
    here = (products @ picture.reshape(4 * channels, -1)).reshape(2, 2, -1, height, width)
    below = mx.pad(here[1, :, :, :-1], [(0, 0), (0, 0), (1, 0), (0, 0)])
    both = here[0] + below
    return both[0] + mx.pad(both[1, :, :, :-1], [(0, 0), (0, 0), (1, 0)]) + bias[:, None, None]
