"""Files of detail-fidelity rendering beside those of every generation."""

from collections.abc import Callable
from dataclasses import replace

from LTX_2_MLX.checkpoints.catalog import Role
from LTX_2_MLX.checkpoints.load import config_of
from LTX_2_MLX.checkpoints.lora import Lora, reference_downscale, split_strength
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.resolve import AUTO, entry_by_name, installed_path, resolve
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.pipelines.generation.companion_files import upscaler_config
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.options import NONE, flag_of

DETAILING_LORA = "ltx-2.5-22b-ic-lora-pixel-spatial-upscaler-x2-1.0"
# Its strength in the reference's recipe, half of that which it was trained at.
_DETAILING_STRENGTH = 0.5
_SCALE = 2


def check_generates_keyframes(weights: Checkpoint) -> None:
    """Refuse a transformer that generates no keyframes beside the video.

    Raises:
        RequestError: If it has no embedding for them, as LTX-2 and LTX-2.3 have none.
    """
    if not config_of(Transformer, weights).keyframe_embedding:
        raise RequestError(
            f"--pipeline dfr needs LTX-2.5, but {weights.path.name} generates no keyframes. Give LTX-2.5 with "
            f"--weights, or use --pipeline two-stage."
        )


def with_detailing(models: Models, options: Options, open_upscaler: Callable[[str, Role], Checkpoint]) -> Models:
    """The models with the upscalers that the rendering needs, and its detailing adapter.

    Raises:
        CheckpointError: If a named file is missing or cannot be read.
        RequestError: If a file was not named and is not on this machine.
    """
    models = replace(
        models,
        detailing_lora=detailing_lora(options.detailing_lora),
        spatial_upscaler=_upscaler(options, "spatial_upscaler_weights", "spatial-upscaler", open_upscaler),
    )
    if not options.rounds:
        return models
    temporal = _upscaler(options, "temporal_weights", "temporal-upscaler", open_upscaler)
    return replace(models, temporal_upscaler=temporal)


def detailing_lora(spec: str) -> Lora | None:
    """The detailing adapter at its strength; None where the user goes without.

    Raises:
        CheckpointError: If the named file is missing or cannot be read.
        RequestError: If none was named and none is on this machine.
    """
    if spec == NONE:
        return None
    text = _installed() if spec == AUTO else spec
    path, strength = split_strength(text)
    if path == text:
        strength = _DETAILING_STRENGTH
    lora = replace(Lora.open(resolve(path, "lora").path, strength), has_reference=True)
    reference_downscale(lora.checkpoint)
    return lora


def _installed() -> str:
    entry = entry_by_name(DETAILING_LORA)
    path = None if entry is None else installed_path(entry)
    if path is None:
        raise RequestError(
            f"--pipeline dfr reads stage 1's video through a detailing LoRA: give {DETAILING_LORA}.safetensors with "
            f"--detailing-lora, or --detailing-lora none to go without."
        )
    return str(path)


def _upscaler(options: Options, name: str, role: Role, open_upscaler: Callable[[str, Role], Checkpoint]) -> Checkpoint:
    spec = getattr(options, name)
    try:
        upscaler = open_upscaler(spec, role)
    except CheckpointError as error:
        if spec != AUTO:
            raise
        need = f"--rounds {options.rounds}" if role == "temporal-upscaler" else "--pipeline dfr"
        raise RequestError(f"{need} requires {flag_of(name)}. {error}") from error
    config = upscaler_config(upscaler, temporal=role == "temporal-upscaler", flag=flag_of(name))
    if role == "spatial-upscaler" and config.scale != _SCALE:
        raise CheckpointError(
            f"{upscaler.path} enlarges {float(config.scale):g} times, but --pipeline dfr doubles the size. Give "
            f"{flag_of(name)} LTX-2.5's upscaler."
        )
    return upscaler
