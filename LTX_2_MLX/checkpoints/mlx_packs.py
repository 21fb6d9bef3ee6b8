"""Models that other tools have split and renamed for MLX, read under the published names.

A pack of mlx-forge (``ltx-2.3-mlx``, ``-q8`` and ``-q4`` of dgrauet and mlx-community) has a file for each part, with
convolutions in MLX's axis order and the matrices of the blocks quantised, and the published config beside the files.
Packs without a complete config are refused: those of mlx-video, and mlx-forge's of LTX-2.5.

Sources of the names: dgrauet/mlx-forge, src/mlx_forge/recipes/{ltx_23,ltx_25}.py; Blaizzy/mlx-video,
mlx_video/models/ltx_2/convert.py.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from LTX_2_MLX.checkpoints.reader import MLX_VIDEO, StoredTensor
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.files import parse_json, read_small_file
from LTX_2_MLX.invocation import command_line
from LTX_2_MLX.models.interfaces import TensorInfo

_PREFIX = "model.diffusion_model."
_STATISTICS = "per_channel_statistics."
# Part of a name in a pack's transformer -> the published one.
_LAYERS = (
    (re.compile(r"\.to_out\.(?!\d)"), ".to_out.0."),
    (re.compile(r"\.(audio_)?ff\.proj_in\."), r".\1ff.net.0.proj."),
    (re.compile(r"\.(audio_)?ff\.proj_out\."), r".\1ff.net.2."),
    (re.compile(r"\.linear([12])\."), r".linear_\1."),
)
# MLX's axis order of a convolution's weight -> PyTorch's, by the number of axes.
_AXES = {3: (0, 2, 1), 4: (0, 3, 1, 2), 5: (0, 4, 1, 2, 3)}
_TRANSPOSED_AXES = (2, 0, 1)
_CONFIG, _SETTINGS = "embedded_config.json", "config.json"


def read_part(
    file: Path, part: str, tensors: Mapping[str, TensorInfo]
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Where the published tensors lie in a part of a pack, and the published metadata as far as files beside it tell.

    Raises:
        CheckpointError: If the pack does not describe the part completely.
    """
    if part == MLX_VIDEO:
        raise _refused(file, "is part of a pack for mlx-video, whose configs leave out what the networks need")
    if part == "text_encoder":
        raise _refused(file, "is the text encoder of an MLX pack, without its config and its tokenizer in the file")
    metadata = _metadata(file, part)
    layout = {}
    for stored, info in tensors.items():
        name = _published_name(stored.removeprefix(f"{part}."), part)
        # Both halves of a video autoencoder hold the statistics.
        is_copy = part.startswith("vae_") and _STATISTICS in name
        layout[name] = StoredTensor(stored, _axes(stored, part, len(info.shape)), is_copy)
    return layout, metadata


def _refused(file: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{file} {reason}. Use the published files, with --quantize for a model as small in memory: "
        f"{command_line('download_weights')} --list"
    )


def _published_name(name: str, part: str) -> str:
    if part == "transformer":
        for pattern, replacement in _LAYERS:
            name = pattern.sub(replacement, name)
        return f"{_PREFIX}{name}"
    if part == "connector":
        return name if name.startswith("text_embedding_projection.") else f"{_PREFIX}{name}"
    if part == "vocoder":
        # Published names have the word twice.
        return f"vocoder.{name if name.startswith(('bwe_generator.', 'mel_stft.')) else f'vocoder.{name}'}"
    if "upscaler" in part:
        return name
    if name.startswith(_STATISTICS):
        name = f"{_STATISTICS}{'std' if 'std' in name else 'mean'}-of-means"
    elif part.startswith("vae_"):
        name = f"{part.removeprefix('vae_')}.{name}"
    return f"{'audio_vae' if part == 'audio_vae' else 'vae'}.{name}"


def _axes(stored: str, part: str, num_axes: int) -> tuple[int, ...] | None:
    """Axes that undo the pack's turn of a tensor; None where it is stored as published."""
    last = stored.rsplit(".", 1)[-1]
    if num_axes < 3 or part in ("transformer", "connector"):
        return None
    if part == "vocoder" and ".ups." in stored and last == "weight":
        return _TRANSPOSED_AXES
    is_weight = last == "weight" and ("conv" in stored or "upscaler" in part)
    return _AXES.get(num_axes) if is_weight or last in ("kernel", "filter") or last.endswith("_basis") else None


def _metadata(file: Path, part: str) -> dict[str, str]:
    if "upscaler" in part:
        fields = _json(file.with_name(f"{part}_config.json"))
        config = fields.get("config", {})
        missing = None if config else f"has no {part}_config.json beside it"
    else:
        fields = _json(file.with_name(_SETTINGS))
        config = _json(file.with_name(_CONFIG)) or fields.get("embedded_config", {})
        is_whole = isinstance(config, dict) and config.keys() >= {"transformer", "vae"}
        missing = None if is_whole else f"is part of an MLX pack without the model's whole config ({_CONFIG})"
    if missing:
        raise _refused(file, missing)
    metadata = {"config": json.dumps(config)}
    version = fields.get("model_version")
    return metadata | ({"model_version": version} if isinstance(version, str) else {})


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = parse_json(read_small_file(path))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({' '.join(str(error).split())}). Download it again.") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object. Download it again.")
    return value
