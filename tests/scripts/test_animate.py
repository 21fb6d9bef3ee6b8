"""animate as users type it."""

import importlib.util
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence
from typer.testing import CliRunner

from LTX_2_MLX import cli
from LTX_2_MLX.media.frames import FrameStream

SCRIPT = Path(__file__).parents[2] / "scripts" / "animate.py"


@pytest.fixture
def film(tmp_path) -> Path:
    """Five frames of 24×40 pixels, each brighter than the one before, at 10 per second."""
    frames = np.stack([np.full((24, 40, 3), 40 * number, dtype=np.uint8) for number in range(5)])
    return FrameStream([frames], 24, 40, Fraction(10)).save(tmp_path / "film.mp4")


def animate(*words: object):
    spec = importlib.util.spec_from_file_location("animate_command", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return CliRunner().invoke(cli.as_program(module.main), [str(word) for word in words])


@pytest.mark.parametrize("suffix", [".webp", ".gif"])
def test_animated_picture_has_every_frame_at_its_size_and_pace(film, tmp_path, suffix):
    assert animate(film, "-o", tmp_path / f"film{suffix}").exit_code == 0
    with Image.open(tmp_path / f"film{suffix}") as picture:
        shown = [(np.array(frame.convert("RGB")), frame.info["duration"]) for frame in ImageSequence.Iterator(picture)]
    assert [milliseconds for _, milliseconds in shown] == [100] * 5
    for number, (frame, _) in enumerate(shown):
        assert frame.shape == (24, 40, 3)
        assert abs(frame.mean() - 40 * number) < 6


def test_a_still_format_is_refused_and_nothing_written(film, tmp_path):
    done = animate(film, "-o", tmp_path / "film.png")
    assert done.exit_code == 2
    assert ".webp or .gif" in done.output
    assert not (tmp_path / "film.png").exists()
