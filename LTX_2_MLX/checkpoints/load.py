"""Loads a network from a checkpoint, with its weights evaluated. The only way to do so.

Config -> build (lazy, costs nothing) -> rename -> check names and shapes -> decode 8-bit floats -> merge
adapters -> axis order -> quantise -> evaluate. All problems of names and shapes are found from the header,
before a tensor is read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.lora import Lora, LoraMerge
from LTX_2_MLX.checkpoints.network_weights import (
    Quantization,
    float8_scales,
    is_quantized,
    layers_to_quantize,
    network_weights,
    parameter_names,
    quantize_as_stored,
    quantize_layers,
    with_scales,
)
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.recognise import NetworkT, config_of, recognise
from LTX_2_MLX.checkpoints.streaming import LIVE_BLOCKS, BlockStream
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.interfaces import PublishedNetwork

if TYPE_CHECKING:
    from LTX_2_MLX.checkpoints.block_run import BlockRun

# Published (PyTorch) axis order -> MLX axis order, by the class of the module that owns the weight.
AXIS_ORDERS: dict[type[nn.Module], tuple[int, ...]] = {
    nn.Conv1d: (0, 2, 1),
    nn.Conv2d: (0, 2, 3, 1),
    nn.Conv3d: (0, 2, 3, 4, 1),
    nn.ConvTranspose1d: (1, 2, 0),
    nn.ConvTranspose2d: (1, 2, 3, 0),
    nn.ConvTranspose3d: (1, 2, 3, 4, 0),
}
_SHOWN_NAMES = 5
_SHOWN_PROBLEMS = 3


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
    network = recognise(networks, checkpoint)
    result = network(config_of(network, checkpoint))
    # A protocol cannot say that its classes inherit from nn.Module.
    model = cast(nn.Module, result)
    sources: dict[str, list[mx.array]] = {}
    weights, merge = _checked_weights(network, model, checkpoint, dtype, loras, sources)
    if note is not None:
        for line in merge.notes if merge is not None else ():
            note(line)
    finish = _Finish(model, dtype, quantize)
    own = None
    if run is not None:
        from LTX_2_MLX.checkpoints.block_run import hold_run

        in_tuples = getattr(network, "BLOCKS_RETURN_TUPLES", False)
        path = _blocks_path(network)
        weights, own = hold_run(model, weights, path, run, dtype or mx.bfloat16, in_tuples=in_tuples)
    if stream_blocks:
        weights = _stream_blocks(model, weights, _BlockReader(network, checkpoint, dtype, merge, finish), own)
    # It holds tensors of the adapters, which have to go as they are used.
    del merge
    model.load_weights(_evaluated(checkpoint, weights, sources, finish), strict=True)
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
    network = recognise(networks, checkpoint)
    model = cast(nn.Module, network(config_of(network, checkpoint)))
    weights, _ = _checked_weights(network, model, checkpoint, dtype, loras)
    finish = _Finish(model, dtype, quantize)
    if run is not None:
        from LTX_2_MLX.checkpoints.block_run import kept_names

        kept = kept_names(model, weights, _blocks_path(network), run)
        weights = {name: value for name, value in weights.items() if name in kept}
    resident = 0
    blocks: dict[str, int] = {}
    for name, value in weights.items():
        num_bytes = finish.num_bytes(name, value)
        block = _block_of(network, name) if stream_blocks else None
        if block is None:
            resident += num_bytes
        else:
            blocks[block] = blocks.get(block, 0) + num_bytes
    return resident + min(LIVE_BLOCKS, len(blocks)) * max(blocks.values(), default=0)


def quantization_for(network: type[PublishedNetwork[Any]], checkpoint: Checkpoint, bits: int) -> Quantization | None:
    """``bits`` in the widest groups that fit the network's layers; None if none fit or the file is quantised already.

    Raises:
        CheckpointError: If the file holds no such network.
        RequestError: If the bits are not 8 or 4.
    """
    model = cast(nn.Module, network(config_of(network, checkpoint)))
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
    sources: dict[str, list[mx.array]] | None = None,
) -> tuple[dict[str, mx.array], LoraMerge | None]:
    """Lazy weights by parameter name, which fit the model, and the adapters merged into them, if any.

    ``sources`` is filled with the tensors on disk that each weight is computed from.
    """
    if loras and is_quantized(checkpoint):
        raise CheckpointError(
            f"{checkpoint.path} is quantised, and adapters are merged before that. "
            f"Give the 16-bit file, with --quantize if memory is short."
        )
    merge = LoraMerge(network, checkpoint, loras) if loras else None
    weights = network_weights(network, checkpoint, dtype=dtype, merge=merge, sources=sources)
    quantize_as_stored(model, weights, checkpoint)
    _check(network.__name__, checkpoint, weights, model)
    return weights, merge


class _Finish:
    """Published weights to those that the network holds: axis order, precision, quantisation. All lazy."""

    def __init__(self, model: nn.Module, dtype: mx.Dtype | None, quantization: Quantization | None):
        self._axes = _axis_orders(model)
        self._dtype = dtype
        self._quantization = quantization
        self._quantized_paths: dict[str, str] = {}
        if quantization is not None:
            paths = layers_to_quantize(model, quantization)
            quantize_layers(model, paths, quantization)
            self._quantized_paths = {f"{path}.weight": path for path in paths}

    def __call__(self, name: str, value: mx.array) -> dict[str, mx.array]:
        """The parameters that hold one weight, by name."""
        if name in self._axes:
            value = mx.contiguous(value.transpose(self._axes[name]))
        value = value.astype(self._final_dtype(value))
        if self._quantization is None or name not in self._quantized_paths:
            return {name: value}
        path = self._quantized_paths[name]
        return {f"{path}.{key}": array for key, array in self._quantization.apply(value).items()}

    def num_bytes(self, name: str, value: mx.array) -> int:
        """Size of these parameters."""
        dtype = self._final_dtype(value)
        if self._quantization is None or name not in self._quantized_paths:
            return value.size * dtype.size
        return self._quantization.num_bytes(value, dtype)

    def _final_dtype(self, value: mx.array) -> mx.Dtype:
        if self._dtype is not None and mx.issubdtype(value.dtype, mx.floating):
            return self._dtype
        return value.dtype


@dataclass(frozen=True)
class _BlockReader:
    """Reads one block's weights, exactly as a network that stays in memory gets them."""

    network: type[PublishedNetwork[Any]]
    checkpoint: Checkpoint
    dtype: mx.Dtype | None
    merge: LoraMerge | None
    finish: _Finish

    def tensor_names(self) -> dict[str, list[str]]:
        """Published names of each block's tensors, scales of 8-bit floats included, by the block's number."""
        names: dict[str, list[str]] = {}
        for name, parameter in parameter_names(self.network, self.checkpoint).items():
            block = _block_of(self.network, parameter)
            if block is not None:
                names.setdefault(block, []).append(name)
        scales = float8_scales(self.checkpoint)
        return {block: with_scales(own, scales) for block, own in names.items()}

    def weights(self, block: str, arrays: Mapping[str, mx.array]) -> list[tuple[str, mx.array]]:
        """A block's weights, by their names inside it, from its published tensors; these are read, the rest is lazy."""
        prefix = f"{_blocks_path(self.network)}.{block}."
        sources: dict[str, list[mx.array]] = {}
        weights = network_weights(
            self.network, self.checkpoint, dtype=self.dtype, merge=self.merge, arrays=arrays, sources=sources
        )
        # Before anything is computed from them, as in ``_evaluated``.
        mx.eval(list(sources.values()))
        finished = []
        for name, value in weights.items():
            for parameter, array in self.finish(name, value).items():
                finished.append((parameter.removeprefix(prefix), array))
        return finished


def _stream_blocks(
    model: nn.Module, weights: dict[str, mx.array], reader: _BlockReader, own: range | None
) -> dict[str, mx.array]:
    """Replace the model's blocks by a stream of those of this process; returns the weights outside of them."""
    *parents, attribute = _blocks_path(reader.network).split(".")
    owner = model
    for parent in parents:
        owner = getattr(owner, parent)
    names = reader.tensor_names()
    stream = BlockStream(
        getattr(owner, attribute),
        read=lambda number: reader.checkpoint.arrays(names[str(number)]),
        weights=lambda number, arrays: reader.weights(str(number), arrays),
        own=own,
    )
    setattr(owner, attribute, stream)
    return {name: value for name, value in weights.items() if _block_of(reader.network, name) is None}


def _blocks_path(network: type[PublishedNetwork[Any]]) -> str:
    path: str = getattr(network, "BLOCKS")  # noqa: B009 (optional in the protocol)
    return path


def _block_of(network: type[PublishedNetwork[Any]], parameter: str) -> str | None:
    """Number of the block that a parameter is in; None outside of blocks."""
    prefix = f"{_blocks_path(network)}."
    return parameter.removeprefix(prefix).split(".")[0] if parameter.startswith(prefix) else None


def _evaluated(
    checkpoint: Checkpoint, weights: dict[str, mx.array], sources: dict[str, list[mx.array]], finish: _Finish
) -> list[tuple[str, mx.array]]:
    """Parameters as the network holds them. Evaluated one by one, so that only one tensor is held twice."""
    parameters: list[tuple[str, mx.array]] = []
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
    return parameters


def _axis_orders(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """MLX axis order of each convolution's weight, by parameter name."""
    orders = {}
    for path, module in model.named_modules():
        if type(module) in AXIS_ORDERS:
            orders[f"{path}.weight" if path else "weight"] = AXIS_ORDERS[type(module)]
    return orders


def _check(network_name: str, checkpoint: Checkpoint, weights: Mapping[str, mx.array], model: nn.Module) -> None:
    """Raise one error that names the missing, unknown and misshaped tensors."""
    parameters: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    axes = _axis_orders(model)
    problems = []
    if missing := sorted(parameters.keys() - weights.keys()):
        problems.append(f"lacks {_listed(missing)}")
    if unknown := sorted(weights.keys() - parameters.keys()):
        problems.append(f"has {_listed(unknown)} that the network does not know")
    for name in sorted(weights.keys() & parameters.keys()):
        problem = _mismatch(weights[name], parameters[name], axes.get(name))
        if problem is not None:
            problems.append(f"has {name} {problem}")
    if problems:
        more = len(problems) - _SHOWN_PROBLEMS
        raise CheckpointError(
            f"{checkpoint.path} does not fit {network_name}: it {'; it '.join(problems[:_SHOWN_PROBLEMS])}"
            f"{f' (and {more} more problems)' if more > 0 else ''}. "
            f"Check that the file is complete and of this network."
        )


def _mismatch(weight: mx.array, parameter: mx.array, axes: tuple[int, ...] | None) -> str | None:
    """What is wrong with a published weight's shape or kind of number; None if it fits the parameter."""
    turned = weight if axes is None or len(axes) != weight.ndim else weight.transpose(axes)
    if turned.shape != parameter.shape:
        return f"in shape {weight.shape}, expected axes of {parameter.shape}"
    if mx.issubdtype(weight.dtype, mx.floating) != mx.issubdtype(parameter.dtype, mx.floating):
        return f"as {weight.dtype}, expected {parameter.dtype}"
    return None


def _listed(names: list[str]) -> str:
    plural = "s" if len(names) > 1 else ""
    ellipsis = ", ..." if len(names) > _SHOWN_NAMES else ""
    return f"{len(names)} tensor{plural} ({', '.join(names[:_SHOWN_NAMES])}{ellipsis})"
