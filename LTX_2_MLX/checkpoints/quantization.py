"""Weights in fewer bits: 8-bit floats decoded, layers quantised by MLX while they load."""

from collections.abc import Collection
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.errors import RequestError

BITS = (8, 4)
GROUP_SIZES = (32, 64, 128)
# Widths that MLX packs into uint32.
_STORED_BITS = (2, 3, 4, 5, 6, 8)
_PACKED_BITS = 32


def _e4m3_values() -> np.ndarray:
    """All 256 values of E4M3 without infinities: sign, 4 bits of exponent (bias 7), 3 of mantissa; S1111111 is NaN."""
    code = np.arange(256)
    exponent = code >> 3 & 15
    mantissa = code & 7
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    magnitude[code & 127 == 127] = np.nan
    return np.where(code < 128, magnitude, -magnitude).astype(np.float32)


_E4M3 = _e4m3_values()


def decode_e4m3(codes: mx.array, scale: mx.array | None = None) -> mx.array:
    """Float32 values of ``codes``, uint8 of any shape, times ``scale`` (one number).

    Source: the format is FN of Micikevicius et al., "FP8 Formats for Deep Learning", as PyTorch's float8_e4m3fn.
    """
    values = mx.array(_E4M3)[codes]
    return values if scale is None else values * scale.astype(mx.float32).reshape(())


@dataclass(frozen=True)
class Quantization:
    """How layers are quantised while they load.

    Attributes:
        bits: 8 or 4 for each weight.
        group_size: Consecutive weights of a row that share a scale and a bias: 32, 64 or 128.
    """

    bits: int = 8
    group_size: int = 64

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise RequestError(f"Quantisation to {self.bits} bits is not supported. Use 8 or 4.")
        if self.group_size not in GROUP_SIZES:
            raise RequestError(f"The group size is {self.group_size}, but it must be 32, 64 or 128.")

    def apply(self, weight: mx.array) -> dict[str, mx.array]:
        """The parameters of a quantised layer, by name, of a weight ``(out, in)``; lazy."""
        packed, scales, biases = mx.quantize(weight, group_size=self.group_size, bits=self.bits)
        return {"weight": packed, "scales": scales, "biases": biases}


def layers_to_quantize(model: nn.Module, quantization: Quantization) -> list[str]:
    """Paths of the linear layers to quantise.

    A network allows layers by ``quantizes(path, config)``; one without that method has none. A layer whose input is
    not a multiple of the group size cannot be quantised.

    Raises:
        RequestError: If layers are allowed but none can be quantised, or they are quantised already.
    """
    quantizes = getattr(model, "quantizes", None)
    if quantizes is None:
        return []
    allowed = {path: module for path, module in model.named_modules() if quantizes(path, model.config)}
    widths = {path: module.weight.shape[-1] for path, module in allowed.items() if type(module) is nn.Linear}
    paths = [path for path, width in widths.items() if width % quantization.group_size == 0]
    if paths:
        return paths
    if any(isinstance(module, nn.QuantizedLinear) for module in allowed.values()):
        raise RequestError("The weights are quantised already. Leave out --quantize, or give the 16-bit file.")
    listed_widths = ", ".join(str(width) for width in sorted(set(widths.values()))) or "none"
    raise RequestError(
        f"No layer of this {type(model).__name__} can be quantised in groups of {quantization.group_size}: "
        f"the widths of the layers that may be quantised are {listed_widths}. Leave out --quantize."
    )


def quantize_layers(model: nn.Module, paths: Collection[str], quantization: Quantization) -> None:
    """Replace the layers at ``paths`` by quantised ones, yet without weights."""
    settings = {"bits": quantization.bits, "group_size": quantization.group_size}
    nn.quantize(model, class_predicate=lambda path, _: settings if path in paths else False)


def stored_settings(packed: mx.array | None, scales: mx.array, weight_shape: tuple[int, ...]) -> dict[str, int] | None:
    """Bits and group size that follow from the shapes; None if no quantisation has these."""
    if packed is None or packed.dtype != mx.uint32 or packed.ndim != 2 or scales.ndim != 2 or not scales.size:
        return None
    width = weight_shape[1]
    bits = packed.shape[1] * _PACKED_BITS // width
    group_size = width // scales.shape[1]
    if bits not in _STORED_BITS or group_size not in GROUP_SIZES:
        return None
    return {"bits": bits, "group_size": group_size}
