"""What a terminal, a pipe and a program are told."""

import io
import json

import pytest
from rich.console import Console

from LTX_2_MLX.runtime import progress as module
from LTX_2_MLX.runtime.progress import JsonProgress, NotesOnly, SilentProgress, TerminalProgress, show_preview


def lines(file: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in file.getvalue().splitlines()]


def test_json_lines_tell_how_far_and_how_long(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    file = io.StringIO()
    progress = JsonProgress(file)
    progress.begin("denoise")
    for seconds, done in ((110.0, 1), (120.0, 4)):
        now[0] = seconds
        progress.advance("denoise", done, 4)
    now[0] = 140.0
    progress.end("denoise")
    assert lines(file) == [
        {"event": "begin", "stage": "denoise"},
        {"event": "advance", "stage": "denoise", "done": 1, "total": 4, "seconds": 10.0, "left": 30.0},
        {"event": "advance", "stage": "denoise", "done": 4, "total": 4, "seconds": 20.0, "left": 0.0},
        {"event": "end", "stage": "denoise", "seconds": 40.0},
    ]


def test_json_lines_are_throttled_but_the_last_step_is_told():
    file = io.StringIO()
    progress = JsonProgress(file)
    progress.begin("write")
    for done in range(1, 1001):
        progress.advance("write", done, 1000)
    told = [line["done"] for line in lines(file) if line["event"] == "advance"]
    assert told[-1] == 1000 and len(told) < 20


def test_unknown_total_has_no_time_left():
    file = io.StringIO()
    progress = JsonProgress(file)
    progress.begin("read")
    progress.advance("read", 5, None)
    assert lines(file)[-1]["left"] is None


def test_terminal_tells_the_time_left_of_steps_longer_than_half_a_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("LTX_2_MLX.runtime.time_left.time.perf_counter", lambda: now[0])
    progress, file = terminal(True)
    progress.begin("denoise")
    for done, seconds in enumerate((300.0, 400.0, 465.0, 530.0)):
        now[0] = seconds
        progress.advance("denoise", done, 30)
    progress._bars.refresh()
    progress.end("denoise")
    assert "0:29:15" in file.getvalue()


def terminal(is_terminal: bool) -> tuple[TerminalProgress, io.StringIO]:
    file = io.StringIO()
    return TerminalProgress(Console(file=file, force_terminal=is_terminal, width=100)), file


def test_terminal_shows_bars_of_stages_that_overlap():
    progress, file = terminal(True)
    progress.begin("decode")
    progress.begin("write")
    progress.advance("write", 3, 9)
    progress.end("decode")
    progress.advance("write", 9, 9)
    progress.end("write")
    shown = file.getvalue()
    assert "decode" in shown and "write" in shown and "9/9" in shown


def test_terminal_begins_again_after_its_last_bar_ended():
    progress, file = terminal(True)
    for stage in ("encode", "encode", "decode"):
        progress.begin(stage)
        progress.advance(stage, 1, 1)
        progress.end(stage)
    assert "decode" in file.getvalue()


def test_pipe_gets_a_line_for_each_stage_and_no_control_codes():
    progress, file = terminal(False)
    progress.begin("decode")
    progress.advance("decode", 1, 2)
    progress.end("decode")
    progress.note("a [bold]note[/bold]")
    text = file.getvalue()
    assert text.startswith("decode: 0.0 s\n") and "\x1b" not in text
    assert text.endswith("a [bold]note[/bold]\n")


@pytest.mark.parametrize("make", [SilentProgress, NotesOnly, lambda: JsonProgress(io.StringIO())])
def test_every_voice_takes_every_call(make):
    progress = make()
    progress.begin("a")
    progress.advance("a", 1, None)
    progress.end("a")
    progress.end("never begun")


def test_quiet_voice_says_notes_alone(capsys):
    progress = NotesOnly()
    progress.begin("a")
    progress.advance("a", 1, 2)
    progress.note("mind this")
    progress.end("a")
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == "mind this\n"


def test_previews_are_shown_among_the_bars_and_named_to_programs(tmp_path):
    shown, file = [], io.StringIO()
    progress = TerminalProgress(Console(file=file, force_terminal=True, width=100), show_image=shown.append)
    progress.begin("stage_1")
    show_preview(progress, "stage_1", tmp_path / "stage_1-1.png")
    progress.advance("stage_1", 1, 2)
    progress.end("stage_1")
    assert shown == [tmp_path / "stage_1-1.png"] and "1/2" in file.getvalue()
    file = io.StringIO()
    show_preview(JsonProgress(file), "stage_1", tmp_path / "a.png")
    assert lines(file) == [{"event": "preview", "stage": "stage_1", "path": str(tmp_path / "a.png")}]
    show_preview(SilentProgress(), "stage_1", tmp_path / "a.png")
