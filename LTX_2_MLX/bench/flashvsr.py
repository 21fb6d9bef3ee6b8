"""FlashVSR with stand-in weights: its transformer in any width and depth, and a folder of all its files.

Weights are random, which changes no shape: time and memory are those of networks of this width and depth.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection, LQProjectionConfig
from LTX_2_MLX.models.tae import ConditionalConfig, ConditionalDecoder
from LTX_2_MLX.models.wan.transformer import WanTransformer, WanTransformerConfig
from LTX_2_MLX.models.wan.vae import PRESETS, WanDecoder


def stand_in_transformer(dim: int, layers: int) -> WanTransformer:
    """FlashVSR's transformer, with the published one's share of feed-forward features and heads of 128."""
    heads = max(1, dim // 128)
    config = WanTransformerConfig(
        in_dim=16,
        out_dim=16,
        num_layers=layers,
        dim=dim,
        ffn_dim=round(dim * 8960 / 1536),
        text_dim=64,
        freq_dim=256,
        num_heads=heads,
    )
    return WanTransformer(config)


def write_files(folder: Path, dim: int, layers: int, widths: int) -> None:
    """Every file of FlashVSR in the given width and depth."""
    network = stand_in_transformer(dim, layers)
    metadata = {"config": json.dumps({"num_heads": network.config.num_heads})}
    _write(network, folder / "diffusion_pytorch_model_streaming_dmd.safetensors", metadata, rename=_published)
    projection = LQProjection(LQProjectionConfig(widths=(widths * 4, widths * 6), token_dim=dim, num_layers=1))
    _write(projection, folder / "LQ_proj_in.safetensors")
    decoder = ConditionalDecoder(ConditionalConfig(16, (widths, widths // 2, widths // 4, widths // 4)))
    _write(decoder, folder / "TCDecoder.safetensors")
    _write(WanDecoder(PRESETS["light"]), folder / "lightvaew2_1.safetensors", rename=_published)
    mx.save_safetensors(str(folder / "posi_prompt.safetensors"), {"context": mx.random.normal((1, 512, 64))})


def _write(
    network: nn.Module,
    target: Path,
    metadata: dict[str, str] | None = None,
    rename: Callable[[str], str] = lambda name: name,
) -> None:
    """Save a network's random weights as the published file would hold them."""
    last_first = {4: (0, 3, 1, 2), 5: (0, 4, 1, 2, 3)}
    parameters: dict[str, mx.array] = dict(tree_flatten(network.parameters()))
    weights = {}
    for name, value in parameters.items():
        is_kernel = value.ndim in last_first and name.endswith("weight")
        weights[rename(name)] = mx.contiguous(value.transpose(last_first[value.ndim])) if is_kernel else value
    mx.save_safetensors(str(target), weights, metadata)


def _published(name: str) -> str:
    """A parameter's name as the files have it; the inverse of the networks' ``parameter_name``."""
    for ours, theirs in (
        (r"\b(text_embedding|time_embedding|ffn)\.linear_in\.", r"\1.0."),
        (r"\b(text_embedding|time_embedding|ffn)\.linear_out\.", r"\1.2."),
        (r"^time_projection\.", "time_projection.1."),
        (r"^decoder\.layers\.", "decoder.upsamples."),
        (r"\.norm1\.", ".residual.0."),
        (r"(upsamples|middle)\.(\d+)\.conv1\.", r"\1.\2.residual.2."),
        (r"(upsamples|middle)\.(\d+)\.norm2\.", r"\1.\2.residual.3."),
        (r"(upsamples|middle)\.(\d+)\.conv2\.", r"\1.\2.residual.6."),
        (r"upsamples\.(\d+)\.conv\.", r"upsamples.\1.resample.1."),
        (r"\.head_norm\.", ".head.0."),
        (r"\.head_conv\.", ".head.2."),
    ):
        name = re.sub(ours, theirs, name)
    return name
