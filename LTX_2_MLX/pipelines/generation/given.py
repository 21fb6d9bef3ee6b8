"""Sound that a video follows: opened with the request, encoded by a stage, written as it is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

from LTX_2_MLX.diffusion.patchify import AudioClock
from LTX_2_MLX.media.audio import Audio
from LTX_2_MLX.media.given_sound import GivenSound
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.state import GenerationStage
from LTX_2_MLX.shapes import frames_lasting

_LONGEST_SECONDS = Fraction(20)


@dataclass(frozen=True)
class Given:
    """Sound that the user gives beside the prompt.

    Attributes:
        sound: Sound that is encoded and attended to.
        frozen_audio: The audio stream is only attended to, not denoised.
        written: Audio that the video gets as it is, instead of a generated one.
    """

    sound: GivenSound
    frozen_audio: bool
    written: Audio | None


def given_by(options: Options, models: Models, note: Callable[[str], None]) -> tuple[Options, Given]:
    """What the options name, opened, and the options with the length that follows from it.

    Args:
        options: With ``audio_input``.
        models: The model's files.
        note: Callback for automatic choices.

    Raises:
        MediaError: If the file cannot be read, or has no sound.
        RequestError: If the model cannot read it.
    """
    # Few runs are given a sound.
    from LTX_2_MLX.pipelines.generation.given_sound import note_lengths, sound_to_follow

    sound = sound_to_follow(options.audio_input, models)
    frame_rate = models.defaults.frame_rate if options.fps is None else Fraction(options.fps)
    num_frames = options.frames
    if num_frames is None:
        # As long as the sound, up to the longest that the models were made for.
        seconds = min(sound.seconds, _LONGEST_SECONDS) if options.duration is None else Fraction(str(options.duration))
        num_frames = max(frames_lasting(seconds, frame_rate, models.compression), models.compression.time + 1)
    note_lengths(sound, num_frames, frame_rate, note)
    written = sound.until(num_frames / frame_rate)
    return replace(options, frames=num_frames, duration=None), Given(sound, frozen_audio=True, written=written)


def given_stages(given: Given, models: Models, num_frames: int, frame_rate: Fraction) -> list[GenerationStage]:
    """The stages that encode what is given, for a video of that length."""
    from LTX_2_MLX.pipelines.generation.given_sound import EncodeSound

    return [
        EncodeSound(
            sound=given.sound,
            weights=models.audio_vae,
            num_latents=max(AudioClock().num_latents(num_frames, frame_rate), 1),
            seconds=num_frames / frame_rate,
        )
    ]
