"""Training of the latent upscalers: the same scene at two sizes, or at two frame rates, both encoded."""

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics
from LTX_2_MLX.training.loop import Batch, Loss, Settings, train


def fresh(network: LatentUpscaler, statistics: LatentStatistics, seed: int = 0) -> LatentUpscaler:
    """Weights to begin with: features of unit spread, the mean latent as result."""
    mx.random.seed(seed)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            last = name == "final_conv"
            spread = 0.0 if last else np.prod(module.weight.shape[1:]) ** -0.5
            module.weight = mx.random.normal(module.weight.shape) * spread
            module.bias = mx.array(statistics.mean) if last else mx.zeros_like(module.bias)
        elif name.endswith("norm2"):
            # Each block adds little at first.
            module.weight = module.weight * 0.2
    mx.eval(network.parameters())
    return network


def upscaling_loss(statistics: LatentStatistics) -> Loss:
    """Squared error of the normalised latent."""

    def loss(network: LatentUpscaler, batch: Batch, key: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
        error = mx.square(network.upscale(batch["small"], statistics) - batch["large"])
        return error.mean(), {"unexplained": error.mean() / mx.square(batch["large"]).mean()}

    return loss


def pair_batches(small: np.ndarray, large: np.ndarray) -> Callable[[np.random.Generator, int], Batch]:
    """Batches of latents ``(clips, T, H, W, C)`` of the same scenes at both sizes."""

    def batches(rng: np.random.Generator, count: int) -> Batch:
        numbers = rng.integers(0, len(large), count)
        return {
            "small": mx.array(small[numbers].astype(np.float32)),
            "large": mx.array(large[numbers].astype(np.float32)),
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
