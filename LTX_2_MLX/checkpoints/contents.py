"""What a checkpoint holds: networks, precision, bytes, config. Reads headers alone."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.checkpoints.catalog import Entry, entry_of_file
from LTX_2_MLX.checkpoints.gemma3 import Gemma
from LTX_2_MLX.checkpoints.load import weights_bytes
from LTX_2_MLX.checkpoints.lora import is_lora_tensor
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.torch_file import TORCH_SUFFIXES, read_torch_file
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder, VideoEncoder
from LTX_2_MLX.models.rife import IFNet
from LTX_2_MLX.models.rrdbnet import RRDBNet
from LTX_2_MLX.models.srvgg import SRVGG
from LTX_2_MLX.models.tae import ConditionalDecoder, LightTinyAutoencoder, TinyAutoencoder
from LTX_2_MLX.models.wan.transformer import WanTransformer
from LTX_2_MLX.models.wan.vae import WanDecoder, WanEncoder

NETWORKS: tuple[type[nn.Module], ...] = (
    Transformer, TextFeatures, VideoEncoder, VideoDecoder, LatentUpscaler, Gemma, IFNet, RRDBNet, SRVGG,
    WanTransformer, LQProjection, ConditionalDecoder, WanEncoder, WanDecoder, TinyAutoencoder, LightTinyAutoencoder,
)  # fmt: skip
_DTYPE_NAMES = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16"}


@dataclass(frozen=True)
class Part:
    """The tensors of one network.

    Attributes:
        name: The network's class, or the first part of the tensors' names where none of ours owns them.
        num_tensors: How many.
        num_bytes: In the file.
        precision: Bytes by dtype, largest first.
        problem: Why the network cannot be loaded from this file; None when it can, or nobody tried.
    """

    name: str
    num_tensors: int
    num_bytes: int
    precision: Mapping[str, int]
    problem: str | None = None


@dataclass(frozen=True)
class Contents:
    """What ``inspect`` found.

    Attributes:
        path: As given.
        num_files: Shards, or 1.
        num_bytes: Of all tensors.
        parts: Networks of this library.
        others: Tensors that belong to none of them, by the first part of their names.
        entry: The published file of that name; it knows the variant, which no tensor tells.
        config: As the file carries it.
        metadata: What else the file says of itself.
    """

    path: Path
    num_files: int
    num_bytes: int
    parts: list[Part]
    others: list[Part]
    entry: Entry | None
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


def inspect(path: Path) -> Contents:
    """What a file, or a folder with the shards of one, holds.

    Raises:
        CheckpointError: If it cannot be read.
    """
    checkpoint = None if path.suffix in TORCH_SUFFIXES else Checkpoint(path)
    header = checkpoint.header if checkpoint else _torch_header(path)
    owned: set[str] = set()
    parts = []
    for network in NETWORKS:
        names, problem = _recognised(network, header)
        if not names and problem is None:
            continue
        owned |= set(names)
        if problem is None and checkpoint is not None:
            problem = _trouble(lambda network=network: weights_bytes(network, checkpoint))
        parts.append(_part(network.__name__, names, header, problem))
    return Contents(
        path=path,
        num_files=len(checkpoint.files) if checkpoint else 1,
        num_bytes=sum(info.num_bytes for info in header.tensors.values()),
        parts=parts,
        others=_others(header, owned),
        entry=entry_of_file(path),
        config=header.config,
        metadata={key: text for key, text in header.metadata.items() if key != "config"},
    )


def _torch_header(path: Path) -> Header:
    arrays = read_torch_file(path)
    return Header(
        {
            name: TensorInfo(value.shape, _DTYPE_NAMES.get(value.dtype, str(value.dtype)), value.nbytes)
            for name, value in arrays.items()
        }
    )


def _recognised(network: type[nn.Module], header: Header) -> tuple[list[str], str | None]:
    """Names that belong to a network, where its config is in the header; or what is wrong with that config."""
    found: list[object] = []
    problem = _trouble(lambda: found.append(network.Config.from_header(header)))
    if problem is None and found[0] is None:
        return [], None
    return [name for name in header.tensors if network.parameter_name(name) is not None], problem


def _trouble(attempt: Callable[[], object]) -> str | None:
    try:
        attempt()
    except CheckpointError as error:
        return str(error)
    return None


def _others(header: Header, owned: set[str]) -> list[Part]:
    groups: dict[str, list[str]] = {}
    for name in header.tensors:
        if name not in owned:
            group = "LoRA" if is_lora_tensor(name) else name.split(".", 1)[0]
            groups.setdefault(group, []).append(name)
    return [_part(group, names, header) for group, names in sorted(groups.items())]


def _part(name: str, names: list[str], header: Header, problem: str | None = None) -> Part:
    precision = Counter()
    for tensor in names:
        precision[header.tensors[tensor].dtype] += header.tensors[tensor].num_bytes
    return Part(name, len(names), sum(precision.values()), dict(precision.most_common()), problem)
