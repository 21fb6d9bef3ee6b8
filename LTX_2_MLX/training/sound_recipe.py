"""From a model that is silent to one with sound: every run in order, each resumed where it stopped."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.gemma3 import TextEncoder, load_gemma
from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.models.ltx.vocoder import Vocoder
from LTX_2_MLX.shapes import LatentShape
from LTX_2_MLX.training import (
    autoencoder,
    bundle,
    clips,
    denoiser,
    language,
    sound_bundle,
    sound_networks,
    sound_stream,
)
from LTX_2_MLX.training.loop import NetworkT, Settings, averaged_weights, copy_logs, finished_steps, train
from LTX_2_MLX.training.sound_stream import Records

SOUND_RUNS = ("audio_vae", "vocoder", "audio")


@dataclass(frozen=True)
class SoundRecipe:
    """How much of everything.

    Attributes:
        sounds: Random sounds that the audio VAE and the vocoder are trained on.
        clips: Training scenes as latents of 64×96 pixels, and of 128×192 pixels.
        records: How often the dev transformer's video stream is recorded, the distilled one's at the small size, and
            at the large one.
        shares: How often the audio stream is trained on each of these.
        runs: Settings of every run by name.
    """

    sounds: int = 300
    clips: tuple[int, int] = (3000, 600)
    records: tuple[int, int, int] = (2400, 900, 500)
    shares: tuple[float, float, float] = (0.55, 0.25, 0.2)
    runs: dict[str, Settings] = field(
        default_factory=lambda: {
            "audio_vae": Settings(
                steps=700, batch_size=4, matrix_rate=0.01, rate=2e-3, warmup=20, cooldown=0.4, average=0.98
            ),
            "vocoder": Settings(
                steps=900, batch_size=8, matrix_rate=0.01, rate=1e-3, warmup=20, average=0.98, traced=False
            ),
            "audio": Settings(
                steps=1500, batch_size=20, matrix_rate=0.01, rate=1e-3, warmup=30, average=0.99, traced=False
            ),
        }
    )

    def with_steps(self, name: str, steps: int) -> "SoundRecipe":
        """The same with another length of one run; 0 only takes what it has come to."""
        return replace(self, runs=self.runs | {name: replace(self.runs[name], steps=steps)})

    def shortened(self, steps: int) -> "SoundRecipe":
        """The same in a few seconds: what a test can afford."""
        runs = {
            name: replace(settings, steps=steps, batch_size=2, warmup=2, log_every=1, cooldown=0.0, traced=False)
            for name, settings in self.runs.items()
        }
        return replace(self, sounds=4, clips=(4, 4), records=(4, 4, 4), runs=runs)


class SoundWorkshop:
    """One folder with everything that training of the sound keeps, the recipe it follows, and the model it is for.

    Args:
        folder: Gets ``clips/``, the records and one folder for each run.
        model: A complete model in the box, silent or not; its video networks are taken as they are.
        recipe: How much of everything.
    """

    def __init__(self, folder: Path, model: Path, recipe: SoundRecipe):
        self.folder, self.model, self.recipe = folder, model, recipe
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, name: str) -> None:
        """Train one network, or go on with it; those before it in ``SOUND_RUNS`` have to be there."""
        getattr(self, f"_run_{name}")(self.recipe.runs[name], self.folder / name)

    def finished(self, name: str) -> int:
        """Steps that a run has behind it."""
        return finished_steps(self.folder / name)

    def vae(self) -> sound_networks.SoundVAE:
        """Encoder and decoder as far as they have come, with the latent's statistics over the world's sounds."""
        network = self._so_far(sound_networks.SoundVAE(), "audio_vae")
        scenes = [clips.scene_of(number) for number in range(min(200, self.recipe.clips[0]))]
        sound_networks.set_statistics(network, sound_networks.latents(network.encoder, scenes))
        return network

    def vocoder(self) -> Vocoder:
        """The vocoder as far as it has come."""
        return self._so_far(sound_networks.new_vocoder(), "vocoder")

    def transformer(self) -> Transformer:
        """The dev transformer with its audio stream as far as that has come."""
        return self._so_far(sound_stream.begin_sound(self._video_stream("dev")), "audio")

    def _so_far(self, network: NetworkT, name: str) -> NetworkT:
        if self.finished(name):
            network.load_weights(list(averaged_weights(self.folder / name).items()), strict=False)
        return network

    def _video_stream(self, name: str) -> Transformer:
        """A transformer with the model's video stream, its audio stream yet to be set."""
        trained = load(Transformer, self._checkpoint(name), dtype=mx.float32)
        network = bundle.new_transformer(sound=True)
        weights: dict[str, mx.array] = dict(tree_flatten(trained.parameters()))
        network.load_weights(list(weights.items()), strict=False)
        return network

    def _checkpoint(self, name: str) -> Checkpoint:
        return Checkpoint(self.model / bundle.FILES[name])

    def _text(self) -> tuple[TextEncoder, TextFeatures]:
        features = load(TextFeatures, self._checkpoint("dev"), dtype=mx.float32)
        return load_gemma(self.model / "gemma", dtype=mx.float32), features

    def _latents(self, scale: int) -> np.ndarray:
        encoder = load(VideoEncoder, self._checkpoint("dev"), dtype=mx.float32)
        return clips.latents(encoder, self.folder / "clips", self.recipe.clips[scale - 1], scale=scale)

    def _run_audio_vae(self, settings: Settings, folder: Path) -> None:
        sound_networks.train_vae(self.recipe.sounds, settings, folder)

    def _run_vocoder(self, settings: Settings, folder: Path) -> None:
        sound_networks.train_vocoder(self.recipe.sounds, settings, folder)

    def _run_audio(self, settings: Settings, folder: Path) -> None:
        network = sound_stream.begin_sound(self._video_stream("dev"))
        scenes = [clips.scene_of(number) for number in range(self.recipe.clips[0])]
        sounds = sound_networks.latents(self.vae().encoder, scenes)
        empty = language.contexts(*self._text(), [""])[0]
        batches = sound_stream.sound_batches(self.records(), self.recipe.shares, sounds, empty)
        train(network, sound_stream.sound_loss, batches, settings, folder)

    def records(self) -> list[Records]:
        """The three kinds of records; made now if they are not there yet."""
        kinds = (
            ("dev", 1, sound_stream.even_sigmas),
            ("distilled", 1, sound_stream.distilled_sigmas),
            ("distilled", 2, sound_stream.refinement_sigmas),
        )
        found = []
        for kind, ((name, scale, draw), count) in enumerate(zip(kinds, self.recipe.records, strict=True)):
            path = self.folder / f"records_{name}_{scale}.npz"
            if not path.exists():
                rng = np.random.default_rng((55, kind))
                rows, columns = autoencoder.HEIGHT * scale // 16, autoencoder.WIDTH * scale // 16
                places = denoiser.positions(LatentShape(5, rows, columns), bundle.FRAME_RATE)
                made = sound_stream.record(
                    self._video_stream(name), self._latents(scale), places, draw(rng, count), self._text(), rng
                )
                part = path.with_suffix(".part.npz")
                np.savez(part, **vars(made))
                part.rename(path)
            with np.load(path) as arrays:
                found.append(Records(**arrays))
        return found

    def write(self, target: Path) -> None:
        """Write the model with its sound as far as that has come, with the logs beside it."""
        steps = {"sound": {name: self.finished(name) for name in SOUND_RUNS}}
        copy_logs(self.folder, SOUND_RUNS, target / "logs")
        sound_bundle.write_with_sound(target, self.model, self.transformer(), self.vae(), self.vocoder(), steps)
