"""When a lazy result is better computed at once."""

import mlx.core as mx

# Above this an evaluation's own cost, a fraction of a millisecond on a GPU, does not show.
_LARGE_BYTES = 64 * 2**20


def settled(x: mx.array) -> mx.array:
    """``x``, evaluated now where leaving it for later would only cost memory.

    Of a chain of lazy operations several are in flight at once, and all of them hold their working memory: for a
    chain of convolutions eight times that of one. Small results on a GPU stay lazy, so that its queue is full.
    """
    if x.nbytes >= _LARGE_BYTES or mx.default_device() == mx.cpu:
        mx.eval(x)
    return x
