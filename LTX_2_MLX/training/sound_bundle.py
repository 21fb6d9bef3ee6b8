"""The tensors of sound by published name, and files that have them beside the video's, which stay as they are."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mlx.utils import tree_flatten
from safetensors.numpy import load_file

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.models.ltx.config import PREFIX
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.vocoder import Vocoder
from LTX_2_MLX.training import bundle
from LTX_2_MLX.training.sound_networks import AUDIO_VAE_CONFIG, VOCODER_CONFIG, SoundVAE

_CONNECTORS = {name: f"{PREFIX}{name}_embeddings_connector." for name in ("video", "audio")}
# Of files with sound; the video's guidance would only exaggerate what the audio stream takes from the prompt.
_DEFAULTS = {"audio_cfg": 1.0}
_STREAM_PARTS = {
    "audio.patchify_proj.": "audio_patchify_proj.",
    "audio.caption_projection.": "audio_caption_projection.",
    "audio.proj_out.": "audio_proj_out.",
    "audio.scale_shift_table": "audio_scale_shift_table",
    "audio.adaln.": "audio_adaln_single.",
    "video.cross_modal_adaln.": "av_ca_video_scale_shift_adaln_single.",
    "video.cross_modal_gate_adaln.": "av_ca_a2v_gate_adaln_single.",
    "audio.cross_modal_adaln.": "av_ca_audio_scale_shift_adaln_single.",
    "audio.cross_modal_gate_adaln.": "av_ca_v2a_gate_adaln_single.",
}
_BLOCK_PARTS = {
    ".video.cross_modal_table": ".scale_shift_table_a2v_ca_video",
    ".audio.cross_modal_table": ".scale_shift_table_a2v_ca_audio",
    ".audio.self_attention.": ".audio_attn1.",
    ".audio.text_attention.": ".audio_attn2.",
    ".audio.feed_forward.project_in.": ".audio_ff.net.0.proj.",
    ".audio.feed_forward.project_out.": ".audio_ff.net.2.",
    ".audio.scale_shift_table": ".audio_scale_shift_table",
    ".audio_to_video_attention.": ".audio_to_video_attn.",
    ".video_to_audio_attention.": ".video_to_audio_attn.",
    ".to_out.": ".to_out.0.",
}


def is_sound(tensor: str) -> bool:
    """Whether a tensor, by its published name, is in no file of a silent model."""
    return any(part in tensor for part in ("audio", "av_ca", "a2v", "vocoder."))


def stream_name(parameter: str) -> str:
    """The published name of a parameter of the transformer that a silent one does not have."""
    name = parameter.replace("blocks.", "transformer_blocks.", 1)
    if name != parameter:
        for ours, theirs in _BLOCK_PARTS.items():
            name = name.replace(ours, theirs)
        return PREFIX + name
    for ours, theirs in _STREAM_PARTS.items():
        if name.startswith(ours):
            rest = name.removeprefix(ours)
            return PREFIX + theirs + (f"emb.timestep_embedder.{rest}" if "adaln" in ours and "_" in rest else rest)
    return PREFIX + name


def stream_tensors(network: Transformer) -> dict[str, np.ndarray]:
    """What a transformer with an audio stream has beyond a silent one, by published name."""
    silent = dict(tree_flatten(bundle.new_transformer().parameters()))
    names = {name: stream_name(name) for name in dict(tree_flatten(network.parameters())) if name not in silent}
    everything = bundle.published(network, lambda name: names.get(name, ""))
    return {name: value for name, value in everything.items() if name}


def vae_tensors(network: SoundVAE) -> dict[str, np.ndarray]:
    """The audio VAE by published name."""
    statistics = {"statistics.mean": "mean-of-means", "statistics.std": "std-of-means"}

    def name(part: str) -> Callable[[str], str]:
        def published(parameter: str) -> str:
            if parameter in statistics:
                return f"audio_vae.per_channel_statistics.{statistics[parameter]}"
            return f"audio_vae.{part}.{parameter}"

        return published

    encoder = bundle.published(network.encoder, name("encoder"))
    return encoder | bundle.published(network.decoder, name("decoder"))


def vocoder_tensors(network: Vocoder) -> dict[str, np.ndarray]:
    """The vocoder by published name."""
    return bundle.published(network, lambda name: "vocoder." + name.removeprefix("generator."))


def write_with_sound(
    target: Path, model: Path, network: Transformer, vae: SoundVAE, vocoder: Vocoder, training: dict[str, Any]
) -> None:
    """The model with this sound in place of its own, in ``target``; all else is copied bit for bit.

    The sound's prompts go through a copy of the video's connector.
    """
    if target.resolve() != model.resolve():
        for path in (path for path in model.rglob("*") if path.is_file()):
            (target / path.relative_to(model)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.relative_to(model))
    added = stream_tensors(network) | vae_tensors(vae) | vocoder_tensors(vocoder)
    for kind in ("dev", "distilled"):
        path = model / bundle.FILES[kind]
        header = Checkpoint(path).header
        tensors = load_file(path)
        for name in list(tensors):
            if name.startswith(_CONNECTORS["video"]):
                tensors[_CONNECTORS["audio"] + name.removeprefix(_CONNECTORS["video"])] = tensors[name]
        config = {
            "transformer": bundle.SOUND_CONFIG,
            "vae": header.config["vae"],
            "audio_vae": AUDIO_VAE_CONFIG,
            "vocoder": VOCODER_CONFIG,
        }
        metadata = {name: text for name, text in header.metadata.items() if name not in ("config", "license")}
        metadata["defaults"] = json.dumps(json.loads(metadata["defaults"]) | _DEFAULTS)
        metadata["training"] = json.dumps(json.loads(metadata["training"]) | training)
        bundle.write(target / bundle.FILES[kind], tensors | added, config, **metadata)
    text = json.dumps(bundle.manifest(target), indent=1)
    (target / "manifest.json").write_text(text + "\n", encoding="utf-8")
