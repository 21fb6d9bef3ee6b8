"""Training of the video VAE's decoder, from the closed-form start; the encoder stays as it began.

Because the encoder is fixed, everything else can be trained on its latents at the same time.
"""

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.training import world
from LTX_2_MLX.training.loop import Batch, Loss, Settings, train

# Small noise on the latent, so that the decoder forgives what a transformer gets slightly wrong.
_LATENT_NOISE = 0.04
_SHARE_AT_TWICE_THE_RATE = 0.25
NUM_FRAMES, HEIGHT, WIDTH = 17, 64, 96


def counted_clips(small: int, large: int, seed: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Clips at both scales for the closed-form start, and how often each of their blocks counts.

    Every block with the thing counts, and one in eight of the others: there are many of them, and they are simple.
    """
    for number in range(small + large):
        rng, scale = np.random.default_rng((seed, number)), 1 if number < small else 2
        scene = world.sample_scene(rng)
        cells = world.thing_cells(scene, NUM_FRAMES, HEIGHT * scale // 16, WIDTH * scale // 16)
        counts = np.maximum(cells, rng.random(cells.shape) < 0.125).astype(np.int64)
        yield world.draw(scene, NUM_FRAMES, HEIGHT * scale, WIDTH * scale) * 2 - 1, counts


def window(rng: np.random.Generator, scale: int) -> np.ndarray:
    """A whole frame at scale 1, a piece of the same size around the thing at scale 2; in [-1, 1].

    17 frames: mostly the whole clip, else half of one at twice the rate, as the temporal upscaler makes them.
    """
    scene = world.sample_scene(rng)
    num_frames = 2 * NUM_FRAMES - 1 if rng.random() < _SHARE_AT_TWICE_THE_RATE else NUM_FRAMES
    first = int(rng.integers(0, num_frames - NUM_FRAMES + 1))
    middle = (first + rng.random() * (NUM_FRAMES - 1)) / (num_frames - 1)
    place = world.path(scene, np.array([middle]))
    rows, columns = (scale - 1) * HEIGHT, (scale - 1) * WIDTH
    y = place.y[0] * HEIGHT * scale - HEIGHT / 2 + rng.uniform(-24, 24)
    x = (place.x[0] - world.ASPECT / 2) * HEIGHT * scale + WIDTH * (scale - 1) / 2 + rng.uniform(-24, 24)
    top, left = (int(np.clip(round(v / 16) * 16, 0, limit)) for v, limit in ((y, rows), (x, columns)))
    size = (num_frames, HEIGHT * scale, WIDTH * scale)
    return world.draw(scene, *size, (first, first + NUM_FRAMES, top, top + HEIGHT, left, left + WIDTH)) * 2 - 1


def reconstruction_loss(encoder: VideoEncoder) -> Loss[VideoDecoder]:
    """Squared error of the pixels and of their differences along height and width."""

    def loss(decoder: VideoDecoder, batch: Batch, key: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
        frames = batch["frames"]
        latent = mx.stop_gradient(encoder(frames))
        latent = latent + _LATENT_NOISE * mx.random.normal(latent.shape, key=key)
        error = decoder(latent) - frames
        squared = mx.square(error).mean()
        slopes = mx.square(error[:, :, 1:] - error[:, :, :-1]).mean()
        slopes = slopes + mx.square(error[:, :, :, 1:] - error[:, :, :, :-1]).mean()
        return squared + 0.5 * slopes, {"psnr": -10 * mx.log10(squared / 4)}

    return loss


def batches(rng: np.random.Generator, count: int) -> Batch:
    """Windows at both scales, most of them at the larger one."""
    return {"frames": mx.array(np.stack([window(rng, 1 + (rng.random() < 0.6)) for _ in range(count)]))}


def psnr(frames: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of two clips in [-1, 1]."""
    error = np.mean((np.clip(frames, -1, 1) - np.clip(other, -1, 1)) ** 2)
    return float(10 * np.log10(4 / max(error, 1e-12)))


def reconstruction(encoder: VideoEncoder, decoder: VideoDecoder, scale: int, count: int) -> float:
    """Mean PSNR in dB over ``count`` held-out clips of ``scale`` times 64×96 pixels."""
    values = []
    for number in range(count):
        scene = world.sample_scene(np.random.default_rng((900, number)), held_out=True)
        clip = world.draw(scene, NUM_FRAMES, HEIGHT * scale, WIDTH * scale)[None] * 2 - 1
        values.append(psnr(clip, np.array(decoder(encoder(mx.array(clip))))))
    return float(np.mean(values))


def train_decoder(encoder: VideoEncoder, decoder: VideoDecoder, settings: Settings, folder: Path) -> VideoDecoder:
    """Train the decoder on the frozen encoder's latents."""
    encoder.freeze()
    decoder.unfreeze()
    # Measured on the encoder's latents once; both networks and the latent upscalers rely on them.
    decoder.per_channel_statistics.freeze()

    def held_out(step: int, network: VideoDecoder) -> dict[str, float]:
        return {f"held_out_psnr_{64 * s}": round(reconstruction(encoder, network, s, 4), 3) for s in (1, 2)}

    return train(decoder, reconstruction_loss(encoder), batches, settings, folder, on_save=held_out)
