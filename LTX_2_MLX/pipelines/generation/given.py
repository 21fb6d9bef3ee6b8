"""Sound and clips that the user gives: opened with the request, encoded by stages, written as they are."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from LTX_2_MLX.diffusion.state import AudioClock
from LTX_2_MLX.media.audio import Audio
from LTX_2_MLX.media.encoder import Display
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.given_sound import GivenSound
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.state import GenerationStage
from LTX_2_MLX.shapes import VideoShape, frames_lasting

if TYPE_CHECKING:
    from LTX_2_MLX.pipelines.generation.encode import EncodeClip

_LONGEST_SECONDS = Fraction(20)


@dataclass(frozen=True)
class GivenClip:
    """A clip that is made anew in part, or continued.

    Attributes:
        path: The file.
        encode: The stage that encodes it.
        num_kept: Frames of it that are encoded, from the first one on.
        shape: Size and length of the finished video.
        region_seconds: The span that is denoised; the rest is held.
        times: Start of each frame of the finished video, see ``FrameStream``.
        display: Pixel aspect and colour tags.
        decoding_bytes: Memory that decoding the file takes.
    """

    path: Path
    encode: "EncodeClip"
    num_kept: int
    shape: VideoShape
    region_seconds: tuple[float, float]
    times: tuple[Fraction, ...] | None
    display: Display
    decoding_bytes: int


@dataclass(frozen=True)
class Given:
    """Sound or a clip that the user gives beside the prompt.

    Attributes:
        sound: Sound that is encoded and attended to; None for a silent clip, or a model that reads none.
        frozen_audio: The audio stream is only attended to, not denoised.
        written: Audio that the video gets as it is, instead of a generated one.
        clip: The clip; None: sound alone is given.
    """

    sound: GivenSound | None
    frozen_audio: bool
    written: Audio | None
    clip: GivenClip | None = None

    @property
    def region_seconds(self) -> tuple[float, float] | None:
        """The span that is denoised; None: all of the video."""
        return None if self.clip is None else self.clip.region_seconds

    def finish(self, video: FrameStream) -> FrameStream:
        """The decoded video with the sound that it gets as it is, and the clip's times and tags."""
        if self.written is not None:
            video = video.replace(audio=self.written)
        if self.clip is not None:
            video = video.replace(times=self.clip.times, display=self.clip.display)
        return video


def given_by(options: Options, models: Models, note: Callable[[str], None]) -> tuple[Options, Given]:
    """Opened files that the options give, and the options with the length and size that follow from them.

    Args:
        options: With ``audio_input``, ``retake`` or ``extend``.
        models: The model's files.
        note: Callback for automatic choices.

    Raises:
        MediaError: If the file cannot be read, or has no sound.
        RequestError: If the model cannot read it, or a span is outside of the clip.
    """
    # Few runs are given a sound or a clip.
    if options.has_clip:
        from LTX_2_MLX.pipelines.generation.given_clip import clip_to_change

        return clip_to_change(options, models, note)
    from LTX_2_MLX.pipelines.generation.given_sound import note_lengths, sound_to_follow

    sound = sound_to_follow(options.audio_input, models)
    frame_rate = models.defaults.frame_rate if options.fps is None else Fraction(options.fps)
    num_frames = options.frames
    if num_frames is None:
        # As long as the sound, up to the longest that the models were made for.
        seconds = min(sound.seconds, _LONGEST_SECONDS) if options.duration is None else Fraction(str(options.duration))
        num_frames = max(frames_lasting(seconds, frame_rate, models.compression), models.compression.time + 1)
    note_lengths(sound, num_frames, frame_rate, models.compression.time, note)
    written = sound.until(num_frames / frame_rate)
    return replace(options, frames=num_frames, duration=None), Given(sound, frozen_audio=True, written=written)


def given_stages(given: Given, models: Models, num_frames: int, frame_rate: Fraction) -> list[GenerationStage]:
    """The stages that encode what is given, for a video of that length."""
    stages: list[GenerationStage] = []
    if given.clip is not None:
        from LTX_2_MLX.pipelines.generation.given_clip import EncodeGivenClip

        num_latents = (num_frames - 1) // models.compression.time + 1
        stages.append(EncodeGivenClip(given.clip, given.clip.encode, num_latents))
    if given.sound is not None:
        from LTX_2_MLX.pipelines.generation.given_sound import EncodeSound

        stages.append(
            EncodeSound(
                sound=given.sound,
                weights=models.audio_vae,
                num_latents=max(AudioClock().num_latents(num_frames, frame_rate), 1),
                seconds=num_frames / frame_rate,
            )
        )
    return stages
