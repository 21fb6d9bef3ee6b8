"""Quantises layers to 8 or 4 bits, and recognises quantised layers in a file.

A layer quantised by MLX has a packed ``weight`` (uint32), ``scales`` and ``biases``. Bits and group size follow from
their shapes, so the file needs no metadata.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError, RequestError

BITS = (8, 4)
GROUP_SIZES = (32, 64, 128)
# Widths that MLX packs into uint32.
_STORED_BITS = (2, 3, 4, 5, 6, 8)
_PACKED_BITS = 32


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

    def num_bytes(self, weight: mx.array, dtype: mx.Dtype) -> int:
        """Size of a quantised weight, its scales and biases in ``dtype`` included."""
        packed_bytes = weight.size * self.bits // 8
        num_groups = weight.size // self.group_size
        return packed_bytes + 2 * num_groups * dtype.size

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


def quantize_as_stored(model: nn.Module, weights: Mapping[str, mx.array], checkpoint: Checkpoint) -> None:
    """Replace the layers whose weights have scales beside them by quantised ones.

    Args:
        model: Built in floating point.
        weights: By parameter name.
        checkpoint: Where they come from, for messages.

    Raises:
        CheckpointError: If scales and weight do not belong together.
    """
    modules = dict(model.named_modules())
    settings: dict[str, dict[str, int]] = {}
    for name, scales in weights.items():
        path = name.removesuffix(".scales")
        module = modules.get(path)
        if path == name or not isinstance(module, nn.Linear | nn.Embedding):
            continue
        packed = weights.get(f"{path}.weight")
        stored = _stored_settings(packed, scales, module.weight.shape)
        if stored is None:
            raise CheckpointError(
                f"{checkpoint.path}: {path} has scales of shape {scales.shape} beside a weight of shape "
                f"{'none' if packed is None else packed.shape}, which is no quantisation of {module.weight.shape}. "
                f"Quantise the 16-bit file again with scripts/convert_weights.py."
            )
        settings[path] = stored
    if settings:
        nn.quantize(model, class_predicate=lambda path, _: settings.get(path, False))


def _stored_settings(packed: mx.array | None, scales: mx.array, weight_shape: tuple[int, ...]) -> dict[str, int] | None:
    """Bits and group size that follow from the shapes; None if no quantisation has these."""
    if packed is None or packed.dtype != mx.uint32 or packed.ndim != 2 or scales.ndim != 2 or not scales.size:
        return None
    width = weight_shape[1]
    bits = packed.shape[1] * _PACKED_BITS // width
    group_size = width // scales.shape[1]
    if bits not in _STORED_BITS or group_size not in GROUP_SIZES:
        return None
    return {"bits": bits, "group_size": group_size}


def is_quantized(checkpoint: Checkpoint) -> bool:
    """Whether a file holds layers that are quantised by MLX."""
    tensors = checkpoint.header.tensors
    return any(f"{name.removesuffix('.scales')}.weight" in tensors for name in tensors if name.endswith(".scales"))
