"""The backend that arrays are computed on, or that a run is planned for."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import mlx.core as mx

Backend = Literal["cpu", "gpu"]
_assumed_backend: Backend | None = None


def on_cpu() -> bool:
    """Whether operations take the forms of the CPU backend, and estimates its memory.

    The CPU backend unfolds the input of a convolution and stores the scores of attention.
    """
    return backend() == "cpu"


def backend() -> Backend:
    """The backend whose forms operations take: this machine's, or the one that ``as_backend`` names."""
    if _assumed_backend is not None:
        return _assumed_backend
    return "cpu" if device().type == mx.cpu else "gpu"


@contextmanager
def as_backend(name: Backend) -> Iterator[None]:
    """Let ``on_cpu`` answer for another backend: to plan for another machine, or to test its forms on this one.

    It holds for all threads of the process. The arrays are still computed on this machine's device.
    """
    global _assumed_backend
    if name not in ("cpu", "gpu"):
        raise ValueError(f"Unknown backend {name!r}. Use 'cpu' or 'gpu'.")
    previous = _assumed_backend
    _assumed_backend = name
    try:
        yield
    finally:
        _assumed_backend = previous


def device() -> mx.Device:
    """The device that arrays are computed on, whatever ``as_backend`` says."""
    return mx.default_device()


def device_name() -> str:
    """The name that the maker gives the device, such as "Apple M1 Max"; empty if MLX does not know it."""
    return str(mx.device_info(device()).get("device_name", ""))


def device_key() -> str:
    """A string that differs between devices whose results may differ in their last digits."""
    return str(device())
