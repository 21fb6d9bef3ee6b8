"""Small files of LTX-2.5 in the published split layout: one network, or what belongs together, in each."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tiny_checkpoints as tiny
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from LTX_2_MLX.models.ltx.diffusion_decoder import DiffusionVideoDecoder
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.verify.case import Case

GOLDENS = tiny.HERE / "goldens" / "ltx25"
TRANSFORMER = "ltx-2.5-22b-distilled-transformer-bf16.safetensors"
GEMMA = "gemma4-12b-with-proj-ltx-2.5-bf16.safetensors"
VIDEO_VAE = "ltx-2.5-video-vae-bf16.safetensors"
AUDIO_VAE = "ltx-2.5-audio-vae-bf16.safetensors"
SPATIAL_UPSCALER = "ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0.safetensors"
TEMPORAL_UPSCALER = "ltx-2.5-latent-temporal-upscaler-x2-bf16-1.0.safetensors"
DETAILING_LORA = "ltx-2.5-22b-ic-lora-pixel-spatial-upscaler-x2-1.0.safetensors"
DURATION_HEAD = "ltx-2.5-duration-head-bf16.safetensors"
CONV_VAE = "ltx-2.5-video-vae-conv-bf16.safetensors"
GEMMA_VERSION = "gemma4-12b-ltx-v1"
FLAGS = {
    "ff_bias": False,
    "use_keyframes_abs_pos_embedding": True,
    "text_encoder_norm_type": "PER_TOKEN_RMS",
}


@dataclass(frozen=True)
class SplitFiles:
    """Paths of the files of one model."""

    transformer: Path
    gemma: Path
    video_vae: Path
    conv_vae: Path


def write_split_files(folder: Path, *, seed: int = 1, **changes) -> SplitFiles:
    """All files, under their published names in the folders in which they are published.

    ``changes`` of the transformer's section.
    """
    section = tiny.transformer_section_2_3(**FLAGS) | changes
    transformer, projections = transformer_arrays(section, seed)
    return SplitFiles(
        transformer=write_transformer(folder / "diffusion_models" / TRANSFORMER, section, transformer),
        gemma=write_gemma4(folder / "text_encoders" / GEMMA, projections),
        video_vae=write_diffusion_vae(folder / "vae" / VIDEO_VAE, seed=seed),
        conv_vae=write_conv_vae(folder / "vae" / CONV_VAE, seed=seed),
    )


def transformer_arrays(section: dict, seed: int) -> tuple[dict, dict]:
    """Tensors of the transformer's file, and the projections that are in the text encoder's."""
    video = section["num_attention_heads"] * section["attention_head_dim"]
    audio = section["audio_num_attention_heads"] * section["audio_attention_head_dim"]
    states = tiny.TEXT_WIDTH * tiny.STATES
    shapes = {
        f"{tiny.PREFIX}patchify_proj.weight": (video, section["in_channels"]),
        f"{tiny.PREFIX}audio_patchify_proj.weight": (audio, section["audio_in_channels"]),
        f"{tiny.PREFIX}keyframes_abs_pos_embedding": (1, video),
        f"{tiny.PREFIX}video_embeddings_connector.learnable_registers": (128, video),
        f"{tiny.PREFIX}audio_embeddings_connector.learnable_registers": (128, audio),
        "text_embedding_projection.video_aggregate_embed.weight": (video, states),
        "text_embedding_projection.audio_aggregate_embed.weight": (audio, states),
    }
    names = [name for name in tiny.published_names(TRANSFORMER) if tiny._within(name, section)]
    names += [name for name in tiny.published_names(GEMMA) if name.startswith("text_embedding_projection.")]
    arrays = {}
    for network in (Transformer, TextFeatures):
        arrays |= tiny.arrays_of(network, {"transformer": section}, names, shapes, seed)
    projections = {name: arrays.pop(name) for name in list(arrays) if name.startswith("text_embedding_projection.")}
    return arrays, projections


def write_transformer(path: Path, section: dict, arrays: dict) -> Path:
    """Transformer and connectors; the text projections are elsewhere."""
    source = {"ltx_version": "2.5.0", "gemma_version": GEMMA_VERSION}
    metadata = {
        "config": json.dumps({"transformer": section}),
        "model_version": "2.5.0",
        "gemma_source_checkpoint": json.dumps(source),
    }
    return _write(path, arrays, metadata)


def write_gemma4(path: Path, projections: dict) -> Path:
    """The golden case's Gemma 4 with its tokenizer, and the text projections of a transformer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = Case.open(GOLDENS / "gemma4_tiny", path.parent).write_checkpoint("case.safetensors")
    with safe_open(whole, "np") as file:
        config = json.loads(file.metadata()["gemma_config"])
    arrays = load_file(whole)
    whole.unlink()
    own = {name: value for name, value in arrays.items() if not name.startswith((tiny.PREFIX, "text_embedding"))}
    config["gemma_version"] = GEMMA_VERSION
    return _write(path, own | projections, {"gemma_config": json.dumps(config), "format": "pt"})


def write_diffusion_vae(path: Path, *, seed: int = 1) -> Path:
    """Convolutional encoder and diffusion decoder under bare names."""
    case = json.loads((GOLDENS / "video_vae_file" / "roundtrip" / "case.json").read_text())
    config = {"vae": case["metadata"]["config"]["vae"]}
    arrays = {}
    for network in (VideoEncoder, DiffusionVideoDecoder):
        arrays |= tiny.arrays_of(network, config, tiny.published_names(VIDEO_VAE), {}, seed)
    return _write(path, arrays, {"config": json.dumps(config), "model_version": "2.5.0"})


def write_conv_vae(path: Path, *, seed: int = 1) -> Path:
    """Convolutional encoder and decoder under bare names."""
    config = {"vae": tiny.vae_section_2_3()}
    arrays = {}
    for network in (VideoEncoder, VideoDecoder):
        arrays |= tiny.arrays_of(network, config, tiny.published_names(CONV_VAE), {}, seed)
    return _write(path, arrays, {"config": json.dumps(config), "model_version": "2.5.0"})


def write_audio_vae(path: Path, *, seed: int = 1) -> Path:
    """Audio VAE and vocoder under the names that combined files have."""
    config = tiny.sound_sections("2.3")
    return _write(path, tiny.sound_arrays(config, "2.3", seed), {"config": json.dumps(config)})


def write_upscalers(folder: Path) -> tuple[Path, Path]:
    """The latent upscalers in space and in time."""
    folder.mkdir(parents=True, exist_ok=True)
    temporal = tiny.write_upscaler(folder / TEMPORAL_UPSCALER, temporal=True)
    return tiny.write_upscaler(folder / SPATIAL_UPSCALER), temporal


def write_detailing_lora(path: Path, transformer: Path) -> Path:
    """An adapter that reads a reference video of half the size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = load_file(tiny.write_lora(path, transformer))
    return _write(path, arrays, {"reference_downscale_factor": "2"})


def write_duration_head(path: Path, *, seconds: float, video_width: int = 56, width: int = 8, seed: int = 1) -> Path:
    """A head for the contexts of the tiny transformer, whose answers lie near ``seconds``."""
    contexts = {"video": video_width, "audio": tiny.HEADS * tiny.AUDIO_HEAD_DIM}
    shapes = {f"{stream}_input_proj.weight": (width, size) for stream, size in contexts.items()}
    shapes |= {f"{stream}_{name}": (width,) for stream in contexts for name in ("input_proj.bias", "modality_emb")}
    shapes |= {
        "attention_pooler.query_tokens": (1, width),
        "attention_pooler.cross_attn.in_proj_weight": (3 * width, width),
        "attention_pooler.cross_attn.in_proj_bias": (3 * width,),
        "attention_pooler.cross_attn.out_proj.weight": (width, width),
        "attention_pooler.cross_attn.out_proj.bias": (width,),
        "mlp_hidden.weight": (width, width),
        "mlp_hidden.bias": (width,),
        "mlp_out.weight": (1, width),
    }
    rng = np.random.default_rng(seed)
    arrays = {
        f"duration_head.{name}": 0.1 * rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()
    }
    arrays["duration_head.mlp_out.bias"] = np.array([np.log(seconds)], np.float32)
    assert arrays.keys() == set(tiny.published_names(DURATION_HEAD))
    return _write(path, arrays, {"config": "{}"})


def _write(path: Path, arrays: dict, metadata: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(arrays, str(path), metadata=metadata)
    return path
