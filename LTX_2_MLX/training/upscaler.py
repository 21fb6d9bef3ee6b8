"""Training of the latent upscalers: the same scene at two sizes, or at two frame rates, both encoded.

They begin in closed form: latents go through the published layers unchanged, and the convolution before the pixel
shuffle is the least-squares one. Training adds what a linear map cannot tell.
"""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics
from LTX_2_MLX.training import world
from LTX_2_MLX.training.clips import scene_of
from LTX_2_MLX.training.loop import Batch, Loss, Settings, train

_NUM_GROUPS = 32
# Features come in groups of three, one of them this constant: it keeps the group norm's spread still.
_CONSTANT = 50.0
# Features are moved this far from zero, in units of a signal's spread, where SiLU is nearly the identity.
_OFFSET = 6.0
# What each residual block adds at first, in units of a signal's spread.
_UPDATE = 0.05
# Damps the least squares: share of the taps' mean square.
_RIDGE = 1e-3
# A cell with the thing counts this much more than one without.
_THING_WEIGHT = 4.0


def start(
    network: LatentUpscaler, statistics: LatentStatistics, small: np.ndarray, large: np.ndarray, seed: int = 0
) -> LatentUpscaler:
    """Closed-form weights: the linear map of 3×3 cells, in time also of 3 latents, that does best on these pairs.

    Args:
        network: Of 96 features, for 32 to 64 channels.
        statistics: Of the autoencoder.
        small, large: Normalised latents of the same scenes ``(clips, T, H, W, C)``.
        seed: Of the residual blocks.
    """
    rng = np.random.default_rng(seed)
    spread = small.astype(np.float32).std((0, 1, 2, 3))
    signals = small.astype(np.float32) / spread
    targets = large.astype(np.float32) / spread
    into, back = _layout(signals.mean((1, 2, 3)))
    mean = np.array(statistics.mean, dtype=np.float64)
    std = np.array(statistics.std, dtype=np.float64)
    _set_entrance(network, into, mean, std, spread)
    for block in [*network.res_blocks, *network.post_upsample_res_blocks]:
        _set_residual_block(block, back, rng)
    taps = _fit(signals, targets, temporal=network.config.temporal_upsample)
    # The shuffle takes channels slowest.
    upsampling = np.einsum("fo,potyxi,ij->fptyxj", into, taps, back, optimize=True)
    conv = network.upsampler.conv
    _set(conv, upsampling.reshape(conv.weight.shape), np.full(len(conv.bias), _OFFSET))
    _set(network.final_conv, _at_centre((std * spread)[:, None] * back), mean)
    mx.eval(network.parameters())
    return network


def _set_entrance(
    network: LatentUpscaler, into: np.ndarray, mean: np.ndarray, std: np.ndarray, spread: np.ndarray
) -> None:
    """First convolution and norm: normalised signals beside constants, and the norm's own effect undone.

    A group's mean is a third of the constant, its deviation the root of two ninths of it.
    """
    num_features = len(into)
    constants = np.arange(num_features) % 3 == 0
    bias = _CONSTANT * constants - into @ (mean / std / spread)
    _set(network.initial_conv, _at_centre(into / (std * spread)), bias)
    norm = network.initial_norm
    norm.weight = mx.full((num_features,), _CONSTANT * 2**0.5 / 3)
    norm.bias = mx.array(_CONSTANT / 3 - _CONSTANT * constants + _OFFSET, dtype=mx.float32)


def _set_residual_block(block: nn.Module, back: np.ndarray, rng: np.random.Generator) -> None:
    """Random convolutions of the latent's signals, whose result is small beside the features."""
    channels, num_features = back.shape
    size = block.conv1.weight.shape[:-1]
    _set(block.conv1, rng.standard_normal((*size, channels)) @ back * (27 * channels) ** -0.5)
    _set(block.conv2, rng.standard_normal(block.conv2.weight.shape) * (27 * num_features) ** -0.5)
    block.norm2.weight = mx.full((num_features,), _UPDATE)


def _layout(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How features hold the latent: ``(96, C)`` from its channels, ``(C, 96)`` back.

    A group norm takes the mean of its group away, clip by clip. So the first channels have groups of their own, a
    constant and the channel with either sign, whose mean is still. The others, fine detail, go in pairs, with the
    sign that stills the pair's mean; ``means`` ``(clips, C)`` are those of each clip.
    """
    channels = means.shape[1]
    alone, pairs = 2 * _NUM_GROUPS - channels, channels - _NUM_GROUPS
    into, back = np.zeros((3 * _NUM_GROUPS, channels)), np.zeros((channels, 3 * _NUM_GROUPS))
    together = np.cov(means, rowvar=False)
    for group in range(_NUM_GROUPS):
        constant, first, second = range(3 * group, 3 * group + 3)
        into[first, group] = 1
        if group < alone:
            into[second, group] = -1
            back[group, [first, second]] = 0.5, -0.5
        else:
            partner = group + pairs
            sign = -1.0 if together[group, partner] > 0 else 1.0
            into[second, partner] = sign
            back[group, [first, constant]] = 1, -1
            back[partner, [second, constant]] = sign, -sign
    return into, back


def _at_centre(matrix: np.ndarray) -> np.ndarray:
    """A 3×3×3 convolution's weight that applies ``matrix`` ``(out, in)`` to each cell by itself."""
    weight = np.zeros((len(matrix), 3, 3, 3, matrix.shape[1]))
    weight[:, 1, 1, 1] = matrix
    return weight


def _set(layer: nn.Module, weight: np.ndarray, bias: np.ndarray | None = None) -> None:
    layer.weight = mx.array(weight.astype(np.float32))
    layer.bias = mx.zeros_like(layer.bias) if bias is None else mx.array(bias.astype(np.float32))


def _fit(small: np.ndarray, large: np.ndarray, *, temporal: bool) -> np.ndarray:
    """Least-squares taps from 27 cells, ``(positions after the shuffle, out, 3, 3, 3, in)``; in space of one latent."""
    channels, reach = small.shape[-1], 3 if temporal else 1
    if temporal:
        # The first of the frames after the shuffle is dropped: the first latent has a successor only.
        parts = [np.concatenate([large[:, :1], large[:, 1::2]], axis=1), large[:, ::2]]
    else:
        parts = [large[:, :, row::2, column::2] for row in range(2) for column in range(2)]
    pads = [(0, 0), (reach // 2, reach // 2), (1, 1), (1, 1), (0, 0)]
    padded, (frames, rows, columns) = np.pad(small, pads), small.shape[1:4]
    cells = [
        padded[:, t : t + frames, y : y + rows, x : x + columns]
        for t in range(reach)
        for y in range(3)
        for x in range(3)
    ]
    taps = np.concatenate(cells, axis=-1).reshape(-1, len(cells) * channels)
    gram = taps.T @ taps
    gram += _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram), dtype=np.float32)
    found = [np.linalg.solve(gram, taps.T @ part.reshape(-1, channels)).T for part in parts]
    return np.stack(found).reshape(len(parts), channels, reach, 3, 3, channels)


def upscaling_loss(statistics: LatentStatistics) -> Loss[LatentUpscaler]:
    """Squared error of the normalised latent, cells with the thing counted more."""

    def loss(network: LatentUpscaler, batch: Batch, key: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
        squared = mx.square(network.upscale(batch["small"], statistics) - batch["large"])
        weight = batch["weight"]
        weighted = (squared * weight).mean() / weight.mean()
        return weighted, {"unexplained": squared.mean() / mx.square(batch["large"]).mean()}

    return loss


def pair_batches(small: np.ndarray, large: np.ndarray) -> Callable[[np.random.Generator, int], Batch]:
    """Batches of latents ``(clips, T, H, W, C)`` of the same scenes at both sizes."""
    frames, rows, columns = large.shape[1:4]

    def batches(rng: np.random.Generator, count: int) -> Batch:
        numbers = rng.integers(0, len(large), count)
        cells = [world.thing_cells(scene_of(int(n)), (frames - 1) * 4 + 1, rows, columns) for n in numbers]
        return {
            "small": mx.array(small[numbers].astype(np.float32)),
            "large": mx.array(large[numbers].astype(np.float32)),
            "weight": mx.array(1 + _THING_WEIGHT * np.stack(cells)[..., None]),
        }

    return batches


def train_upscaler(
    network: LatentUpscaler,
    statistics: LatentStatistics,
    small: np.ndarray,
    large: np.ndarray,
    settings: Settings,
    folder: Path,
) -> LatentUpscaler:
    """Train one upscaler on pairs of latents."""
    return train(network, upscaling_loss(statistics), pair_batches(small, large), settings, folder)
