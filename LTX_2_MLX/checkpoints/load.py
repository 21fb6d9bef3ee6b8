"""Loads a network from a checkpoint, with its weights evaluated. The only way to do so.

Config -> build (lazy, costs nothing) -> rename -> decode 8-bit floats -> merge adapters -> check names and shapes ->
axis order -> quantise -> evaluate. All problems of names and shapes are found from the header, before a tensor is read.
A layer quantised by MLX has a packed ``weight`` (uint32), ``scales`` and ``biases``; bits and group size follow from
their shapes, so the file needs no metadata.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.lora import Lora, LoraMerge
from LTX_2_MLX.checkpoints.quantization import (
    Quantization,
    decode_e4m3,
    layers_to_quantize,
    quantize_layers,
    stored_settings,
)
from LTX_2_MLX.checkpoints.reader import Checkpoint, refuse_unsupported
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.interfaces import ConfigT, PublishedNetwork

if TYPE_CHECKING:
    from LTX_2_MLX.checkpoints.block_run import BlockRun

NetworkT = TypeVar("NetworkT", bound=PublishedNetwork[Any])

# Published (PyTorch) axis order -> MLX axis order, by the class of the module that owns the weight.
AXIS_ORDERS: dict[type[nn.Module], tuple[int, ...]] = {
    nn.Conv1d: (0, 2, 1),
    nn.Conv2d: (0, 2, 3, 1),
    nn.Conv3d: (0, 2, 3, 4, 1),
    nn.ConvTranspose1d: (1, 2, 0),
    nn.ConvTranspose2d: (1, 2, 3, 0),
    nn.ConvTranspose3d: (1, 2, 3, 4, 0),
}
# Blocks of a stream that are held at once: the one that runs, the one that is ready behind it, and the one being read.
LIVE_BLOCKS = 3
_SHOWN_NAMES = 5
_SHOWN_PROBLEMS = 3
# Marks a whole file of ComfyUI's older form; the module's settings, the scales of inputs (not needed: inputs keep
# their precision) and of weights, of its older and newer form and of the published files.
_MARKER = "scaled_fp8"
_SETTINGS = "comfy_quant"
_INPUT_SCALES = ("input_scale", "scale_input")
_WEIGHT_SCALES = ("weight_scale", "scale_weight")
# Last parts of the names of all tensors that only describe how others are stored.
FLOAT8_SETTINGS = (_MARKER, _SETTINGS, *_INPUT_SCALES, *_WEIGHT_SCALES)


def config_of(network: type[PublishedNetwork[ConfigT]], checkpoint: Checkpoint) -> ConfigT:
    """The config of a network in a checkpoint.

    Raises:
        CheckpointError: If the checkpoint holds another network.
    """
    refuse_unsupported(checkpoint)
    config = network.Config.from_header(checkpoint.header)
    if config is None:
        raise _not_recognised([network.__name__], checkpoint)
    return config


def build(networks: type[NetworkT] | Sequence[type[NetworkT]], checkpoint: Checkpoint) -> NetworkT:
    """The first network whose config is in the header, without its weights. MLX is lazy: this costs nothing.

    Raises:
        CheckpointError: If the checkpoint holds none of them.
    """
    refuse_unsupported(checkpoint)
    candidates = [networks] if isinstance(networks, type) else list(networks)
    for network in candidates:
        config = network.Config.from_header(checkpoint.header)
        if config is not None:
            return network(config)
    raise _not_recognised([network.__name__ for network in candidates], checkpoint)


def _not_recognised(names: list[str], checkpoint: Checkpoint) -> CheckpointError:
    first_tensors = ", ".join(sorted(checkpoint.header.tensors)[:_SHOWN_NAMES]) or "none"
    return CheckpointError(
        f"{checkpoint.path} holds no {' or '.join(names)}. Its first tensors: {first_tensors}. Is it the right file?"
    )


def load(
    networks: type[NetworkT] | Sequence[type[NetworkT]],
    checkpoint: Checkpoint,
    *,
    dtype: mx.Dtype | None = None,
    loras: Sequence[Lora] = (),
    quantize: Quantization | None = None,
    stream_blocks: bool = False,
    run: "BlockRun | None" = None,
    note: Callable[[str], None] | None = None,
) -> NetworkT:
    """The first of ``networks`` that recognises the checkpoint's header, with its weights evaluated.

    Layers that the file holds quantised stay so.

    Args:
        networks: One network class or several.
        checkpoint: An opened checkpoint; tensors of other networks in it are ignored.
        dtype: Floating-point weights are cast to this; None keeps the file's (bfloat16 for 8-bit floats).
        loras: Adapters to merge, each of which changes at least one tensor.
        quantize: Quantise the layers that the network allows, after merging; one tensor is whole at a time.
        stream_blocks: Leave the blocks on disk and read them in every pass, ahead of their use.
        run: Read this process's run of the blocks alone; other processes have the rest.
        note: Callback for one line about each adapter.

    Raises:
        CheckpointError: If no class recognises the file, tensors are missing, unknown or misshaped, an adapter
            was made for another model, or reading fails.
        RequestError: If there is nothing to quantise.
    """
    result = build(networks, checkpoint)
    # A protocol cannot say that its classes inherit from nn.Module.
    model: object = result
    assert isinstance(model, nn.Module)
    network = type(result)
    sources: dict[str, list[mx.array]] = {}
    weights, merge, finish = _checked_weights(network, model, checkpoint, dtype, loras, quantize, sources)
    if merge is not None and note is not None:
        for line in merge.notes:
            note(line)
    own = None
    if run is not None:
        from LTX_2_MLX.checkpoints.block_run import hold_run

        in_tuples = getattr(network, "BLOCKS_RETURN_TUPLES", False)
        path = blocks_path(network)
        weights, own = hold_run(model, weights, path, run, dtype or mx.bfloat16, in_tuples=in_tuples)
    if stream_blocks:
        from LTX_2_MLX.checkpoints.streaming import BlockReader, replace_by_stream

        weights = replace_by_stream(model, weights, BlockReader(network, checkpoint, dtype, merge, finish), own)
    # It holds tensors of the adapters, which have to go as they are used.
    del merge
    parameters: list[tuple[str, mx.array]] = []
    # One by one, so that only one tensor is held twice.
    for name in list(weights):
        try:
            # From disk, before anything is computed: the host waits as long as it takes, but macOS ends a command
            # buffer of the GPU that waits for some seconds.
            mx.eval(sources.pop(name, []))
            finished = finish(name, weights.pop(name))
            mx.eval(finished)
        except RuntimeError as error:
            raise CheckpointError(
                f"{checkpoint.path}: {name} cannot be read: {' '.join(str(error).split())}"
            ) from error
        parameters += finished.items()
    model.load_weights(parameters, strict=True)
    model.freeze()
    return result


def weights_bytes(
    networks: type[NetworkT] | Sequence[type[NetworkT]],
    checkpoint: Checkpoint,
    *,
    dtype: mx.Dtype | None = None,
    loras: Sequence[Lora] = (),
    quantize: Quantization | None = None,
    stream_blocks: bool = False,
    run: "BlockRun | None" = None,
) -> int:
    """Bytes of the weights that ``load`` would hold, after all its checks of names and shapes.

    Streamed blocks count as many times as they are held at once, those of other processes not at all. No tensor is
    read. Raises as ``load`` does.
    """
    result = build(networks, checkpoint)
    model: object = result
    assert isinstance(model, nn.Module)
    network = type(result)
    weights, _, finish = _checked_weights(network, model, checkpoint, dtype, loras, quantize)
    if run is not None:
        from LTX_2_MLX.checkpoints.block_run import kept_names

        kept = kept_names(model, weights, blocks_path(network), run)
        weights = {name: value for name, value in weights.items() if name in kept}
    resident = 0
    blocks: dict[str, int] = {}
    for name, value in weights.items():
        block = block_of(network, name) if stream_blocks else None
        # Lazy: the sizes are known before anything is read.
        for array in finish(name, value).values():
            if block is None:
                resident += array.nbytes
            else:
                blocks[block] = blocks.get(block, 0) + array.nbytes
    return resident + min(LIVE_BLOCKS, len(blocks)) * max(blocks.values(), default=0)


def quantization_for(network: type[PublishedNetwork[Any]], checkpoint: Checkpoint, bits: int) -> Quantization | None:
    """``bits`` in the widest groups that fit the network's layers; None if none fit or the file is quantised already.

    Raises:
        CheckpointError: If the file holds no such network.
        RequestError: If the bits are not 8 or 4.
    """
    model = build(network, checkpoint)
    assert isinstance(model, nn.Module)
    for quantization in (Quantization(bits, 64), Quantization(bits, 32)):
        try:
            layers_to_quantize(model, quantization)
        except RequestError:
            continue
        return None if is_quantized(checkpoint) else quantization
    return None


def _checked_weights(
    network: type[PublishedNetwork[Any]],
    model: nn.Module,
    checkpoint: Checkpoint,
    dtype: mx.Dtype | None,
    loras: Sequence[Lora],
    quantize: Quantization | None,
    sources: dict[str, list[mx.array]] | None = None,
) -> tuple[dict[str, mx.array], LoraMerge | None, "_Finish"]:
    """Lazy weights by parameter name, which fit the model; the adapters merged into them, if any; what finishes them.

    Layers of the model are replaced by quantised ones. ``sources`` is filled with the tensors on disk that each weight
    is computed from.
    """
    if loras and is_quantized(checkpoint):
        raise CheckpointError(
            f"{checkpoint.path} is quantised, and adapters are merged before that. "
            f"Give the 16-bit file, with --quantize if memory is short."
        )
    merge = LoraMerge(network, checkpoint, loras) if loras else None
    weights = network_weights(network, checkpoint, dtype=dtype, merge=merge, sources=sources)
    if weights.keys() - dict(tree_flatten(model.parameters())).keys():
        # The scales of layers that the file holds quantised are not in the model yet.
        _quantize_as_stored(model, weights, checkpoint)
    axes = {}
    for path, module in model.named_modules():
        if type(module) in AXIS_ORDERS:
            axes[f"{path}.weight" if path else "weight"] = AXIS_ORDERS[type(module)]
    _check(network.__name__, checkpoint, weights, model, axes)
    quantized = {}
    if quantize is not None:
        paths = layers_to_quantize(model, quantize)
        quantize_layers(model, paths, quantize)
        quantized = {f"{path}.weight": path for path in paths}
    return weights, merge, _Finish(axes, dtype, quantize, quantized)


@dataclass(frozen=True)
class _Finish:
    """Published weights to those that the network holds: axis order, precision, quantisation. All lazy.

    Attributes:
        axes: MLX axis order of each convolution's weight, by parameter name.
        dtype: Of floating-point weights; None: as in the file.
        quantization: Of the weights in ``quantized``.
        quantized: Parameter name -> path of its layer.
    """

    axes: Mapping[str, tuple[int, ...]]
    dtype: mx.Dtype | None
    quantization: Quantization | None
    quantized: Mapping[str, str]

    def __call__(self, name: str, value: mx.array) -> dict[str, mx.array]:
        """The parameters that hold one weight, by name."""
        if name in self.axes:
            value = mx.contiguous(value.transpose(self.axes[name]))
        if self.dtype is not None and mx.issubdtype(value.dtype, mx.floating):
            value = value.astype(self.dtype)
        if self.quantization is None or name not in self.quantized:
            return {name: value}
        path = self.quantized[name]
        return {f"{path}.{key}": array for key, array in self.quantization.apply(value).items()}


def blocks_path(network: type[PublishedNetwork[Any]]) -> str:
    """Path of a network's list of blocks."""
    path: str = getattr(network, "BLOCKS")  # noqa: B009 (optional in the protocol)
    return path


def block_of(network: type[PublishedNetwork[Any]], parameter: str) -> str | None:
    """Number of the block that a parameter is in; None outside of blocks."""
    prefix = f"{blocks_path(network)}."
    return parameter.removeprefix(prefix).split(".")[0] if parameter.startswith(prefix) else None


def _check(
    network_name: str,
    checkpoint: Checkpoint,
    weights: Mapping[str, mx.array],
    model: nn.Module,
    axes: Mapping[str, tuple[int, ...]],
) -> None:
    """Raise one error that names the missing, unknown and misshaped tensors."""
    parameters: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    problems = []
    if missing := sorted(parameters.keys() - weights.keys()):
        problems.append(f"lacks {_listed(missing)}")
    if unknown := sorted(weights.keys() - parameters.keys()):
        problems.append(f"has {_listed(unknown)} that the network does not know")
    for name in sorted(weights.keys() & parameters.keys()):
        weight, parameter = weights[name], parameters[name]
        order = axes.get(name)
        turned = weight if order is None or len(order) != weight.ndim else weight.transpose(order)
        if turned.shape != parameter.shape:
            problems.append(f"has {name} in shape {weight.shape}, expected axes of {parameter.shape}")
        elif mx.issubdtype(weight.dtype, mx.floating) != mx.issubdtype(parameter.dtype, mx.floating):
            problems.append(f"has {name} as {weight.dtype}, expected {parameter.dtype}")
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        raise CheckpointError(
            f"{checkpoint.path} does not fit {network_name}: it {'; it '.join(problems[:_SHOWN_PROBLEMS])}"
            f"{f' (and {more} more problems)' if more > 0 else ''}. "
            f"Check that the file is complete and of this network."
        )


def _listed(names: list[str]) -> str:
    plural = "s" if len(names) > 1 else ""
    ellipsis = ", ..." if len(names) > _SHOWN_NAMES else ""
    return f"{len(names)} tensor{plural} ({', '.join(names[:_SHOWN_NAMES])}{ellipsis})"


def parameter_names(network: type[PublishedNetwork[Any]], checkpoint: Checkpoint) -> dict[str, str]:
    """Published name -> parameter name of the network's tensors, without the scales of 8-bit floats."""
    names = {}
    for name in checkpoint.header.tensors:
        if name.rpartition(".")[2] in FLOAT8_SETTINGS:
            continue
        parameter = network.parameter_name(name)
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
        published = value = arrays[name]
        final_dtype = dtype or published.dtype
        on_disk = [published]
        if name in scales:
            scale_name = scales[name]
            scale = None if scale_name is None else arrays[scale_name]
            if scale is not None:
                on_disk.append(scale)
            value = decode_e4m3(value, scale)
            final_dtype = dtype or mx.bfloat16
        if merge is not None and name in merge.changed:
            value = merge.apply(name, value, on_disk)
        # What was computed is float32 so far.
        weights[parameter] = published if value is published else value.astype(final_dtype)
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


def is_quantized(checkpoint: Checkpoint) -> bool:
    """Whether a file holds layers that are quantised by MLX."""
    tensors = checkpoint.header.tensors
    for name in tensors:
        path = name.removesuffix(".scales")
        if path != name and f"{path}.weight" in tensors:
            return True
    return False


def _quantize_as_stored(model: nn.Module, weights: Mapping[str, mx.array], checkpoint: Checkpoint) -> None:
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
        stored = stored_settings(packed, scales, module.weight.shape)
        if stored is None:
            raise CheckpointError(
                f"{checkpoint.path}: {path} has scales of shape {scales.shape} beside a weight of shape "
                f"{'none' if packed is None else packed.shape}, which is no quantisation of {module.weight.shape}. "
                f"Quantise the 16-bit file again with scripts/convert_weights.py."
            )
        settings[path] = stored
    if settings:
        nn.quantize(model, class_predicate=lambda path, _: settings.get(path, False))
