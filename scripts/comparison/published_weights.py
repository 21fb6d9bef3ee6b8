"""Weights of our networks in published axis order."""

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten


def published(network: nn.Module) -> dict[str, mx.array]:
    """A network's weights in published axis order."""
    return {name: published_order(name, value) for name, value in tree_flatten(network.parameters())}


def published_order(name: str, value: mx.array) -> mx.array:
    """One tensor in published axis order."""
    if value.ndim != 4 or not name.endswith("weight"):
        return value
    transposed = "lastconv" in name or "cnn3" in name
    return mx.contiguous(value.transpose((3, 0, 1, 2) if transposed else (0, 3, 1, 2)))
