"""Padding that repeats or mirrors what is there; zeros are the convolutions' own business."""

import mlx.core as mx


def pad_edge(x: mx.array, axis: int, before: int, after: int) -> mx.array:
    """``x`` with its first slice along ``axis`` repeated ``before`` times in front, its last ``after`` times behind."""
    length = x.shape[axis]
    if before == after == 0:
        return x
    first = _cut(x, axis, 0, 1)
    last = _cut(x, axis, length - 1, length)
    return mx.concatenate([first] * before + [x] + [last] * after, axis=axis)


def pad_mirror(x: mx.array, axis: int) -> mx.array:
    """``x`` with one slice more at both ends of ``axis``, mirrored around the edge: ``[1, 0, 1, ..., n, n - 1]``.

    The axis must hold at least two slices.
    """
    length = x.shape[axis]
    return mx.concatenate([_cut(x, axis, 1, 2), x, _cut(x, axis, length - 2, length - 1)], axis=axis)


def _cut(x: mx.array, axis: int, start: int, stop: int) -> mx.array:
    return x[(slice(None),) * (axis % x.ndim) + (slice(start, stop),)]
