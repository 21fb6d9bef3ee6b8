"""The files of the model in the box: configs as the published files carry them, tensors by published name."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from safetensors.numpy import save

from LTX_2_MLX.checkpoints.load import AXIS_ORDERS
from LTX_2_MLX.models.interfaces import ConfigT, Header, PublishedNetwork, TensorInfo
from LTX_2_MLX.models.ltx.config import PREFIX
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.training.language import CONTEXT_WIDTH, GEMMA, LENGTH
from LTX_2_MLX.training.linear_start import VAE_CONFIG

Shapes = dict[str, tuple[int, ...]]

CHANNELS: int = VAE_CONFIG["latent_channels"]
WIDTH, HEADS, LAYERS = 160, 4, 4
FRAME_RATE = 12
FILES = {
    "dev": "ltx-2-demo-dev.safetensors",
    "distilled": "ltx-2-demo-distilled.safetensors",
    "lora": "ltx-2-demo-distilled-lora.safetensors",
    "spatial": "ltx-2-demo-spatial-upscaler-x2.safetensors",
    "temporal": "ltx-2-demo-temporal-upscaler-x2.safetensors",
}
TRANSFORMER_CONFIG: dict[str, Any] = {
    "_class_name": "AVTransformer3DModel",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_type": "default",
    "causal_temporal_positioning": True,
    "connector_norm_output": True,
    "connector_num_learnable_registers": LENGTH,
    "connector_positional_embedding_max_pos": [LENGTH],
    "connector_num_attention_heads": 4,
    "connector_attention_head_dim": CONTEXT_WIDTH // 4,
    "connector_num_layers": 2,
    "cross_attention_norm": True,
    "double_self_attention": False,
    "dropout": 0.0,
    "frequencies_precision": "float64",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "num_embeds_ada_norm": 1000,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    # Seconds, pixel rows and columns: the videos of this model span about two seconds and 128×192 pixels.
    "positional_embedding_max_pos": [4, 256, 256],
    "positional_embedding_theta": 100.0,
    "positional_embedding_type": "rope",
    "qk_norm": "rms_norm",
    "rope_type": "split",
    "share_ff": False,
    "standardization_norm": "rms_norm",
    "timestep_scale_multiplier": 1000,
    "upcast_attention": False,
    "use_embeddings_connector": True,
    "use_linear_projection": False,
    "use_middle_indices_grid": True,
    "num_attention_heads": HEADS,
    "attention_head_dim": WIDTH // HEADS,
    "num_layers": LAYERS,
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "caption_channels": CONTEXT_WIDTH,
    "cross_attention_dim": WIDTH,
}

# What the section has in a file with an audio stream. Its heads are as many as the video's.
SOUND_WIDTH, SOUND_CHANNELS = 64, 16
SOUND_CONFIG: dict[str, Any] = TRANSFORMER_CONFIG | {
    "audio_num_attention_heads": HEADS,
    "audio_attention_head_dim": SOUND_WIDTH // HEADS,
    "audio_cross_attention_dim": SOUND_WIDTH,
    "audio_in_channels": SOUND_CHANNELS,
    "audio_out_channels": SOUND_CHANNELS,
    "audio_positional_embedding_max_pos": [4],
    "av_ca_timestep_scale_multiplier": 1000,
    "av_cross_ada_norm": True,
    "use_audio_video_cross_attention": True,
}


def upscaler_config(*, temporal: bool) -> dict[str, Any]:
    """The flat config of a latent upscaler file."""
    return {
        "_class_name": "LatentUpsampler",
        "in_channels": CHANNELS,
        # Three in each group of the norms: two for the latent, one that keeps the norm still.
        "mid_channels": 96,
        "num_blocks_per_stage": 1,
        "dims": 3,
        "spatial_upsample": not temporal,
        "temporal_upsample": temporal,
        "spatial_scale": 1.0 if temporal else 2.0,
        "rational_resampler": False,
    }


# Sizes, frames and rate of this model's videos, for what the command line leaves open.
DEFAULTS: dict[str, Any] = {
    "height": 64,
    "width": 96,
    "num_frames": 17,
    "frame_rate": FRAME_RATE,
    "steps": 20,
    "steps_stage1": 15,
    "steps_stage2": 3,
    # The published refinement begins at 0.91, which leaves so little of stage 1 that a small transformer loses it.
    "refinement": [0.45, 0.3, 0.15, 0.0],
    "cfg": 3.0,
    "negative_prompt": "",
}
# Where the networks' own names differ from the published ones, longest first.
_PUBLISHED_PARTS = {
    ".self_attention.": ".attn1.",
    ".text_attention.": ".attn2.",
    ".attention.": ".attn1.",
    ".feed_forward.project_in.": ".ff.net.0.proj.",
    ".feed_forward.project_out.": ".ff.net.2.",
    ".to_out.": ".to_out.0.",
}


def transformer_name(parameter: str) -> str:
    """The published name of a parameter of the transformer."""
    name = parameter.replace("blocks.", "transformer_blocks.", 1).replace("video.", "", 1)
    ends = {
        "adaln.linear_": "adaln_single.emb.timestep_embedder.linear_",
        "adaln.": "adaln_single.",
    }
    for ours, theirs in ends.items():
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
            break
    return PREFIX + _layers(name)


def features_name(parameter: str) -> str:
    """The published name of a parameter of the text features."""
    if parameter.startswith("aggregate_embed"):
        return f"text_embedding_projection.{parameter}"
    rest = parameter.removeprefix("video_connector.").replace("blocks.", "transformer_1d_blocks.", 1)
    return f"{PREFIX}video_embeddings_connector." + _layers(rest)


def vae_name(parameter: str, network: str) -> str:
    """The published name of a parameter of the video encoder or decoder."""
    statistics = {"per_channel_statistics.mean": "mean-of-means", "per_channel_statistics.std": "std-of-means"}
    if parameter in statistics:
        return f"vae.per_channel_statistics.{statistics[parameter]}"
    return f"vae.{network}.{parameter}"


def upscaler_name(parameter: str) -> str:
    """The published name of a parameter of a latent upscaler without rational resampling."""
    return parameter.replace("upsampler.conv.", "upsampler.0.")


def _layers(name: str) -> str:
    for ours, theirs in _PUBLISHED_PARTS.items():
        name = name.replace(ours, theirs)
    return name


def published(network: nn.Module, name: Callable[[str], str]) -> dict[str, np.ndarray]:
    """All parameters by published name and in published axis order, float32; ``name`` maps parameter names."""
    orders = {f"{path}.weight": AXIS_ORDERS[type(m)] for path, m in network.named_modules() if type(m) in AXIS_ORDERS}
    tensors = {}
    parameters: dict[str, mx.array] = dict(tree_flatten(network.parameters()))
    for parameter, array in parameters.items():
        value = np.array(array.astype(mx.float32))
        if parameter in orders:
            value = value.transpose(np.argsort(orders[parameter]))
        tensors[name(parameter)] = np.ascontiguousarray(value)
    return tensors


def write_exact(path: Path, tensors: dict[str, np.ndarray], config: dict[str, Any]) -> None:
    """One file in 32 bit, for training to start from."""
    path.write_bytes(save(tensors, metadata={"config": json.dumps(config)}))


def write(path: Path, tensors: dict[str, np.ndarray], config: dict[str, Any], **metadata: Any) -> None:
    """One file in 16 bit. Statistics stay in 32 bit, they are tiny and everything is divided by them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    halved = {
        name: value if "statistics" in name else value.astype(np.float16) for name, value in sorted(tensors.items())
    }
    texts = {"config": json.dumps(config), "license": "Apache-2.0"}
    texts |= {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    path.write_bytes(save(halved, metadata=texts))


def manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """What the bundle holds: bytes and SHA-256 of every file, and the tensors of each checkpoint."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json"):
        content = path.read_bytes()
        found[path.relative_to(folder).as_posix()] = {
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    return found


def states_width() -> int:
    """Features of all the language model's states together."""
    width: int = GEMMA["hidden_size"]
    num_states: int = GEMMA["num_hidden_layers"] + 1
    return width * num_states


def new_features(seed: int = 0) -> TextFeatures:
    """Text features with random weights."""
    start = f"{PREFIX}video_embeddings_connector."
    shapes: Shapes = {f"{start}learnable_registers": (LENGTH, CONTEXT_WIDTH)}
    for number in range(TRANSFORMER_CONFIG["connector_num_layers"]):
        shapes[f"{start}transformer_1d_blocks.{number}."] = ()
    shapes["text_embedding_projection.aggregate_embed.weight"] = (CONTEXT_WIDTH, states_width())
    mx.random.seed(seed)
    network = TextFeatures(_config(TextFeatures, {"transformer": TRANSFORMER_CONFIG}, shapes))
    network.video_connector.learnable_registers = mx.random.normal((LENGTH, CONTEXT_WIDTH))
    mx.eval(network.parameters())
    return network


def new_transformer(*, sound: bool = False) -> Transformer:
    """A transformer of this model's size, with an audio stream or without; its weights are yet to be set."""
    shapes: Shapes = {f"{PREFIX}patchify_proj.weight": (WIDTH, CHANNELS)}
    if sound:
        shapes[f"{PREFIX}audio_patchify_proj.weight"] = (SOUND_WIDTH, SOUND_CHANNELS)
    for number in range(LAYERS):
        shapes[f"{PREFIX}transformer_blocks.{number}."] = ()
    return Transformer(_config(Transformer, {"transformer": SOUND_CONFIG if sound else TRANSFORMER_CONFIG}, shapes))


def new_upscaler(*, temporal: bool) -> LatentUpscaler:
    """A latent upscaler of this model's size; its weights are yet to be set."""
    return LatentUpscaler(_config(LatentUpscaler, upscaler_config(temporal=temporal), {"initial_conv.weight": ()}))


def _config(network: type[PublishedNetwork[ConfigT]], config: dict[str, Any], shapes: Shapes) -> ConfigT:
    """The network's own config, read from a published one; ``shapes`` are those that recognition looks at."""
    tensors = {name: TensorInfo(shape=shape, dtype="F16", num_bytes=0) for name, shape in shapes.items()}
    own = network.Config.from_header(Header(tensors=tensors, config=config))
    assert own is not None, network
    return own


@dataclass(frozen=True)
class Parts:
    """Everything that a bundle is written from.

    Attributes:
        vae: Tensors of encoder, decoder and statistics by published name.
        features, dev, distilled, spatial, temporal: The networks.
        lora: Adapters that turn dev into distilled, by published name.
        training: Notes on how each was trained.
    """

    vae: dict[str, np.ndarray]
    features: TextFeatures
    dev: Transformer
    distilled: Transformer
    lora: dict[str, np.ndarray]
    spatial: LatentUpscaler
    temporal: LatentUpscaler
    training: dict[str, Any]


def write_bundle(folder: Path, parts: Parts, notice: str) -> None:
    """Write every checkpoint file and the manifest; the Gemma folder has to be there already."""
    shared = parts.vae | published(parts.features, features_name)
    config = {"transformer": TRANSFORMER_CONFIG, "vae": VAE_CONFIG}
    about = {"defaults": DEFAULTS | {"notice": notice}, "training": parts.training}
    for kind, network in (("dev", parts.dev), ("distilled", parts.distilled)):
        tensors = shared | published(network, transformer_name)
        write(folder / FILES[kind], tensors, config, model_version="2.0.0", **about)
    write(folder / FILES["lora"], parts.lora, {}, training=parts.training)
    for kind, upscaler in (("spatial", parts.spatial), ("temporal", parts.temporal)):
        tensors = published(upscaler, upscaler_name)
        write(folder / FILES[kind], tensors, upscaler_config(temporal=kind == "temporal"), training=parts.training)
    text = json.dumps(manifest(folder), indent=1)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def difference(dev: Transformer, distilled: Transformer, most: int) -> dict[str, np.ndarray]:
    """Adapters that come nearest to what distillation changed in the matrices, with at most ``most`` numbers in all.

    Every matrix gets as many directions as are worth their numbers, so ranks differ.
    """
    before, after = published(dev, transformer_name), published(distilled, transformer_name)
    matrices = [name for name, weight in after.items() if weight.ndim == 2 and name.endswith(".weight")]
    parts = {name: np.linalg.svd(after[name] - before[name], full_matrices=False) for name in matrices}
    costs = {name: sum(after[name].shape) for name in matrices}
    worth = [(s**2 / costs[name], name) for name in matrices for s in parts[name][1]]
    ranks, spent = dict.fromkeys(matrices, 0), 0
    for _, name in sorted(worth, reverse=True):
        if spent + costs[name] <= most:
            ranks[name], spent = ranks[name] + 1, spent + costs[name]
    adapters = {}
    for name, (left, scale, right) in parts.items():
        rank, module = ranks[name], name.removeprefix("model.").removesuffix(".weight")
        root = np.sqrt(scale[:rank])
        if rank:
            adapters[f"{module}.lora_A.weight"] = root[:, None] * right[:rank]
            adapters[f"{module}.lora_B.weight"] = left[:, :rank] * root
    return adapters
