"""Stage from a user's clip to the latents that denoising starts from, and the span of it that is denoised."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.frames import FrameStream, SourceTracks
from LTX_2_MLX.media.given_sound import sound_of_clip
from LTX_2_MLX.media.video import read_video
from LTX_2_MLX.pipelines.generation.decode import activation_budget
from LTX_2_MLX.pipelines.generation.encode import EncodeClip, padded_length
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.given import Given, GivenClip
from LTX_2_MLX.pipelines.generation.given_sound import check_encodes_sound, unreadable_sound
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.state import GenerationState, Result, contents
from LTX_2_MLX.planning.plan import Estimate
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.shapes import VideoShape

# A span may end this many frames after the clip: lengths in seconds are rounded.
_TOLERATED_FRAMES = 1


@dataclass(frozen=True)
class EncodeGivenClip:
    """Video encoder: the frames of a clip that are kept to latents, followed by empty ones where the clip goes on.

    Attributes:
        clip: The user's.
        encode: The stage that encodes it.
        num_latents: Latent frames of the video.
    """

    clip: GivenClip
    encode: EncodeClip
    num_latents: int
    needs: ClassVar[tuple[Result, ...]] = ()
    gives: ClassVar[Result] = "latents"
    saved_as = "clip_latent"
    name = EncodeClip.name

    def estimate(self) -> Estimate:
        """One chunk of frames, and what decoding the file takes."""
        estimate = self.encode.estimate()
        return replace(
            estimate,
            work=f"{estimate.work}, {self.clip.num_kept} frames",
            activation_bytes=estimate.activation_bytes + self.clip.decoding_bytes,
        )

    def run(self, runner: StageRunner, state: GenerationState) -> GenerationState:
        """Read and encode the clip. Raises MediaError if it cannot be read."""
        stream = read_video(self.clip.path)
        kept = stream.replace(chunks=_first_frames(stream, self.clip.num_kept), num_frames=self.clip.num_kept)
        latent = self.encode.run(runner, kept).latents["video"]
        missing = self.num_latents - latent.shape[1]
        latent = mx.pad(latent, [(0, 0), (0, missing), (0, 0), (0, 0), (0, 0)])
        mx.eval(latent)
        return replace(state, latents=state.latents | {"video": latent})

    def facts(self) -> dict[str, Any]:
        """The clip, how much of it is kept, and the checkpoint with what tiles follow from."""
        return {
            "clip": contents(self.clip.path),
            "num_kept": self.clip.num_kept,
            "num_latents": self.num_latents,
            "weights": contents(*self.encode.weights.paths),
            "dtype": str(self.encode.dtype),
            "tile_size": self.encode.tile_size,
            "budget": self.encode.budget,
        }


def clip_to_change(options: Options, models: Models, note: Callable[[str], None]) -> tuple[Options, Given]:
    """The clip of ``--retake`` or ``--extend``, and the options of the video that is denoised in its place.

    Args:
        options: With ``retake`` or ``extend``.
        models: The model's files.
        note: Callback for what the file and the sizes of latents lead to.

    Raises:
        MediaError: If the clip cannot be read.
        RequestError: If the span is outside of it, or the model cannot read its sound.
    """
    stream = read_video(str(options.retake or options.extend))
    stream.close()
    for line in stream.notes:
        note(line)
    clip = _clip(options, models, stream, note)
    shape = clip.encode.shape
    settled = replace(
        options,
        retake=None,
        retake_from=None,
        retake_to=None,
        extend=None,
        seconds=None,
        height=shape.height,
        width=shape.width,
        frames=padded_length(clip.shape.num_frames, models.compression.time),
        fps=stream.frame_rate,
        # As the reference, whatever the checkpoint's generation.
        sampler=options.sampler or "euler",
    )
    return settled, _with_sound(options, models, stream, clip, note)


def _clip(options: Options, models: Models, stream: FrameStream, note: Callable[[str], None]) -> GivenClip:
    """How much of the clip is kept, and the span that is denoised."""
    path = Path(str(options.retake or options.extend))
    count, rate, step = num_frames_of(stream), stream.frame_rate, models.compression.time
    if options.extend is not None:
        assert options.seconds is not None
        kept = (count - 1) // step * step + 1
        shown = count + round(Fraction(str(options.seconds)) * rate)
        # Between the last latent that is kept and the first that is made, away from the bounds of both.
        span = (float((kept + Fraction(1, 2)) / rate), float(padded_length(shown, step) / rate + 1))
        if kept < count:
            note(
                f"The last {count - kept} frames of {path.name} are made anew: latents hold {step} frames, after the "
                f"first."
            )
    else:
        kept = shown = count
        assert options.retake_from is not None and options.retake_to is not None
        span = (options.retake_from, options.retake_to)
        _check_span(span, path, stream)
    encode = EncodeClip(
        weights=models.video_vae,
        dtype=models.dtype,
        clip=FrameStream((), stream.height, stream.width, rate, kept),
        budget=activation_budget(options.memory_limit_gb),
    )
    return GivenClip(
        path=path,
        encode=encode,
        num_kept=kept,
        shape=VideoShape(shown, stream.height, stream.width),
        region_seconds=span,
        times=_continued(stream, shown),
        display=stream.display,
        decoding_bytes=stream.decoding_bytes,
    )


def _check_span(span: tuple[float, float], path: Path, stream: FrameStream) -> None:
    count = num_frames_of(stream)
    seconds = count / stream.frame_rate
    if count == 1:
        raise RequestError(f"{path.name} has a single frame. Give --retake a video.")
    start, end = span
    if start >= seconds or end > seconds + _TOLERATED_FRAMES / stream.frame_rate:
        flag, value = ("--from", start) if start >= seconds else ("--to", end)
        raise RequestError(
            f"{flag} is {value:g}, but {path.name} lasts {float(seconds):.2f} s. Give a span inside the clip."
        )


def num_frames_of(stream: FrameStream) -> int:
    """Frames of a clip that was looked through."""
    assert stream.num_frames is not None
    return stream.num_frames


def _continued(stream: FrameStream, num_frames: int) -> tuple[Fraction, ...] | None:
    """Times of a clip's frames; those after its end follow at the mean rate."""
    if stream.times is None:
        return None
    later = num_frames - num_frames_of(stream)
    return (*stream.times, *(stream.times[-1] + number / stream.frame_rate for number in range(1, later + 1)))


def _with_sound(
    options: Options, models: Models, stream: FrameStream, clip: GivenClip, note: Callable[[str], None]
) -> Given:
    """What becomes of the clip's sound: made anew with the video, or kept as it is."""
    seconds = num_frames_of(stream) / stream.frame_rate
    sound = sound_of_clip(stream.audio, seconds) if isinstance(stream.audio, SourceTracks) else None
    if options.audio or (options.audio is None and models.has_sound):
        if sound is not None:
            check_encodes_sound(models, "--retake" if options.extend is None else "--extend")
        return Given(sound, frozen_audio=False, written=None, clip=clip)
    if sound is not None and options.audio is None:
        note(f"The sound of {clip.path.name} stays as it is: {models.weights.path.name} makes none.")
    if sound is not None and unreadable_sound(models):
        sound = None
    frozen = sound is not None and options.retake is not None
    return Given(sound, frozen_audio=frozen, written=stream.audio, clip=clip)


def _first_frames(stream: FrameStream, count: int) -> Iterator[np.ndarray]:
    """Chunks of the first ``count`` frames; the clip is closed after them."""
    left = count
    try:
        for chunk in stream:
            yield chunk[:left]
            left -= len(chunk)
            if left <= 0:
                return
    finally:
        stream.close()
