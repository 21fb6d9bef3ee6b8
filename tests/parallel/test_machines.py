"""Several processes of one run: what they exchange, what they compare, and how they end."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from launching import ENVIRONMENT, ROOT, launched, start
from safetensors.numpy import load_file

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.ops.collective import ALONE, Group, TokenShare
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.meeting import met

LAUNCHED = Path(__file__).with_name("launched.py")
GENERATE = ROOT / "scripts" / "generate.py"
PROMPT = "A blue ball bouncing on green grass"
SMALL = (PROMPT, "--frames", "9", "--steps-stage1", "2", "--steps-stage2", "1", "--cfg", "5", "--allow-blank")


@pytest.mark.parametrize(
    ("work", "line"),
    [
        ("exchange", "exchanged"),
        ("wrong_order", "Collective 0 of process 0 met number 1 of process 1"),
        ("different_tasks", "differs from machine 1 in weights. Start"),
        ("error_of_one", "cannot take part. RequestError: There is no prompt."),
        ("lost_machine", "LINE [ring] connection to a peer was lost"),
        ("first_one_counts", "LINE the first one's"),
    ],
)
def test_two_processes(work, line, tmp_path):
    out, err = launched(2, LAUNCHED, work, tmp_path / "states")
    assert line in out, err


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("num_tokens", [1, 5, 7, 12])
def test_shares_of_tokens_together_are_all_tokens(size, num_tokens, monkeypatch):
    tokens = mx.arange(2 * num_tokens * 3).reshape(2, num_tokens, 3)
    shares = [TokenShare(Group(rank, size), num_tokens) for rank in range(size)]
    rows = mx.stack([tokens[:, share.tokens] for share in shares])
    monkeypatch.setattr(Group, "gather", lambda self, array: rows)
    for share in shares:
        assert mx.array_equal(share.gather(tokens[:, share.tokens]), tokens)


def test_process_alone_gathers_its_own_arrays():
    array = mx.array([[1, 2]], dtype=mx.int32)
    assert mx.array_equal(ALONE.gather(array), array[None])
    assert ALONE.gather_bytes(b"abc") == [b"abc"]


def test_launch_is_known_by_its_variables(monkeypatch, tmp_path):
    assert launch.read_rank() is None and launch.RANK is None
    monkeypatch.setenv("MLX_RANK", "1")
    assert launch.read_rank() == 1
    # mlx.launch -n 1
    (tmp_path / "hosts").write_text("\n")
    monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "hosts"))
    assert launch.read_rank() is None


def test_ways_to_share_need_several_machines():
    with pytest.raises(RequestError, match="--parallel sequence needs several machines"):
        Options(PROMPT, parallel="sequence")


def test_run_without_launch_opens_no_socket(tmp_path):
    code = (
        "import atexit, os, runpy, sys\n"
        "def check():\n"
        "    assert 'LTX_2_MLX.runtime.machines' not in sys.modules\n"
        "    for name in os.listdir('/proc/self/fd') if os.path.isdir('/proc/self/fd') else ():\n"
        "        try: assert 'socket' not in os.readlink('/proc/self/fd/' + name)\n"
        "        except FileNotFoundError: pass\n"
        "    print('checked')\n"
        "atexit.register(check)\n"
        f"sys.argv = ['generate.py', *{SMALL!r}, '--quiet', '-o', {str(tmp_path / 'one.mp4')!r}]\n"
        f"runpy.run_path({str(GENERATE)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, text=True, capture_output=True, check=True)
    assert done.stdout.endswith("checked\n"), done.stderr


def alone(*arguments: object) -> str:
    """Standard error of a command on one machine."""
    command = [sys.executable, GENERATE, *arguments]
    return subprocess.run(command, env=ENVIRONMENT, check=True, capture_output=True, text=True).stderr


def test_two_processes_make_the_video_of_one(tmp_path):
    streamed = (*SMALL, "--low-ram", "--quiet")
    alone(*streamed, "-o", tmp_path / "one.mp4")
    for way in ("guidance", "blocks"):
        video = tmp_path / f"{way}.mp4"
        _, err = launched(2, GENERATE, *streamed, "--parallel", way, "-o", video)
        assert video.read_bytes() == (tmp_path / "one.mp4").read_bytes(), err


def test_two_processes_reuse_the_block_outputs_that_one_reuses(tmp_path):
    cached = (*SMALL, "--steps-stage1", "5", "--step-cache", "0.6", "--no-cache", "--save-latents", tmp_path / "one")
    expected = reuse_lines(alone(*cached, "-o", tmp_path / "one.mp4"))
    assert expected and not expected[0].startswith("stage_1: 0 of"), expected
    # All ways in one start of two processes.
    out, err = launched(2, LAUNCHED, "reused_block_outputs", tmp_path)
    for way, text in zip(("guidance", "sequence", "blocks"), out.split("WAY ")[1:], strict=True):
        assert text.startswith(way) and reuse_lines(text) == expected, err
        for path in (tmp_path / "one").glob("frames_*.safetensors"):
            frames, wanted = (load_file(folder / path.name)["frames"] for folder in (tmp_path / way, path.parent))
            # By tokens the last bits may differ.
            levels = np.abs(frames.astype(int) - wanted).max()
            assert levels <= (way == "sequence"), way
    assert out.endswith("LINE made\n"), err


def reuse_lines(text: str) -> list[str]:
    """What a command says of reused block outputs."""
    return re.findall(r"stage_\d: \d+ of \d+ passes reused block outputs", text)


def test_drafts_of_two_processes_are_those_of_one(tmp_path):
    drafts = (*SMALL, "--seed", "3", "--quiet")
    alone(*drafts, "--drafts", tmp_path / "one")
    _, err = launched(2, GENERATE, *drafts, "--drafts", tmp_path / "two", "--parallel", "guidance")
    names = ["drafts.html", "drafts.png", "seed-3"]
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == names, err
    videos = [(tmp_path / name / "seed-3" / "draft.mp4").read_bytes() for name in ("one", "two")]
    assert videos[0] == videos[1]


def test_a_process_that_waits_for_the_others_answers_a_signal(tmp_path):
    port = random.randrange(20_000, 30_000)
    ring = tmp_path / "ring.json"
    ring.write_text(json.dumps([[f"127.0.0.1:{port}"], [f"127.0.0.1:{port + 1}"]]))
    for rank in (0, 1):
        environment = ENVIRONMENT | {"MLX_HOSTFILE": str(ring), "MLX_RANK": str(rank)}
        command = [sys.executable, GENERATE, *SMALL]
        process = subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE)
        wait_for_port(port + rank)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=600)
        assert process.returncode == 143 and re.fullmatch(rf"Machine {rank + 1} \(.*\): Terminated\.\n", err), err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGALRM])
def test_a_process_that_is_ended_while_mlx_connects_leaves_a_line(tmp_path, monkeypatch, number):
    port = random.randrange(20_000, 30_000)
    ring = tmp_path / "ring.json"
    ring.write_text(json.dumps([[f"127.0.0.1:{port}"], [f"127.0.0.1:{port + 1}"]]))
    monkeypatch.setenv("MLX_HOSTFILE", str(ring))
    environment = ENVIRONMENT | {"MLX_HOSTFILE": str(ring), "MLX_RANK": "0"}
    process = subprocess.Popen([sys.executable, GENERATE, *SMALL], env=environment, text=True, stderr=subprocess.PIPE)
    with met(1):
        # This process meets the other, but MLX does not connect it. It has opened the port again where it waits.
        wait_for_port(port)
        process.send_signal(number)
        _, err = process.communicate(timeout=600)
    assert process.returncode == -signal.SIGKILL and "Ended while MLX connected the machines" in err


def wait_for_port(port: int) -> None:
    """Return when something listens there."""
    deadline = time.monotonic() + 600
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_golden_pipeline_is_shared_in_every_way():
    script = ROOT / "scripts" / "check_parallel.py"
    out, err = launched(2, script, "guidance", "sequence", "blocks", "--case", "pipeline_one_stage_i2v")
    expected = [["ok", "guidance"], ["ok", "sequence"], ["ok", "blocks"]]
    assert [line.split()[:2] for line in out.splitlines()] == expected, err


def test_a_killed_process_ends_the_other_and_the_run_resumes_on_one(tmp_path):
    states = tmp_path / "states"
    long = (*SMALL, "--steps-stage2", "10", "--seed", "5", "--save-latents", states, "--quiet")
    run = start(2, GENERATE, *long, "--parallel", "guidance", "-o", tmp_path / "two.mp4")
    wait_for(states / "request.json", run)
    process = process_of(states)
    wait_for(states / "stage_1.safetensors", run)
    os.kill(process, signal.SIGKILL)
    killed = time.monotonic()
    _, err = run.communicate(timeout=600)
    assert time.monotonic() - killed < 120
    assert "exited with code -9" in err and ("Terminated" in err or "Another machine ended" in err), err
    assert not list(tmp_path.glob(".*"))
    alone = [sys.executable, GENERATE, "--resume", states, "--quiet", "--allow-blank", "-o", tmp_path / "resumed.mp4"]
    resumed = subprocess.run(alone, env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert "computed again" not in resumed.stderr
    assert (tmp_path / "resumed.mp4").stat().st_size > 0
    assert json.loads((states / "request.json").read_text())["request"]["seed"] == 5


def wait_for(path: Path, run: subprocess.Popen) -> None:
    """Return when a run has written a file."""
    deadline = time.monotonic() + 1200
    while not path.exists():
        assert time.monotonic() < deadline and run.poll() is None, run.communicate()[1]
        time.sleep(0.02)


def process_of(states: Path) -> int:
    """Number of a launched process that saves its stages in a folder."""
    listed = subprocess.run(["ps", "-axwwo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    own = [line for line in listed.splitlines() if str(states) in line and "launch import" not in line]
    return int(own[-1].split()[0])
