"""The command as users type it, with small files in the published format."""

import importlib.util
import json
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_flashvsr import clip, write_flashvsr
from typer.testing import CliRunner

from LTX_2_MLX import cli, read_video, write_video
from LTX_2_MLX.pipelines.super_resolve import Request, super_resolve

TESTS = Path(__file__).parents[1]
SCRIPT = TESTS.parent / "scripts" / "super_resolve.py"
PEBBLES = TESTS / "media" / "pebbles_160x112.mp4"


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_flashvsr(tmp_path_factory.mktemp("flashvsr"))


@pytest.fixture
def command(monkeypatch, tmp_path):
    """``command(*arguments)`` runs in an empty folder; its result has exit_code and stderr."""
    spec = importlib.util.spec_from_file_location("super_resolve_command", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(cli.as_program(module.main), [str(argument) for argument in arguments])


def folder_of_pictures(place: Path, count: int = 2, size: tuple[int, int] = (17, 10)) -> Path:
    place.mkdir()
    for i in range(count):
        levels = np.random.default_rng(i).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(levels).save(place / f"frame{i + 9}.png")
    return place


def test_film_keeps_its_frames_rate_and_sound(command, weights, tmp_path):
    result = command("-i", PEBBLES, "--weights", weights, "--scale", 1, "--tile-dit", "--tile-size", 128)
    assert result.exit_code == 0, result.stderr
    written = read_video(tmp_path / "results" / "FlashVSR_tiny_pebbles_160x112_x1_seed0.mp4")
    source = read_video(PEBBLES)
    assert (written.height, written.width) == (112, 160)
    assert (written.num_frames, written.frame_rate) == (source.num_frames, source.frame_rate)
    assert written.audio is not None
    assert "keys and values" in result.stderr and "super-resolve" in result.stderr


def test_folder_of_pictures_becomes_a_film_at_the_rate_that_is_given(command, weights, tmp_path):
    source = folder_of_pictures(tmp_path / "frames")
    result = command("-i", source, "-o", "film.mkv", "--weights", weights, "--fps", "24000/1001", "--quiet")
    assert result.exit_code == 0, result.stderr
    film = read_video(tmp_path / "film.mkv")
    assert (film.num_frames, film.frame_rate, film.height, film.width) == (2, Fraction(24000, 1001), 40, 68)


def test_picture_becomes_a_picture_with_the_librarys_own_pixels(command, weights, tmp_path):
    source = folder_of_pictures(tmp_path / "frames", 1) / "frame9.png"
    result = command("-i", source, "--weights", weights)
    assert result.exit_code == 0, result.stderr
    (written,) = (tmp_path / "results").iterdir()
    from LTX_2_MLX.media.image_folder import read_images

    wanted = super_resolve(read_images([source]), Request(weights=str(weights))).array()[0]
    np.testing.assert_array_equal(np.asarray(Image.open(written)), wanted)


def test_dry_run_prints_the_plan_and_writes_nothing(command, weights, tmp_path):
    result = command("-i", PEBBLES, "--weights", weights, "--vae-type", "wan2.1", "--dry-run")
    assert result.exit_code == 0 and list(tmp_path.iterdir()) == []
    assert "160 x 112 -> 640 x 448" in result.stdout and "wan2.1 cannot be used" in result.stdout


def test_run_is_fitted_into_less_memory_on_request(command, weights, tmp_path):
    words = ("-i", folder_of_pictures(tmp_path / "frames", size=(140, 130)), "-o", "film.mkv", "--weights", weights)
    refused = command(*words, "--memory-limit-gb", 0.3)
    assert refused.exit_code == cli.REFUSED and "--tile-dit" in refused.stderr and not Path("film.mkv").exists()
    dry = command(*words, "--memory-limit-gb", 0.3, "--fit", "--dry-run")
    assert dry.exit_code == 0 and "tiles" in dry.stdout and "Peak" in dry.stdout
    programs = command(*words, "--memory-limit-gb", 0.3, "--dry-run", "--json")
    assert json.loads(programs.stdout)["fits"] is False


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, cli.INTERRUPTED), (signal.SIGKILL, -signal.SIGKILL)])
def test_stopped_run_leaves_nothing_under_the_final_name(weights, tmp_path, number, code):
    # Long enough that the run is still at work when the signal comes, however busy the machine is.
    source = write_video(clip(600, 10, 17), tmp_path / "in.mkv")
    words = ["-i", source, "-o", tmp_path / "out.mkv", "--weights", weights, "--progress", "json"]
    run = subprocess.Popen([sys.executable, SCRIPT, *words], stderr=subprocess.PIPE, text=True)
    # The first chunk has been made, others wait.
    next(line for line in run.stderr if '"advance"' in line and '"super-resolve"' in line)
    run.send_signal(number)
    said = run.stderr.read()
    run.stderr.close()
    assert run.wait() == code
    assert not (tmp_path / "out.mkv").exists()
    if number == signal.SIGINT:
        assert "Interrupted" in said and list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-i", "missing.mp4"), "does not exist"),
        (("-i", PEBBLES, "--weights", "nowhere"), "nowhere"),
        (("-i", PEBBLES, "--local-range", 4), "odd"),
        (("-i", PEBBLES, "--vae-type", "wan3"), "lighttae-hy1.5"),
        (("-i", PEBBLES, "--overlap", 200), "half the tile size"),
        (("-i", PEBBLES, "-o", "film.xyz"), "Unsupported video format"),
        (("-i", PEBBLES, "-o", "film.png"), "has 12 frames"),
        (("-i", PEBBLES, "--memory-limit-gb", "nan"), "--memory-limit-gb"),
        (("-i", PEBBLES, "--fps", "fast"), "expected a rate"),
        (("-i", PEBBLES, "-o", "x" * 300 + ".mp4"), "has 304 bytes"),
        (("-i", PEBBLES, "-o", "new/film.xyz"), "Unsupported video format"),
        (("-i", PEBBLES, "-o", "no/such/place/film.mp4"), "cannot be created"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(command, weights, tmp_path, arguments, words):
    given = arguments if "--weights" in arguments else (*arguments, "--weights", weights)
    result = command(*given)
    assert result.exit_code == cli.REFUSED, result.output
    assert words in result.stderr and len(result.stderr.strip().splitlines()) == 1
    # Nor is there a folder for what was not made.
    assert not list(tmp_path.iterdir())
