"""Quality of the demo model: prompts that it was not trained on, judged from the generated frames."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest import mock

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.ops.sampling import resize
from LTX_2_MLX.pipelines.generate import generate
from LTX_2_MLX.training import autoencoder, world
from LTX_2_MLX.training.bundle import FILES
from LTX_2_MLX.training.captions import plain_prompt
from LTX_2_MLX.training.clips import encode, scene_of
from LTX_2_MLX.training.measure import Findings, look_at, sharpness

# Options of the three ways that are compared.
WAYS = {
    "two-stage": {"pipeline": "two-stage"},
    "one-stage, guided": {"pipeline": "one-stage"},
    "one-stage, guidance 1": {"pipeline": "one-stage", "cfg": 1.0},
}
# Options of the precisions that are compared, float32 first.
PRECISIONS: dict[str, dict[str, Any]] = {
    "float32": {"fp32": True},
    "bfloat16": {"bf16": True},
    "float16": {"fp16": True},
    "8 bit in float32": {"fp32": True, "quantize": 8},
    "4 bit in float32": {"fp32": True, "quantize": 4},
}
# Options that save passes, the full run first.
FEWER_PASSES: dict[str, dict[str, Any]] = {
    "all passes": {},
    "--guidance-end 0.8": {"guidance_end": 0.8},
    "--guidance-end 0.5": {"guidance_end": 0.5},
    "--guidance-start 0.2": {"guidance_start": 0.2},
    "--step-cache 0.05": {"step_cache": 0.05},
    "--step-cache 0.1": {"step_cache": 0.1},
    "--step-cache 0.2": {"step_cache": 0.2},
    "--step-cache 0.4": {"step_cache": 0.4},
    "--guidance-end 0.8 --step-cache 0.05": {"guidance_end": 0.8, "step_cache": 0.05},
}
ASPECTS = tuple(field.name for field in fields(Findings))


def held_out_scenes(count: int) -> list[world.Scene]:
    """Scenes of combinations that no training clip shows."""
    return [scene_of(number, held_out=True) for number in range(count)]


def generated(folder: Path, scene: world.Scene, seed: int, **options: Any) -> np.ndarray:
    """The video of one scene's plain prompt, ``(T, H, W, 3)`` in [0, 1]."""
    files = files_of(folder, options["pipeline"])
    return generate(plain_prompt(scene), seed=seed, cache=False, **files, **options).array().astype(np.float32) / 255


def files_of(folder: Path, pipeline: str) -> dict[str, Any]:
    """The files of a bundle that a pipeline takes, as options."""
    files: dict[str, Any] = {
        "weights": str(folder / FILES["dev"]),
        "distilled_lora": str(folder / FILES["lora"]),
        "spatial_upscaler_weights": str(folder / FILES["spatial"]),
        "gemma": str(folder / "gemma"),
    }
    if pipeline != "two-stage":
        files = {name: files[name] for name in ("weights", "gemma")}
    if pipeline == "distilled":
        files["weights"] = str(folder / FILES["distilled"])
    return files


@contextmanager
def counted_passes() -> Iterator[Counter[str]]:
    """Counts the passes through a transformer's blocks inside the block, as ``passes``."""
    counted: Counter[str] = Counter()

    through_blocks = Transformer.through_blocks

    def counting(*arguments: Any, **options: Any) -> Any:
        counted["passes"] += 1
        return through_blocks(*arguments, **options)

    with mock.patch.object(Transformer, "through_blocks", counting):
        yield counted


def psnr_to_first(videos: dict[str, list[np.ndarray]]) -> dict[str, float]:
    """Mean PSNR in dB of the videos ``(T, H, W, 3)`` in [0, 1] of each name but the first, to those of the first."""
    first, *others = videos
    found = {}
    for name in others:
        pairs = zip(videos[first], videos[name], strict=True)
        found[name] = float(np.mean([autoencoder.psnr(2 * truth - 1, 2 * video - 1) for truth, video in pairs]))
    return found


def shares(scenes: list[world.Scene], videos: list[np.ndarray]) -> dict[str, float]:
    """Share of videos in which each aspect is as in its scene."""
    found = [look_at(video) for video in videos]
    pairs = list(zip(scenes, found, strict=True))
    return {
        name: float(np.mean([getattr(scene, name) == getattr(seen, name) for scene, seen in pairs])) for name in ASPECTS
    }


def passed_through(folder: Path, scenes: list[world.Scene], scale: int) -> list[np.ndarray]:
    """Drawn clips of ``scale`` times 64×96 pixels, encoded and decoded: what a perfect transformer would give."""
    checkpoint = Checkpoint(folder / FILES["dev"])
    encoder, decoder = load(VideoEncoder, checkpoint), load(VideoDecoder, checkpoint)
    for network in (encoder, decoder):
        network.set_dtype(mx.float32)
    latents = (encode(encoder, [scene], scale=scale) for scene in scenes)
    return [np.clip(np.array(decoder(mx.array(latent)))[0] / 2 + 0.5, 0, 1) for latent in latents]


def sharpness_beside_bicubic(two_stage: list[np.ndarray], one_stage: list[np.ndarray]) -> tuple[float, float]:
    """Mean sharpness of two-stage videos, and of one-stage videos resized to their size by bicubic interpolation."""
    height, width = two_stage[0].shape[1:3]
    resized = [np.array(resize(mx.array(clip), height, width, kernel="cubic")) for clip in one_stage]
    return float(np.mean([sharpness(c) for c in two_stage])), float(np.mean([sharpness(c) for c in resized]))


def reconstruction(folder: Path, count: int) -> dict[str, float]:
    """PSNR in dB of held-out clips encoded and decoded, at both sizes."""
    checkpoint = Checkpoint(folder / FILES["dev"])
    encoder, decoder = load(VideoEncoder, checkpoint), load(VideoDecoder, checkpoint)
    # Weights of 16 bit, arithmetic of 32: what a CPU does by default.
    for network in (encoder, decoder):
        network.set_dtype(mx.float32)
    return {
        f"{64 * s}×{96 * s}": autoencoder.reconstruction(encoder, decoder, s, count) for s in (1, 2)
    }  # fmt: skip


def temporal_upscaling(folder: Path, count: int) -> dict[str, float]:
    """PSNR in dB of 33 frames made from 17 of held-out clips, 128×192: upscaled, repeated, and blended."""
    checkpoint = Checkpoint(folder / FILES["dev"])
    encoder, decoder = load(VideoEncoder, checkpoint), load(VideoDecoder, checkpoint)
    statistics = load(LatentStatistics, checkpoint)
    upscaler = load(LatentUpscaler, Checkpoint(folder / FILES["temporal"]))
    for network in (encoder, decoder, upscaler):
        network.set_dtype(mx.float32)
    found: dict[str, list[float]] = {"upscaler": [], "repeated": [], "blended": []}
    for scene in held_out_scenes(count):
        frames = 2 * autoencoder.NUM_FRAMES - 1
        truth = world.draw(scene, frames, 2 * autoencoder.HEIGHT, 2 * autoencoder.WIDTH) * 2 - 1
        latent = encoder(mx.array(truth[None, ::2]))
        decoded = np.array(decoder(latent))[0]
        upscaled = np.array(decoder(upscaler.upscale(latent, statistics)))[0]
        repeated = np.repeat(decoded, 2, axis=0)[:frames]
        blended = repeated.copy()
        blended[1::2] = (decoded[:-1] + decoded[1:]) / 2
        for name, clip in (("upscaler", upscaled), ("repeated", repeated), ("blended", blended)):
            found[name].append(autoencoder.psnr(truth, clip))
    return {name: float(np.mean(values)) for name, values in found.items()}
