"""A checkpoint to an evaluated network. The only way in.

Config -> build (lazy, costs nothing) -> rename -> check names and shapes -> decode 8-bit floats -> merge
adapters -> axis order -> evaluate. Every problem of names and shapes is found from the header, before a
tensor is read.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.float8 import decode_e4m3
from LTX_2_MLX.checkpoints.lora import Lora, LoraMerge
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError

Network = TypeVar("Network", bound=nn.Module)

# Published (PyTorch) axis order -> MLX axis order, by the class of the module that owns the weight.
_AXES = {
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
    note: Callable[[str], None] | None = None,
) -> Network:
    """The first of ``networks`` that recognises the checkpoint's header, with its weights evaluated.

    Args:
        networks: One network class or several. Each offers ``Config.from_header`` (as its class attribute
            ``Config``), ``parameter_name`` and, where needed, ``prepare``.
        checkpoint: An opened checkpoint; tensors of other networks in it are left alone.
        dtype: Floating-point weights are cast to this; None keeps the file's (bfloat16 for 8-bit floats).
        loras: Adapters to merge, each one changing at least one tensor.
        note: Told in one line what each adapter changes.

    Raises:
        CheckpointError: If no class recognises the file, tensors are missing, unknown or misshaped, an adapter
            was made for another model, or reading fails.
    """
    model, weights, merge = _checked(networks, checkpoint, dtype, loras)
    for line in merge.notes if note else ():
        note(line)
    del merge
    model.load_weights(_evaluated(checkpoint, weights, _axis_orders(model), dtype), strict=True)
    return model.freeze()


def weights_bytes(
    networks: type[Network] | Sequence[type[Network]],
    checkpoint: Checkpoint,
    *,
    dtype: mx.Dtype | None = None,
    loras: Sequence[Lora] = (),
) -> int:
    """Bytes of the weights that ``load`` would hold, after every check that it makes of names and shapes.

    No tensor is read. Raises as ``load`` does.
    """
    _, weights, _ = _checked(networks, checkpoint, dtype, loras)
    return sum(
        value.size * (dtype if dtype is not None and mx.issubdtype(value.dtype, mx.floating) else value.dtype).size
        for value in weights.values()
    )


def _checked(networks, checkpoint, dtype, loras) -> tuple[nn.Module, dict[str, mx.array], LoraMerge]:
    """The network built, its weights by parameter name, all lazy, and what adapters do to them."""
    network, config = recognise(networks, checkpoint)
    model = network(config)
    merge = LoraMerge(network, checkpoint, loras)
    weights = network_weights(network, checkpoint, dtype=dtype, merge=merge)
    _check(network, checkpoint, weights, dict(tree_flatten(model.parameters())), _axis_orders(model))
    return model, weights, merge


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
) -> dict[str, mx.array]:
    """Lazy arrays of one network by parameter name, still in published axis order.

    Weights that adapters change and 8-bit floats come in ``dtype`` (None: the file's, or bfloat16), rounded once;
    the others as the file has them.
    """
    tensors = checkpoint.header.tensors
    scales = float8_scales(checkpoint)
    consumed = {scale for name in scales for scale in (f"{name}_scale", f"{name.removesuffix('weight')}input_scale")}
    published = {name: network.parameter_name(name) for name in tensors if name not in consumed}
    mine = [name for name, parameter in published.items() if parameter is not None]
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


def _evaluated(checkpoint, weights, axes, dtype) -> list[tuple[str, mx.array]]:
    """Weights in MLX's axis order and in ``dtype``, one tensor after another, so that only one is held twice."""
    done = []
    for name in list(weights):
        value = weights.pop(name)
        if name in axes:
            value = mx.contiguous(value.transpose(axes[name]))
        if dtype is not None and mx.issubdtype(value.dtype, mx.floating):
            value = value.astype(dtype)
        try:
            mx.eval(value)
        except RuntimeError as error:
            raise CheckpointError(
                f"{checkpoint.path}: {name} cannot be read: {' '.join(str(error).split())}"
            ) from error
        done.append((name, value))
    return done


def _axis_orders(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {
        f"{path}.weight" if path else "weight": _AXES[type(module)]
        for path, module in model.named_modules()
        if type(module) in _AXES
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
