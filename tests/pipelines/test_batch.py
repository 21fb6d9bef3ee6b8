"""Several videos in one run: prompts of a file and seeds, with each network loaded once."""

import json
from collections import Counter

import numpy as np
import pytest
from typer.testing import CliRunner

from LTX_2_MLX import cli, read_video
from LTX_2_MLX.cli.batch import prompts_in, run_folders, videos_of
from LTX_2_MLX.cli.generate import main as generate
from LTX_2_MLX.cli.options import with_each_seed
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.writer import read_run_record
from LTX_2_MLX.pipelines import batch
from LTX_2_MLX.pipelines.generation import decode, denoise, image, prompt, sound

MODULES = (prompt, image, denoise, sound, decode)


@pytest.fixture
def call(files, tmp_path):
    """``call(*words)``: a short two-stage run of the command with tiny files; gives what it printed."""
    named = {
        "--weights": files.weights, "--gemma": files.gemma, "--spatial-upscaler-weights": files.spatial,
        "--distilled-lora": files.lora, "--steps-stage1": 1, "--steps-stage2": 1, "--height": 64, "--width": 64,
        "--frames": 9, "--image": files.picture,
    }  # fmt: skip
    usual = [str(word) for pair in named.items() for word in pair]

    def run(*words, code=0):
        program = cli.as_program(generate)
        done = CliRunner().invoke(program, [*map(str, words), *usual, "--allow-blank", "--no-audio"])
        assert done.exit_code == code, done.output
        return " ".join(done.output.split())

    return run


def frames(path) -> np.ndarray:
    return read_video(path).array()


def record(path) -> dict:
    found = read_run_record(path, "generate")
    return {"request": dict(found.request), "files": dict(found.files), "automatic": set(found.automatic)}


@pytest.fixture
def loads(monkeypatch) -> Counter:
    """How often each network was loaded."""
    counted: Counter = Counter()
    for module in MODULES:
        if hasattr(module, "load"):

            def load(network, *args, real=module.load, **options):
                name = network.__name__ if isinstance(network, type) else str(network)
                counted[name] += 1
                return real(network, *args, **options)

            monkeypatch.setattr(module, "load", load)
    return counted


def test_each_video_is_that_of_its_own_run_and_each_network_is_loaded_once(call, loads, tmp_path):
    (tmp_path / "prompts.txt").write_text("# two\nA blue ball\n\n  A red box that turns \n")
    call("--prompt-file", tmp_path / "prompts.txt", "--seed", 3, 5, "-o", tmp_path / "b.mp4")
    # The transformer serves two stages, with other adapters in each.
    once = dict(loads)
    loads.clear()
    names = ["b-001-seed3", "b-001-seed5", "b-002-seed3", "b-002-seed5"]
    assert sorted(path.stem for path in tmp_path.glob("b*.mp4")) == names
    call("A red box that turns", "--seed", 5, "-o", tmp_path / "single.mp4")
    assert once == dict(loads)
    np.testing.assert_array_equal(frames(tmp_path / "b-002-seed5.mp4"), frames(tmp_path / "single.mp4"))
    assert record(tmp_path / "b-002-seed5.mp4") == record(tmp_path / "single.mp4")
    different = [frames(tmp_path / f"{name}.mp4") for name in names]
    assert len({video.tobytes() for video in different}) == 4
    call("A blue ball", "--seed", 3, "-o", tmp_path / "first.mp4")
    np.testing.assert_array_equal(frames(tmp_path / "b-001-seed3.mp4"), frames(tmp_path / "first.mp4"))
    call("--replay", tmp_path / "b-001-seed3.mp4", "-o", tmp_path / "again.mp4")
    np.testing.assert_array_equal(frames(tmp_path / "again.mp4"), frames(tmp_path / "first.mp4"))


def test_interrupted_batch_goes_on_where_it_stopped(call, tmp_path, monkeypatch):
    words = ("A blue ball", "--seed", 1, 2, "-o", tmp_path / "v.mp4")
    call(*words)
    whole = [frames(tmp_path / f"v-seed{seed}.mp4") for seed in (1, 2)]
    real, done = batch._video, []

    def stop_after_one(*arguments):
        if done:
            raise KeyboardInterrupt
        done.append(True)
        return real(*arguments)

    monkeypatch.setattr(batch, "_video", stop_after_one)
    states = tmp_path / "states"
    call(*words[:-1], tmp_path / "x.mp4", "--save-latents", states, code=130)
    monkeypatch.setattr(batch, "_video", real)
    assert (tmp_path / "x-seed1.mp4").exists() and not (tmp_path / "x-seed2.mp4").exists()
    assert [path.name for path in run_folders(states)] == ["seed-1", "seed-2"]
    text = call("--resume", states, "-o", tmp_path / "x.mp4")
    assert "stage_2: found in" in text and "Wrote" in text
    for seed, wanted in zip((1, 2), whole, strict=True):
        np.testing.assert_array_equal(frames(tmp_path / f"x-seed{seed}.mp4"), wanted)
    call("--resume", states / "seed-2", "-o", tmp_path / "one.mp4")
    np.testing.assert_array_equal(frames(tmp_path / "one.mp4"), whole[1])
    call("--resume", states, "--seed", 2, "-o", tmp_path / "y.mp4")
    assert (tmp_path / "y-seed2.mp4").exists() and not (tmp_path / "y-seed1.mp4").exists()


def test_dry_run_of_a_batch_writes_nothing(call, tmp_path):
    text = call("A blue ball", "--seed", 1, 2, "-o", tmp_path / "v.mp4", "--dry-run")
    assert "stage_1" in text and not list(tmp_path.glob("*.mp4"))


def test_outputs_without_a_name_are_named_after_prompt_and_seed(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("A blue ball\nA blue ball\n")
    call("--prompt-file", "prompts.txt", "--seed", 7)
    names = sorted(path.name for path in (tmp_path / "gens").iterdir())
    assert names == ["a-blue-ball-7-002.mp4", "a-blue-ball-7.mp4"]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--seed", "1", "2", "3", "-o", "x"], ["--seed", "1", "--seed", "2", "--seed", "3", "-o", "x"]),
        (["--seed", "1", "a 2", "3"], ["--seed", "1", "a 2", "3"]),
        (["--seed=1", "2", "--", "--seed", "1", "2"], ["--seed=1", "--seed", "2", "--", "--seed", "1", "2"]),
        (["--seed", "1", "--seed", "2", "3"], ["--seed", "1", "--seed", "2", "--seed", "3"]),
        (["3", "--seed", "random", "random"], ["3", "--seed", "random", "--seed", "random"]),
    ],
)
def test_seeds_after_one_flag_are_words_of_several(words, wanted):
    assert with_each_seed(words) == wanted


def test_random_seeds_differ_and_are_named(call, tmp_path):
    call("A blue ball", "--seed", "random", "random", "-o", tmp_path / "v.mp4")
    found = sorted(tmp_path.glob("v-seed*.mp4"))
    assert len(found) == 2
    assert {record(path)["request"]["seed"] for path in found} == {int(path.stem[6:]) for path in found}


def test_bad_batches_are_refused_in_one_line(call, tmp_path):
    path = tmp_path / "prompts.txt"
    for content, said in ((b"\n# no\n", "holds no prompt"), (b"\xff\xfe\xff", "not UTF-8")):
        path.write_bytes(content)
        with pytest.raises(RequestError, match=said):
            prompts_in(path)
    with pytest.raises(RequestError, match="cannot be read"):
        prompts_in(tmp_path / "none.txt")
    with pytest.raises(RequestError, match="given twice: 1 1"):
        videos_of(["a"], (1, 1))
    path.write_text("A ball")
    assert "mutually exclusive" in call("A box", "--prompt-file", path, "-o", tmp_path / "v.mp4", code=2)
    assert "seed" in call("A box", "--seed", -1, "-o", tmp_path / "v.mp4", code=2)


def test_prompts_are_rewritten_once_each(call, tmp_path):
    words = ("A blue ball", "--seed", 1, 2, "--enhance-prompt", "-o", tmp_path / "v.mp4")
    text = call(*words)
    assert text.count("Prompt: ") == 1
    prompts = {record(tmp_path / f"v-seed{seed}.mp4")["request"]["prompt"] for seed in (1, 2)}
    assert len(prompts) == 1 and "A blue ball" not in prompts
    assert json.dumps(sorted(prompts))
