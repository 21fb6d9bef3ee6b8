"""Files beside a model's own: video autoencoder and decoder, audio networks, duration head, latent upscalers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from LTX_2_MLX.checkpoints.catalog import Entry, Variant
from LTX_2_MLX.checkpoints.load import config_of
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.resolve import (
    AUTO,
    DOWNLOAD,
    ResolvedFile,
    entries_for_role,
    installed_path,
    resolve,
)
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.ltx.audio_vae import AudioDecoder
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler, LatentUpscalerConfig
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder

# Variants that pipelines look for.
VARIANTS: dict[str, Variant] = {"distilled": "distilled", "hq": "dev"}
DecoderName = Literal["conv", "diffusion"]
_FILES = {
    "conv": "ltx-2.5-video-vae-conv-bf16.safetensors",
    "diffusion": "ltx-2.5-video-vae-bf16.safetensors",
}
_WORDS = {"conv": "convolutional", "diffusion": "diffusion"}


def decoder_in(checkpoint: Checkpoint) -> DecoderName | None:
    """The video decoder that a checkpoint holds, by its config alone; None without one."""
    if VideoDecoder.Config.from_header(checkpoint.header) is not None:
        return "conv"
    # Few runs have such a file.
    from LTX_2_MLX.models.ltx.diffusion_decoder_config import DiffusionDecoderConfig

    return "diffusion" if DiffusionDecoderConfig.from_header(checkpoint.header) is not None else None


def checked_autoencoder(checkpoint: Checkpoint, decoder: str) -> Checkpoint:
    """The checkpoint again, if it holds the decoder asked for: ``auto``, ``conv`` or ``diffusion``.

    Raises:
        CheckpointError: If it does not.
    """
    found = decoder_in(checkpoint)
    if found is None:
        raise CheckpointError(
            f"{checkpoint.path} holds no video decoder. For LTX-2.5 give --video-vae {_FILES['conv']} or "
            f"{_FILES['diffusion']}."
        )
    if decoder not in (AUTO, found):
        raise CheckpointError(
            f"--video-decoder is {decoder}, but {checkpoint.path} holds the {_WORDS[found]} decoder. Give --video-vae "
            f"another file, for LTX-2.5 {_FILES[decoder]}, or leave --video-decoder out."
        )
    return checkpoint


def open_autoencoder(spec: str, decoder: str, weights: Checkpoint, model: ResolvedFile) -> Checkpoint:
    """The video autoencoder of a file of its own.

    Args:
        spec: As for ``resolve``.
        decoder: ``auto``, ``conv`` or ``diffusion``.
        weights: The model's checkpoint.
        model: Its file.

    Raises:
        CheckpointError: If there is none on this machine, or it holds another decoder.
    """
    if spec == AUTO and decoder != AUTO:
        return checked_autoencoder(Checkpoint(_installed(decoder, weights, model)), decoder)
    try:
        path = resolve(spec, "video-vae", model=model).path
    except CheckpointError as error:
        if spec != AUTO:
            raise
        raise CheckpointError(_no_autoencoder(weights, str(error))) from error
    return checked_autoencoder(Checkpoint(path), decoder)


def _installed(decoder: str, weights: Checkpoint, model: ResolvedFile) -> Path:
    """The published file with a decoder, of the model's family."""
    entries = _with_decoder(decoder, entries_for_role("video-vae", model.family))
    for entry in entries:
        path = installed_path(entry)
        if path is not None:
            return path
    get = f" Get it: {DOWNLOAD} {entries[0].name}" if entries else ""
    raise CheckpointError(_no_autoencoder(weights, f"None with the {_WORDS[decoder]} decoder is here.{get}"))


def _with_decoder(decoder: str, entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if f"{_WORDS[decoder]} decoder" in entry.networks]


def _no_autoencoder(weights: Checkpoint, reason: str) -> str:
    return f"{weights.path} holds no video autoencoder. Give its file with --video-vae. {reason}"


def open_audio_vae(spec: str, weights: Checkpoint, model: ResolvedFile) -> Checkpoint | None:
    """The audio autoencoder and the vocoder of a file of their own; None where ``auto`` finds none.

    It looks for a published file only where the model's checkpoint has no audio autoencoder.

    Raises:
        CheckpointError: If the file holds none, or the model's checkpoint holds one too.
    """
    has_own = AudioDecoder.Config.from_header(weights.header) is not None
    if spec == AUTO:
        published = entries_for_role("audio-vae", model.family)
        paths = [path for path in map(installed_path, published) if path is not None and not has_own]
        return Checkpoint(paths[0]) if paths else None
    audio = Checkpoint(resolve(spec, "audio-vae", model=model).path)
    config_of(AudioDecoder, audio)
    if has_own:
        raise CheckpointError(f"{weights.path} and {audio.path} each hold an audio autoencoder. Leave out --audio-vae.")
    return audio


def open_duration_head(spec: str, features: Checkpoint | None, model: ResolvedFile) -> Checkpoint | None:
    """The duration head; None where ``auto`` finds none.

    Args:
        spec: As for ``resolve``.
        features: The checkpoint with the text features, whose contexts the head reads; None where it reads saved ones.
        model: The model's file.

    Raises:
        CheckpointError: If the file holds none.
        RequestError: If the head reads contexts of other widths than the model's.
    """
    from LTX_2_MLX.models.ltx.duration_head import DurationHead

    if spec == AUTO:
        paths = [installed_path(entry) for entry in entries_for_role("duration-head", model.family)]
        found = [path for path in paths if path is not None]
        if not found:
            return None
        path = found[0]
    else:
        path = resolve(spec, "duration-head", model=model).path
    head = Checkpoint(path)
    config = config_of(DurationHead, head)
    if features is None:
        return head
    text = config_of(TextFeatures, features)
    widths = (text.video.width, None if text.audio is None else text.audio.width)
    if widths != (config.video_width, config.audio_width):
        raise RequestError(
            f"{path} reads contexts of widths {config.video_width} and {config.audio_width}, but the model's have "
            f"{widths[0]} and {widths[1]}. Give --duration-head the file of the same model, or pass --frames."
        )
    return head


def upscaler_config(checkpoint: Checkpoint, *, temporal: bool, flag: str) -> LatentUpscalerConfig:
    """The config of an upscaler that works in time, or in space.

    Raises:
        CheckpointError: If it works in the other, or is no upscaler.
    """
    config = config_of(LatentUpscaler, checkpoint)
    if (config.temporal_upsample, config.spatial_upsample) != (temporal, not temporal):
        actual = "time" if config.temporal_upsample else "space"
        expected = "time" if temporal else "space"
        raise CheckpointError(f"{checkpoint.path} upscales in {actual}. Give {flag} an upscaler in {expected}.")
    return config
