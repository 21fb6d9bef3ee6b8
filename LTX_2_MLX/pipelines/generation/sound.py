"""Sound stage: audio latents to a waveform as long as the video."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar

import mlx.core as mx

from LTX_2_MLX.checkpoints.load import build, config_of, load
from LTX_2_MLX.checkpoints.read_ahead import StoredNetwork
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion.state import AudioClock, unpatchify_audio
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.ltx.audio_decoding import PIECE_FRAMES, decode_audio
from LTX_2_MLX.models.ltx.audio_vae import AudioDecoder, AudioDecoderConfig
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.vocoder import VOCODERS, BandwidthExtensionVocoder, Vocoder
from LTX_2_MLX.models.ltx.vocoder_config import GeneratorConfig
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationState, Result, contents
from LTX_2_MLX.planning.plan import Estimate, dtype_for, network_weights_bytes
from LTX_2_MLX.runtime.runner import StageRunner, check_result

_CHANNELS = 2
# The reference runs the vocoder with bandwidth extension in float32; the other networks are small.
_DTYPE = dtype_for("sound")
# Arrays that live at once, as measured on the CPU, which lays the values under a kernel side by side; those of a GPU
# are counted from the layers, not measured. Of the decoder: convolutions of its last level, and arrays of that level.
_KERNEL_TAPS = 9
_CPU_DECODER_CONVOLUTIONS = 2.2
_GPU_DECODER_ARRAYS = 6
# Of a vocoder's level, with plain and with anti-aliased activations.
_CPU_LEVEL_ARRAYS = {False: 33.0, True: 10.1}
_GPU_LEVEL_ARRAYS = {False: 6.0, True: 12.0}

Networks = tuple[AudioDecoder, BandwidthExtensionVocoder | Vocoder]


@dataclass(frozen=True)
class DecodeSound:
    """Audio VAE's decoder and vocoder: audio latents to a waveform, in float32.

    The published networks give up to 50 ms less than the video lasts; the end is silence.

    Attributes:
        weights: The checkpoint with both networks.
        num_frames, frame_rate: Of the video, which is as long as the waveform.
        num_latents: Audio latents that are decoded; None: as many as the video lasts.
        piece_frames: Latent frames that are decoded at once.
        transformer: The checkpoint with the transformer, whose latents they decode; None: ``weights``.
    """

    weights: Checkpoint
    num_frames: int
    frame_rate: Fraction
    num_latents: int | None = None
    piece_frames: int = PIECE_FRAMES
    transformer: Checkpoint | None = None
    name = "decode_audio"
    needs: ClassVar[tuple[Result, ...]] = ("latents",)
    gives: ClassVar[Result] = "sound"
    saved_as = "sound"

    def estimate(self) -> Estimate:
        """One piece and the waveform.

        Raises:
            CheckpointError: If the transformer's audio stream and the audio VAE do not fit.
        """
        config = config_of(AudioDecoder, self.weights)
        transformer = self.transformer or self.weights
        stream = config_of(Transformer, transformer).audio
        if stream is None or stream.in_channels != config.channels:
            raise CheckpointError(
                f"{self.weights.path} has an audio VAE of {config.channels} values in a latent frame, which the "
                f"transformer of {transformer.path.name} does not have. They are of different models."
            )
        vocoder = build(VOCODERS, self.weights)
        num_latents = self.num_latents
        if num_latents is None:
            num_latents = AudioClock().num_latents(self.num_frames, self.frame_rate)
        waveform = self._num_samples(vocoder.sample_rate) * _CHANNELS * mx.float32.size
        piece, array = piece_bytes(config, vocoder, num_latents, self.piece_frames)
        return Estimate(
            name=self.name,
            work=f"{float(self.num_frames / self.frame_rate):.2f} s at {vocoder.sample_rate} Hz",
            dtype=_DTYPE,
            file=self.weights.path,
            weights_bytes=network_weights_bytes([AudioDecoder, type(vocoder)], self.weights, dtype=_DTYPE),
            activation_bytes=piece + waveform,
            array_bytes=max(waveform, array),
            stored=(StoredNetwork(self.weights, AudioDecoder), StoredNetwork(self.weights, type(vocoder))),
        )

    def run(self, runner: StageRunner, state: GenerationState) -> GenerationState:
        """Decode the audio latents.

        Raises:
            OutputError: If the waveform is not finite, or a single value.
        """
        on_piece = partial(runner.progress.advance, self.name)
        sound = runner.run(self.name, self.load, partial(self.decode, tokens=state.latents["audio"], on_piece=on_piece))
        check_result(self.name, {"waveform": sound["waveform"]})
        return replace(state, sound=sound)

    def decode(
        self, networks: Networks, tokens: mx.array, on_piece: Callable[[int, int], None] = lambda done, total: None
    ) -> Arrays:
        """``waveform`` ``(S, 2)`` and ``sample_rate`` of audio tokens ``(1, N, D)``; ``on_piece`` counts latents."""
        decoder, vocoder = networks
        latent = unpatchify_audio(tokens, decoder.config.latent_channels)
        pieces = []
        on_piece(0, latent.shape[1])
        for piece in decode_audio(decoder, vocoder, latent, self.piece_frames):
            pieces.append(piece[0])
            on_piece(min(len(pieces) * self.piece_frames, latent.shape[1]), latent.shape[1])
        num_samples = self._num_samples(vocoder.sample_rate)
        waveform = mx.concatenate(pieces)[:num_samples]
        waveform = mx.pad(waveform, [(0, num_samples - len(waveform)), (0, 0)])
        return {"waveform": waveform, "sample_rate": mx.array(vocoder.sample_rate)}

    def facts(self) -> dict[str, Any]:
        """The checkpoint and the length."""
        return {"weights": contents(self.weights.path), "duration_seconds": str(self.num_frames / self.frame_rate)}

    def load(self) -> Networks:
        """Both networks."""
        vocoder: Any = load(VOCODERS, self.weights, dtype=_DTYPE)
        return load(AudioDecoder, self.weights, dtype=_DTYPE), vocoder

    def _num_samples(self, sample_rate: int) -> int:
        return round(self.num_frames / self.frame_rate * sample_rate)


def sound_stage(request: Request) -> DecodeSound:
    """The stage for the sound of the request's whole video."""
    models = request.models
    num_latents = None if request.rendering is None else request.rendering.audio_tokens
    if request.given is not None:
        # A clip may be padded to the number of frames that latents hold.
        num_latents = AudioClock().num_latents(request.num_frames, request.frame_rate)
    return DecodeSound(
        weights=models.audio_vae,
        num_frames=request.output_shape.num_frames,
        frame_rate=request.output_rate,
        num_latents=num_latents,
        transformer=models.weights,
    )


def piece_bytes(
    config: AudioDecoderConfig, vocoder: BandwidthExtensionVocoder | Vocoder, num_latents: int, piece_frames: int
) -> tuple[int, int]:
    """Memory of decoding one piece of ``num_latents`` beside the weights and the waveform, and its largest array."""
    compression = config.compression
    around = config.decoder_context + 2 * math.ceil(vocoder.context / compression)
    latents = min(num_latents, piece_frames + around)
    mel_frames = min(compression * num_latents, compression * piece_frames + 2 * vocoder.context)
    # The decoder's last level has the most pixels, and its first convolution the channels of the level before.
    channels = config.channels * config.channel_multipliers[min(1, len(config.channel_multipliers) - 1)]
    level = compression * config.mel.num_bins * channels * mx.float32.size
    frame_bytes, frame_array = generator_bytes(vocoder.config.generator)
    if isinstance(vocoder, BandwidthExtensionVocoder):
        spectra = vocoder.config.generator.samples_per_frame // vocoder.config.hop_length
        extension_bytes, extension_array = generator_bytes(vocoder.config.extension)
        frame_bytes = max(frame_bytes, spectra * extension_bytes)
        frame_array = max(frame_array, spectra * extension_array)
    arrays = _CPU_DECODER_CONVOLUTIONS * _KERNEL_TAPS if on_cpu() else _GPU_DECODER_ARRAYS
    return int(max(latents * level * arrays, mel_frames * frame_bytes)), max(latents * level, mel_frames * frame_array)


def generator_bytes(config: GeneratorConfig) -> tuple[int, int]:
    """Memory of a vocoder's generator for each frame of its spectrogram, and its largest array."""
    arrays = (_CPU_LEVEL_ARRAYS if on_cpu() else _GPU_LEVEL_ARRAYS)[config.antialiased]
    # Anti-aliased activations run at twice the rate.
    rate_inside = 2 if config.antialiased else 1
    channels = config.initial_channels
    samples = 1
    most, largest = 0.0, channels
    for rate, kernel in zip(config.upsample_rates, config.upsample_kernels, strict=True):
        samples *= rate
        unfolded = kernel * samples * channels if on_cpu() else 0
        channels //= 2
        most = max(most, unfolded + arrays * samples * channels)
        largest = max(largest, rate_inside * samples * channels)
    return int(most * mx.float32.size), largest * mx.float32.size
