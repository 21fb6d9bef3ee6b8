"""Tensors of a checkpoint as the weights of one network, by parameter name: 8-bit floats decoded, layers quantised.

Lazy: no tensor is read here. A layer quantised by MLX has a packed ``weight`` (uint32), ``scales`` and ``biases``. Bits
and group size follow from their shapes, so the file needs no metadata.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.checkpoints.lora import LoraMerge
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.interfaces import PublishedNetwork

# Marks a whole file of ComfyUI's older form; the module's settings, the scales of inputs (not needed: inputs keep
# their precision) and of weights, of its older and newer form and of the published files.
_MARKER = "scaled_fp8"
_SETTINGS = "comfy_quant"
_INPUT_SCALES = ("input_scale", "scale_input")
_WEIGHT_SCALES = ("weight_scale", "scale_weight")
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


def float8_scales(checkpoint: Checkpoint) -> dict[str, str | None]:
    """Names of the tensors in 8-bit floats, and the name of each one's scale; None without one.

    Raises:
        CheckpointError: If a scale is more than one number, or belongs to a tensor of another precision.
    """
    tensors = checkpoint.header.tensors
    names: dict[str, str | None] = {}
    for name, info in tensors.items():
        if info.dtype == "F8_E4M3" and name.rpartition(".")[2] != _MARKER:
            names[name] = None
    for scale_name in tensors:
        module, dot, last = scale_name.rpartition(".")
        if last not in _WEIGHT_SCALES:
            continue
        name = f"{module}{dot}weight"
        if name not in names:
            raise CheckpointError(
                f"{checkpoint.path}: {scale_name} is the scale of a weight that is not in 8-bit floats (E4M3), which "
                f"is not supported. Use the published 8-bit file or the 16-bit one."
            )
        scale = tensors[scale_name]
        if scale.num_bytes == 0 or any(size != 1 for size in scale.shape):
            raise CheckpointError(
                f"{checkpoint.path}: {scale_name} has shape {scale.shape}, but only one scale per tensor is supported. "
                f"Use the published 8-bit file or the 16-bit one."
            )
        names[name] = scale_name
    return names


def is_float8_setting(name: str) -> bool:
    """Whether a tensor only describes how others are stored: scales, settings, the marker of a whole file."""
    return name.rpartition(".")[2] in (_MARKER, _SETTINGS, *_INPUT_SCALES, *_WEIGHT_SCALES)


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


def network_weights(
    network: type[PublishedNetwork[Any]],
    checkpoint: Checkpoint,
    *,
    dtype: mx.Dtype | None = None,
    merge: LoraMerge | None = None,
    arrays: Mapping[str, mx.array] | None = None,
    sources: dict[str, list[mx.array]] | None = None,
) -> dict[str, mx.array]:
    """Lazy arrays of one network by parameter name, in published axis order.

    Merged weights and decoded 8-bit floats are rounded once to ``dtype``; other weights keep the file's dtype.

    Args:
        network: Names its own tensors.
        checkpoint: Tensors of other networks in it are ignored.
        dtype: Of merged weights and 8-bit floats; None means the file's, bfloat16 for 8-bit floats.
        merge: Adapters to merge.
        arrays: Published tensors that are open already; None opens all of the network's.
        sources: Filled with the tensors on disk that each weight is computed from.
    """
    scales = float8_scales(checkpoint)
    parameters = parameter_names(network, checkpoint)
    if arrays is None:
        arrays = checkpoint.arrays(with_scales(parameters, scales) if scales else parameters)
    weights: dict[str, mx.array] = {}
    for name, parameter in parameters.items():
        if name not in arrays:
            continue
        if parameter in weights:
            raise CheckpointError(f"{checkpoint.path}: two tensors mean {parameter}, one of them is {name}.")
        on_disk: list[mx.array] = []
        weights[parameter] = _weight(name, arrays, scales, dtype, merge, on_disk)
        if sources is not None:
            sources[parameter] = on_disk
    prepare = getattr(network, "prepare", None)
    if prepare is None:
        return weights
    prepared: dict[str, mx.array] = prepare(weights)
    if sources is not None:
        _share_sources(sources, weights, prepared)
    return prepared


def _share_sources(
    sources: dict[str, list[mx.array]], weights: Mapping[str, mx.array], prepared: Mapping[str, mx.array]
) -> None:
    """Give the tensors of weights that were computed anew to the first of the new weights."""
    changed = [name for name, value in prepared.items() if weights.get(name) is not value]
    if not changed:
        return
    unchanged = prepared.keys() - set(changed)
    moved: list[mx.array] = []
    for name in list(sources):
        if name not in unchanged:
            moved += sources.pop(name)
    sources[changed[0]] = moved


def _weight(
    name: str,
    arrays: Mapping[str, mx.array],
    scales: Mapping[str, str | None],
    dtype: mx.Dtype | None,
    merge: LoraMerge | None,
    on_disk: list[mx.array],
) -> mx.array:
    """One weight, decoded and merged in float32 and then rounded once; the tensors it is made of go to ``on_disk``."""
    published = arrays[name]
    on_disk.append(published)
    value = published
    final_dtype = dtype or published.dtype
    if name in scales:
        scale_name = scales[name]
        scale = None if scale_name is None else arrays[scale_name]
        if scale is not None:
            on_disk.append(scale)
        value = decode_e4m3(value, scale)
        final_dtype = dtype or mx.bfloat16
    if merge is not None and name in merge.changed:
        value = merge.apply(name, value, on_disk)
    return published if value is published else value.astype(final_dtype)


def parameter_names(network: type[PublishedNetwork[Any]], checkpoint: Checkpoint) -> dict[str, str]:
    """Published name -> parameter name of the network's tensors, without the scales of 8-bit floats."""
    names = {}
    for name in checkpoint.header.tensors:
        parameter = None if is_float8_setting(name) else network.parameter_name(name)
        if parameter is not None:
            names[name] = parameter
    return names


def with_scales(names: Mapping[str, str] | list[str], scales: Mapping[str, str | None]) -> list[str]:
    """Published names, followed by the scales that their 8-bit floats have."""
    with_their_scales = list(names)
    for name in names:
        scale = scales.get(name)
        if scale is not None:
            with_their_scales.append(scale)
    return with_their_scales
