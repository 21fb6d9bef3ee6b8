"""A command's manners: one line and an exit code for everything that goes wrong, nothing half-written."""

import json
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from LTX_2_MLX import cli
from LTX_2_MLX.errors import CheckpointError, MediaError, MemoryBudgetError, OutputError, RequestError
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.video import read_video, write_video

SCRIPT = '''
import time
from dataclasses import dataclass
from typing import Annotated

from LTX_2_MLX import cli, read_video, write_video
from LTX_2_MLX.cli.command import command
from LTX_2_MLX.cli.options import VideoOptions
from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.pipelines.options import Opt


@dataclass(frozen=True, kw_only=True)
class CopyOptions(VideoOptions):
    mood: Annotated[str, Opt("How it ends.")] = "good"


def duplicate(own: CopyOptions) -> None:
    """Copy VIDEO."""
    mood = own.mood
    with cli.report(own.output, source=own.video, quiet=own.quiet, progress=own.progress, yes=own.yes) as runner:
        source = read_video(own.video)

        def work(_):
            for number, chunk in enumerate(source):
                yield chunk
                if mood == "slow":
                    print("working", flush=True)
                    # A sleep that begins just after a signal is not ended by it.
                    for _ in range(36_000):
                        time.sleep(0.1)
            if mood == "bug":
                raise ZeroDivisionError("a fault of ours")
            if mood == "memory":
                raise RuntimeError("[metal::malloc] Attempting to allocate 99 bytes")
        frames = source.replace(chunks=runner.stream("copy", lambda: None, work))
        write_video(frames, own.output, progress=runner.progress)


command("duplicate", duplicate, CopyOptions)()
'''


@pytest.fixture
def script(tmp_path) -> Path:
    folder = tmp_path / "script"
    folder.mkdir()
    (folder / "duplicate.py").write_text(SCRIPT)
    return folder / "duplicate.py"


@pytest.fixture
def film(tmp_path) -> Path:
    frames = np.stack([np.full((32, 48, 3), 20 * index, np.uint8) for index in range(5)])
    return write_video(FrameStream(iter([frames]), 32, 48, Fraction(24), 5), tmp_path / "in.mp4")


def call(*arguments, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, env=os.environ | environment
    )


def test_command_writes_its_file_and_reports_time_and_memory(script, film, tmp_path):
    done = call(script, film, "--output", tmp_path / "out.mp4")
    assert done.returncode == 0 and done.stdout == ""
    assert read_video(tmp_path / "out.mp4").num_frames == 5
    assert "peak" in done.stderr and " s in all" in done.stderr and f"Wrote {tmp_path / 'out.mp4'}" in done.stderr


def test_quiet_command_says_nothing(script, film, tmp_path):
    done = call(script, film, "-o", tmp_path / "out.mp4", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_json_progress_ends_with_a_report(script, film, tmp_path):
    done = call(script, film, "-o", tmp_path / "out.mp4", "--progress", "json")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 0 and done.stdout == ""
    assert [line["event"] for line in lines if line["event"] != "advance"] == ["begin", "begin", "end", "end", "report"]
    assert lines[-1]["stages"][0]["stage"] == "copy" and lines[-1]["output"] == str(tmp_path / "out.mp4")


BAD = {
    "no such file": ("missing.mp4", "out.mp4", "does not exist"),
    "no film": ("text.mp4", "out.mp4", "text.mp4"),
    "nothing in it": ("empty.mp4", "out.mp4", "has 0 bytes"),
    "no file": ("/dev/null", "out.mp4", "is not a file"),
    "file as folder": ("in.mp4", "text.mp4/out.mp4", "is a file, not a folder"),
    "no such folder": ("in.mp4", "nowhere/out.mp4", "mkdir -p"),
    "folder as output": ("in.mp4", "folder.mp4", "is a folder"),
    "output is input": ("in.mp4", "in.mp4", "is the input itself"),
    "unknown container": ("in.mp4", "out.xyz", "Unsupported video format"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line_and_exit_code_2(script, film, case):
    source, output, words = BAD[case]
    folder = film.parent
    (folder / "folder.mp4").mkdir()
    (folder / "text.mp4").write_text("no film")
    (folder / "empty.mp4").touch()
    before = sorted(folder.rglob("*"))
    done = call(script, folder / source, "-o", folder / output, "--quiet")
    assert done.returncode == 2 and done.stdout == ""
    assert words in done.stderr and done.stderr.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([], "VIDEO"),
        (["in.mp4"], "--output"),
        (["in.mp4", "-o", "out.mp4", "--tempo", "3"], "--tempo"),
        (["in.mp4", "-o", "out.mp4", "--progress", "loud"], "'bar', 'json'"),
        (["in.mp4", "in.mp4", "-o", "out.mp4"], "in.mp4"),
    ],
)
def test_mistyped_options_are_one_line_and_exit_code_2(script, film, given, words):
    done = call(script, *given)
    assert done.returncode == 2 and done.stdout == ""
    assert words in done.stderr and "duplicate.py --help" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("given", [["", "-o", "out.mp4"], [".", "-o", ""], ["./", "--output="]])
def test_empty_name_is_not_taken_for_this_folder(script, given):
    done = call(script, *given)
    assert done.returncode == 2 and "is empty" in done.stderr and done.stderr.count("\n") == 1


def test_json_errors_are_json_too(script, film, tmp_path):
    done = call(script, film, "-o", film, "--progress", "json")
    told = json.loads(done.stderr.splitlines()[-1])
    assert told["event"] == "error" and told["code"] == 2 and "input itself" in told["text"]


@pytest.mark.parametrize(("mood", "words"), [("bug", "a fault of ours"), ("memory", "ran out of memory")])
def test_fault_of_the_library_is_one_line_and_exit_code_1(script, film, tmp_path, mood, words):
    done = call(script, film, "-o", tmp_path / "out.mp4", "--mood", mood, "--quiet")
    assert done.returncode == 1 and words in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "out.mp4").exists()


def test_traceback_is_there_for_those_who_ask(script, film, tmp_path):
    done = call(script, film, "-o", tmp_path / "out.mp4", "--mood", "bug", LTX_2_MLX_TRACEBACK="1")
    assert "Traceback" in done.stderr and "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_interrupted_command_leaves_nothing_behind(script, film, tmp_path, number, code):
    before = sorted(tmp_path.rglob("*"))
    process = subprocess.Popen(
        [sys.executable, str(script), str(film), "-o", str(tmp_path / "out.mp4"), "--mood", "slow", "--quiet"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "working\n"
    assert len(sorted(tmp_path.rglob("*"))) > len(before), "the temporary file is not there yet"
    process.send_signal(number)
    # By itself the command would go on for an hour.
    _, errors = process.communicate(timeout=1800)
    assert process.returncode == code
    assert errors.count("\n") == 1 and "nothing half-written" in errors
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("error", "code"),
    [(RequestError, 2), (CheckpointError, 2), (MemoryBudgetError, 2), (MediaError, 2), (OutputError, 1), (KeyError, 1)],
)
def test_errors_have_their_exit_codes(error, code, capsys):
    import typer

    with pytest.raises(typer.Exit) as caught, cli.exit_codes():
        raise error("what\n went wrong")
    assert caught.value.exit_code == code
    assert "what" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_are_handled_only_while_a_command_runs(number):
    before = signal.getsignal(number)
    with cli.exit_codes():
        assert signal.getsignal(number) is not before
    assert signal.getsignal(number) is before


def test_hangup_stays_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with cli.exit_codes():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_usage_errors_are_json_lines_with_json_progress(script):
    done = call(script, "in.mp4", "-o", "out.mp4", "--tempo", "3", "--progress", "json")
    line = json.loads(done.stderr)
    assert done.returncode == 2 and line["event"] == "error" and line["code"] == 2 and "--tempo" in line["text"]


def test_help_needs_neither_mlx_nor_ffmpeg():
    code = (
        "import sys\n"
        "from LTX_2_MLX.cli import app\n"
        "try:\n    app.program()(sys.argv[1:], prog_name='ltx-2-mlx')\n"
        "except SystemExit:\n    pass\n"
        "print(*({'av', 'mlx.core', 'numpy', 'mlx_lm', 'huggingface_hub'} & set(sys.modules)), file=sys.stderr)"
    )
    for words in (["generate", "--help"], ["generate", "a ball", "--cfg", "strong"], ["upscale", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.stderr.splitlines()[-1] == ""


def test_help_is_shown_by_a_terminal_without_unicode():
    scripts = Path(__file__).parent.parent / "scripts"
    for name in ("generate", "super_resolve", "upscale", "convert_weights"):
        done = call(scripts / f"{name}.py", "--help", PYTHONIOENCODING="ascii")
        assert done.returncode == 0 and "Traceback" not in done.stderr and "--help" in done.stdout


def test_existing_output_is_asked_for_on_a_terminal_alone(tmp_path, monkeypatch):
    from LTX_2_MLX.cli.command import check_existing

    path = tmp_path / "out.mp4"
    check_existing(path, yes=False)
    path.touch()
    check_existing(path, yes=False)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    answers = iter([True, False])
    monkeypatch.setattr("typer.confirm", lambda *_, **__: next(answers))
    check_existing(path, yes=False)
    check_existing(path, yes=True)
    with pytest.raises(RequestError, match="was kept"):
        check_existing(path, yes=False)


def test_report_names_each_stage_with_time_and_peak():
    from LTX_2_MLX.runtime.runner import StageReport

    lines = cli.report_lines([StageReport("stage_1", 12.34, 3 * 2**30, 5 * 2**30)], 15.0)
    assert lines == ["stage_1      12.3 s  peak 3.00 GiB", "15.0 s in all, process peak 5.00 GiB"]
