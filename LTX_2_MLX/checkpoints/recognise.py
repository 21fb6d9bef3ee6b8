"""Recognises networks by a checkpoint's header."""

from collections.abc import Sequence
from typing import Any, TypeVar

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.unsupported import refuse_unsupported
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import ConfigT, PublishedNetwork

NetworkT = TypeVar("NetworkT", bound=PublishedNetwork[Any])

_SHOWN = 5


def recognise(networks: type[NetworkT] | Sequence[type[NetworkT]], checkpoint: Checkpoint) -> type[NetworkT]:
    """The first network class whose config is in the header.

    Raises:
        CheckpointError: If the checkpoint holds none of them.
    """
    refuse_unsupported(checkpoint)
    candidates = [networks] if isinstance(networks, type) else list(networks)
    for network in candidates:
        if network.Config.from_header(checkpoint.header) is not None:
            return network
    raise _not_recognised([network.__name__ for network in candidates], checkpoint)


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
    """The first network that is in the checkpoint, without its weights. MLX is lazy: this costs nothing.

    Raises:
        CheckpointError: If the checkpoint holds none of them.
    """
    network = recognise(networks, checkpoint)
    return network(config_of(network, checkpoint))


def _not_recognised(names: list[str], checkpoint: Checkpoint) -> CheckpointError:
    first_tensors = ", ".join(sorted(checkpoint.header.tensors)[:_SHOWN]) or "none"
    return CheckpointError(
        f"{checkpoint.path} holds no {' or '.join(names)}. Its first tensors: {first_tensors}. Is it the right file?"
    )
