"""Training of the transformer by flow matching, with the caption left out now and then for guidance."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.checkpoints.gemma3 import TextEncoder
from LTX_2_MLX.diffusion.state import VideoGrid
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import StreamInput, Transformer
from LTX_2_MLX.shapes import Compression, LatentShape
from LTX_2_MLX.training import world
from LTX_2_MLX.training.captions import caption, no_caption
from LTX_2_MLX.training.clips import scene_of
from LTX_2_MLX.training.language import contexts
from LTX_2_MLX.training.loop import Batch, Loss

COMPRESSION = Compression(4, 16, 16)
# Share of samples without a caption.
_DROPOUT = 0.1
# A cell with the thing counts this much more than one of background alone, which is learned in minutes.
THING_WEIGHT = 3.0


def fresh(network: Transformer, seed: int = 0) -> Transformer:
    """Weights to begin with: every layer adds nothing at first, gates are open, the velocity is zero."""
    mx.random.seed(seed)
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear):
            width = module.weight.shape[1]
            ends = name.endswith(("to_out", "feed_forward.project_out", "proj_out", "adaln.linear"))
            module.weight = mx.random.normal(module.weight.shape) * (0.0 if ends else width**-0.5)
            module.bias = mx.zeros_like(module.bias)
    for block in network.blocks:
        # Rows: shift, scale and gate of the attention, then of the feed-forward layer.
        block.video.scale_shift_table = mx.repeat(mx.array([0.0, 0, 1, 0, 0, 1])[:, None], len_width(network), axis=1)
    mx.eval(network.parameters())
    return network


def len_width(network: Transformer) -> int:
    """Features of a token."""
    return network.config.video.width


def positions(shape: LatentShape, frame_rate: float) -> np.ndarray:
    """Where the cells of a latent lie, ``(1, 3, N, 2)``."""
    return np.array(VideoGrid(shape, COMPRESSION, frame_rate).positions())


def draw_sigmas(rng: np.random.Generator, count: int) -> np.ndarray:
    """Noise levels: most around and above the middle, some anywhere; ``(count,)`` float32."""
    sigmas = 1 / (1 + np.exp(-(rng.standard_normal(count) + 0.5)))
    even = rng.random(count) < 0.2
    return np.where(even, rng.random(count), sigmas).astype(np.float32)


def clip_batches(
    latents: np.ndarray, encoder: TextEncoder, features: TextFeatures
) -> Callable[[np.random.Generator, int], Batch]:
    """Batches of latents of training scenes with captions said anew each time."""
    shape = latents.shape[1:4]
    num_frames = (shape[0] - 1) * COMPRESSION.time + 1

    def batches(rng: np.random.Generator, count: int) -> Batch:
        numbers = rng.integers(0, len(latents), count)
        scenes = [scene_of(int(number)) for number in numbers]
        texts = [no_caption(rng) if rng.random() < _DROPOUT else caption(scene, rng) for scene in scenes]
        cells = np.stack([world.thing_cells(scene, num_frames, *shape[1:]) for scene in scenes])
        return {
            "latent": mx.array(latents[numbers].astype(np.float32)).flatten(1, 3),
            "context": mx.array(contexts(encoder, features, texts)),
            "weight": mx.array(1 + THING_WEIGHT * cells.reshape(count, -1, 1)),
            "sigma": mx.array(draw_sigmas(rng, count)),
        }

    return batches


def flow_loss(places: np.ndarray) -> Loss[Transformer]:
    """Squared error of the velocity, cells with the thing counted more."""

    def loss(network: Transformer, batch: Batch, key: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
        latent, sigma = batch["latent"], batch["sigma"]
        noise = mx.random.normal(latent.shape, key=key)
        level = sigma[:, None, None]
        noisy = latent + level * (noise - latent)
        velocity, _ = network(StreamInput(noisy, sigma, places, batch["context"]), None)
        assert velocity is not None
        squared = mx.square(velocity - (noise - latent))
        weight = batch["weight"]
        weighted = (squared * weight).mean() / weight.mean()
        thing = (weight > 1).astype(mx.float32)
        # Of the clean estimate, in the thing's cells: what the eye sees first.
        clean = (squared * thing * level**2).sum() / (thing.sum() * latent.shape[-1])
        return weighted, {"velocity": squared.mean(), "thing": clean}

    return loss
