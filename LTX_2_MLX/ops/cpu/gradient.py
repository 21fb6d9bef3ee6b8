"""Gradients of forms that leave MLX's graph."""

from collections.abc import Callable
from typing import Any, cast

import mlx.core as mx


def with_plain_gradient(form: Callable[..., mx.array], plain: Callable[..., mx.array], *arrays: mx.array) -> mx.array:
    """``form`` of the arrays, whose gradient is that of ``plain``, the same function in MLX's operations."""

    @mx.custom_function
    def evaluate(*arrays: Any) -> Any:
        return form(*arrays)

    @evaluate.vjp
    def gradients(primals: Any, cotangent: mx.array, output: mx.array) -> Any:
        # MLX passes a single argument by itself.
        several = isinstance(primals, (tuple, list))
        _, results = mx.vjp(plain, list(primals) if several else [primals], [cotangent])
        return tuple(results) if several else results[0]

    return cast(mx.array, evaluate(*arrays))
