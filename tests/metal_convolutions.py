"""Which path a recorded convolution takes on Metal, and the bytes beside its input, weight and result.

Source: ml-explore/mlx, mlx/backend/metal/conv.cpp at 846d176 (dispatch_conv_2D_gpu, dispatch_conv_3D_gpu, conv_1D_gpu);
the switch MLX_CONV_WINOGRAD as in 0.32.4.
"""

import math
import os
from dataclasses import dataclass

from LTX_2_MLX.development.work_record import ConvolutionCall

FEWEST_WINOGRAD_PIXELS = 4096
FEWEST_WINOGRAD_CHANNELS = 256
FEWEST_PADDED_PIXELS = 256
LONGEST_SLICED_KERNEL = 7


@dataclass(frozen=True)
class Path:
    """How Metal computes a convolution: a name, and bytes that live until its command buffer is done."""

    name: str
    scratch: int


def path(call: ConvolutionCall, *, winograd: bool) -> Path:
    """The path of one convolution; ``winograd`` is whether MLX_CONV_WINOGRAD leaves it on."""
    stride, padding = _stride_and_padding(call)
    transposed = "transpose" in call.function
    if call.function.startswith("conv3d"):
        return _in_time(call, stride, padding, winograd=winograd)
    if len(call.weight) == 3:
        plain = not transposed and _fits(call.input[-1], call.weight[0])
        return Path("implicit_2d", 0) if plain else _unfolded(call)
    unit = all(step == 1 for step in stride) and not transposed
    return _images(call, call.input, call.result, unit=unit, winograd=winograd, transposed=transposed)


def _stride_and_padding(call: ConvolutionCall) -> tuple[tuple[int, ...], tuple[int, ...]]:
    named = dict(option for option in call.options if isinstance(option, tuple) and isinstance(option[0], str))
    given = [option for option in call.options if not (isinstance(option, tuple) and isinstance(option[0], str))]
    values = [named.get("stride", given[0] if given else 1), named.get("padding", given[1] if len(given) > 1 else 0)]
    axes = len(call.weight) - 2
    stride, padding = ((value,) * axes if isinstance(value, int) else tuple(value) for value in values)
    return stride, padding


def _fits(inputs: int, outputs: int) -> bool:
    return (inputs <= 4 or inputs % 16 == 0) and (outputs <= 16 or outputs % 16 == 0)


def _images(call, images, result, *, unit: bool, winograd: bool, transposed: bool = False) -> Path:
    outputs, *kernel, inputs = call.weight
    kernel = kernel[-2:]
    pixels_in = math.prod(images[:-1])
    pixels_out = math.prod(result[:-1])
    wide = inputs % 32 == outputs % 32 == 0 and inputs + outputs >= FEWEST_WINOGRAD_CHANNELS
    if winograd and unit and kernel == [3, 3] and wide and pixels_in >= FEWEST_WINOGRAD_PIXELS:
        step = min(images[0], int(os.environ.get("MLX_CONV_WINOGRAD_TILE_BATCH", images[0])))
        tiles = step * math.prod(-(-side // 6) for side in result[1:3])
        padded = step * math.prod(6 * -(-side // 6) + 2 for side in result[1:3]) * inputs
        values = 64 * inputs * outputs + 64 * tiles * (inputs + outputs) + padded
        return Path("winograd", values * call.item_bytes)
    if not transposed and _fits(inputs, outputs):
        return Path("implicit_2d", 0)
    if unit and pixels_out >= FEWEST_PADDED_PIXELS and (outputs <= 16 or outputs % 16 == 0) and math.prod(kernel) >= 9:
        return Path("implicit_2d_padded", (pixels_in + outputs * 9) * -(-inputs // 16) * 16 * call.item_bytes)
    if (inputs % 16 == 0 and outputs % 16 == 0) or pixels_out >= FEWEST_PADDED_PIXELS:
        return Path("implicit_2d_general", 0)
    return _unfolded(call)


def _in_time(call, stride, padding, *, winograd: bool) -> Path:
    outputs, frames, *_, inputs = call.weight
    if not (inputs % 16 == 0 and (outputs <= 16 or outputs % 16 == 0)):
        wider = -(-inputs // 16) * 16
        return Path("implicit_3d_padded", math.prod(call.input[:-1]) * wider * call.item_bytes)
    sliced = call.input[0] == 1 and frames <= LONGEST_SLICED_KERNEL and stride[0] == 1 and padding[0] == 0
    if not sliced:
        return Path("implicit_3d", 0)
    unit = all(step == 1 for step in stride)
    images = (call.result[1], *call.input[2:])
    inner = _images(call, images, call.result[1:], unit=unit, winograd=winograd)
    # Scratch of all slices, and their results but one, are kept until the command buffer ends.
    results = math.prod(call.result) * call.item_bytes * (frames - 1)
    return Path(f"3d_as_2d:{inner.name}", inner.scratch * frames + results)


def _unfolded(call: ConvolutionCall) -> Path:
    windows = math.prod(call.result[:-1]) * math.prod(call.weight[1:])
    return Path("explicit", windows * call.item_bytes)
