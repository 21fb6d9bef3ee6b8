"""Training of the audio VAE and the vocoder on the world's sounds, both from random weights."""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.diffusion.state import patchify_audio
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.ltx.audio_vae import AudioDecoder, AudioDecoderConfig, AudioEncoder, AudioEncoderConfig
from LTX_2_MLX.models.ltx.vocoder import Vocoder
from LTX_2_MLX.models.ltx.vocoder_config import VocoderConfig
from LTX_2_MLX.ops.mel import MelSettings, log_mel
from LTX_2_MLX.training import bundle, sound, world
from LTX_2_MLX.training.loop import Batch, Settings, train

MEL = MelSettings(num_bins=16)
_BINS, _WIDTH, _CODES = MEL.num_bins, 16, 4
AUDIO_VAE_CONFIG: dict[str, Any] = {
    "model": {
        "params": {
            "sampling_rate": MEL.sample_rate,
            "ddconfig": {
                "ch": _WIDTH,
                "ch_mult": [1, 1, 1],
                "num_res_blocks": 1,
                "in_channels": 2,
                "out_ch": 2,
                "z_channels": _CODES,
                "double_z": True,
                "mel_bins": _BINS,
                "resolution": 256,
                "attn_resolutions": [],
                "mid_block_add_attention": False,
                "norm_type": "pixel",
                "causality_axis": "height",
                "dropout": 0.0,
            },
        }
    },
    "preprocessing": {
        "stft": {
            "filter_length": MEL.fft_length,
            "hop_length": MEL.hop_length,
            "win_length": MEL.fft_length,
            "causal": True,
        },
        "mel": {"n_mel_channels": _BINS, "mel_fmin": 0, "mel_fmax": 8000},
        "audio": {"sampling_rate": MEL.sample_rate, "stereo": True, "causal_padding": 3},
    },
}
VOCODER_CONFIG: dict[str, Any] = {
    "upsample_initial_channel": 64,
    "upsample_rates": [5, 4, 4, 2],
    "upsample_kernel_sizes": [11, 8, 8, 4],
    "resblock": "1",
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1]],
    "stereo": True,
    "output_sampling_rate": sound.SAMPLE_RATE,
}
CLIP_FRAMES, CLIP_RATE = 17, 12
# Mel frames that training looks at: as many as the audio latents of a clip hold.
NUM_FRAMES = 137
# Where the log-mel's values lie.
_MEL_MEAN, _MEL_SPREAD = -8.0, 4.0
_LATENT_NOISE = 0.25
_LATENT_WEIGHT = 0.002
# Frames of a piece that the vocoder is trained on, and those at each end that do not count.
_PIECE, _PIECE_ENDS = 32, 4
_MEL_NOISE = 0.1
_HUM_LEVEL = 0.1


class SoundVAE(nn.Module):
    """Encoder and decoder, trained together."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = AudioEncoder(_vae_config(AudioEncoderConfig, "encoder"))
        self.decoder = AudioDecoder(_vae_config(AudioDecoderConfig, "decoder"))
        _centre(self.encoder.conv_in.conv, self.decoder.conv_out.conv)


def _centre(first: nn.Conv2d, last: nn.Conv2d) -> None:
    """Let the first layer take away the mean of spectrograms, and the last add it."""
    first.weight = first.weight / _MEL_SPREAD
    first.bias = -_MEL_MEAN * first.weight.sum((1, 2, 3))
    last.bias = mx.full(last.bias.shape, _MEL_MEAN)
    mx.eval(first.parameters(), last.parameters())


def _vae_config(config: Any, network: str) -> Any:
    start = f"audio_vae.{network}."
    first = (_WIDTH, 2, 3, 3) if network == "encoder" else (_WIDTH, _CODES, 3, 3)
    level, block = ("down", 0) if network == "encoder" else ("up", 1)
    shapes: bundle.Shapes = {
        f"{start}conv_in.conv.weight": first,
        f"{start}mid.block_1.conv1.conv.weight": (_WIDTH, _WIDTH, 3, 3),
        f"{start}{level}.0.block.{block}.conv1.conv.weight": (_WIDTH, _WIDTH, 3, 3),
    }
    return config.from_header(_header(shapes, {"audio_vae": AUDIO_VAE_CONFIG}))


def _header(shapes: bundle.Shapes, config: dict[str, Any]) -> Header:
    tensors = {name: TensorInfo(shape=shape, dtype="F16", num_bytes=0) for name, shape in shapes.items()}
    return Header(tensors=tensors, config=config)


def new_vocoder() -> Vocoder:
    """A vocoder of this model's size with random weights."""
    shapes: bundle.Shapes = {"vocoder.conv_pre.weight": (VOCODER_CONFIG["upsample_initial_channel"], 2 * _BINS, 7)}
    config = VocoderConfig.from_header(_header(shapes, {"vocoder": VOCODER_CONFIG}))
    assert config is not None
    return Vocoder(config)


def random_sound(rng: np.random.Generator) -> tuple[np.ndarray, tuple[float, ...]]:
    """A sound ``(S, 2)``, and the times of its knocks: of the world, or with knocks and sizes that it does not have."""
    if rng.random() < 0.5:
        scene = world.sample_scene(rng)
        return sound.sound(scene, CLIP_FRAMES, CLIP_RATE), sound.bounce_times(scene, CLIP_FRAMES, CLIP_RATE)
    num_samples = round(CLIP_FRAMES / CLIP_RATE * sound.SAMPLE_RATE)
    start, end = np.exp(rng.uniform(np.log(0.09), np.log(0.33), 2))
    radius = np.linspace(start, end if rng.random() < 0.5 else start, num_samples)
    times = tuple(rng.uniform(0.05, 1.3, rng.integers(0, 3)))
    samples = sound.hum(radius) + sound.knocks(num_samples, times)
    return np.repeat(samples[:, None], 2, axis=1).astype(np.float32), times


def spectrogram(waveform: np.ndarray) -> np.ndarray:
    """Log-mel ``(137, bins, 2)`` of a clip's sound ``(S, 2)``."""
    return log_mel(waveform[None], sound.SAMPLE_RATE, MEL)[0, :NUM_FRAMES]


@lru_cache(maxsize=1)
def _pool(count: int) -> tuple[np.ndarray, np.ndarray, list[tuple[float, ...]]]:
    """Sounds ``(pool, S, 2)``, their spectrograms, and the times of their knocks."""
    made = [random_sound(np.random.default_rng((31, number))) for number in range(count)]
    waveforms = np.stack([waveform for waveform, _ in made])
    return waveforms, np.stack([spectrogram(waveform) for waveform in waveforms]), [times for _, times in made]


def spectrogram_batches(sounds: int, rng: np.random.Generator, count: int) -> Batch:
    """Spectrograms of some of as many random sounds."""
    return {"mel": mx.array(_pool(sounds)[1][rng.integers(0, sounds, count)])}


def vae_loss(network: SoundVAE, batch: Batch, key: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
    """Error of the spectrogram; noise on the latent, so that near latents sound alike."""
    mel = batch["mel"]
    latent = network.encoder(mel)
    noisy = latent + _LATENT_NOISE * mx.random.normal(latent.shape, key=key)
    error = network.decoder(noisy) - mel
    absolute = mx.abs(error).mean()
    size = mx.square(latent).mean()
    return absolute + 0.1 * mx.square(error).mean() + _LATENT_WEIGHT * size, {"mel": absolute, "size": size}


def train_vae(sounds: int, settings: Settings, folder: Path) -> SoundVAE:
    """Train encoder and decoder on as many random sounds; the latent's statistics are left at 0 and 1."""
    mx.random.seed(settings.seed)
    network = SoundVAE()
    for part in (network.encoder, network.decoder):
        part.statistics.freeze()
    return train(network, vae_loss, partial(spectrogram_batches, sounds), settings, folder)


def latents(encoder: AudioEncoder, scenes: Sequence[world.Scene]) -> np.ndarray:
    """Audio latents of scenes as tokens, ``(scenes, T, C)`` float32, channels slowest."""
    made = []
    for start in range(0, len(scenes), 50):
        part = scenes[start : start + 50]
        mels = np.stack([spectrogram(sound.sound(scene, CLIP_FRAMES, CLIP_RATE)) for scene in part])
        made.append(np.array(patchify_audio(encoder(mx.array(mels)))))
    return np.concatenate(made)


def set_statistics(network: SoundVAE, tokens: np.ndarray) -> None:
    """Take mean and deviation of latents ``(scenes, T, C)`` that were encoded without statistics."""
    for part in (network.encoder, network.decoder):
        part.statistics.mean = mx.array(tokens.mean((0, 1)))
        part.statistics.std = mx.array(np.maximum(tokens.std((0, 1)), 1e-3))


def waveform_batches(sounds: int, rng: np.random.Generator, count: int) -> Batch:
    """Pieces of some of as many random sounds: spectrograms ``(count, 32, bins, 2)``, slightly off, and waveforms."""
    waveforms, mels, times = _pool(sounds)
    pieces = []
    for number in rng.integers(0, sounds, count):
        start = int(rng.integers(0, NUM_FRAMES - _PIECE))
        if times[number]:
            # Knocks are short: most pieces of a sound that has one are around it.
            knock = round(rng.choice(times[number]) * MEL.sample_rate / MEL.hop_length)
            start = int(np.clip(knock - rng.integers(_PIECE_ENDS, _PIECE), 0, NUM_FRAMES - _PIECE))
        samples = waveforms[number, start * MEL.hop_length : (start + _PIECE) * MEL.hop_length]
        pieces.append((mels[number, start : start + _PIECE], samples))
    mel, waveform = (np.stack(parts) for parts in zip(*pieces, strict=True))
    mel += _MEL_NOISE * rng.standard_normal(mel.shape, np.float32)
    return {"mel": mx.array(mel), "waveform": mx.array(waveform)}


def vocoder_loss(network: Vocoder, batch: Batch, key: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
    """Error of the waveform and of its slope, which is the knocks' more than the hum's, over the level of the hum.

    The ends of a piece, which lack their surroundings, are left out.
    """
    inner = slice(_PIECE_ENDS * MEL.hop_length, -_PIECE_ENDS * MEL.hop_length)
    truth = batch["waveform"][:, inner]
    error = (network(batch["mel"])[:, inner] - truth) / _HUM_LEVEL
    slope = error[:, 1:] - error[:, :-1]
    squared, slopes = mx.square(error).mean(), mx.square(slope).mean()
    loss = mx.abs(error).mean() + squared + 2 * mx.abs(slope).mean() + 4 * slopes
    return loss, {"error": squared, "slope": slopes}


def train_vocoder(sounds: int, settings: Settings, folder: Path) -> Vocoder:
    """Train the vocoder on spectrograms of as many random sounds themselves."""
    mx.random.seed(settings.seed)
    network = new_vocoder()
    first = network.generator.conv_pre
    first.weight = first.weight / _MEL_SPREAD
    first.bias = -_MEL_MEAN * first.weight.sum((1, 2))
    mx.eval(network.parameters())
    return train(network, vocoder_loss, partial(waveform_batches, sounds), settings, folder)
