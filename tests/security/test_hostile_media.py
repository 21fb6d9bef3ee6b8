"""Videos, images and records of strangers: refused in one line, or used without harm.

Nothing is written, started or printed unasked.
"""

import os
import shutil
import subprocess
import sys
import threading
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from LTX_2_MLX import FrameStream, cli, read_video, write_video
from LTX_2_MLX.cli import convert_weights, generate, inspect_checkpoint, interpolate
from LTX_2_MLX.errors import CheckpointError, MediaError, MemoryBudgetError, RequestError
from LTX_2_MLX.files import content_digest, printable
from LTX_2_MLX.media.image import StillImage, image_size, read_image, write_image
from LTX_2_MLX.media.source import decoding_budget
from LTX_2_MLX.media.writer import RunRecord
from LTX_2_MLX.pipelines.generation.record import options_from
from LTX_2_MLX.pipelines.generation.recorded_files import files_outside
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


def test_recorded_files_outside_the_videos_folder_are_named(tmp_path):
    (tmp_path / "here").mkdir()
    inside, outside = tmp_path / "here" / "a.png", tmp_path / "b.safetensors"
    inside.touch()
    outside.touch()
    request = {"prompt": "a", "image": str(inside), "lora": [f"{outside}:0.5"], "weights": str(outside)}
    record = RunRecord(request, source=tmp_path / "here" / "video.mp4")
    assert files_outside(record, {}) == [outside]
    assert files_outside(record, {"lora": (), "weights": "auto"}) == []


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
    written = [path for path in writes if str(path) != os.devnull]
    # Were the watch blind, there would be none.
    assert written and all(path.parent == home and path.name.startswith(".o.") for path in written), written


@pytest.mark.parametrize("path", sorted(INPUTS.glob("fuzz-images/*")), ids=lambda path: path.name)
def test_damaged_images_are_read_or_refused_without_a_word_of_pillows(path, capfd, recwarn):
    # These raised errors of codecs, warned, or were logged.
    with suppress(MediaError):
        assert read_image(path).pixels.size
    assert capfd.readouterr().err == "" and not recwarn.list


@pytest.mark.parametrize("failure", [MemoryError(), RecursionError("too deep"), RuntimeError("codec"), OSError(5, "x")])
def test_failures_inside_pillow_are_the_images(failure, monkeypatch, tmp_path):
    def fail(*_, **__):
        raise failure

    write_image(StillImage(np.zeros((8, 8, 3), np.uint8)), tmp_path / "o.png")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(MediaError, match=r"o\.png cannot be read") as raised:
        read_image(tmp_path / "o.png")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("failure", [MemoryError(), RecursionError("too deep"), av.InvalidDataError(1, "x")])
def test_failures_inside_ffmpeg_are_the_videos(failure, monkeypatch):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr(av, "open", fail)
    with pytest.raises(MediaError, match=r"cannot be read as video"):
        read_video(INPUTS / "number-without-end" / "in.mp4")


def test_a_short_video_that_unfolds_is_decoded_in_little_memory_or_refused(tmp_path):
    path = tmp_path / "unfolds.mp4"
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", 24, options={"preset": "ultrafast", "crf": "51"})
        video.height, video.width, video.pix_fmt = 2160, 4096, "yuv420p"
        for _ in range(24):
            frame = av.VideoFrame(4096, 2160, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([128]) * plane.buffer_size)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
    assert path.stat().st_size < 60_000
    with decoding_budget(200_000_000), pytest.raises(MemoryBudgetError, match=r"4096×2160 pixels.*GiB may be used"):
        read_video(path)
    code = (
        "import resource, sys; from LTX_2_MLX.media.video import read_video\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak(); stream = read_video(sys.argv[1]); print(peak() - before, stream.decoding_bytes)"
    )
    words = [sys.executable, "-c", code, path]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    taken, planned = map(int, done.stdout.split())
    # Linux counts in KiB, macOS in bytes.
    taken *= 1 if sys.platform == "darwin" else 1024
    assert taken < 300_000_000 and taken < planned + 64 * 2**20


def test_a_video_of_hundreds_of_tracks_is_refused(tmp_path):
    path = tmp_path / "tracks.mkv"
    with av.open(str(path), "w") as container:
        video = container.add_stream("ffv1", 24)
        video.height, video.width, video.pix_fmt = 16, 16, "yuv420p"
        for _ in range(100):
            container.add_stream("pcm_s16le", 48_000)
        container.mux(video.encode(av.VideoFrame(16, 16, "yuv420p")))
        container.mux(video.encode(None))
    with pytest.raises(MediaError, match="has more than 100 tracks"):
        read_video(path)


def test_an_image_that_unfolds_is_refused_before_its_pixels_are_decoded(tmp_path):
    path = tmp_path / "large.png"
    Image.new("1", (12_000, 12_000)).save(path)
    assert path.stat().st_size < 40_000 and image_size(path) == (12_000, 12_000)
    with decoding_budget(10**9), pytest.raises(MemoryBudgetError, match="12000×12000 pixels"):
        read_image(path)


def test_unknown_keys_of_a_record_are_noted_and_its_files_listed_with_their_verdicts(tmp_path):
    image, other = tmp_path / "a.png", tmp_path / "b.safetensors"
    write_image(StillImage(np.zeros((64, 64, 3), np.uint8)), image)
    other.write_bytes(b"x")
    request = {"prompt": "a", "image": str(image), "lora": [str(other)], "shoe_size": 43}
    files = {str(image): content_digest(image)}
    notes = []
    options_from(RunRecord(request, files, source=tmp_path / "v.mp4"), {}, notes.append)
    assert notes == [
        "The record has 'shoe_size', which this version does not know: it is not used.",
        f"Files of the record: {image} (unchanged), {other} (without a recorded digest)",
    ]
    image.write_bytes(b"y")
    with pytest.raises(RequestError, match=r"a\.png \(--image\) has changed"):
        options_from(RunRecord(request, files, source=tmp_path / "v.mp4"), {})


def test_recorded_paths_that_no_file_can_have_are_refused(tmp_path):
    for path in ("9" * 5000, "/tmp/\0", "\ud800"):
        record = RunRecord({"prompt": "a", "image": path}, {}, source=tmp_path / "v.mp4")
        assert files_outside(record, {}) == []
        with pytest.raises(RequestError, match="is no path of a file"):
            options_from(record, {})


def test_a_resolution_that_is_no_number_is_not_kept(tmp_path):
    path = tmp_path / "a.tiff"
    Image.new("RGB", (8, 8)).save(path, dpi=(72, 72))
    content = path.read_bytes()
    # The denominators of both resolutions.
    path.write_bytes(content.replace((72).to_bytes(4, "little") + (1).to_bytes(4, "little"), bytes(8)))
    assert path.read_bytes() != content and read_image(path).dpi is None


def test_a_recorded_image_that_is_missing_is_named(tmp_path):
    image = tmp_path / "gone.png"
    record = RunRecord({"prompt": "a", "image": str(image)}, {str(image): "0" * 64}, source=tmp_path)
    with pytest.raises((RequestError, CheckpointError, MediaError), match=r"gone\.png"):
        options_from(record, {})


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_an_image_whose_colour_profile_is_none_is_refused(tmp_path, suffix):
    path = tmp_path / f"image{suffix}"
    Image.new("RGB", (33, 21), "red").save(path, icc_profile=b"no profile" * 20)
    with pytest.raises(MediaError, match="colour profile that cannot be read"):
        read_image(path)
