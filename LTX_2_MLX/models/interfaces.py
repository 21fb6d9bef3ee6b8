"""The header of a checkpoint as networks see it, and the protocol of a network class for the loader."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self, TypeVar


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the header describes it: published shape, and the file format's name of the dtype."""

    shape: tuple[int, ...]
    dtype: str
    num_bytes: int


@dataclass(frozen=True)
class Header:
    """Tensors, metadata and config of a checkpoint, read before any tensor.

    ``config`` is the parsed JSON of the metadata key ``config``, or empty.
    """

    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)


class NetworkConfig(Protocol):
    """A network's frozen config."""

    @classmethod
    def from_header(cls, header: Header) -> Self | None:
        """The config of the network in this checkpoint; None if it holds another network."""


ConfigT = TypeVar("ConfigT", bound=NetworkConfig)


class PublishedNetwork(Protocol[ConfigT]):
    """An ``nn.Module`` that loads from published checkpoints.

    Optional members: ``prepare(weights)`` transforms weights by parameter name (weight-norm pairs, old names);
    ``quantizes(path, config)`` tells which layers may be quantised; ``BLOCKS`` is the path of the list of blocks that
    may be streamed from disk or divided among processes, ``BLOCKS_RETURN_TUPLES`` whether a block returns its result as
    the first of a tuple.
    """

    Config: type[ConfigT]

    def __init__(self, config: ConfigT) -> None: ...

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Parameter name of a published tensor; None if it belongs to another network."""
