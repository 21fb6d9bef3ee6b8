"""What users had trouble with: records that are the video, lines said before the work, runs that are ended.

Each command line is run as a user types it, with the demo model or small checkpoints in the published format. The
.webm files were made by an earlier version, whose records hold neither files nor settled values.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
from typer.testing import CliRunner

import LTX_2_MLX
from LTX_2_MLX import cli, read_video
from LTX_2_MLX.cli.generate import main
from LTX_2_MLX.media.writer import read_run_record

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DEMO = ROOT / "weights" / "demo"
PROMPT = "A blue ball bouncing on green grass"
SHORT = ("--pipeline", "one-stage", "--steps", 1, "--frames", 9)


def run(*words):
    return CliRunner().invoke(cli.as_program(main), [str(word) for word in words])


def made(output: Path, *words) -> np.ndarray:
    """Frames of a run that succeeds."""
    result = run(*words, "-o", output)
    assert result.exit_code == 0, result.stderr
    return read_video(output).array()


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A video of this version, and its frames."""
    path = tmp_path_factory.mktemp("short") / "short.webm"
    return path, made(path, PROMPT, *SHORT, "--seed", 3, "--crf", 30)


# --- a record is the video


def test_replay_with_an_option_at_its_default_takes_that(tmp_path):
    given = ("--pipeline", "one-stage", "--steps", 2, "--frames", 9)
    right = made(tmp_path / "right.webm", PROMPT, *given, "--seed", 0)
    replayed = made(tmp_path / "got.webm", "--replay", HERE / "seed5.webm", "--seed", 0)
    assert np.array_equal(replayed, right)
    assert not np.array_equal(replayed, read_video(HERE / "seed5.webm").array())


def test_quality_at_its_default_wins_over_the_recorded_one(short, tmp_path):
    made(tmp_path / "best.webm", "--replay", short[0], "--crf", 17)
    assert read_run_record(tmp_path / "best.webm", "generate").request["crf"] == 17
    assert np.array_equal(made(tmp_path / "same.webm", "--replay", short[0]), short[1])
    assert read_video(tmp_path / "same.webm").metadata == read_video(short[0]).metadata


def test_switches_can_be_turned_off_and_adapters_dropped(tmp_path):
    lora = DEMO / "ltx-2-demo-distilled-lora.safetensors"
    plain = made(tmp_path / "plain.webm", PROMPT, *SHORT)
    made(tmp_path / "all.webm", PROMPT, *SHORT, "--lora", f"{lora}:0.5", "--low-ram", "--temporal-upscale")
    words = ("--lora", "none", "--no-low-ram", "--no-temporal-upscale")
    assert np.array_equal(made(tmp_path / "again.webm", "--replay", tmp_path / "all.webm", *words), plain)


@pytest.mark.parametrize(
    ("words", "option", "value"),
    [
        (("--cfg", 1), "cfg", 1.0),
        (("--duration", 1), "frames", 13),
        (("--pipeline", "one-stage", "--steps", 1), "pipeline", "one-stage"),
    ],
)
def test_typed_option_takes_the_place_of_recorded_ones(tmp_path, words, option, value):
    output = tmp_path / "out.webm"
    result = run("--replay", HERE / "cfg_stage1_6.webm", *words, "-o", output)
    assert result.exit_code == 0, result.stderr
    assert read_run_record(output, "generate").request[option] == value
    assert ("left out: --steps-stage1" in result.stderr) == (option == "pipeline")


def test_record_holds_settled_values_absolute_paths_and_digests(short):
    record = read_run_record(short[0], "generate")
    assert {"height", "width", "frames", "fps", "steps", "cfg", "precision", "pipeline", "seed"} <= set(record.request)
    assert Path(record.request["weights"]).is_absolute() and record.request["weights"] in record.files
    assert all(len(digest) == 64 for digest in record.files.values())
    assert not {"save_embeddings", "save_latents", "resume", "output"} & set(record.request)


def test_record_without_files_is_not_repeated_by_another_model(tmp_path, monkeypatch):
    place = tmp_path / "weights"
    place.mkdir()
    tiny_checkpoints.write_weights(place / "ltx-2-19b-distilled.safetensors")
    tiny_checkpoints.write_gemma(place / "gemma")
    monkeypatch.chdir(tmp_path)
    result = run("--replay", HERE / "demo_film.webm", "-o", "r.webm")
    assert result.exit_code == cli.REFUSED and "cannot be repeated: it is 64×96" in result.stderr
    assert not Path("r.webm").exists()


def test_replay_takes_the_model_of_the_record_where_another_one_lies(short, tmp_path, monkeypatch):
    place = tmp_path / "weights"
    place.mkdir()
    tiny_checkpoints.write_weights(place / "ltx-2-19b-distilled.safetensors")
    tiny_checkpoints.write_gemma(place / "gemma")
    monkeypatch.chdir(tmp_path)
    assert np.array_equal(made(Path("r.webm"), "--replay", short[0]), short[1])


def test_relative_image_of_a_record_is_the_one_beside_it(tmp_path, monkeypatch):
    shutil.copytree(HERE / "relative", tmp_path / "relative")
    monkeypatch.chdir(tmp_path / "relative" / "B")
    words = ("--seed", 0, "--crf", 17)
    replayed = made(Path("g.webm"), "--replay", "../A/film.webm", *words)
    right = made(Path("r.webm"), "--replay", "../A/film.webm", *words, "--image", "../A/pic.png")
    wrong = made(Path("w.webm"), "--replay", "../A/film.webm", *words, "--image", "pic.png")
    assert np.array_equal(replayed, right) and not np.array_equal(replayed, wrong)


def test_image_that_changed_is_named_and_the_replay_refused(tmp_path, monkeypatch):
    shutil.copytree(HERE / "relative", tmp_path / "relative")
    monkeypatch.chdir(tmp_path / "relative" / "A")
    made(Path("new.webm"), PROMPT, *SHORT, "--image", "pic.png")
    shutil.copy("../B/pic.png", "pic.png")
    result = run("--replay", "new.webm", "-o", "again.webm")
    assert result.exit_code == cli.REFUSED and "pic.png (--image) has changed" in result.stderr
    Path("pic.png").unlink()
    result = run("--replay", "new.webm", "-o", "again.webm")
    assert result.exit_code == cli.REFUSED and "pic.png (--image) is missing" in result.stderr
    made(Path("other.webm"), "--replay", "new.webm", "--image", "../B/pic.png")


def test_record_of_numpys_numbers_is_replayed(tmp_path):
    replayed = made(tmp_path / "x.webm", "--replay", HERE / "int64_seed.webm")
    assert np.array_equal(replayed, read_video(HERE / "int64_seed.webm").array())
    video = LTX_2_MLX.generate(PROMPT, pipeline="one-stage", steps=np.int32(1), frames=9, seed=np.int64(3))
    video.save(tmp_path / "numpy.webm")
    assert read_run_record(tmp_path / "numpy.webm", "generate").request["seed"] == 3


def test_replay_writes_no_embeddings(tmp_path):
    saved = tmp_path / "emb.safetensors"
    made(tmp_path / "f.webm", PROMPT, *SHORT, "--save-embeddings", saved)
    saved.write_text("mine")
    made(tmp_path / "g.webm", "--replay", tmp_path / "f.webm", "--seed", 3)
    assert saved.read_text() == "mine"


@pytest.mark.parametrize("name", ["w.safetensors", "mine.safetensors", "gemma/model.safetensors"])
def test_embeddings_replace_no_file_in_use_nor_of_the_user(tmp_path, name):
    shutil.copy(DEMO / "ltx-2-demo-dev.safetensors", tmp_path / "w.safetensors")
    shutil.copytree(DEMO / "gemma", tmp_path / "gemma")
    (tmp_path / "mine.safetensors").write_text("mine")
    before = (tmp_path / name).read_bytes()
    files = ("--weights", tmp_path / "w.safetensors", "--gemma", tmp_path / "gemma")
    result = run(PROMPT, *SHORT, *files, "--save-embeddings", tmp_path / name, "-o", tmp_path / "f.webm")
    assert result.exit_code == cli.REFUSED and name in result.stderr
    assert (tmp_path / name).read_bytes() == before


def test_output_replaces_no_file_in_use(tmp_path):
    image = tmp_path / "a.png"
    shutil.copy(HERE / "relative" / "A" / "pic.png", image)
    result = run(PROMPT, "--image", image, "-o", image)
    assert result.exit_code == cli.REFUSED and "is a file that this run reads" in result.stderr


def test_embeddings_belong_to_the_connectors_not_to_a_name(tmp_path):
    for folder, seed in (("A", 1), ("B", 9)):
        (tmp_path / folder).mkdir()
        tiny_checkpoints.write_weights(tmp_path / folder / "dev20.safetensors", seed=seed)
    gemma = tiny_checkpoints.write_gemma(tmp_path / "gemma")
    size = ("--height", 64, "--width", 64, *SHORT, "--cfg", 1, "--gemma", gemma)
    saved = tmp_path / "e.safetensors"
    first = tmp_path / "A" / "dev20.safetensors"
    right = made(tmp_path / "a.webm", "a ball", *size, "--weights", first, "--save-embeddings", saved)
    other = tmp_path / "B" / "dev20.safetensors"
    result = run("a ball", *size, "--weights", other, "--embeddings", saved, "-o", tmp_path / "b.webm")
    assert result.exit_code == cli.REFUSED and "connectors of another checkpoint" in result.stderr
    renamed = shutil.copy(first, tmp_path / "renamed.safetensors")
    again = made(tmp_path / "c.webm", "a ball", *size, "--weights", renamed, "--embeddings", saved)
    assert np.array_equal(again, right)


def test_embeddings_of_another_text_encoder_are_refused_where_it_is_named_and_noted_where_it_is_found(tmp_path):
    weights = tmp_path / "dev20.safetensors"
    tiny_checkpoints.write_weights(weights, seed=1)
    gemma = tiny_checkpoints.write_gemma(tmp_path / "gemma")
    size = ("--height", 64, "--width", 64, *SHORT, "--cfg", 1, "--weights", weights)
    saved = tmp_path / "e.safetensors"
    made(tmp_path / "a.webm", "a ball", *size, "--gemma", gemma, "--save-embeddings", saved)
    same = run("a ball", *size, "--embeddings", saved, "--dry-run")
    assert same.exit_code == 0 and "another text encoder" not in same.stderr
    (gemma / "chat_template.json").write_text("{}")
    found = run("a ball", *size, "--embeddings", saved, "--dry-run")
    assert found.exit_code == 0 and "another text encoder" in found.stderr
    named = run("a ball", *size, "--embeddings", saved, "--gemma", gemma, "--dry-run")
    assert named.exit_code == cli.REFUSED and "another text encoder" in named.stderr


# --- said before it costs


def test_prompt_that_is_too_long_says_what_is_not_read(tmp_path):
    prompt = f"{'A blue ball bouncing on green grass. ' * 12}A yellow star rising at night"
    result = run(prompt, *SHORT, "--dry-run")
    assert result.exit_code == 0 and "only 32 are used" in result.stderr
    assert "Not used is its end, from '" in " ".join(result.stderr.split())
    assert "are used" not in run(PROMPT, *SHORT, "--dry-run").stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--cfg", 1, "--negative-prompt", "ugly"), "--negative-prompt has no effect"),
        (("--cfg", 1, "--guidance-rescale", 0.7), "--guidance-rescale has no effect"),
        (("--spatial-upscaler-weights", "nix.safetensors"), "--spatial-upscaler-weights has no effect"),
        (("--temporal-weights", "nix"), "--temporal-weights has no effect without --temporal-upscale"),
        (("--image-strength", 1), "--image-strength has no effect without --image"),
    ],
)
def test_option_without_effect_is_reported(words, line):
    result = run(PROMPT, *SHORT, *words, "--dry-run")
    assert result.exit_code == 0 and line in result.stderr, result.stderr


@pytest.mark.parametrize(
    "words", [("--steps-stage2", 7), ("--image-strength", 0.5), ("--steps-stage1", 7), ("--cfg-stage1", 2)]
)
def test_option_without_effect_is_refused(words):
    result = run(PROMPT, *SHORT, *words, "--dry-run")
    assert result.exit_code == cli.REFUSED and words[0] in result.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("a ball", "--fps", "1e400"), "above 0 up to 1000"),
        (("a ball", "--fps", "1e99999999"), "above 0 up to 1000"),
        (("caf\udce9",), "not UTF-8"),
        (("a ball", "--cfg", 3, "--negative-prompt", "caf\udce9"), "not UTF-8"),
    ],
)
def test_argument_that_crashed_is_one_line(words, line):
    result = run(*words, *SHORT, "--dry-run")
    assert result.exit_code == cli.REFUSED and line in result.stderr and result.stderr.count("\n") == 1


def test_tilde_is_the_home_folder_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(HERE / "relative" / "A" / "pic.png", tmp_path / "x.png")
    result = run(PROMPT, *SHORT, "--image=~/x.png", "--save-latents=~/states", "--output=~/x.webm")
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "x.webm").is_file() and (tmp_path / "states" / "request.json").is_file()
    assert run("--replay=~/x.webm", "--dry-run").exit_code == 0
    assert run("--resume=~/states", "--dry-run").exit_code == 0


def test_memory_refusal_is_true(tmp_path):
    size = ("--pipeline", "distilled", "--frames", 17, "--height", 192, "--width", 288)
    result = run(PROMPT, *size, "--memory-limit-gb", 0.12, "--dry-run")
    assert "even in its smallest tiles" not in result.stderr


# --- stages and ending


def test_changed_option_of_stage_2_keeps_stage_1(tmp_path):
    states = tmp_path / "states"
    size = ("--frames", 9, "--steps-stage1", 1, "--steps-stage2", 1)
    made(tmp_path / "a.webm", PROMPT, *size, "--save-latents", states)
    result = run("--resume", states, "--steps-stage2", 2, "-o", tmp_path / "b.webm")
    assert result.exit_code == 0, result.stderr
    assert "latent_upscaler: found in" in result.stderr and "(" in result.stderr
    assert "stage_2.safetensors was made from another request" in " ".join(result.stderr.split())


def test_hangup_leaves_nothing_behind(tmp_path):
    words = [PROMPT, "--pipeline", "one-stage", "--steps", "1", "--frames", "121", "--height", "192", "--width", "256"]
    run_of = subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "generate.py", *words, "-o", tmp_path / "h.webm", "--progress", "json"],
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ),
    )
    for line in run_of.stderr:
        if '"write"' in line:
            break
    run_of.send_signal(signal.SIGHUP)
    _, errors = run_of.communicate(timeout=600)
    assert run_of.returncode == 129 and "nothing half-written" in errors
    assert list(tmp_path.iterdir()) == []
