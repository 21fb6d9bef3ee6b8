"""Training of the distilled transformer: few steps, no guidance, and the refinement at twice the size.

It starts from the dev transformer. At the small size it learns to go from each noise level of the distilled
schedule to the next in one step, where the dev transformer takes several guided ones. At the large size, which the
dev transformer has never seen, it learns to go from what the spatial upscaler makes to the clips themselves: of the
clips' own small latents, and of what the dev transformer makes of these, so that it mends what that gets wrong.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.gemma3 import TextEncoder
from LTX_2_MLX.diffusion.sampler import DISTILLED
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import StreamInput, Transformer
from LTX_2_MLX.ops.device import traced
from LTX_2_MLX.shapes import LatentShape
from LTX_2_MLX.training import world
from LTX_2_MLX.training.captions import caption
from LTX_2_MLX.training.clips import scene_of
from LTX_2_MLX.training.denoiser import COMPRESSION, positions
from LTX_2_MLX.training.language import contexts
from LTX_2_MLX.training.loop import Batch, Loss

# Steps of the teacher within one step of the student.
_SUBSTEPS = 2
# Samples of the large size for each of the small one.
_LARGE_PER_SMALL = 4
# Shares of the refinement's noise levels: the first one decides about shapes.
_SHARES = (0.5, 0.3, 0.2)
# At the large size the background is nearly done when refinement begins, the thing is not.
_LARGE_THING_WEIGHT = 8.0
# Noise levels at which the teacher makes a clip anew: the first leaves its place, hardly its shape.
_REMADE = (0.8, 0.5, 0.25, 0.0)


class Teacher:
    """The dev transformer with guidance at the small size. It is not trained.

    Args:
        network: The dev transformer, frozen.
        shape: Size of the latents.
        frame_rate: Of the clips.
        guidance_scale: How far away from what it makes without a caption.
        encoder, features: Of captions.
    """

    def __init__(
        self,
        network: Transformer,
        shape: LatentShape,
        frame_rate: float,
        guidance_scale: float,
        encoder: TextEncoder,
        features: TextFeatures,
    ):
        self._network, self._scale = network, guidance_scale
        self._places = positions(shape, frame_rate)
        self._empty = mx.array(contexts(encoder, features, [""]))
        # The rotary tables that a network keeps have to be real ones before it is traced.
        first = mx.zeros((1, self._places.shape[2], network.config.video.in_channels))
        mx.eval(network(StreamInput(first, mx.ones((1,)), self._places, self._empty), None))
        self._traced = traced(self._mean_velocity)

    def velocity(self, noisy: mx.array, start: mx.array, stop: mx.array, context: mx.array) -> mx.array:
        """Mean velocity of the guided steps that take tokens ``(B, N, C)`` from noise level ``start`` to ``stop``."""
        return self._traced(noisy, start, stop, context, mx.repeat(self._empty, len(noisy), axis=0))

    def remade(self, latents: np.ndarray, context: mx.array, rng: np.random.Generator) -> np.ndarray:
        """Latents ``(B, T, H, W, C)`` with noise, and what the teacher makes of them."""
        clean = mx.array(latents.astype(np.float32).reshape(len(latents), -1, latents.shape[-1]))
        levels = [mx.full((len(latents),), level) for level in _REMADE]
        noise = mx.array(rng.standard_normal(clean.shape).astype(np.float32))
        made = clean + _REMADE[0] * (noise - clean)
        for start, stop in pairwise(levels):
            made = made + (stop - start)[:, None, None] * self.velocity(made, start, stop, context)
            mx.eval(made)
        return np.array(made).reshape(latents.shape)

    def _mean_velocity(
        self, noisy: mx.array, start: mx.array, stop: mx.array, context: mx.array, empty: mx.array
    ) -> mx.array:
        latent, doubled = noisy, mx.concatenate([context, empty])
        for number in range(_SUBSTEPS):
            sigma = start + (stop - start) * (number / _SUBSTEPS)
            both = StreamInput(mx.concatenate([latent] * 2), mx.concatenate([sigma] * 2), self._places, doubled)
            both_velocities, _ = self._network(both, None)
            assert both_velocities is not None
            conditional, unconditional = mx.split(both_velocities, 2)
            velocity = unconditional + self._scale * (conditional - unconditional)
            latent = latent + ((stop - start) / _SUBSTEPS)[:, None, None] * velocity
        return mx.stop_gradient((latent - noisy) / (stop - start)[:, None, None])


@dataclass(frozen=True)
class Large:
    """What the refinement is learned from.

    Attributes:
        latents: Of clips at the large size, ``(clips, T, H, W, C)``.
        upscaled: What the spatial upscaler makes of small latents of the same clips, likewise; several versions.
        sigmas: Noise levels of the refinement, from its first one to 0.
    """

    latents: np.ndarray
    upscaled: Sequence[np.ndarray]
    sigmas: Sequence[float]


def distillation_batches(
    teacher: Teacher, small: np.ndarray, large: Large, encoder: TextEncoder, features: TextFeatures
) -> Callable[[np.random.Generator, int], Batch]:
    """Batches of both sizes; the teacher's answers are in them. The batch size counts the large ones."""

    def batches(rng: np.random.Generator, count: int) -> Batch:
        numbers = rng.integers(0, len(small), count // _LARGE_PER_SMALL)
        context = mx.array(contexts(encoder, features, [_said(n, rng) for n in numbers]))
        noisy, start, stop = _noisy(small[numbers], rng)
        velocity = teacher.velocity(noisy, start, stop, context)
        taught = {"small": noisy, "small_sigma": start, "small_velocity": velocity, "small_context": context}
        return taught | _large_batch(large, encoder, features, rng, count)

    return batches


def _said(number: int, rng: np.random.Generator) -> str:
    return caption(scene_of(int(number)), rng)


def _noisy(latents: np.ndarray, rng: np.random.Generator) -> tuple[mx.array, mx.array, mx.array]:
    """Tokens at noise levels of the distilled schedule, those levels and the next ones."""
    clean = latents.astype(np.float32).reshape(len(latents), -1, latents.shape[-1])
    # The first steps are tiny and alike; the later ones decide.
    steps = rng.choice(len(DISTILLED) - 1, len(latents), p=[0.1, 0.05, 0.05, 0.05, 0.1, 0.25, 0.2, 0.2])
    sigmas = np.asarray(DISTILLED, dtype=np.float32)
    start, stop = sigmas[steps], sigmas[steps + 1]
    noise = rng.standard_normal(clean.shape).astype(np.float32)
    noisy = clean + start[:, None, None] * (noise - clean)
    return mx.array(noisy), mx.array(start), mx.array(stop)


def _large_batch(
    large: Large, encoder: TextEncoder, features: TextFeatures, rng: np.random.Generator, count: int
) -> Batch:
    """Large latents at noise levels of the refinement, on the straight way from its start to the clip.

    The start is the upscaled latent with noise; written as the clip with noise, the upscaler's error is part of that.
    """
    frames, rows, columns, channels = large.latents.shape[1:]
    numbers = rng.integers(0, len(large.latents), count)
    versions = rng.integers(0, len(large.upscaled), count)
    upscaled = np.stack([large.upscaled[version][number] for version, number in zip(versions, numbers, strict=True)])
    clean, upscaled = (
        part.astype(np.float32).reshape(count, -1, channels) for part in (large.latents[numbers], upscaled)
    )
    scenes = [scene_of(int(number)) for number in numbers]
    num_frames = (frames - 1) * COMPRESSION.time + 1
    cells = np.stack([world.thing_cells(scene, num_frames, rows, columns) for scene in scenes])
    sigma = rng.choice(np.asarray(large.sigmas[:-1], dtype=np.float32), count, p=_SHARES)
    first = large.sigmas[0]
    noise = rng.standard_normal(clean.shape).astype(np.float32) + (1 - first) / first * (upscaled - clean)
    return {
        "large": mx.array(clean + sigma[:, None, None] * (noise - clean)),
        "large_velocity": mx.array(noise - clean),
        "large_sigma": mx.array(sigma),
        "large_context": mx.array(contexts(encoder, features, [caption(scene, rng) for scene in scenes])),
        "large_weight": mx.array(1 + _LARGE_THING_WEIGHT * cells.reshape(count, -1, 1)),
    }


def distillation_loss(small_places: np.ndarray, large_places: np.ndarray) -> Loss[Transformer]:
    """Squared error of the velocity at both sizes."""

    def loss(network: Transformer, batch: Batch, key: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
        squared = {}
        for size, places in (("small", small_places), ("large", large_places)):
            stream = StreamInput(batch[size], batch[f"{size}_sigma"], places, batch[f"{size}_context"])
            velocity, _ = network(stream, None)
            assert velocity is not None
            squared[size] = mx.square(velocity - batch[f"{size}_velocity"])
        taught = squared["small"].mean()
        weight = batch["large_weight"]
        seen = (squared["large"] * weight).mean() / weight.mean()
        return taught + seen, {"taught": taught, "large": seen}

    return loss
