"""Clips of the world as latents, drawn and encoded once and kept in a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

import mlx.core as mx
import numpy as np

from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.training import world
from LTX_2_MLX.training.autoencoder import HEIGHT, NUM_FRAMES, WIDTH

_SHARD = 200


def scene_of(number: int, *, held_out: bool = False) -> world.Scene:
    """The ``number``-th scene of the training set, or of the held-out one."""
    return world.sample_scene(np.random.default_rng((77, number, held_out)), held_out=held_out)


def latents(
    encoder: VideoEncoder,
    folder: Path,
    count: int,
    *,
    scale: int = 1,
    num_frames: int = NUM_FRAMES,
    on_shard: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Normalised latents ``(count, T, H, W, C)`` float16 of the first scenes; what the folder has is not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, count, _SHARD):
        path = folder / f"latents_{HEIGHT * scale}x{num_frames}_{start}.npy"
        wanted = min(_SHARD, count - start)
        if not path.exists() or len(np.load(path, mmap_mode="r")) < wanted:
            scenes = [scene_of(number) for number in range(start, start + wanted)]
            made = encode(encoder, scenes, scale=scale, num_frames=num_frames)
            part = path.with_suffix(".part.npy")
            np.save(part, made.astype(np.float16))
            part.rename(path)
            on_shard(start + wanted)
        parts.append(np.load(path))
    return np.concatenate(parts)[:count]


def encode(
    encoder: VideoEncoder, scenes: Sequence[world.Scene], *, scale: int = 1, num_frames: int = NUM_FRAMES
) -> np.ndarray:
    """Normalised latents of scenes, ``(scenes, T, H, W, C)`` float32."""
    made = []
    for scene in scenes:
        clip = world.draw(scene, num_frames, HEIGHT * scale, WIDTH * scale)[None] * 2 - 1
        made.append(np.array(encoder(mx.array(clip))))
    return np.concatenate(made)
