"""Which of MLX's backends arrays are computed on, or are planned to be computed on."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import mlx.core as mx

_PLANNED_GPU: ContextVar[bool] = ContextVar("planned_gpu", default=False)


def on_cpu() -> bool:
    """Whether it is the CPU backend, whose convolutions unfold their input and whose attention stores its scores."""
    return not _PLANNED_GPU.get() and mx.default_device() == mx.Device(mx.cpu)


@contextmanager
def planned_on_gpu() -> Iterator[None]:
    """Estimates inside are those of a GPU, whatever this machine has. Nothing may be computed inside."""
    before = _PLANNED_GPU.set(True)
    try:
        yield
    finally:
        _PLANNED_GPU.reset(before)
