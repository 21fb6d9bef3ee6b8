"""Errors of quantised transformers: the golden cases again, with weights in 8 and 4 bits."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.checkpoints.quantization import Quantization, layers_to_quantize, quantize_layers
from LTX_2_MLX.models.ltx.config import StreamConfig, TransformerConfig
from LTX_2_MLX.models.ltx.transformer import StreamInput, Transformer
from LTX_2_MLX.verify.case import Case
from LTX_2_MLX.verify.ltx_transformer import velocities

# Largest error over the largest reference value that any output may have; docs/MEMORY.md has what was measured.
ERROR_BAND = {8: 0.05, 4: 0.6}
# The same for the wider network, nearer to what users load.
MID_SIZE_BAND = {8: 0.015, 4: 0.2}
# The cases' layers are a few dozen wide, so the groups are the smallest there are.
GOLDEN_GROUP_SIZE = 32
# A network whose layers all fill groups of 64: tokens and text of the video, and the audio's.
_HEADS, _HEAD_DIM, _AUDIO_HEAD_DIM, _TOKENS, _TEXT_TOKENS, _AUDIO_TOKENS = 4, 64, 32, 48, 24, 13


class EveryBlock(Transformer):
    """The transformer with its first and last block quantised too, since the cases have two or three in all."""

    @staticmethod
    def quantizes(path: str, config: TransformerConfig) -> bool:
        """Every layer of every block."""
        return path.startswith("blocks.")


def golden_errors(path: Path, bits: int) -> tuple[dict[str, float], str]:
    """Error of each output of one case, and which share of the blocks' layers is quantised.

    Activations are float32. An error is the largest difference over the largest reference value.
    """
    with tempfile.TemporaryDirectory() as scratch:
        case = Case.open(path, Path(scratch))
        quantization = Quantization(bits, GOLDEN_GROUP_SIZE)
        network = load(EveryBlock, case.checkpoint(), dtype=mx.float32, quantize=quantization)
        got = velocities(case, network)
    errors = {
        name: _error(np.array(got[name]), wanted) for name, wanted in case.outputs().items() if "velocity" in name
    }
    return errors, _share(network)


def error_lines(cases: Iterable[Path]) -> Iterator[str]:
    """A Markdown table of the errors of golden cases and of wider networks by bits, and the bands that they are in."""
    yield "| case | bits | layers quantised | worst output | a wider network |"
    yield "|---|---|---|---|---|"
    for path in cases:
        for bits in sorted(ERROR_BAND, reverse=True):
            errors, share = golden_errors(path, bits)
            wider, _ = mid_size_error(path, bits)
            yield f"| {path.name} | {bits} | {share} | {max(errors.values()):.2%} | {wider:.2%} |"
    for bits in sorted(ERROR_BAND, reverse=True):
        yield f"Band at {bits} bits: {ERROR_BAND[bits]:.1%} at the cases, {MID_SIZE_BAND[bits]:.1%} when wider."


def mid_size_error(path: Path, bits: int, seed: int = 7) -> tuple[float, str]:
    """The same for a wider network with the config of the case, against itself in float32."""
    with tempfile.TemporaryDirectory() as scratch:
        case_config = config_of(Transformer, Case.open(path, Path(scratch)).checkpoint())
    audio = case_config.audio
    config = replace(
        case_config,
        video=replace(case_config.video, heads=_HEADS, head_dim=_HEAD_DIM),
        audio=audio and replace(audio, heads=_HEADS, head_dim=_AUDIO_HEAD_DIM),
    )
    network = EveryBlock(config)
    network.update(_seeded(network, seed))
    streams = _stream(config.video, 3, _TOKENS, config, seed), _stream(config.audio, 1, _AUDIO_TOKENS, config, seed + 1)
    wanted = [np.array(velocity) for velocity in network(*streams) if velocity is not None]
    quantization = Quantization(bits)
    weights: dict[str, mx.array] = dict(tree_flatten(network.parameters()))
    chosen = layers_to_quantize(network, quantization)
    quantize_layers(network, chosen, quantization)
    for layer in chosen:
        parts = quantization.apply(weights.pop(f"{layer}.weight"))
        weights |= {f"{layer}.{name}": value for name, value in parts.items()}
    network.load_weights(list(weights.items()), strict=True)
    got = [np.array(velocity) for velocity in network(*streams) if velocity is not None]
    return max(map(_error, got, wanted)), _share(network)


def _seeded(network: Transformer, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)

    def value(name: str, like: mx.array) -> mx.array:
        scale = like.shape[-1] ** -0.5 if like.ndim == 2 else 0.1
        centre = 1.0 if name.endswith("norm.weight") else 0.0
        return mx.array((centre + scale * random.normal(size=like.shape)).astype(np.float32))

    parameters: dict[str, mx.array] = dict(tree_flatten(network.parameters()))
    return tree_unflatten([(name, value(name, like)) for name, like in parameters.items()])


def _stream(
    stream: StreamConfig | None, axes: int, tokens: int, config: TransformerConfig, seed: int
) -> StreamInput | None:
    if stream is None:
        return None
    random = np.random.default_rng(seed)
    starts = np.abs(random.normal(size=(1, axes, tokens))).astype(np.float32)
    width = config.caption_channels or stream.width
    return StreamInput(
        latent=mx.array(random.normal(size=(1, tokens, stream.in_channels)).astype(np.float32)),
        sigma=mx.array([0.7]),
        positions=mx.array(np.stack([starts, starts + 1], axis=-1)),
        context=mx.array(random.normal(size=(1, _TEXT_TOKENS, width)).astype(np.float32)),
    )


def _share(network: Transformer) -> str:
    layers = [name for name in dict(tree_flatten(network.parameters())) if name.startswith("blocks.")]
    quantized = sum(name.endswith(".scales") for name in layers)
    weights = sum(name.endswith(".weight") and "norm" not in name for name in layers)
    return f"{quantized} of {weights}"


def _error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())
