"""Stage from the sound of a user's file to audio latents, and what a request takes from such a file."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar

import mlx.core as mx

from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion.state import patchify_audio
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.given_sound import GivenSound, open_sound
from LTX_2_MLX.models.ltx.audio_encoding import PIECE_FRAMES, encode_audio
from LTX_2_MLX.models.ltx.audio_vae import AudioEncoder, AudioEncoderConfig
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationState, Result, contents
from LTX_2_MLX.planning.plan import Estimate, dtype_for, network_weights_bytes
from LTX_2_MLX.runtime.runner import StageRunner, check_result

_DTYPE = dtype_for("sound")
# Arrays of the first level that live at once, as measured on the CPU, which lays the 9 values under a kernel side by
# side; those of a GPU are counted from the layers, not measured.
_CPU_ARRAYS = 9 * 2.27
_GPU_ARRAYS = 6


@dataclass(frozen=True)
class EncodeSound:
    """Audio VAE's encoder: the sound of a file to audio latents, in float32.

    Attributes:
        sound: The file's.
        weights: The checkpoint with the encoder.
        num_latents: Audio latents of the video.
        seconds: Of the video; silence where the sound is shorter.
        piece_frames: Latent frames that are encoded at once.
    """

    sound: GivenSound
    weights: Checkpoint
    num_latents: int
    seconds: Fraction
    piece_frames: int = PIECE_FRAMES
    name = "encode_audio"
    needs: ClassVar[tuple[Result, ...]] = ("latents",)
    gives: ClassVar[Result] = "latents"
    saved_as = "audio_latent"

    def estimate(self) -> Estimate:
        """One piece."""
        config = config_of(AudioEncoder, self.weights)
        piece, array = piece_bytes(config, self.num_latents, self.piece_frames)
        return Estimate(
            name=self.name,
            work=f"{float(self.seconds):.2f} s of {self.sound.path.name}",
            dtype=_DTYPE,
            file=self.weights.path,
            weights_bytes=network_weights_bytes([AudioEncoder], self.weights, dtype=_DTYPE),
            activation_bytes=piece,
            array_bytes=array,
        )

    def run(self, runner: StageRunner, state: GenerationState) -> GenerationState:
        """Encode the sound; the audio latents join the latents of the state.

        Raises:
            MediaError: If the sound cannot be decoded.
        """

        def work(encoder: AudioEncoder) -> Arrays:
            waveform = self.sound.samples(self.seconds)[None]
            pieces = []
            for piece in encode_audio(encoder, waveform, self.sound.rate, self.piece_frames):
                pieces.append(piece)
                runner.progress.advance(self.name, sum(each.shape[1] for each in pieces), self.num_latents)
            return {"audio": patchify_audio(mx.concatenate(pieces, axis=1)[:, : self.num_latents])}

        latents = runner.run(self.name, partial(load, AudioEncoder, self.weights, dtype=_DTYPE), work)
        check_result(self.name, latents)
        return replace(state, latents=state.latents | latents)

    def facts(self) -> dict[str, Any]:
        """The file, where its sound begins, the length and the checkpoint."""
        return {
            "sound": contents(self.sound.path),
            "zero": str(self.sound.track.zero),
            "seconds": str(self.seconds),
            "num_latents": self.num_latents,
            "weights": contents(self.weights.path),
        }


def piece_bytes(config: AudioEncoderConfig, num_latents: int, piece_frames: int) -> tuple[int, int]:
    """Memory of encoding one piece beside the weights, and its largest array."""
    latents = min(num_latents, piece_frames + config.encoder_context)
    level = int(latents * config.compression * config.mel.num_bins * config.channels * mx.float32.size)
    return int(level * (_CPU_ARRAYS if on_cpu() else _GPU_ARRAYS)), level


def sound_to_follow(path: Any, models: Models) -> GivenSound:
    """The sound of ``--audio-input``.

    Raises:
        MediaError: If the file cannot be read, or has no sound.
        RequestError: If the checkpoint has no audio stream, or no encoder.
    """
    check_encodes_sound(models, "--audio-input")
    return open_sound(path)


def check_encodes_sound(models: Models, flag: str) -> None:
    """Raise ``RequestError`` where the model's files cannot turn sound into latents that the transformer reads."""
    problem = unreadable_sound(models)
    if problem:
        raise RequestError(f"{flag} needs {problem}.")


def unreadable_sound(models: Models) -> str:
    """Lacking networks, for a message, where the model cannot read sound; empty where it can."""
    stream = config_of(Transformer, models.weights).audio
    if stream is None:
        return f"a checkpoint with an audio stream, which {models.weights.path.name} lacks"
    config = AudioEncoder.Config.from_header(models.audio_vae.header)
    if config is None:
        return f"an audio encoder, which {models.audio_vae.path.name} lacks. Give --audio-vae FILE"
    if stream.in_channels != config.channels:
        return (
            f"the audio VAE of {models.weights.path.name}, of {stream.in_channels} values in a latent frame; that of "
            f"{models.audio_vae.path.name} has {config.channels}"
        )
    return ""


def note_lengths(
    sound: GivenSound, num_frames: int, frame_rate: Fraction, step: int, note: Callable[[str], None]
) -> None:
    """A line where sound and video differ by more than ``step``, the frames to which lengths are rounded."""
    seconds = num_frames / frame_rate
    if abs(sound.seconds - seconds) < step / frame_rate:
        return
    ends = "it is cut" if sound.seconds > seconds else "silence follows"
    note(
        f"The sound of {sound.path.name} lasts {float(sound.seconds):.2f} s, the video {float(seconds):.2f} s: {ends}. "
        f"Give --duration for another length."
    )
