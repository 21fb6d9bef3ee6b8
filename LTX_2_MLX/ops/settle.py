"""When a lazy result is better computed at once."""

import mlx.core as mx

from LTX_2_MLX.ops.device import on_cpu

# Above this an evaluation's own cost, a fraction of a millisecond on a GPU and 25 microseconds on a CPU, does not show.
_LARGE_BYTES, _LARGE_BYTES_ON_CPU = 64 * 2**20, 2**18


def settled(x: mx.array) -> mx.array:
    """``x``, evaluated now where leaving it for later would only cost memory.

    Of a chain of lazy operations several are in flight at once, and all of them hold their working memory: for a
    chain of convolutions eight times that of one. Small results stay lazy, so that a GPU's queue is full.
    """
    if x.nbytes >= (_LARGE_BYTES_ON_CPU if on_cpu() else _LARGE_BYTES):
        mx.eval(x)
    return x
