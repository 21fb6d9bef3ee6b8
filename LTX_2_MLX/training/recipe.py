"""From nothing to the model in the box: every run in order, each resumed where it stopped."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.gemma3 import TextEncoder, load_gemma
from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.shapes import LatentShape
from LTX_2_MLX.training import autoencoder, bundle, clips, denoiser, distill, language, upscaler
from LTX_2_MLX.training.captions import caption
from LTX_2_MLX.training.linear_start import VAE_CONFIG, linear_start
from LTX_2_MLX.training.loop import NetworkT, Settings, averaged_weights, copy_logs, finished_steps, train

RUNS = ("text", "dev", "decoder", "spatial", "temporal", "distilled")
NOTICE = (
    "The demo model draws one thing (ball, box or star) before one background (grass, sky, sand, night, brick); "
    "it knows nothing else."
)
UNFINISHED = "Its training is not finished: expect ghosts and blobs."


@dataclass(frozen=True)
class Recipe:
    """How much of everything.

    Attributes:
        clips: Training scenes as latents of 64×96 pixels.
        larger: Of these, scenes that are encoded at 128×192 pixels as well.
        longer: Of these, scenes that are encoded at 128×192 pixels in 33 frames as well.
        start_clips: Clips of each size that the VAE's closed-form start is fitted to.
        fitted: Pairs of latents that the upscalers' closed-form starts are fitted to.
        runs: Settings of every run by name.
        guidance_scale: Of the dev transformer while it teaches the distilled one.
        lora_numbers: Of the adapters that turn the dev transformer into the distilled one.
    """

    clips: int = 3000
    larger: int = 1000
    longer: int = 800
    start_clips: tuple[int, int] = (160, 60)
    fitted: int = 300
    guidance_scale: float = 3.0
    lora_numbers: int = 2_200_000
    runs: dict[str, Settings] = field(
        default_factory=lambda: {
            "text": Settings(
                steps=300, batch_size=64, matrix_rate=0.01, rate=1e-3, warmup=20, average=0.98, traced=False
            ),
            "dev": Settings(steps=6800, batch_size=16, matrix_rate=0.02, rate=1e-3, warmup=30, average=0.99),
            "decoder": Settings(
                steps=1300, batch_size=4, matrix_rate=1e-4, rate=1e-5, muon=False, cooldown=0.25, average=0.98
            ),
            "spatial": Settings(steps=1300, batch_size=8, matrix_rate=0.004, rate=3e-4, warmup=20, average=0.98),
            "temporal": Settings(steps=2700, batch_size=4, matrix_rate=0.004, rate=3e-4, warmup=20, average=0.98),
            "distilled": Settings(steps=1750, batch_size=8, matrix_rate=0.01, rate=5e-4, warmup=20, average=0.98),
        }
    )

    def with_steps(self, name: str, steps: int) -> "Recipe":
        """The same with another length of one run; 0 only takes what it has come to."""
        return replace(self, runs=self.runs | {name: replace(self.runs[name], steps=steps)})

    def shortened(self, steps: int) -> "Recipe":
        """The same in a few seconds: what a test can afford."""
        runs = {
            name: replace(settings, steps=steps, batch_size=4, warmup=2, log_every=1, cooldown=0.0, traced=False)
            for name, settings in self.runs.items()
        }
        return replace(self, clips=8, larger=8, longer=8, start_clips=(16, 2), runs=runs)


class Workshop:
    """One folder with everything that training keeps, and the recipe it follows.

    Args:
        folder: Gets ``gemma/``, ``vae_start.safetensors``, ``clips/`` and one folder for each run.
        recipe: How much of everything.
    """

    def __init__(self, folder: Path, recipe: Recipe):
        self.folder, self.recipe = folder, recipe
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "gemma" / "model.safetensors").exists():
            language.write_gemma(folder / "gemma")
        self._start = folder / "vae_start.safetensors"
        if not self._start.exists():
            tensors = linear_start(autoencoder.counted_clips(*recipe.start_clips))
            bundle.write_exact(self._start, tensors, {"vae": VAE_CONFIG})

    def run(self, name: str) -> None:
        """Train one network, or go on with it; those before it in ``RUNS`` have to be there."""
        getattr(self, f"_run_{name}")(self.recipe.runs[name], self.folder / name)

    def finished(self, name: str) -> int:
        """Steps that a run has behind it."""
        return finished_steps(self.folder / name)

    def encoder(self) -> VideoEncoder:
        """The video encoder, which is not trained."""
        return load(VideoEncoder, Checkpoint(self._start))

    def decoder(self) -> VideoDecoder:
        """The video decoder as far as it has come."""
        return self._so_far(load(VideoDecoder, Checkpoint(self._start)), "decoder")

    def statistics(self) -> LatentStatistics:
        """Mean and deviation of the latent's channels."""
        return load(LatentStatistics, Checkpoint(self._start))

    def text(self) -> tuple[TextEncoder, TextFeatures]:
        """The language model and the trained text features."""
        network = bundle.new_features()
        if self.finished("text"):
            weights = averaged_weights(self.folder / "text")
            mine = [(n.removeprefix("features."), v) for n, v in weights.items() if n.startswith("features.")]
            network.load_weights(mine)
        network.freeze()
        return load_gemma(self.folder / "gemma", dtype=mx.float32), network

    def transformer(self, name: str) -> Transformer:
        """The dev or distilled transformer as far as it has come; the distilled one starts as the dev one."""
        network = denoiser.fresh(bundle.new_transformer())
        return self._so_far(network, name if self.finished(name) else "dev")

    def upscaler(self, name: str) -> LatentUpscaler:
        """The spatial or temporal upscaler as far as it has come."""
        return self._so_far(bundle.new_upscaler(temporal=name == "temporal"), name)

    def _so_far(self, network: NetworkT, name: str) -> NetworkT:
        if self.finished(name):
            network.load_weights(list(averaged_weights(self.folder / name).items()), strict=False)
        return network

    def latents(self, count: int, **size: Any) -> np.ndarray:
        """Latents of the first scenes, encoded now if they are not there yet."""
        return clips.latents(self.encoder(), self.folder / "clips", count, **size)

    def _places(self, scale: int) -> np.ndarray:
        rows, columns = autoencoder.HEIGHT * scale // 16, autoencoder.WIDTH * scale // 16
        return denoiser.positions(LatentShape(5, rows, columns), bundle.FRAME_RATE)

    def _run_text(self, settings: Settings, folder: Path) -> None:
        encoder = load_gemma(self.folder / "gemma", dtype=mx.float32)
        language.train_features(encoder, bundle.new_features(), settings, folder)

    def _run_dev(self, settings: Settings, folder: Path) -> None:
        network = denoiser.fresh(bundle.new_transformer())
        batches = denoiser.clip_batches(self.latents(self.recipe.clips), *self.text())
        train(network, denoiser.flow_loss(self._places(1)), batches, settings, folder)

    def _run_decoder(self, settings: Settings, folder: Path) -> None:
        decoder = load(VideoDecoder, Checkpoint(self._start))
        autoencoder.train_decoder(self.encoder(), decoder, settings, folder)

    def _run_spatial(self, settings: Settings, folder: Path) -> None:
        count = self.recipe.larger
        self._run_upscaler("spatial", self.latents(count), self.latents(count, scale=2), settings, folder)

    def _run_temporal(self, settings: Settings, folder: Path) -> None:
        # At the size of finished videos, where things move several pixels between frames.
        count, twice = self.recipe.longer, 2 * autoencoder.NUM_FRAMES - 1
        longer = self.latents(count, scale=2, num_frames=twice)
        self._run_upscaler("temporal", self.latents(count, scale=2), longer, settings, folder)

    def _run_upscaler(self, name: str, small: np.ndarray, large: np.ndarray, settings: Settings, folder: Path) -> None:
        network, statistics = bundle.new_upscaler(temporal=name == "temporal"), self.statistics()
        upscaler.start(network, statistics, small[: self.recipe.fitted], large[: self.recipe.fitted])
        upscaler.train_upscaler(network, statistics, small, large, settings, folder)

    def _teacher(self) -> distill.Teacher:
        network = self.transformer("dev")
        network.freeze()
        shape = LatentShape(5, autoencoder.HEIGHT // 16, autoencoder.WIDTH // 16)
        return distill.Teacher(network, shape, bundle.FRAME_RATE, self.recipe.guidance_scale, *self.text())

    def _large(self, teacher: distill.Teacher) -> distill.Large:
        """What the refinement is learned from."""
        small, spatial, statistics = self.latents(self.recipe.larger), self.upscaler("spatial"), self.statistics()
        encoder, features = self.text()
        rng = np.random.default_rng(0)
        versions: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for start in range(0, len(small), 50):
            part = small[start : start + 50].astype(np.float32)
            said = [caption(clips.scene_of(start + number), rng) for number in range(len(part))]
            remade = teacher.remade(part, mx.array(language.contexts(encoder, features, said)), rng)
            for version, latents in zip(versions, (part, remade), strict=True):
                version.append(np.array(spatial.upscale(mx.array(latents), statistics)))
        upscaled = [np.concatenate(version) for version in versions]
        return distill.Large(self.latents(self.recipe.larger, scale=2), upscaled, bundle.DEFAULTS["refinement"])

    def _run_distilled(self, settings: Settings, folder: Path) -> None:
        teacher = self._teacher()
        small, large = self.latents(self.recipe.clips), self._large(teacher)
        batches = distill.distillation_batches(teacher, small, large, *self.text())
        loss = distill.distillation_loss(self._places(1), self._places(2))
        train(self._so_far(bundle.new_transformer(), "dev"), loss, batches, settings, folder)

    def write_bundle(self, target: Path) -> None:
        """Write the model in the box as far as it has come, with its logs beside it."""
        decoder = bundle.published(self.decoder(), lambda name: bundle.vae_name(name, "decoder"))
        encoder = bundle.published(self.encoder(), lambda name: bundle.vae_name(name, "encoder"))
        dev, distilled = self.transformer("dev"), self.transformer("distilled")
        parts = bundle.Parts(
            vae=encoder | decoder,
            features=self.text()[1],
            dev=dev,
            distilled=distilled,
            lora=bundle.difference(dev, distilled, self.recipe.lora_numbers),
            spatial=self.upscaler("spatial"),
            temporal=self.upscaler("temporal"),
            training={"steps": {name: self.finished(name) for name in RUNS}},
        )
        shutil.copytree(self.folder / "gemma", target / "gemma", dirs_exist_ok=True)
        copy_logs(self.folder, RUNS, target / "logs")
        done = all(self.finished(name) >= settings.steps for name, settings in self.recipe.runs.items())
        bundle.write_bundle(target, parts, NOTICE if done else f"{NOTICE} {UNFINISHED}")
