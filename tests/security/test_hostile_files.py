"""Files of strangers: refused in one line, or used without writing, starting or printing anything unasked."""

import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from LTX_2_MLX import FrameStream, cli, read_video, write_video
from LTX_2_MLX.checkpoints.convert import as_safetensors, convert
from LTX_2_MLX.checkpoints.gemma_tokenizer import GemmaTokenizer
from LTX_2_MLX.checkpoints.quantize import Quantization
from LTX_2_MLX.checkpoints.torch_file import read_torch_file
from LTX_2_MLX.cli import convert_weights, generate, inspect_checkpoint, interpolate, upscale
from LTX_2_MLX.errors import CheckpointError, MediaError, RequestError
from LTX_2_MLX.media.image import StillImage, read_image, write_image
from LTX_2_MLX.media.record import RunRecord
from LTX_2_MLX.pipelines.generation.recorded_files import files_outside
from LTX_2_MLX.printable import printable
from LTX_2_MLX.runtime.job import Job

INPUTS = Path(__file__).parent / "inputs"
ROOT = Path(__file__).parents[2]
GEMMA = ROOT / "weights" / "demo" / "gemma"
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def run(command, *words):
    return CliRunner().invoke(cli.as_program(command.main), [str(word) for word in words])


def replay(path, folder, *words):
    return run(generate, "--replay", path, "-o", folder / "o.webm", "--dry-run", *words)


@pytest.fixture
def copied(tmp_path):
    """The inputs of a folder, copied to where they may be harmed."""
    return lambda name: Path(shutil.copytree(INPUTS / name, tmp_path / name))


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("path", sorted(INPUTS.glob("pth-*/*.pth")), ids=lambda path: path.name)
def test_torch_files_that_never_end_or_unfold_are_refused(path, stored, tmp_path):
    if stored:
        # The pickle's own checks, behind that of the compression.
        if path.name == "storage_bomb.pth":
            pytest.skip("its size is its fault")
        with zipfile.ZipFile(path) as before, zipfile.ZipFile(tmp_path / path.name, "w") as after:
            for entry in before.namelist():
                after.writestr(entry, before.read(entry))
        path = tmp_path / path.name
    with pytest.raises(CheckpointError):
        read_torch_file(path)


def test_playlists_are_no_videos():
    for name in ("clip.mp4", "list.m3u8", "many.mp4", "self.mp4"):
        with pytest.raises(MediaError, match=r"playlist|not a video|cannot be read"):
            read_video(INPUTS / "film-opens-other-files" / name)


def test_postscript_named_png_starts_no_program(tmp_path, monkeypatch):
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\necho called >> {tmp_path}/gs.log\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(MediaError, match="not a readable image"):
        read_image(INPUTS / "picture-runs-ghostscript" / "eps.png")
    assert not (tmp_path / "gs.log").exists()


def test_frames_with_a_colour_profile_do_not_end_python(tmp_path):
    code = (
        "import gc, sys; from LTX_2_MLX import read_video, write_video\n"
        "write_video(read_video(sys.argv[1]), sys.argv[2]); gc.collect(); print('whole')"
    )
    words = [sys.executable, "-c", code, INPUTS / "icc-in-film-crash" / "icc_png.mov", tmp_path / "o.mkv"]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr


def test_only_left_overs_of_a_run_are_removed_and_a_folder_in_use_is_refused(tmp_path):
    folder = tmp_path / "job"
    folder.mkdir()
    (folder / ".notes.partial").write_text("the user's own")
    code = (
        "import sys; from pathlib import Path; from LTX_2_MLX.runtime.job import Job\n"
        "job = Job(Path(sys.argv[1])); print('ready', flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as first:
        assert first.stdout.readline() == "ready\n"
        with pytest.raises(RequestError, match="in use by another run"):
            Job(folder)
    Job(folder)
    assert (folder / ".notes.partial").read_text() == "the user's own"


def test_numbers_without_end_are_refused(tmp_path):
    folder = INPUTS / "number-without-end"
    assert replay(folder / "fps.mp4", tmp_path).exit_code == 2
    result = run(interpolate, folder / "in.mp4", "-o", tmp_path / "o.mp4", "--target-fps", "1e99999999")
    assert result.exit_code == 2 and len(result.stderr) < 300


def test_a_record_names_no_place_to_write(copied, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "request.json").write_text("mine")
    (keep / ".notes.partial").write_text("draft")
    result = replay(copied("record-save-latents") / "film.mp4", tmp_path)
    assert "--save-latents): it is not used" in result.stderr
    assert {path.name: path.read_text() for path in keep.iterdir()} == {
        "request.json": "mine",
        ".notes.partial": "draft",
    }


@pytest.mark.parametrize("name", ["crf", "noprompt", "cfg", "width", "surrogate"])
def test_values_of_other_types_are_the_records_fault(name, tmp_path):
    result = replay(INPUTS / "record-wrong-types" / f"{name}.mp4", tmp_path)
    assert result.exit_code == 2 and "bug in this program" not in result.stderr, result.stderr


@pytest.mark.parametrize("name", ["wan0", "wanheads", "markup"])
def test_strange_headers_are_the_files_fault(name):
    result = run(inspect_checkpoint, INPUTS / "record-wrong-types" / f"{name}.safetensors")
    assert result.exit_code in (0, 2) and "bug in this program" not in result.stderr, result.stderr


@pytest.mark.parametrize("path", sorted(INPUTS.glob("terminal-escapes/*")), ids=lambda path: path.name)
def test_nothing_that_controls_a_terminal_is_printed(path, tmp_path):
    if path.suffix == ".mp4":
        result = replay(path, tmp_path)
    elif path.suffix == ".pth":
        result = run(convert_weights, path, "-o", tmp_path / "o.safetensors")
    else:
        result = run(inspect_checkpoint, path)
    shown = result.stdout + result.stderr
    assert shown and all(letter == "\n" or letter.isprintable() for letter in shown), ascii(shown)
    assert len(shown) < 20_000


def test_printable_shows_controls_as_escapes_and_cuts_long_text():
    assert printable("\x1b]52;\x9b\u202e\ud800\na é") == r"\x1b]52;\x9b\u202e\ud800\na é"
    assert printable("a\nb", newlines=True) == "a\nb" and printable("x" * 100, 5) == "xxxxx…"


def test_a_conversion_replaces_no_file_of_the_users(copied):
    folder = copied("conversion-overwrites")
    before = (folder / "model.pth.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="was not made by a conversion"):
        as_safetensors(folder / "model.pth")
    assert run(convert_weights, folder / "model.pth").exit_code == 2
    assert (folder / "model.pth.safetensors").read_bytes() == before


def test_a_dry_run_converts_nothing(copied, tmp_path):
    folder = copied("conversion-overwrites")
    (folder / "model.pth.safetensors").unlink()
    words = (folder / "picture.png", "-o", tmp_path / "o.png", "--model-path", folder / "model.pth")
    assert run(upscale, *words, "--dry-run").exit_code == 2
    assert not (folder / "model.pth.safetensors").exists()


def test_recorded_files_outside_the_videos_folder_are_named(tmp_path):
    (tmp_path / "here").mkdir()
    inside, outside = tmp_path / "here" / "a.png", tmp_path / "b.safetensors"
    inside.touch()
    outside.touch()
    request = {"prompt": "a", "image": str(inside), "lora": [f"{outside}:0.5"], "weights": str(outside)}
    record = RunRecord(request, source=tmp_path / "here" / "video.mp4")
    assert files_outside(record, {}) == [outside]
    assert files_outside(record, {"lora": (), "weights": "auto"}) == []


def test_a_quantised_folder_holds_no_other_files(tmp_path):
    shutil.copytree(GEMMA, tmp_path / "gemma")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "gemma" / "notes.json").symlink_to("../secret.txt")
    convert(tmp_path / "gemma", tmp_path / "q8", quantize=Quantization(8, 32))
    assert not (tmp_path / "q8" / "notes.json").exists()
    (tmp_path / "gemma" / "added_tokens.json").symlink_to("../secret.txt")
    with pytest.raises(CheckpointError, match="link out of its folder"):
        convert(tmp_path / "gemma", tmp_path / "second", quantize=Quantization(8, 32))


GROWING = {"type": "Replace", "pattern": {"Regex": "."}, "content": "a" * 20}


@pytest.mark.parametrize(
    "normalizer",
    [
        {"type": "Precompiled", "precompiled_charsmap": "////"},
        {"type": "Sequence", "normalizers": [GROWING] * 8},
        {"type": "Sequence", "normalizers": [GROWING | {"pattern": {"String": "a"}}]},
        {"type": "Sequence", "normalizers": {"a": 1}},
    ],
)
def test_tokenizers_that_panic_or_grow_are_refused(normalizer, tmp_path):
    facts = json.loads((GEMMA / "tokenizer.json").read_text(encoding="utf-8")) | {"normalizer": normalizer}
    (tmp_path / "tokenizer.json").write_text(json.dumps(facts))
    with pytest.raises(CheckpointError, match="normalizer"):
        GemmaTokenizer.from_folder(tmp_path)


def test_planted_links_are_not_followed(tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("precious")
    (tmp_path / f".o.{os.getpid()}.partial.png").symlink_to(precious)
    (tmp_path / "o.png").symlink_to(precious)
    write_image(StillImage(np.zeros((8, 8, 3), np.uint8)), tmp_path / "o.png")
    assert precious.read_text() == "precious" and not (tmp_path / "o.png").is_symlink()


@pytest.mark.parametrize("names", [("same.mp4", "same.mp4"), (f"{'a' * 60}-1.mp4", f"{'a' * 60}-2.mp4")])
def test_two_writers_at_once_write_whole_videos(names, tmp_path):
    barrier = threading.Barrier(2)

    def write(name, level):
        def chunks():
            barrier.wait()
            for _ in range(4):
                yield np.full((1, 64, 64, 3), level, np.uint8)

        stream = FrameStream(chunks=chunks(), height=64, width=64, frame_rate=Fraction(24), num_frames=4)
        write_video(stream, tmp_path / name)

    levels = (60, 200)
    threads = [threading.Thread(target=write, args=pair) for pair in zip(names, levels, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    for name, level in zip(names, levels, strict=True):
        stream = read_video(tmp_path / name)
        means = [float(np.asarray(chunk).mean()) for chunk in stream]
        allowed = levels if names[0] == names[1] else (level,)
        assert stream.num_frames == 4 and any(all(abs(mean - each) < 4 for mean in means) for each in allowed)


@pytest.fixture
def writes():
    """The files that Python opens for writing while a block runs."""
    opened = []
    watching = [True]

    def watch(event, arguments):
        if watching[0] and event == "open" and isinstance(arguments[0], str | os.PathLike):
            mode, flags = arguments[1], arguments[2]
            if (isinstance(mode, str) and set(mode) & set("wax+")) or (mode is None and flags & WRITING):
                opened.append(Path(arguments[0]))

    sys.addaudithook(watch)
    yield opened
    watching[0] = False


def test_a_replay_opens_its_output_alone_for_writing(tmp_path, monkeypatch, writes):
    stranger, home = tmp_path / "stranger", tmp_path / "home"
    stranger.mkdir()
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    video, output = stranger / "video.webm", home / "o.webm"
    size = ("--frames", 9, "--height", 64, "--width", 64, "--pipeline", "one-stage", "--steps", 1)
    made = run(generate, "A blue ball bouncing on green grass", *size, "--allow-blank", "-o", video)
    assert made.exit_code == 0, made.stderr
    writes.clear()
    result = run(generate, "--replay", video, "--allow-blank", "-o", output)
    assert result.exit_code == 0, result.stderr
    # FFmpeg opens files by itself: the folders show those.
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == {video, output}
    assert all(path.parent == home and path.name.startswith(".o.") for path in writes if str(path) != os.devnull), (
        writes
    )
