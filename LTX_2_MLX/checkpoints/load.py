"""A checkpoint to an evaluated network. The only way in.

Config -> build (lazy, costs nothing) -> rename -> check names and shapes -> decode 8-bit floats -> merge
adapters -> axis order -> quantise -> evaluate. Every problem of names and shapes is found from the header,
before a tensor is read.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.float8 import decode_e4m3
from LTX_2_MLX.checkpoints.lora import Lora, LoraMerge
from LTX_2_MLX.checkpoints.quantize import (
    Quantization,
    is_quantized,
    layers_to_quantize,
    quantize_as_stored,
    quantize_layers,
)
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.streaming import LIVE_BLOCKS, BlockStream
from LTX_2_MLX.errors import CheckpointError, RequestError

Network = TypeVar("Network", bound=nn.Module)

# Published (PyTorch) axis order -> MLX axis order, by the class of the module that owns the weight.
AXIS_ORDERS = {
    nn.Conv1d: (0, 2, 1),
    nn.Conv2d: (0, 2, 3, 1),
    nn.Conv3d: (0, 2, 3, 4, 1),
    nn.ConvTranspose1d: (1, 2, 0),
    nn.ConvTranspose2d: (1, 2, 3, 0),
    nn.ConvTranspose3d: (1, 2, 3, 4, 0),
}
_SHOWN = 5


def load(
    networks: type[Network] | Sequence[type[Network]],
    checkpoint: Checkpoint,
    *,
    dtype: mx.Dtype | None = None,
    loras: Sequence[Lora] = (),
    quantize: Quantization | None = None,
    stream_blocks: bool = False,
    note: Callable[[str], None] | None = None,
) -> Network:
    """The first of ``networks`` that recognises the checkpoint's header, with its weights evaluated.

    Layers that the file holds quantised stay so.

    Args:
        networks: One network class or several. Each offers ``Config.from_header`` (as its class attribute
            ``Config``), ``parameter_name`` and, where needed, ``prepare``, ``quantizes(path, config)`` and
            ``BLOCKS``, the path of its list of blocks.
        checkpoint: An opened checkpoint; tensors of other networks in it are left alone.
        dtype: Floating-point weights are cast to this; None keeps the file's (bfloat16 for 8-bit floats).
        loras: Adapters to merge, each one changing at least one tensor.
        quantize: Quantise the layers that the network says may be, after merging; one tensor is whole at a time.
        stream_blocks: Leave the blocks on disk and read them in every pass, ahead of their use.
        note: Told in one line what each adapter changes.

    Raises:
        CheckpointError: If no class recognises the file, tensors are missing, unknown or misshaped, an adapter
            was made for another model, or reading fails.
        RequestError: If there is nothing to quantise.
    """
    model, weights, merge = _checked(networks, checkpoint, dtype, loras)
    for line in merge.notes if note else ():
        note(line)
    finish = _Finish(model, dtype, quantize)
    if stream_blocks:
        weights = _leave_blocks(model, weights, _BlockReader(type(model), checkpoint, dtype, merge, finish))
    del merge
    model.load_weights(_evaluated(checkpoint, weights, finish), strict=True)
    return model.freeze()


def weights_bytes(
    networks: type[Network] | Sequence[type[Network]],
    checkpoint: Checkpoint,
    *,
    dtype: mx.Dtype | None = None,
    loras: Sequence[Lora] = (),
    quantize: Quantization | None = None,
    stream_blocks: bool = False,
) -> int:
    """Bytes of the weights that ``load`` would hold, after every check that it makes of names and shapes.

    Of streamed blocks it counts those that are held at a time. No tensor is read. Raises as ``load`` does.
    """
    model, weights, _ = _checked(networks, checkpoint, dtype, loras)
    finish = _Finish(model, dtype, quantize)
    sizes = {name: finish.num_bytes(name, value) for name, value in weights.items()}
    if not stream_blocks:
        return sum(sizes.values())
    blocks: dict[str, int] = {}
    for name, size in sizes.items():
        number = _block_of(type(model), name)
        blocks[number] = blocks.get(number, 0) + size
    return blocks.pop(None, 0) + min(LIVE_BLOCKS, len(blocks)) * max(blocks.values())


def quantization_for(network: type[nn.Module], checkpoint: Checkpoint, bits: int) -> Quantization | None:
    """``bits`` in the widest groups that fit the network's layers; None where none fit or they hold few bits already.

    Raises:
        CheckpointError: If the file holds no such network.
        RequestError: If the bits are not 8 or 4.
    """
    model = network(recognise(network, checkpoint)[1])
    for quantization in (Quantization(bits, 64), Quantization(bits, 32)):
        try:
            layers_to_quantize(model, quantization)
        except RequestError:
            continue
        return None if is_quantized(checkpoint) else quantization
    return None


def _checked(networks, checkpoint, dtype, loras) -> tuple[nn.Module, dict[str, mx.array], LoraMerge]:
    """The network built, its weights by parameter name, all lazy, and what adapters do to them."""
    network, config = recognise(networks, checkpoint)
    model = network(config)
    if loras and is_quantized(checkpoint):
        raise CheckpointError(
            f"{checkpoint.path} is quantised, and adapters are merged before that. "
            f"Give the 16-bit file, with --quantize if memory is short."
        )
    merge = LoraMerge(network, checkpoint, loras)
    weights = network_weights(network, checkpoint, dtype=dtype, merge=merge)
    quantize_as_stored(model, weights, checkpoint)
    _check(network, checkpoint, weights, dict(tree_flatten(model.parameters())), _axis_orders(model))
    return model, weights, merge


class _Finish:
    """Published weights to those the network holds: axis order, precision, bits. All lazy."""

    def __init__(self, model: nn.Module, dtype: mx.Dtype | None, quantization: Quantization | None):
        self._axes = _axis_orders(model)
        self._dtype = dtype
        self._quantization = quantization
        chosen = layers_to_quantize(model, quantization) if quantization else []
        if quantization:
            quantize_layers(model, chosen, quantization)
        self._few_bits = {f"{path}.weight": path for path in chosen}

    def __call__(self, name: str, value: mx.array) -> dict[str, mx.array]:
        """One weight as the parameters that hold it, by name."""
        if name in self._axes:
            value = mx.contiguous(value.transpose(self._axes[name]))
        value = value.astype(self._final(value))
        if name not in self._few_bits:
            return {name: value}
        path = self._few_bits[name]
        return {f"{path}.{part}": array for part, array in self._quantization.apply(value).items()}

    def num_bytes(self, name: str, value: mx.array) -> int:
        """What the weight takes then."""
        dtype = self._final(value)
        return self._quantization.num_bytes(value, dtype) if name in self._few_bits else value.size * dtype.size

    def _final(self, value: mx.array) -> mx.Dtype:
        casts = self._dtype is not None and mx.issubdtype(value.dtype, mx.floating)
        return self._dtype if casts else value.dtype


@dataclass(frozen=True)
class _BlockReader:
    """Reads one block's weights, exactly as a network that stays in memory gets them."""

    network: type[nn.Module]
    checkpoint: Checkpoint
    dtype: mx.Dtype | None
    merge: LoraMerge
    finish: _Finish

    def numbers(self) -> dict[str, list[str]]:
        """Published names of every block's tensors, scales of 8-bit floats included."""
        scales, found = float8_scales(self.checkpoint), {}
        for name, parameter in _published(self.network, self.checkpoint).items():
            names = found.setdefault(_block_of(self.network, parameter), [])
            names += [name, *([f"{name}_scale"] if scales.get(name) else [])]
        return found

    def weights(self, number: str, arrays: Mapping[str, mx.array]) -> list[tuple[str, mx.array]]:
        """Weights by their names inside the block, from its tensors as published; lazy."""
        start = f"{self.network.BLOCKS}.{number}."
        weights = network_weights(self.network, self.checkpoint, dtype=self.dtype, merge=self.merge, arrays=arrays)
        finished = (item for name, value in weights.items() for item in self.finish(name, value).items())
        return [(name.removeprefix(start), value) for name, value in finished]


def _leave_blocks(model: nn.Module, weights: dict[str, mx.array], reader: _BlockReader) -> dict[str, mx.array]:
    """Put a stream in place of the network's blocks; the weights that are not in blocks."""
    *parents, last = reader.network.BLOCKS.split(".")
    owner = model
    for part in parents:
        owner = getattr(owner, part)
    names = reader.numbers()
    blocks = getattr(owner, last)
    setattr(
        owner,
        last,
        BlockStream(
            blocks,
            read=lambda number: reader.checkpoint.arrays(names[str(number)]),
            weights=lambda number, arrays: reader.weights(str(number), arrays),
        ),
    )
    return {name: value for name, value in weights.items() if _block_of(reader.network, name) is None}


def _block_of(network: type[nn.Module], parameter: str) -> str | None:
    """Number of the block that a parameter is in."""
    start = f"{network.BLOCKS}."
    return parameter.removeprefix(start).split(".")[0] if parameter.startswith(start) else None


def recognise(
    networks: type[Network] | Sequence[type[Network]], checkpoint: Checkpoint
) -> tuple[type[Network], object]:
    """The first network class whose config is in the header, and that config."""
    candidates = [networks] if isinstance(networks, type) else list(networks)
    for network in candidates:
        if (config := network.Config.from_header(checkpoint.header)) is not None:
            return network, config
    names = " or ".join(network.__name__ for network in candidates)
    some = ", ".join(sorted(checkpoint.header.tensors)[:_SHOWN]) or "no tensor at all"
    raise CheckpointError(f"{checkpoint.path} holds no {names}. It begins with: {some}. Is it the right file?")


def network_weights(
    network: type[nn.Module],
    checkpoint: Checkpoint,
    *,
    dtype: mx.Dtype | None = None,
    merge: LoraMerge | None = None,
    arrays: Mapping[str, mx.array] | None = None,
) -> dict[str, mx.array]:
    """Lazy arrays of one network by parameter name, still in published axis order.

    Weights that adapters change and 8-bit floats come in ``dtype`` (None: the file's, or bfloat16), rounded once;
    the others as the file has them. ``arrays`` are tensors opened already; None opens all that the network has.
    """
    scales = float8_scales(checkpoint)
    published = _published(network, checkpoint)
    mine = [name for name in published if arrays is None or name in arrays]
    if arrays is None:
        arrays = checkpoint.arrays([*mine, *(f"{name}_scale" for name in mine if scales.get(name))])
    weights: dict[str, mx.array] = {}
    for name in mine:
        value = arrays[name]
        if published[name] in weights:
            raise CheckpointError(f"{checkpoint.path}: two tensors mean {published[name]}, one of them is {name}.")
        final = dtype or (mx.bfloat16 if name in scales else value.dtype)
        if name in scales:
            value = decode_e4m3(value, arrays[f"{name}_scale"] if scales[name] else None)
        if merge is not None and name in merge.changed:
            value = merge.apply(name, value)
        weights[published[name]] = value if value is arrays[name] else value.astype(final)
    prepare = getattr(network, "prepare", None)
    return prepare(weights) if prepare else weights


def _published(network: type[nn.Module], checkpoint: Checkpoint) -> dict[str, str]:
    """Parameter name of each tensor that is the network's own; scales of 8-bit floats go with their tensors."""
    scales = float8_scales(checkpoint)
    consumed = {scale for name in scales for scale in (f"{name}_scale", f"{name.removesuffix('weight')}input_scale")}
    names = {name: network.parameter_name(name) for name in checkpoint.header.tensors if name not in consumed}
    return {name: parameter for name, parameter in names.items() if parameter is not None}


def float8_scales(checkpoint: Checkpoint) -> dict[str, bool]:
    """Tensors of 8-bit floats, and whether each has a scale beside it: the file decides tensor by tensor."""
    tensors = checkpoint.header.tensors
    found = {}
    for name, info in tensors.items():
        if info.dtype != "F8_E4M3":
            continue
        scale = tensors.get(f"{name}_scale")
        if scale is not None and (scale.num_bytes == 0 or any(n != 1 for n in scale.shape)):
            raise CheckpointError(
                f"{checkpoint.path}: {name}_scale has shape {scale.shape}, but only one scale per tensor is supported. "
                f"Use the published 8-bit file or the 16-bit one."
            )
        found[name] = scale is not None
    return found


def _evaluated(checkpoint: Checkpoint, weights: dict[str, mx.array], finish: _Finish) -> list[tuple[str, mx.array]]:
    """Weights as the network holds them, one tensor after another, so that only one is held twice."""
    done = []
    for name in list(weights):
        finished = finish(name, weights.pop(name))
        try:
            mx.eval(finished)
        except RuntimeError as error:
            raise CheckpointError(
                f"{checkpoint.path}: {name} cannot be read: {' '.join(str(error).split())}"
            ) from error
        done += finished.items()
    return done


def _axis_orders(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {
        f"{path}.weight" if path else "weight": AXIS_ORDERS[type(module)]
        for path, module in model.named_modules()
        if type(module) in AXIS_ORDERS
    }


def _check(network, checkpoint, weights, parameters, axes) -> None:
    problems = []
    if missing := sorted(parameters.keys() - weights.keys()):
        problems.append(f"lacks {_listed(missing)}")
    if unknown := sorted(weights.keys() - parameters.keys()):
        problems.append(f"has {_listed(unknown)} that the network does not know")
    for name in sorted(weights.keys() & parameters.keys()):
        value, wanted = weights[name], parameters[name]
        order = axes.get(name, tuple(range(value.ndim)))
        shape = tuple(value.shape[i] for i in order) if len(order) == value.ndim else None
        if shape != wanted.shape:
            problems.append(f"has {name} in shape {value.shape}, expected axes of {wanted.shape}")
        elif mx.issubdtype(value.dtype, mx.floating) != mx.issubdtype(wanted.dtype, mx.floating):
            problems.append(f"has {name} as {value.dtype}, expected {wanted.dtype}")
    if problems:
        more = f" (and {len(problems) - 3} more problems)" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{checkpoint.path} does not fit {network.__name__}: it {'; it '.join(problems[:3])}{more}. "
            f"Check that the file is complete and of this network."
        )


def _listed(names: list[str]) -> str:
    tail = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} tensor{'s' * (len(names) > 1)} ({', '.join(names[:_SHOWN])}{tail})"
