"""Lists the networks in a checkpoint, with precision, size and config. Reads headers only."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx

from LTX_2_MLX.checkpoints.catalog import Entry
from LTX_2_MLX.checkpoints.gemma3 import Gemma
from LTX_2_MLX.checkpoints.gemma4 import Gemma4
from LTX_2_MLX.checkpoints.load import weights_bytes
from LTX_2_MLX.checkpoints.lora import is_lora_tensor
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.resolve import TORCH_SUFFIXES, entry_of_file
from LTX_2_MLX.checkpoints.torch_file import read_torch_file
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection
from LTX_2_MLX.models.interfaces import Header, PublishedNetwork, TensorInfo
from LTX_2_MLX.models.ltx.audio_vae import AudioDecoder, AudioEncoder
from LTX_2_MLX.models.ltx.diffusion_decoder import DiffusionVideoDecoder
from LTX_2_MLX.models.ltx.duration_head import DurationHead
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.text_features import TextFeatures, lacks_projection
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.models.ltx.vocoder import BandwidthExtensionVocoder, Vocoder
from LTX_2_MLX.models.rife import IFNet
from LTX_2_MLX.models.rrdbnet import RRDBNet
from LTX_2_MLX.models.srvgg import SRVGG
from LTX_2_MLX.models.tae import ConditionalDecoder, LightTinyAutoencoder, TinyAutoencoder
from LTX_2_MLX.models.wan.transformer import WanTransformer
from LTX_2_MLX.models.wan.vae import WanDecoder, WanEncoder

# Every network that this library loads, in the order of the listing.
NETWORKS: tuple[type[PublishedNetwork[Any]], ...] = (
    Transformer,
    TextFeatures,
    VideoEncoder,
    VideoDecoder,
    DiffusionVideoDecoder,
    AudioEncoder,
    AudioDecoder,
    Vocoder,
    BandwidthExtensionVocoder,
    LatentUpscaler,
    DurationHead,
    Gemma,
    Gemma4,
    IFNet,
    RRDBNet,
    SRVGG,
    WanTransformer,
    LQProjection,
    ConditionalDecoder,
    WanEncoder,
    WanDecoder,
    TinyAutoencoder,
    LightTinyAutoencoder,
)
# Tensors of published files that no network here reads, by the beginning of their names.
UNUSED_TENSORS = {
    "vision_model.": "images, not used for text",
    "vision_tower.": "images, not used for text",
    "multi_modal_projector.": "images, not used for text",
    "audio_projector.": "sound, not used for text",
    # The same under the names of the library's own layout.
    "model.vision_tower.": "images, not used for text",
    "model.vision_embedder.": "images, not used for text",
    "model.embed_vision.": "images, not used for text",
    "model.multi_modal_projector.": "images, not used for text",
    "model.audio_tower.": "sound, not used for text",
    "model.embed_audio.": "sound, not used for text",
    "tokenizer_json": "tokenizer of the text encoder",
    "spiece_model": "tokenizer of the text encoder",
    "hf_asset__": "settings of the text encoder",
    "text_embedding_projection.": "of the text features, the rest of which is in the transformer's file",
    # Read by no released decoder: meant for planes of keyframes that are decoded beside the video.
    "decoder.type_emb": "not used",
    "vae.decoder.type_emb": "not used",
}
_SPLIT_TEXT_FEATURES = "the projections are in the text encoder's file, so generate needs both"
_DTYPE_NAMES = {mx.float32: "F32", mx.float16: "F16", mx.bfloat16: "BF16"}


@dataclass(frozen=True)
class NetworkTensors:
    """The tensors of one network in a checkpoint.

    Attributes:
        name: The network's class, or the first part of the tensors' names if they belong to none of ours.
        num_tensors: Number of tensors.
        num_bytes: Size in the file.
        precision: Bytes by dtype, largest first.
        problem: Why the network cannot be loaded from this file; None if it can, or was not tried.
        note: What the tensors are, or which other file belongs to them; empty where the name says it.
    """

    name: str
    num_tensors: int
    num_bytes: int
    precision: Mapping[str, int]
    problem: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        path: As given.
        num_files: Number of shards.
        num_bytes: Size of all tensors.
        networks: Networks of this library.
        others: Tensors that belong to none of them, grouped by the first part of their names.
        entry: The catalogue entry of that file name; it has the variant, which the tensors do not tell.
        config: The config in the file.
        metadata: The file's other metadata.
    """

    path: Path
    num_files: int
    num_bytes: int
    networks: list[NetworkTensors]
    others: list[NetworkTensors]
    entry: Entry | None
    config: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


def inspect(path: Path) -> Contents:
    """List what a file, or a folder with the shards of one, holds.

    Raises:
        CheckpointError: If it cannot be read.
    """
    checkpoint = None if path.suffix in TORCH_SUFFIXES else Checkpoint(path)
    header = checkpoint.header if checkpoint else _torch_header(path)
    networks = []
    owned: set[str] = set()
    for network in NETWORKS:
        names, problem = _own_tensors(network, header)
        if not names and problem is None:
            continue
        owned.update(names)
        if network is TextFeatures and lacks_projection(header):
            networks.append(_summary(network.__name__, names, header, note=_SPLIT_TEXT_FEATURES))
            continue
        if problem is None and checkpoint is not None:
            problem = _load_problem(network, checkpoint)
        networks.append(_summary(network.__name__, names, header, problem))
    return Contents(
        path=path,
        num_files=len(checkpoint.files) if checkpoint else 1,
        num_bytes=sum(info.num_bytes for info in header.tensors.values()),
        networks=networks,
        others=_others(header, owned),
        entry=entry_of_file(path),
        config=header.config,
        metadata={key: text for key, text in header.metadata.items() if key != "config"},
    )


def _torch_header(path: Path) -> Header:
    tensors = {}
    for name, array in read_torch_file(path).items():
        dtype = _DTYPE_NAMES.get(array.dtype, str(array.dtype))
        tensors[name] = TensorInfo(array.shape, dtype, array.nbytes)
    return Header(tensors)


def _own_tensors(network: type[PublishedNetwork[Any]], header: Header) -> tuple[list[str], str | None]:
    """Names of a network's tensors if its config is in the header, and what is wrong with that config."""
    try:
        config = network.Config.from_header(header)
    except CheckpointError as error:
        return _names_owned(network, header), str(error)
    return ([] if config is None else _names_owned(network, header)), None


def _names_owned(network: type[PublishedNetwork[Any]], header: Header) -> list[str]:
    return [name for name in header.tensors if network.parameter_name(name) is not None]


def _load_problem(network: type[PublishedNetwork[Any]], checkpoint: Checkpoint) -> str | None:
    """Why the network cannot be loaded; None if names and shapes are right."""
    try:
        weights_bytes(network, checkpoint)
    except CheckpointError as error:
        return str(error)
    return None


def _others(header: Header, owned: set[str]) -> list[NetworkTensors]:
    groups: dict[str, list[str]] = {}
    for name in header.tensors:
        if name not in owned:
            group = "LoRA" if is_lora_tensor(name) else name.split(".", 1)[0]
            groups.setdefault(group, []).append(name)
    return [_summary(group, names, header, note=_purpose(names)) for group, names in sorted(groups.items())]


def _purpose(names: list[str]) -> str:
    """What tensors that no network here reads are; empty if that is not known of all of them."""
    if all(map(is_lora_tensor, names)):
        return f"adapter with {len(names)} tensors; give it with --lora, or --distilled-lora where it is that"
    if not all(name.startswith(tuple(UNUSED_TENSORS)) for name in names):
        return ""
    purposes = set()
    for name in names:
        purposes.add(next(text for start, text in UNUSED_TENSORS.items() if name.startswith(start)))
    return purposes.pop() if len(purposes) == 1 else ""


def _summary(
    name: str, tensor_names: list[str], header: Header, problem: str | None = None, note: str = ""
) -> NetworkTensors:
    precision: Counter[str] = Counter()
    for tensor_name in tensor_names:
        info = header.tensors[tensor_name]
        precision[info.dtype] += info.num_bytes
    return NetworkTensors(name, len(tensor_names), precision.total(), dict(precision.most_common()), problem, note)
