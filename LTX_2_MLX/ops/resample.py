"""Moving samples between channels and the axes before them."""

import math

import mlx.core as mx


def pixel_shuffle(x: mx.array, factors: tuple[int, ...]) -> mx.array:
    """Spread channels over the axes before them: ``(..., T, H, W, C)`` by (a, b, c) to ``(..., aT, bH, cW, C / abc)``.

    One factor for each of the last axes before the channels. Input channel ``((c * a + i) * b + j) * c' + k`` becomes
    channel c at offset (i, j, k): the output's channel is the slowest part of the index.
    """
    lead = x.ndim - 1 - len(factors)
    sizes = x.shape[lead:-1]
    x = x.reshape(*x.shape[:-1], x.shape[-1] // math.prod(factors), *factors)
    channel = lead + len(factors)
    pairs = []
    grown = []
    for number, factor in enumerate(factors):
        pairs += [lead + number, channel + 1 + number]
        grown.append(sizes[number] * factor)
    return x.transpose(*range(lead), *pairs, channel).reshape(*x.shape[:lead], *grown, x.shape[channel])


def pixel_unshuffle(x: mx.array, factors: tuple[int, ...]) -> mx.array:
    """Gather offsets into channels: the inverse of :func:`pixel_shuffle`."""
    lead, channels = x.ndim - 1 - len(factors), x.shape[-1]
    sizes = [size // factor for size, factor in zip(x.shape[lead:-1], factors, strict=True)]
    split = [n for size, factor in zip(sizes, factors, strict=True) for n in (size, factor)]
    outer = [lead + 2 * i for i in range(len(factors))]
    x = x.reshape(*x.shape[:lead], *split, channels)
    order = (*range(lead), *outer, x.ndim - 1, *(axis + 1 for axis in outer))
    return x.transpose(order).reshape(*x.shape[:lead], *sizes, channels * math.prod(factors))
