"""Files that a run record names and that lie where its video, the weights and the model caches are not."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from LTX_2_MLX.checkpoints.lora import split_strength
from LTX_2_MLX.checkpoints.resolve import weights_folders
from LTX_2_MLX.files import exists
from LTX_2_MLX.media.writer import RunRecord
from LTX_2_MLX.pipelines.generation.image_places import image_file
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.options import declared_options


def files_outside(record: RunRecord, typed: Mapping[str, Any]) -> list[Path]:
    """Existing files of a record, without those that typed options replace, outside the folders that are read unasked.

    Those are the folder of the record itself, ``weights/`` and the caches of Hugging Face.
    """
    here = record.source if record.source.is_dir() else record.source.parent
    folders = [here.resolve(), *weights_folders(), *_caches()]
    found = []
    for name, declared in declared_options(Options).items():
        if not declared.opt.is_file or name in typed:
            continue
        value = record.request.get(name)
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and _is_outside(Path(path_in(declared.flag, text)).expanduser(), folders):
                found.append(Path(path_in(declared.flag, text)))
    return list(dict.fromkeys(found))


def path_in(flag: str, text: str) -> str:
    """The path in the value of an option that names a file, without the strength or frame after it."""
    if flag in ("--lora", "--distilled-lora", "--detailing-lora"):
        return split_strength(text)[0]
    return image_file(text) if flag == "--image" else text


def _caches() -> list[Path]:
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return [home.resolve(), Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser().resolve()]


def _is_outside(path: Path, folders: list[Path]) -> bool:
    if not path.is_absolute() or not exists(path):
        return False
    # A link in an allowed folder leads where it leads.
    target = path.resolve()
    return not any(folder == target or folder in target.parents for folder in folders)
