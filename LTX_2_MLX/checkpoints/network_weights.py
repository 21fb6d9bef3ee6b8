"""Tensors of a checkpoint as the weights of one network, by parameter name. Lazy: no tensor is read here."""

from collections.abc import Mapping
from typing import Any

import mlx.core as mx

from LTX_2_MLX.checkpoints.float8 import decode_e4m3, float8_scales, is_float8_setting
from LTX_2_MLX.checkpoints.lora import LoraMerge
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import PublishedNetwork


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
        arrays = checkpoint.arrays(with_scales(parameters, scales))
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
