"""Previews: contact sheets of a denoising stage's clean estimate, while it runs.

The first, middle and last latent frame are decoded alone, as if each were a clip of one frame, with the stage's sound
as a waveform below them. Nothing that the run computes depends on them.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import mlx.core as mx
import numpy as np
from PIL import Image

from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion.sampler import Denoise as DenoiseCall
from LTX_2_MLX.diffusion.sampler import OnStep
from LTX_2_MLX.diffusion.state import State, StreamArrays, VideoGrid, hold, unpatchify_video
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.files import write_file
from LTX_2_MLX.media.contact_sheet import clock, preview_sheet
from LTX_2_MLX.media.panels import peaks_of
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.pipelines.generation.decode import DecodeVideo
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.sound import DecodeSound
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationStage
from LTX_2_MLX.planning.plan import Estimate, format_bytes
from LTX_2_MLX.runtime.progress import Progress, show_preview
from LTX_2_MLX.runtime.runner import StageRunner

if TYPE_CHECKING:
    from LTX_2_MLX.pipelines.generation.denoise import Denoise
    from LTX_2_MLX.pipelines.generation.rendering_stages import RenderingStage

# The guided call of the transformer and the callback after each step, both with something that looks on.
Watch = Callable[[DenoiseCall, OnStep], tuple[DenoiseCall, OnStep]]
_PEAKS_PER_SECOND = 100


class LoneFrames(Protocol):
    """A decoder of single latent frames."""

    def estimate(self) -> Estimate:
        """Memory of the decoder and of one frame."""

    def load(self) -> Any:
        """The network."""

    def frame(self, network: Any, latent: mx.array) -> np.ndarray:
        """The frame ``(H, W, 3)`` uint8 of one latent frame ``(1, 1, H', W', C)``."""


@dataclass(frozen=True)
class ConvolutionalFrames:
    """The convolutional decoder, on single frames.

    Attributes:
        decode: Its stage, for a clip of one latent frame.
    """

    decode: DecodeVideo

    def estimate(self) -> Estimate:
        """Memory of the decoder and of one frame."""
        return self.decode.estimate()

    def load(self) -> VideoDecoder:
        """The network."""
        return load(VideoDecoder, self.decode.weights, dtype=self.decode.dtype)

    def frame(self, network: VideoDecoder, latent: mx.array) -> np.ndarray:
        """The frame ``(H, W, 3)`` uint8 of one latent frame ``(1, 1, H', W', C)``."""
        frame: np.ndarray = next(self.decode.chunks_of(network, latent))[0]
        return frame


@dataclass(frozen=True)
class Previews:
    """Previews of a whole run.

    Attributes:
        folder: Where sheets are written, as ``STAGE-STEP.png``.
        every: Steps from one to the next.
        tiny: The tiny decoder, where the model's own is a diffusion decoder, which makes no single frames.
    """

    folder: Path
    every: int = 1
    tiny: Checkpoint | None = None

    @classmethod
    def of(cls, folder: Path, every: int, models: Models, note: Callable[[str], None]) -> "Previews":
        """The previews of a run with these files; ``note`` gets a line where they are the tiny decoder's.

        Raises:
            CheckpointError: If no decoder at hand makes single frames.
        """
        if not models.decodes_by_diffusion:
            return cls(folder, every)
        from LTX_2_MLX.pipelines.generation.tiny_frames import open_tiny_decoder

        tiny = open_tiny_decoder(models.compression, config_of(Transformer, models.weights).video.in_channels)
        note(f"Previews are decoded by {tiny.path.name}, since {models.video_vae.path.name} decodes by diffusion.")
        return cls(folder, every, tiny)

    def make_folder(self) -> None:
        """Make the folder, where it is not there.

        Raises:
            RequestError: If it cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(f"The folder {self.folder} for previews cannot be made: {error.strerror}.") from error

    def added_to(self, stages: Sequence[GenerationStage]) -> list[GenerationStage]:
        """The same stages, with a preview in every one that denoises the whole video at once."""
        decode = stages[-1]
        assert isinstance(decode, DecodeVideo), decode
        sound = next((stage for stage in stages if isinstance(stage, DecodeSound)), None)
        shown: list[GenerationStage] = []
        for stage in stages:
            if getattr(stage, "shows_previews", False):
                denoise = cast("Denoise | RenderingStage", stage)
                frames = self._lone_frames(decode, denoise)
                stage = replace(denoise, preview=StagePreview(stage.name, self, denoise.grid, frames, sound))
            elif isinstance(stage, DecodeSound):
                # Stages after it do not change the sound.
                sound = None
            shown.append(stage)
        return shown

    def _lone_frames(self, decode: DecodeVideo, stage: "Denoise | RenderingStage") -> LoneFrames:
        """The decoder of a stage's single frames, with the settings of the run's decoding stage."""
        shape = replace(stage.grid.shape, num_frames=1)
        if self.tiny is None:
            return ConvolutionalFrames(replace(decode, shape=shape, num_frames=None, dtype=stage.models.dtype))
        from LTX_2_MLX.pipelines.generation.tiny_frames import TinyFrames

        return TinyFrames(self.tiny, shape, stage.models.dtype)


@dataclass(frozen=True)
class StagePreview:
    """Previews of one denoising stage.

    Attributes:
        name: Of the stage.
        previews: Folder and steps.
        grid: Latent grid of the stage's video.
        frames: Decoder of single frames.
        sound: The stage that decodes the sound; None: no waveform.
    """

    name: str
    previews: Previews
    grid: VideoGrid
    frames: LoneFrames
    sound: DecodeSound | None = None

    def added_to(self, estimate: Estimate) -> Estimate:
        """The stage's estimate with the decoders held beside the transformer; they work in turn with it."""
        parts = [self.frames.estimate()]
        if self.sound is not None:
            parts.append(self.sound.estimate())
        weights = sum(part.weights_bytes for part in parts)
        working = max(part.activation_bytes for part in parts)
        names = " and ".join(dict.fromkeys(part.file.name for part in parts))
        return replace(
            estimate,
            weights_bytes=estimate.weights_bytes + weights,
            activation_bytes=max(estimate.activation_bytes, working),
            array_bytes=max(estimate.array_bytes, *(part.array_bytes for part in parts)),
            size=f"Previews of {self.name}: {format_bytes(weights)} of decoders from {names} beside the transformer",
        )

    def run_beside(
        self, runner: StageRunner, load_model: Callable[[], Any], work: Callable[[Any, Watch], Arrays], total: int
    ) -> Arrays:
        """Run a stage with its previews; their networks are loaded and freed with the stage's own.

        Args:
            runner: Runs the stage.
            load_model: Loads the stage's own network.
            work: Takes it and the watch, and gives the latents.
            total: Number of steps.
        """

        def load_all() -> tuple[Any, Any, Any]:
            return load_model(), self.frames.load(), None if self.sound is None else self.sound.load()

        def work_watched(networks: tuple[Any, Any, Any]) -> Arrays:
            model, *decoders = networks
            return work(model, _Watcher(self, decoders, total, runner.progress).watch)

        return runner.run(self.name, load_all, work_watched)

    def sheet(self, decoders: Sequence[Any], estimate: StreamArrays, title: str) -> np.ndarray:
        """The sheet ``(H, W, 3)`` uint8 of a clean estimate in tokens."""
        decoder, sound_networks = decoders
        latent = unpatchify_video(estimate["video"], self.grid.shape)
        frames, labels = [], []
        num_frames = self.grid.shape.num_frames
        for index in sorted({0, num_frames // 2, num_frames - 1}):
            frames.append(self.frames.frame(decoder, latent[:, index : index + 1]))
            labels.append(clock(index * self.grid.compression.time / self.grid.frame_rate))
        peaks = None
        if self.sound is not None and "audio" in estimate:
            sound = self.sound.decode(sound_networks, estimate["audio"])
            step = max(int(np.asarray(sound["sample_rate"])) // _PEAKS_PER_SECOND, 1)
            peaks = peaks_of(np.asarray(sound["waveform"]), step)
        return preview_sheet(title, frames, labels, peaks)


class _Watcher:
    """Keeps the last clean estimate of a stage, and writes a sheet of it after steps."""

    def __init__(self, preview: StagePreview, decoders: Sequence[Any], total: int, progress: Progress):
        self._preview, self._decoders, self._total, self._progress = preview, decoders, total, progress
        self._estimate: StreamArrays = {}
        self._writes = True

    def watch(self, denoise: DenoiseCall, on_step: OnStep) -> tuple[DenoiseCall, OnStep]:
        """The same call and callback, watched."""

        def watched(state: State, sigma: float, step: int) -> StreamArrays:
            denoised = denoise(state, sigma, step)
            self._estimate = hold(state, denoised)
            return denoised

        def after(step: int, state: State) -> None:
            on_step(step, state)
            done = step + 1
            if self._writes and (done % self._preview.previews.every == 0 or done == self._total):
                self._show(done)

        return watched, after

    def _show(self, done: int) -> None:
        name = self._preview.name
        sheet = self._preview.sheet(self._decoders, self._estimate, f"{name}   step {done} of {self._total}")
        buffer = io.BytesIO()
        Image.fromarray(sheet).save(buffer, "PNG")
        path = self._preview.previews.folder / f"{name}-{done:0{len(str(self._total))}d}.png"
        try:
            write_file(path, buffer.getvalue())
        except OSError as error:
            # The video is worth more than its previews.
            self._writes = False
            self._progress.note(f"{path} cannot be written ({error.strerror}). There are no more previews of {name}.")
            return
        show_preview(self._progress, name, path)
