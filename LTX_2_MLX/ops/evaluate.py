"""Early evaluation of large arrays, to bound peak memory."""

import mlx.core as mx

from LTX_2_MLX.ops.device import on_cpu

# From here on the cost of an evaluation, a fraction of a millisecond on a GPU and 25 microseconds on a CPU, is small
# beside the work.
_LARGE_BYTES = 64 * 2**20
_LARGE_BYTES_ON_CPU = 2**18


def eval_if_large(x: mx.array) -> mx.array:
    """``x``, evaluated now if it is large.

    Of a chain of lazy operations several are in flight at once, and each holds its working memory: for a chain of
    convolutions eight times that of one. Small arrays stay lazy, so that a GPU's queue stays full.
    """
    limit = _LARGE_BYTES_ON_CPU if on_cpu() else _LARGE_BYTES
    if x.nbytes >= limit:
        mx.eval(x)
    return x


def evaluated(x: mx.array) -> mx.array:
    """``x``, evaluated now: between two pieces of work, so that what it was made from can be freed."""
    mx.eval(x)
    return x
