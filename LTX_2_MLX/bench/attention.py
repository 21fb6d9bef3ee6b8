"""Attention on a CPU in this library's form and in MLX's own, timed in turns by the number of scores and heads."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from math import isqrt

import mlx.core as mx

from LTX_2_MLX.ops.attention import LONG_FORM, SHORT_FORM, takes_long_form

_HEADS = (1, 4, 8, 32)
_SCORES = tuple(2**power for power in range(12, 19))


def attention_lines(head_dim: int, turns: int) -> list[str]:
    """A Markdown table of milliseconds, of all heads together."""
    lines = ["| scores | heads | tokens | ours, ms | MLX's, ms | ours over MLX's | taken |", "|" + "---|" * 7]
    for scores in _SCORES:
        for heads in _HEADS:
            tokens = isqrt(scores // heads)
            ours, plain = _milliseconds((1, heads, tokens, head_dim), turns)
            array = mx.zeros((1, heads, tokens, head_dim))
            taken = "ours" if takes_long_form(array) else "MLX's"
            lines.append(
                f"| {scores:,} | {heads} | {tokens} | {ours:.2f} | {plain:.2f} | {ours / plain:.2f} | {taken} |"
            )
    return lines


def _milliseconds(shape: tuple[int, ...], turns: int) -> list[float]:
    """Medians of both forms."""
    queries, keys, values = (mx.random.normal(shape, key=mx.random.key(number)) for number in range(3))
    mx.eval(queries, keys, values)
    forms: list[Callable[..., mx.array]] = [LONG_FORM, SHORT_FORM]
    calls = [partial(form, queries, keys, values, scale=shape[-1] ** -0.5) for form in forms]
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(turns + 1):
        for call, seconds in zip(calls, taken, strict=True):
            start = time.perf_counter()
            mx.eval(call())
            seconds.append(time.perf_counter() - start)
    # The first turn fills caches.
    return [1000 * statistics.median(seconds[1:]) for seconds in taken]
