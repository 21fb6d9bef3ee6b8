"""Which files a film is made with: those named, those on this machine, or the small model that comes with the code."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from LTX_2_MLX.checkpoints.catalog import Role, Variant, entries_for_role
from LTX_2_MLX.checkpoints.gemma3 import GemmaConfig
from LTX_2_MLX.checkpoints.lora import Lora, split_strength
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.recognise import recognise
from LTX_2_MLX.checkpoints.resolve import AUTO, DEMO_NOTE, DOWNLOAD, ResolvedFile, installed_path, resolve
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.pipelines.film import Models, text_encoder_fits

# Users search for the first sentence.
_NO_UPSCALER = (
    "Two-stage pipeline requires --spatial-upscaler-weights. "
    f"Give a path, or get the published file: {DOWNLOAD} ltx-2-spatial-upscaler-x2-1.0 "
    "(ltx-2.3-spatial-upscaler-x2-1.1 for LTX-2.3)."
)


@dataclass(frozen=True)
class FileOptions:
    """Which files are asked for, as users write them; None where the request has no use for one.

    Attributes:
        weights: The checkpoint.
        variant: ``dev`` or ``distilled``; None takes what the file is.
        gemma: The text encoder's folder.
        spatial_upscaler: For two stages.
        temporal_upscaler: For twice the frame rate.
        distilled_lora: What makes a dev checkpoint a distilled one; looked for only if the checkpoint is a dev one.
        loras: Adapters; a strength may follow a colon.
        dtype: What networks compute in.
    """

    weights: str = AUTO
    variant: Variant | None = None
    gemma: str | None = AUTO
    spatial_upscaler: str | None = None
    temporal_upscaler: str | None = None
    distilled_lora: str | None = None
    loras: tuple[str, ...] = ()
    dtype: mx.Dtype = mx.bfloat16


def find_models(options: FileOptions, note: Callable[[str], None]) -> Models:
    """The files, opened. ``note`` hears of choices that were made.

    Raises:
        CheckpointError: If a file is missing or cannot be read; the message says how to get it.
        RequestError: If two stages lack an upscaler, or the checkpoint is of the other variant.
    """
    model = resolve(options.weights, "model", variant=options.variant)
    if model.is_demo and options.weights == AUTO:
        note(DEMO_NOTE)
        # The demo has both, and its dev checkpoint shows what guidance does.
        model = resolve(AUTO, "model", variant=options.variant or "dev")
    weights = Checkpoint(model.path)
    recognise(Transformer, weights)
    distilled = _variant(model, options.variant) == "distilled"
    return Models(
        weights=weights,
        distilled=distilled,
        dtype=options.dtype,
        loras=tuple(_lora(text) for text in options.loras),
        spatial_upscaler=_spatial_upscaler(options.spatial_upscaler, model),
        temporal_upscaler=_opened(options.temporal_upscaler, "temporal-upscaler", model),
        distilled_lora=None if distilled else _distilled_lora(options.distilled_lora, model),
        text_encoder=None if options.gemma is None else _text_encoder(options.gemma, model, weights, note),
    )


def _variant(model: ResolvedFile, asked: Variant | None) -> Variant:
    """How the checkpoint was trained: as the catalogue says, or the user; a file of one's own counts as dev."""
    known = model.entry.variant if model.entry else None
    if known is not None and asked is not None and known != asked:
        raise RequestError(
            f"{model.path.name} is the {known} checkpoint, but --model-variant is {asked}. Leave out one of the two."
        )
    return asked or known or "dev"


def _text_encoder(given: str, model: ResolvedFile, weights: Checkpoint, note: Callable[[str], None]) -> Path:
    if given != AUTO:
        return resolve(given, "text-encoder", model=model).path
    if (beside := _gemma_beside(model.path)) is not None:
        return beside
    try:
        return resolve(AUTO, "text-encoder", model=model).path
    except CheckpointError:
        demo = installed_path(entries_for_role("text-encoder", family="demo")[0])
        if demo is None or not text_encoder_fits(Checkpoint(demo), weights):
            raise
        note(f"The text encoder is that of the demo model, {demo}: this checkpoint was made for it.")
        return demo


def _gemma_beside(weights: Path) -> Path | None:
    """A text encoder in a folder of its own next to the checkpoint."""
    folders = sorted(path.parent for path in weights.parent.glob("*/tokenizer.json"))
    return next((folder for folder in folders if _is_gemma(folder)), None)


def _is_gemma(folder: Path) -> bool:
    try:
        return GemmaConfig.from_header(Checkpoint(folder).header) is not None
    except CheckpointError:
        return False


def _distilled_lora(given: str | None, model: ResolvedFile) -> Lora | None:
    if given is None:
        return None
    path, strength = split_strength(given)
    return Lora.open(resolve(path, "distilled-lora", model=model).path, strength)


def _spatial_upscaler(given: str | None, model: ResolvedFile) -> Checkpoint | None:
    try:
        return _opened(given, "spatial-upscaler", model)
    except CheckpointError as error:
        if given != AUTO:
            raise
        raise RequestError(_NO_UPSCALER) from error


def _opened(given: str | None, role: Role, model: ResolvedFile) -> Checkpoint | None:
    return None if given is None else Checkpoint(resolve(given, role, model=model).path)


def _lora(text: str) -> Lora:
    path, strength = split_strength(text)
    return Lora.open(resolve(path, "lora").path, strength)
