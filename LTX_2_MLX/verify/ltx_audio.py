"""Golden cases of LTX-2's audio front end, audio VAE and vocoders."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.models.ltx.audio_decoding import decode_audio
from LTX_2_MLX.models.ltx.audio_vae import AudioDecoder, AudioEncoder
from LTX_2_MLX.models.ltx.vocoder import BandwidthExtensionVocoder, Vocoder
from LTX_2_MLX.ops.mel import MelSettings, log_mel, mel_filters, resample
from LTX_2_MLX.planning.plan import dtype_for
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.layout import channels_first, channels_last


def audio_frontend(case: Case) -> Outputs:
    """Waveform to log-mel spectrogram, resampled first where the case's rate is another."""
    waveform, sample_rate = _waveform(case)
    settings = MelSettings()
    mel = log_mel(waveform, sample_rate, settings)
    return {
        "mel": channels_first(mx.array(mel)),
        "mel_filterbank": mel_filters(settings).astype(np.float32),
        "resampled": channels_first(mx.array(resample(waveform, sample_rate, settings.sample_rate))),
    }


def audio_vae(case: Case) -> Outputs:
    """Spectrogram to latent, or latent to spectrogram."""
    io = case.inputs()
    if "mel" in io:
        latent = load(AudioEncoder, case.checkpoint(), dtype=dtype_for("sound"))(channels_last(io["mel"]))
        return {"latent": channels_first(latent)}
    mel = load(AudioDecoder, case.checkpoint(), dtype=dtype_for("sound"))(channels_last(io["latent"]))
    return {"mel": channels_first(mel)}


def audio_encode(case: Case) -> Outputs:
    """Waveform to latent."""
    waveform, sample_rate = _waveform(case)
    latent = load(AudioEncoder, case.checkpoint(), dtype=dtype_for("sound")).encode(waveform, sample_rate)
    return {"latent": channels_first(latent)}


def audio_decode(case: Case) -> Outputs:
    """Latent to waveform."""
    checkpoint = case.checkpoint()
    decoder = load(AudioDecoder, checkpoint, dtype=dtype_for("sound"))
    vocoder = load(Vocoder, checkpoint, dtype=dtype_for("sound"))
    [waveform] = decode_audio(decoder, vocoder, channels_last(case.inputs()["latent"]))
    return {
        "waveform": channels_first(waveform)[0],
        "sampling_rate": np.array([vocoder.sample_rate], dtype=np.int32),
    }


def vocoder(case: Case) -> Outputs:
    """Spectrogram to waveform; with bandwidth extension its steps as well."""
    checkpoint = case.checkpoint()
    mel = channels_last(case.inputs()["mel"])
    if BandwidthExtensionVocoder.Config.from_header(checkpoint.header) is None:
        return {"waveform": channels_first(load(Vocoder, checkpoint, dtype=dtype_for("sound"))(mel))}
    network = load(BandwidthExtensionVocoder, checkpoint, dtype=dtype_for("sound"))
    low = network.low_rate_waveform(mel)
    bins = network.mel(low)
    return {
        "waveform": channels_first(network(mel)),
        "low_rate": channels_first(low),
        "bwe_mel": bins.reshape(*bins.shape[:2], 2, -1).swapaxes(1, 2),
        "residual": channels_first(network.residual(low)),
        "skip": channels_first(network.skip(low)),
    }


def _waveform(case: Case) -> tuple[np.ndarray, int]:
    io = case.inputs()
    return np.moveaxis(io["waveform"], 1, -1), int(io["sampling_rate"][0])
