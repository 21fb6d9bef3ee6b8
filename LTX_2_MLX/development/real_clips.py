"""Every command from a video to a video over real clips: whether it ends well, and keeps the clip's duration."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from LTX_2_MLX.media.video import read_video, write_video

ROOT = Path(__file__).parents[2]


def commands_run(clips: list[Path], model: Path, rife: Path, place: Path, note: Callable[[str], None]) -> Iterator[str]:
    """Lines on commands that fail, or that do not keep a clip's duration.

    Args:
        clips: Videos of which the first frames are taken.
        model: Weights of Real-ESRGAN.
        rife: Weights of RIFE.
        place: Folder to write into.
        note: Callback for a line on each command.
    """
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
                yield from run_command(name, short, place / f"{clip.stem}-{name}{suffix}", words, note)


def shortened(clip: Path, target: Path, num_frames: int = 5) -> Path:
    """The first frames of a clip, its sound and tags, at a quarter of the size."""
    stream = read_video(clip)
    frames = np.stack([frame[::4, ::4] for frame, _ in zip(stream.frames(), range(num_frames), strict=False)])
    times = None if stream.times is None else stream.times[: num_frames + 1]
    height, width = frames.shape[1:3]
    short = stream.replace(chunks=[frames], height=height, width=width, num_frames=len(frames), times=times)
    return write_video(short, target)


def run_command(name: str, clip: Path, output: Path, words: list[str], note: Callable[[str], None]) -> Iterator[str]:
    """Lines on one command."""
    line = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), str(clip), "-o", str(output), "--quiet", *words]
    done = subprocess.run(line, capture_output=True, text=True)
    note(f"{name} {clip.name} to {output.suffix}: exit code {done.returncode}")
    if done.returncode:
        yield f"{name} {clip.name}: {done.stderr.strip()[-500:]}"
        return
    before, after = read_video(clip), read_video(output)
    assert before.duration_seconds is not None and after.duration_seconds is not None, "a file says its length"
    if abs(before.duration_seconds - after.duration_seconds) > 1 / before.frame_rate:
        yield f"{name} {clip.name}: {after.duration_seconds} s instead of {before.duration_seconds} s."
