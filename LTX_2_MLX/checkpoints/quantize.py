"""Weights in 8 or 4 bits: which layers hold them, and how a file shows that it does.

A layer quantised by MLX has, where its weight was, packed ``weight`` (uint32), ``scales`` and ``biases``. Bits
and group size follow from their shapes, so a file needs no word on them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError, RequestError

BITS = (8, 4)
GROUP_SIZES = (32, 64, 128)
# What MLX packs into one uint32, and how wide the groups are that it computes with.
_STORED_BITS = (2, 3, 4, 5, 6, 8)
_PACKED_BITS = 32


@dataclass(frozen=True)
class Quantization:
    """How layers are quantised while they load.

    Attributes:
        bits: 8 or 4 for each weight.
        group_size: Consecutive weights of a row that share a scale and an offset: 32, 64 or 128.
    """

    bits: int = 8
    group_size: int = 64

    def __post_init__(self):
        if self.bits not in BITS:
            raise RequestError(f"Quantisation to {self.bits} bits is not supported. Use 8 or 4.")
        if self.group_size not in GROUP_SIZES:
            raise RequestError(f"The group size is {self.group_size}, but it must be 32, 64 or 128.")

    def num_bytes(self, weight: mx.array, dtype: mx.Dtype) -> int:
        """What a weight takes once quantised, its scales and offsets in ``dtype`` included."""
        return weight.size * self.bits // 8 + 2 * weight.size // self.group_size * dtype.size

    def apply(self, weight: mx.array) -> dict[str, mx.array]:
        """A weight ``(out, in)`` as the parameters of a quantised layer, by their names; lazy."""
        packed, scales, biases = mx.quantize(weight, group_size=self.group_size, bits=self.bits)
        return {"weight": packed, "scales": scales, "biases": biases}


def layers_to_quantize(model: nn.Module, quantization: Quantization) -> list[str]:
    """Paths of the linear layers that take part.

    A network says by ``quantizes(path, config)`` which of its layers may; one without it keeps all as they are.
    A layer whose input is not a multiple of the group size cannot be grouped and stays as it is.

    Raises:
        RequestError: If layers may and none can, or they are quantised already.
    """
    may = getattr(model, "quantizes", None)
    if may is None:
        return []
    named = [(path, module) for path, module in model.named_modules() if may(path, model.config)]
    found = {path: module.weight.shape for path, module in named if type(module) is nn.Linear}
    chosen = [path for path, shape in found.items() if shape[-1] % quantization.group_size == 0]
    if chosen:
        return chosen
    if any(isinstance(module, nn.QuantizedLinear) for _, module in named):
        raise RequestError("The weights are quantised already. Leave out --quantize, or give the 16-bit file.")
    widths = sorted({shape[-1] for shape in found.values()})
    raise RequestError(
        f"No layer of this {type(model).__name__} can be quantised in groups of {quantization.group_size}: "
        f"the widths of those that may be are {', '.join(map(str, widths)) or 'none'}. Leave out --quantize."
    )


def quantize_layers(model: nn.Module, paths: Collection[str], quantization: Quantization) -> None:
    """Put quantised layers, yet without weights, in place of those at ``paths``."""
    settings = {"bits": quantization.bits, "group_size": quantization.group_size}
    nn.quantize(model, class_predicate=lambda path, _: settings if path in paths else False)


def quantize_as_stored(model: nn.Module, weights: Mapping[str, mx.array], checkpoint: Checkpoint) -> None:
    """Put quantised layers where the weights have scales beside them.

    Args:
        model: Built in floating point.
        weights: By parameter name.
        checkpoint: Where they come from, for messages.

    Raises:
        CheckpointError: If scales and weight do not belong together.
    """
    modules, settings = dict(model.named_modules()), {}
    for name, scales in weights.items():
        path = name.removesuffix(".scales")
        if path == name or not isinstance(modules.get(path), nn.Linear | nn.Embedding):
            continue
        settings[path] = _stored(path, weights.get(f"{path}.weight"), scales, modules[path].weight.shape, checkpoint)
    if settings:
        nn.quantize(model, class_predicate=lambda path, _: settings.get(path, False))


def _stored(path, packed: mx.array | None, scales: mx.array, shape: tuple[int, ...], checkpoint) -> dict[str, int]:
    bits = group_size = 0
    if packed is not None and packed.dtype == mx.uint32 and packed.ndim == scales.ndim == 2 and scales.size:
        bits = packed.shape[1] * _PACKED_BITS // shape[1]
        group_size = shape[1] // scales.shape[1]
    if bits not in _STORED_BITS or group_size not in GROUP_SIZES:
        raise CheckpointError(
            f"{checkpoint.path}: {path} has scales of shape {scales.shape} beside a weight of shape "
            f"{packed.shape if packed is not None else 'none'}, which is no quantisation of {shape}. "
            f"Quantise the 16-bit file again with scripts/convert_weights.py."
        )
    return {"bits": bits, "group_size": group_size}


def is_quantized(checkpoint: Checkpoint) -> bool:
    """Whether a file holds layers that MLX quantised."""
    tensors = checkpoint.header.tensors
    return any(f"{name.removesuffix('.scales')}.weight" in tensors for name in tensors if name.endswith(".scales"))
