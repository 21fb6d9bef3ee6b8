"""Small checkpoints in the published format: published names from the manifests, sizes from a small config."""

import gzip
import json
import re
import shutil
from pathlib import Path

import numpy as np
from mlx.utils import tree_flatten
from safetensors.numpy import save_file

from LTX_2_MLX.checkpoints.load import AXIS_ORDERS
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.ltx.audio_vae import AudioDecoder, AudioEncoder
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.models.ltx.vocoder import BandwidthExtensionVocoder, Vocoder
from LTX_2_MLX.verify.case import Case, seeded_tensor

HERE = Path(__file__).parent
GEMMA_CASE = HERE / "goldens" / "ltx2" / "gemma_tiny"
LATENT_CHANNELS = 8
# Gemma of the golden case: width 24, 7 layers and the embedding.
TEXT_WIDTH, STATES = 24, 8
HEADS, HEAD_DIM, AUDIO_HEAD_DIM, LAYERS = 4, 14, 6, 2
PREFIX = "model.diffusion_model."
# Generation -> the published file whose names and flags a small one has.
PUBLISHED = {"2.0": "ltx-2-19b-dev.safetensors", "2.3": "ltx-2.3-22b-dev.safetensors"}
# What keeps small random networks from saturating.
RULES = [
    ["std-of-means", "positive", 0.6, 0.3],
    ["scale_shift_table", "plain", 0.3],
    [r"adaln_single\.linear\.weight$", "fan_in", 0.5],
    [r"\.bias$", "plain", 0.1],
]


def transformer_section(**changes) -> dict:
    """``config.transformer`` as published, small."""
    case = json.loads((HERE / "goldens" / "ltx2" / "pipeline_one_stage_t2v" / "case.json").read_text())
    section = dict(case["metadata"]["config"]["transformer"])
    section |= {
        "num_layers": LAYERS,
        "num_attention_heads": HEADS,
        "attention_head_dim": HEAD_DIM,
        "cross_attention_dim": HEADS * HEAD_DIM,
        "audio_num_attention_heads": HEADS,
        "audio_attention_head_dim": AUDIO_HEAD_DIM,
        "audio_cross_attention_dim": HEADS * AUDIO_HEAD_DIM,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "audio_in_channels": 16,
        "audio_out_channels": 16,
        "caption_channels": TEXT_WIDTH,
        "connector_num_attention_heads": 3,
        "connector_attention_head_dim": TEXT_WIDTH // 3,
        "connector_num_layers": 1,
    }
    return section | changes


def transformer_section_2_3(**changes) -> dict:
    """The same with the flags of 2.3: connectors as wide as the streams, gates, modulated text attention."""
    published = json.loads((HERE / "goldens" / "ltx2" / "text_connector_2_3" / "case.json").read_text())
    flags = published["metadata"]["config"]["transformer"]
    section = transformer_section()
    section |= {name: value for name, value in flags.items() if name not in section}
    section |= {
        "connector_num_attention_heads": HEADS,
        "connector_attention_head_dim": HEAD_DIM,
        "audio_connector_num_attention_heads": HEADS,
        "audio_connector_attention_head_dim": AUDIO_HEAD_DIM,
    }
    return section | changes


def vae_section_2_3(**changes) -> dict:
    """``config.vae`` of 2.3, whose decoder doubles one axis at a time and pads with zeros."""
    steps = (("compress_space", 2), ("compress_time", 2), ("compress_all", 1), ("compress_all", 2))
    blocks = [["res_x", {"num_layers": 1}]]
    for name, multiplier in steps:
        blocks += [[name, {"multiplier": multiplier}], ["res_x", {"num_layers": 1}]]
    return vae_section(decoder_blocks=blocks, spatial_padding_mode="zeros") | changes


def vae_section(**changes) -> dict:
    """``config.vae`` with the published compression (8, 32, 32) and few, narrow layers."""
    section = {
        "_class_name": "CausalVideoAutoencoder",
        "dims": 3,
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": LATENT_CHANNELS,
        "decoder_base_channels": 4,
        "patch_size": 4,
        "norm_layer": "pixel_norm",
        "latent_log_var": "uniform",
        "causal_decoder": False,
        "timestep_conditioning": False,
        "encoder_blocks": [
            ["res_x", {"num_layers": 1}],
            ["compress_space_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_time_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_all_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
            ["compress_all_res", {"multiplier": 2}],
            ["res_x", {"num_layers": 1}],
        ],
        "decoder_blocks": [
            ["res_x", {"num_layers": 1, "inject_noise": False}],
            ["compress_all", {"multiplier": 2, "residual": True}],
            ["res_x", {"num_layers": 1, "inject_noise": False}],
            ["compress_all", {"multiplier": 2, "residual": True}],
            ["res_x", {"num_layers": 1, "inject_noise": False}],
            ["compress_all", {"multiplier": 2, "residual": True}],
            ["res_x", {"num_layers": 1, "inject_noise": False}],
        ],
    }
    return section | changes


def published_names(manifest: str) -> list[str]:
    """Tensor names of a published file."""
    with gzip.open(HERE / "manifests" / f"{manifest}.json.gz") as file:
        return list(json.load(file)["tensors"])


def arrays_of(network, config: dict, names: list[str], shapes: dict, seed: int, rules=RULES) -> dict:
    """Every tensor of a small network by its published name and in published axis order.

    ``shapes`` are those that the network's config is read from, besides the JSON.
    """
    mine = [name for name in names if network.parameter_name(name) is not None]
    # Blocks are counted; of the rest a config may look only at what has a shape here.
    seen = [name for name in mine if name in shapes or "blocks." in name]
    tensors = {name: TensorInfo(shapes.get(name, ()), "F32", 0) for name in seen}
    model = network(network.Config.from_header(Header(tensors=tensors, config=config)))
    orders = {f"{path}.weight": AXIS_ORDERS[type(m)] for path, m in model.named_modules() if type(m) in AXIS_ORDERS}
    parameters = dict(tree_flatten(model.parameters()))
    arrays = {}
    for name in mine:
        parameter = network.parameter_name(name)
        if parameter not in parameters:
            continue
        shape = parameters[parameter].shape
        order = orders.get(parameter, range(len(shape)))
        published = [shape[list(order).index(axis)] for axis in range(len(shape))]
        arrays[name] = seeded_tensor(name, published, seed, rules)
    assert len(arrays) == len(parameters), sorted(parameters.keys() - {network.parameter_name(n) for n in arrays})
    return arrays


def write_weights(
    path: Path,
    *,
    seed: int = 1,
    audio: bool = True,
    text_states: int = STATES,
    metadata: dict | None = None,
    generation: str = "2.0",
    sound: bool = False,
    **sections,
) -> Path:
    """A checkpoint with transformer, text features and video autoencoder, as ``ltx-2-19b-*.safetensors`` has them.

    ``generation="2.3"``: as ``ltx-2.3-22b-*.safetensors`` has them.

    ``audio=False`` leaves out everything of the audio stream, as a network for video alone has it; ``text_states``
    is the number of the text encoder's states. ``sound=True`` adds an audio VAE and the generation's vocoder.
    """
    newer = generation == "2.3"
    config = {"transformer": transformer_section(), "vae": vae_section()}
    if newer:
        config = {"transformer": transformer_section_2_3(), "vae": vae_section_2_3()}
    config |= sections
    if sound:
        config |= sound_sections(generation)
    section = config["transformer"]
    video = section["num_attention_heads"] * section["attention_head_dim"]
    audio_width = section["audio_num_attention_heads"] * section["audio_attention_head_dim"]
    states = TEXT_WIDTH * text_states
    texts = dict.fromkeys(("video", "audio"), section["caption_channels"])
    if newer:
        texts = {"video": video, "audio": audio_width}
    shapes = {
        f"{PREFIX}patchify_proj.weight": (video, section["in_channels"]),
        f"{PREFIX}audio_patchify_proj.weight": (audio_width, section["audio_in_channels"]),
        f"{PREFIX}video_embeddings_connector.learnable_registers": (128, texts["video"]),
        f"{PREFIX}audio_embeddings_connector.learnable_registers": (128, texts["audio"]),
        "text_embedding_projection.aggregate_embed.weight": (texts["video"], states),
        "text_embedding_projection.video_aggregate_embed.weight": (texts["video"], states),
        "text_embedding_projection.audio_aggregate_embed.weight": (texts["audio"], states),
    }
    names = [n for n in published_names(f"{PUBLISHED[generation]}.transformer") if _within(n, section)]
    names = [n for n in names if audio or not re.search("audio|av_ca|a2v", n)]
    vae_names = published_names(f"{PUBLISHED[generation]}.vae")
    arrays = {}
    for network in (Transformer, TextFeatures):
        arrays |= arrays_of(network, config, names, shapes, seed)
    for network in (VideoEncoder, VideoDecoder):
        arrays |= arrays_of(network, config, vae_names, shapes, seed)
    if sound:
        arrays |= sound_arrays(config, generation, seed)
    told = {"config": json.dumps(config)} | ({"model_version": "2.3.0"} if newer else {}) | (metadata or {})
    save_file(arrays, str(path), metadata=told)
    return path


def write_vae(path: Path, *, seed: int = 1, **changes) -> Path:
    """The video autoencoder alone, as the split ``*_vae.safetensors`` files have it; ``changes`` of its section."""
    config = {"vae": vae_section(**changes)}
    names = published_names("ltx-2-19b-dev.safetensors.vae")
    arrays = {}
    for network in (VideoEncoder, VideoDecoder):
        arrays |= arrays_of(network, config, names, {}, seed)
    save_file(arrays, str(path), metadata={"config": json.dumps(config)})
    return path


def _within(name: str, section: dict) -> bool:
    limits = {"transformer_blocks": section["num_layers"], "transformer_1d_blocks": section["connector_num_layers"]}
    parts = name.split(".")
    return all(int(parts[parts.index(part) + 1]) < limit for part, limit in limits.items() if part in parts)


def write_upscaler(path: Path, *, temporal: bool = False, seed: int = 2, **changes) -> Path:
    """A latent upscaler as ``ltx-2-spatial-upscaler-x2-1.0`` or ``ltx-2-temporal-upscaler-x2-1.0``."""
    config = {
        "_class_name": "LatentUpsampler",
        "dims": 3,
        "in_channels": LATENT_CHANNELS,
        "mid_channels": 32,
        "num_blocks_per_stage": 1,
        "spatial_upsample": not temporal,
        "temporal_upsample": temporal,
        "spatial_scale": 1.0 if temporal else 2.0,
        "rational_resampler": True,
    } | changes
    kind = "temporal" if temporal else "spatial"
    published = (
        f"ltx-2-{kind}-upscaler-x2-1.0" if config["spatial_scale"] != 1.5 else "ltx-2.3-spatial-upscaler-x1.5-1.0"
    )
    names = published_names(f"{published}.safetensors")
    arrays = arrays_of(LatentUpscaler, config, names, {"initial_conv.weight": ()}, seed)
    save_file(arrays, str(path), metadata={"config": json.dumps(config)})
    return path


def write_lora(path: Path, weights: Path, *, rank: int = 2, seed: int = 3) -> Path:
    """An adapter of every matrix of a checkpoint's transformer, as ``ltx-2-19b-distilled-lora-384`` has them."""
    from safetensors import safe_open

    arrays = {}
    with safe_open(str(weights), framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118
            shape = file.get_slice(name).get_shape()
            linear = name.startswith(PREFIX) and name.endswith(".weight") and len(shape) == 2
            if not linear or "_embeddings_connector." in name:
                continue
            module = "diffusion_model." + name.removeprefix(PREFIX).removesuffix("weight")
            for part, sides in (("lora_A", (rank, shape[1])), ("lora_B", (shape[0], rank))):
                arrays[f"{module}{part}.weight"] = seeded_tensor(f"{module}{part}", list(sides), seed, [])
    save_file(arrays, str(path))
    return path


def write_gemma(folder: Path) -> Path:
    """The golden case's Gemma with its tokenizer, as the folder of ``google/gemma-3-12b-it``."""
    folder.mkdir(parents=True, exist_ok=True)
    Case.open(GEMMA_CASE, folder).write_checkpoint("model.safetensors")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(GEMMA_CASE / name, folder / name)
    return folder


# Levels, rates and kernels of the published vocoders, with few channels.
SOUND_MANIFESTS = {"2.0": "ltx-2-19b-dev.safetensors.vae", "2.3": "ltx-2.3-22b-dev.safetensors.vae"}
SOUND_RULES = [
    ["std-of-means", "positive", 1.0, 0.1],
    ["mean-of-means", "plain", 0.1],
    [r"\.filter$", "positive", 0.07, 0.016],
    [r"conv_post\.weight$", "fan_in", 0.1],
    [r"_basis$", "plain", 0.02],
    ["alpha|beta", "plain", 0.2],
    [r"\.bias$", "plain", 0.05],
]


def sound_sections(generation: str, width: int = 64) -> dict:
    """``config.audio_vae`` and ``config.vocoder`` as published; ``width`` is that of the vocoder's first layer."""
    with gzip.open(HERE / "manifests" / f"{SOUND_MANIFESTS[generation]}.json.gz") as file:
        config = json.load(file)["metadata"]["config"]
    published = json.loads(config) if isinstance(config, str) else config
    sections = json.loads(json.dumps({name: published[name] for name in ("audio_vae", "vocoder")}))
    sections["audio_vae"]["model"]["params"]["ddconfig"] |= {"ch": 16, "z_channels": 1}
    vocoder = sections["vocoder"]
    for section in (vocoder,) if generation == "2.0" else (vocoder["vocoder"], vocoder["bwe"]):
        section["upsample_initial_channel"] = width
    return sections


def sound_arrays(sections: dict, generation: str, seed: int) -> dict[str, np.ndarray]:
    """Every tensor of a small audio VAE and vocoder."""
    vocoder = Vocoder if generation == "2.0" else BandwidthExtensionVocoder
    names = published_names(SOUND_MANIFESTS[generation])
    ddconfig = sections["audio_vae"]["model"]["params"]["ddconfig"]
    channels, latent = ddconfig["ch"], ddconfig["z_channels"]
    widest = channels * ddconfig["ch_mult"][-1]
    shapes: dict[str, tuple[int, ...]] = {name: () for name in names}
    for network, first in (("encoder", (channels, 2)), ("decoder", (widest, latent))):
        shapes[f"audio_vae.{network}.conv_in.conv.weight"] = (*first, 3, 3)
        shapes[f"audio_vae.{network}.mid.block_1.conv1.conv.weight"] = (widest, widest, 3, 3)
    for name in names:
        if name.endswith("conv_pre.weight"):
            section = sections["vocoder"]
            if generation != "2.0":
                section = section["bwe" if "bwe_generator" in name else "vocoder"]
            shapes[name] = (section["upsample_initial_channel"], 128, 7)
    arrays = {}
    for network in (AudioEncoder, AudioDecoder, vocoder):
        arrays |= arrays_of(network, sections, names, shapes, seed, SOUND_RULES)
    return arrays
