"""Settings of MLX that have to be made before it is imported."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

# Winograd convolutions in 16 bit multiply a decoder's error by four; TF32 cuts float32 products to about ten bits.
# MLX reads both variables itself (mlx/backend/metal/conv.cpp and mlx/utils.h at 0.32.4).
_WINOGRAD = "MLX_CONV_WINOGRAD"
_TILE_BATCH = "MLX_CONV_WINOGRAD_TILE_BATCH"
_TF32 = "MLX_ENABLE_TF32"
_DEFAULTS = {_WINOGRAD: "0", _TF32: "0"}


# Those of the variables that the user has not set.
_ours: set[str] = set()


def set_mlx_defaults() -> None:
    """Turn off Winograd convolutions and TF32 where the user has not set the variable."""
    for name, value in _DEFAULTS.items():
        if name not in os.environ:
            os.environ[name] = value
            _ours.add(name)


def winograd_is_exact() -> bool:
    """Whether float32 convolutions may go by Winograd: products keep their bits, and the user has not decided."""
    return _WINOGRAD in _ours and os.environ.get(_TF32) == "0"


@contextmanager
def winograd_convolutions(wanted: bool) -> Iterator[None]:
    """Let Metal compute wide convolutions by Winograd, a fifth of the products, while inside.

    In float32 that costs 5e-6 of a layer's result. Frames are transformed one at a time, to hold little at once. MLX
    reads both variables at every convolution.
    """
    if not wanted or not winograd_is_exact():
        yield
        return
    inside = {_WINOGRAD: "1", _TILE_BATCH: os.environ.get(_TILE_BATCH, "1")}
    before = {name: os.environ.get(name) for name in inside}
    os.environ.update(inside)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
