"""Names of an adapter's tensors, as the published files and common trainers write them."""

import re
from collections.abc import Iterable

# Prefixes of module paths, longer ones first. The published files have "diffusion_model.".
_PREFIXES = (
    "base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.",
    "lora_unet_", "lora_transformer_", "lycoris_",
)  # fmt: skip
_DOWN = r"\.(?:lora_A|lora_down|lora\.down|lora_linear_layer\.down)(?:\.\w+)?\.weight$"
_UP = r"\.(?:lora_B|lora_up|lora\.up|lora_linear_layer\.up)(?:\.\w+)?\.weight$"
_ALPHA = r"\.(?:lora_)?alpha$"
# First component of a module path in huggingface/diffusers -> the published one
# (scripts/convert_ltx2_to_diffusers.py at 58eb52c).
_DIFFUSERS_NAMES = {
    "proj_in": "patchify_proj",
    "audio_proj_in": "audio_patchify_proj",
    "time_embed": "adaln_single",
    "audio_time_embed": "audio_adaln_single",
    "prompt_adaln": "prompt_adaln_single",
    "audio_prompt_adaln": "audio_prompt_adaln_single",
    "av_cross_attn_video_scale_shift": "av_ca_video_scale_shift_adaln_single",
    "av_cross_attn_audio_scale_shift": "av_ca_audio_scale_shift_adaln_single",
    "av_cross_attn_video_a2v_gate": "av_ca_a2v_gate_adaln_single",
    "av_cross_attn_audio_v2a_gate": "av_ca_v2a_gate_adaln_single",
}
# Text connectors in diffusers' naming -> the published one; their blocks are numbered alike.
_CONNECTORS = {
    "connectors.video_connector.transformer_blocks": "video_embeddings_connector.transformer_1d_blocks",
    "connectors.audio_connector.transformer_blocks": "audio_embeddings_connector.transformer_1d_blocks",
    "connectors.video_connector": "video_embeddings_connector",
    "connectors.audio_connector": "audio_embeddings_connector",
    "connectors.text_proj_in": "text_embedding_projection.aggregate_embed",
}


def is_lora_tensor(name: str) -> bool:
    """Whether a tensor belongs to an adapter, by its name."""
    return ".lora" in name and bool(re.search(_DOWN, name) or re.search(_UP, name))


def sort_tensors(names: Iterable[str]) -> tuple[dict[str, str], dict[str, str], dict[str, str], list[str]]:
    """Names of down, up and alpha tensors by their module's path, and all other names."""
    downs: dict[str, str] = {}
    ups: dict[str, str] = {}
    alphas: dict[str, str] = {}
    others = []
    for name in names:
        for pattern, group in ((_DOWN, downs), (_UP, ups), (_ALPHA, alphas)):
            match = re.search(pattern, name)
            if match:
                group[name[: match.start()]] = name
                break
        else:
            others.append(name)
    return downs, ups, alphas, others


def without_prefix(path: str) -> str:
    """A module's path as its trainer writes it, without the prefix of the whole transformer."""
    for prefix in _PREFIXES:
        # A block's own name begins with "transformer_", not "transformer.".
        path = path.removeprefix(prefix)
    return path


def published_paths(path: str) -> list[str]:
    """What a path without its prefix may mean in the checkpoint, the path itself first.

    Some trainers write dots as underscores, so both forms of a renamed component are tried.
    """
    paths = [path]
    for names in (_DIFFUSERS_NAMES, _CONNECTORS):
        for theirs, published in names.items():
            for separator in (".", "_"):
                start = theirs.replace(".", separator)
                if path == start or path.startswith(f"{start}{separator}"):
                    paths.append(published.replace(".", separator) + path[len(start) :])
    return paths
