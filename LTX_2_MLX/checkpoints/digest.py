"""Digest of some tensors of a checkpoint, whatever file they are in."""

import hashlib
from collections.abc import Iterable

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.reader import Checkpoint


def tensors_digest(checkpoint: Checkpoint, names: Iterable[str]) -> str:
    """The SHA-256 of tensors with their names, shapes and dtypes; one tensor at a time is in memory."""
    digest = hashlib.sha256()
    for name in sorted(names):
        info = checkpoint.header.tensors[name]
        array = checkpoint.arrays([name])[name]
        digest.update(f"{name} {info.dtype} {info.shape}".encode())
        digest.update(np.array(mx.contiguous(array).reshape(-1).view(mx.uint8)).tobytes())
    return digest.hexdigest()
