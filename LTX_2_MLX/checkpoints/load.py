"""A checkpoint to an evaluated network. The only way in.

Config -> build (lazy, costs nothing) -> rename -> check names and shapes -> axis order -> evaluate.
Every problem is found from the header, before a tensor is read.
"""

from collections.abc import Sequence
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

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
) -> Network:
    """The first of ``networks`` that recognises the checkpoint's header, with its weights evaluated.

    Args:
        networks: One network class or several. Each offers ``Config.from_header`` (as its class attribute
            ``Config``), ``parameter_name`` and, where needed, ``prepare``.
        checkpoint: An opened checkpoint; tensors of other networks in it are left alone.
        dtype: Floating-point weights are cast to this; None keeps the file's.

    Raises:
        CheckpointError: If no class recognises the file, or tensors are missing, unknown or misshaped.
    """
    network, config = recognise(networks, checkpoint)
    model = network(config)
    weights = network_weights(network, checkpoint)
    parameters = dict(tree_flatten(model.parameters()))
    axes = _axis_orders(model)
    _check(network, checkpoint, weights, parameters, axes)
    for name, value in weights.items():
        if name in axes:
            value = value.transpose(axes[name])
        if dtype is not None and mx.issubdtype(value.dtype, mx.floating):
            value = value.astype(dtype)
        model.load_weights([(name, value)], strict=False)
        # One tensor at a time: the file's copy goes before the next one comes.
        mx.eval(value)
    model.freeze()
    return model


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


def network_weights(network: type[nn.Module], checkpoint: Checkpoint) -> dict[str, mx.array]:
    """Lazy arrays of one network by parameter name, still in published axis order."""
    published = {name: network.parameter_name(name) for name in checkpoint.header.tensors}
    arrays = checkpoint.arrays(name for name, parameter in published.items() if parameter is not None)
    weights: dict[str, mx.array] = {}
    for name, value in arrays.items():
        if published[name] in weights:
            raise CheckpointError(f"{checkpoint.path}: two tensors mean {published[name]}, one of them is {name}.")
        weights[published[name]] = value
    prepare = getattr(network, "prepare", None)
    return prepare(weights) if prepare else weights


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
        value, wanted = weights[name], parameters[name].shape
        order = axes.get(name, tuple(range(value.ndim)))
        shape = tuple(value.shape[i] for i in order) if len(order) == value.ndim else None
        if shape != tuple(wanted):
            problems.append(f"has {name} in shape {tuple(value.shape)}, expected axes of {tuple(wanted)}")
    if problems:
        more = f" (and {len(problems) - 3} more problems)" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{checkpoint.path} does not fit {network.__name__}: it {'; it '.join(problems[:3])}{more}. "
            f"Check that the file is complete and of this network."
        )


def _listed(names: list[str]) -> str:
    tail = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} tensor{'s' * (len(names) > 1)} ({', '.join(names[:_SHOWN])}{tail})"
