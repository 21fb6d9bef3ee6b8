"""Files of a model that lies in several, as LTX-2.5 is published: sorted by what each holds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from LTX_2_MLX.checkpoints.catalog import Variant
from LTX_2_MLX.checkpoints.gemma4 import Gemma4Config
from LTX_2_MLX.checkpoints.lora import is_lora_tensor
from LTX_2_MLX.checkpoints.reader import (
    Checkpoint,
    holds_language_model,
    pack_part,
    published_layout,
    read_header,
    shards,
)
from LTX_2_MLX.checkpoints.resolve import AUTO, resolve
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.files import parse_json
from LTX_2_MLX.models.ltx.text_features import lacks_projection
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.pipelines.generation.companion_files import VARIANTS, decoder_in
from LTX_2_MLX.pipelines.generation.options import Options

Kind = Literal[
    "model", "text encoder", "video autoencoder", "audio autoencoder", "upscaler", "LoRA", "duration head"
]  # fmt: skip
_UPSCALER_PROBE = "initial_conv.weight"
_VIDEO_VAE = ("vae.", "encoder.", "decoder.", "per_channel_statistics.")
_AUDIO_VAE = ("audio_vae.", "vocoder.")
# Whatever a text encoder has in its file beside the language model belongs to it.
_MODEL = ("model.diffusion_model.", "text_embedding_projection.")


@dataclass(frozen=True)
class SplitFiles:
    """Files of one model.

    Attributes:
        weights: Those with transformer and connectors, the transformer's first. Combined files, which have the
            autoencoders as well, are among them.
        video_vae: The video autoencoder's file.
        audio_vae: The file with audio autoencoder and vocoder.
        duration_head: The duration head's file.
        text_encoder: The text encoder's file, with the text projections.
        others: Files that are named by flags of their own.
    """

    weights: tuple[Path, ...]
    video_vae: Path | None
    audio_vae: Path | None
    duration_head: Path | None
    text_encoder: Path | None
    others: tuple[Path, ...]


def split_options(options: Options, note: Callable[[str], None]) -> Options:
    """The options with each file of ``weights`` under the option that it belongs to.

    Raises:
        CheckpointError: If a file is missing, no transformer is among them, or two files hold the same network.
    """
    specs = (options.weights,) if isinstance(options.weights, str) else options.weights
    files = sort_files([resolve(spec, "model").path for spec in specs], options, note)
    if files.others:
        names = ", ".join(path.name for path in files.others)
        note(f"Not used, since upscalers and LoRAs have flags of their own: {names}")
    if options.frames is None and options.duration is None:
        options = replace(options, duration_head=_chosen(options.duration_head, files.duration_head))
    return replace(
        options,
        weights=tuple(str(path) for path in files.weights),
        video_vae=_chosen(options.video_vae, files.video_vae),
        audio_vae=_chosen(options.audio_vae, files.audio_vae),
        gemma=_chosen(options.gemma, files.text_encoder),
    )


def _chosen(spec: str, found: Path | None) -> str:
    return spec if spec != AUTO or found is None else str(found)


def sort_files(paths: Sequence[Path], options: Options, note: Callable[[str], None]) -> SplitFiles:
    """Sort files, and those in folders, by what they hold.

    Args:
        paths: Files and folders.
        options: With the files that the user chose instead of those found, the video decoder and the variant.
        note: Callback for the line on a decoder that was taken.

    Raises:
        CheckpointError: If no transformer is among them, or two files hold the same network.
    """
    by_kind: dict[Kind, list[Path]] = {}
    variant = options.model_variant or VARIANTS.get(options.pipeline)
    for path in paths:
        files = _files_of(path)
        for file in _with_one_transformer(files, variant) if path.is_dir() else files:
            by_kind.setdefault(kind_of(file), []).append(file)
    weights = by_kind.get("model", [])
    if not weights:
        raise CheckpointError(
            f"No LTX-2 transformer is in {', '.join(str(path) for path in paths)}. Give its file with --weights."
        )

    def found(kind: Kind, flag: str, chosen: str) -> Path | None:
        return _only(kind, by_kind.get(kind, []), flag) if chosen == AUTO else None

    if options.video_vae == AUTO:
        by_kind["video autoencoder"] = _with_decoder(by_kind.get("video autoencoder", []), options.video_decoder, note)
    return SplitFiles(
        weights=tuple(sorted(weights, key=_has_no_transformer)),
        video_vae=found("video autoencoder", "--video-vae", options.video_vae),
        audio_vae=found("audio autoencoder", "--audio-vae", options.audio_vae),
        duration_head=found("duration head", "--duration-head", options.duration_head),
        text_encoder=found("text encoder", "--gemma", options.gemma),
        others=tuple(file for kind in ("upscaler", "LoRA") for file in by_kind.get(kind, [])),
    )


def _with_one_transformer(files: Sequence[Path], variant: Variant | None) -> list[Path]:
    """The files of a folder without the transformers of the other variant."""
    transformers = [file for file in files if not _has_no_transformer(file)]
    if len(transformers) < 2:
        return list(files)
    is_distilled = variant == "distilled"
    chosen = [file for file in transformers if variant and ("distilled" in file.name.lower()) == is_distilled]
    if len(chosen) != 1:
        names = " and ".join(str(file) for file in transformers)
        raise CheckpointError(
            f"{names} each hold a transformer. Choose by --model-variant dev or distilled, or name the files to use "
            f"with --weights, several times."
        )
    return [file for file in files if file in chosen or file not in transformers]


def _with_decoder(files: Sequence[Path], decoder: str, note: Callable[[str], None]) -> list[Path]:
    """The video autoencoders with the decoder asked for; ``auto`` takes the convolutional one where there are both.

    Where none has it, all: opening the file then says what it holds.
    """
    decoders = {file: decoder_in(Checkpoint(file)) for file in files}
    if decoder == AUTO and {"conv", "diffusion"} <= set(decoders.values()):
        note("Decoded by the convolutional decoder, the faster one. For the other: --video-decoder diffusion")
        decoder = "conv"
    return [file for file in files if decoders[file] == decoder] or list(files)


def autoencoder_in(folder: Path) -> Path:
    """The file with a convolutional video autoencoder among those in a folder and the folders in it.

    Raises:
        CheckpointError: If there is none, or several.
    """
    files = [file for file in _files_of(folder) if VideoDecoder.Config.from_header(Checkpoint(file).header)]
    if not files:
        raise CheckpointError(f"{folder} holds no convolutional video autoencoder. Give its file with --weights.")
    return _only("video autoencoder", files, "--weights") or folder


def kind_of(file: Path) -> Kind:
    """What a file holds, by the names of its tensors.

    Raises:
        CheckpointError: If it cannot be read, or holds nothing of LTX-2.
    """
    tensors, metadata = read_header(file)
    part = pack_part(tensors.keys())
    if part is not None:
        # The autoencoders of a pack lie in two files each, and are opened together with its transformer.
        return "upscaler" if "upscaler" in part else "text encoder" if part == "text_encoder" else "model"
    names = list(published_layout(file, tensors, metadata)[0])
    if holds_language_model(names):
        return "text encoder"
    if any(is_lora_tensor(name) for name in names):
        return "LoRA"
    if any(name.startswith(_MODEL) for name in names):
        return "model"
    if any(name.startswith(_AUDIO_VAE) for name in names):
        return "audio autoencoder"
    if _UPSCALER_PROBE in names:
        return "upscaler"
    if any(name.startswith("duration_head.") for name in names):
        return "duration head"
    if any(name.startswith(_VIDEO_VAE) for name in names):
        return "video autoencoder"
    first = ", ".join(sorted(names)[:3]) or "none"
    raise CheckpointError(f"{file} holds nothing of LTX-2; its first tensors: {first}. Leave it out of --weights.")


def check_gemma_version(weights: Checkpoint, encoder: Checkpoint, note: Callable[[str], None]) -> None:
    """Refuse a text encoder that the transformer was not made for: its features would have the right sizes.

    Raises:
        CheckpointError: If the versions that both files declare differ.
    """
    config = Gemma4Config.from_header(encoder.header)
    own = None if config is None else config.gemma_version
    wanted = source_gemma_version(weights)
    if wanted != own:
        raise CheckpointError(
            f"{weights.path} was made for {_text_encoder_name(wanted)}, but {encoder.path} is "
            f"{_text_encoder_name(own)}. Give --gemma the text encoder that was published with the model."
        )
    if own is None and config is not None:
        note(f"Neither {weights.path.name} nor {encoder.path.name} says which text encoder the model was made for.")


def source_gemma_version(weights: Checkpoint) -> str | None:
    """Version of the text encoder that a transformer was made for; None where its file does not say.

    Raises:
        CheckpointError: If the metadata cannot be read.
    """
    try:
        source = parse_json(weights.header.metadata.get("gemma_source_checkpoint", "{}"))
    except ValueError as error:
        raise CheckpointError(f"{weights.path}: gemma_source_checkpoint is not JSON ({error}).") from error
    version = source.get("gemma_version") if isinstance(source, dict) else None
    return version if isinstance(version, str) else None


def _text_encoder_name(version: str | None) -> str:
    return "a text encoder without a version, such as Gemma 3" if version is None else f"the text encoder {version}"


def checked_text_features(weights: Checkpoint, encoder: Path, note: Callable[[str], None]) -> Checkpoint:
    """The files with the text features: LTX-2.5 has their projections in the text encoder's file.

    Raises:
        CheckpointError: If the text encoder is not the one that the transformer was made for.
    """
    check_gemma_version(weights, Checkpoint(encoder), note)
    return Checkpoint([*weights.files, encoder]) if lacks_projection(weights.header) else weights


def _files_of(path: Path) -> list[Path]:
    """The file, or the .safetensors files in a folder and the folders in it.

    Raises:
        CheckpointError: If there is none, or shards are missing that an index names.
    """
    if not path.is_dir():
        return [path]
    files = []
    try:
        # Of the folder and those in it: a repository has no deeper ones, and a whole disk is no model.
        found = [file for pattern in ("", "*/", "*/*/") for file in path.glob(f"{pattern}[!.]*.safetensors")]
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}. Give the model's own folder.") from error
    for folder in sorted({file.parent for file in found}):
        files += shards(folder)
    if not files:
        raise CheckpointError(f"{path} holds no .safetensors file. Give the folder with the model's files.")
    return files


def _has_no_transformer(file: Path) -> bool:
    return not any(name.endswith("patchify_proj.weight") for name in read_header(file)[0])


def _only(kind: Kind, files: Sequence[Path], flag: str) -> Path | None:
    if len(files) > 1:
        names = " and ".join(str(file) for file in files)
        raise CheckpointError(f"{names} each hold a {kind}. Name the one to use with {flag}.")
    return files[0] if files else None
