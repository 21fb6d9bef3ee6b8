"""Runs that were ended go on from what they kept: to the same film, and never from what they cannot trust."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny_checkpoints
from typer.testing import CliRunner

from LTX_2_MLX import cli, read_video
from LTX_2_MLX.errors import OutputError, RequestError
from LTX_2_MLX.pipelines.generate import Options, decode_saved, generate_video, request_for
from LTX_2_MLX.pipelines.generation.record import options_from, saved_record
from LTX_2_MLX.runtime.progress import SilentProgress
from LTX_2_MLX.runtime.runner import StageRunner

SCRIPTS = Path(__file__).parents[3] / "scripts"
STAGES = ["text_encoder", "text_features", "stage_1", "latent_upscaler", "stage_2", "temporal_upscaler", "decode"]


class Notes(SilentProgress):
    def __init__(self):
        self.told = []

    def note(self, text):
        self.told.append(text)


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    weights = tiny_checkpoints.write_weights(folder / "weights.safetensors")
    tiny_checkpoints.write_upscaler(folder / "spatial.safetensors")
    tiny_checkpoints.write_upscaler(folder / "temporal.safetensors", temporal=True)
    return Options(
        "a red ball",
        height=64,
        width=96,
        frames=9,
        steps_stage1=1,
        steps_stage2=1,
        cfg=1.0,
        temporal_upscale=True,
        weights=str(weights),
        spatial_upscaler_weights=str(folder / "spatial.safetensors"),
        temporal_weights=str(folder / "temporal.safetensors"),
        distilled_lora=str(tiny_checkpoints.write_lora(folder / "lora.safetensors", weights)),
        gemma=str(tiny_checkpoints.write_gemma(folder / "gemma")),
        precision="fp32",
    )


def run(options):
    """Frames, the stages that ran, and what was told."""
    runner = StageRunner(Notes())
    frames = np.concatenate(list(generate_video(request_for(options), runner, options)))
    return frames, [report.name for report in runner.reports], runner.progress.told


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory):
    """A run to its end: its folder and its frames."""
    folder = tmp_path_factory.mktemp("kept") / "states"
    frames, stages, _ = run(replace(options, save_latents=folder))
    assert stages == STAGES
    return folder, frames


@pytest.fixture
def ended(whole, tmp_path):
    """``ended(*states)`` is a copy of the run's folder without those states."""

    def without(*states):
        folder = tmp_path / "states"
        folder.mkdir(exist_ok=True)
        for path in whole[0].iterdir():
            if not any(path.name.startswith(state) for state in states):
                (folder / path.name).write_bytes(path.read_bytes())
        return folder

    return without


LATER = ["frames", "temporal_upscaler", "stage_2", "latent_upscaler", "stage_1", "text"]


@pytest.mark.parametrize("count", range(len(LATER) + 1))
def test_run_goes_on_from_its_last_complete_stage_to_the_same_frames(options, whole, ended, count):
    frames, stages, _ = run(replace(options, resume=ended(*LATER[:count])))
    assert np.array_equal(frames, whole[1])
    missing = {"text_encoder", "text_features"} if "text" in LATER[:count] else set()
    missing |= {"decode" if name == "frames" else name for name in LATER[:count] if name != "text"}
    assert set(stages) == missing


@pytest.mark.parametrize(
    ("state", "lost"),
    [("stage_2", ("frames.", "temporal")), ("temporal_upscaler", ("frames.",)), ("frames_0", ())],
)
def test_damaged_state_is_named_and_computed_again(options, whole, ended, state, lost):
    folder = ended(*lost)
    path = folder / f"{state}.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 0x40
    path.write_bytes(content)
    frames, _, told = run(replace(options, resume=folder))
    assert np.array_equal(frames, whole[1])
    assert any(f"{path} is damaged" in line for line in told)


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"prompt": "a blue box"}, "text_encoder"),
        ({"seed": 7}, "stage_1"),
        ({"steps_stage1": 2}, "stage_1"),
        ({"steps_stage2": 2}, "stage_2"),
        ({"tile_size": 64}, "decode"),
    ],
)
def test_changed_option_discards_only_the_stages_that_follow_from_it(options, whole, ended, changes, first):
    frames, stages, told = run(replace(options, resume=ended(), **changes))
    assert stages == STAGES[STAGES.index(first) :] and not np.array_equal(frames, whole[1])
    assert any("made from another request" in line for line in told)


def test_states_made_with_other_weights_are_not_used(options, ended, tmp_path):
    other = tiny_checkpoints.write_weights(tmp_path / "other.safetensors", seed=9)
    _, stages, told = run(replace(options, resume=ended(), weights=str(other)))
    assert stages == STAGES and any("made from another request or other files" in line for line in told)


def test_folder_alone_says_what_was_asked_for(options, whole, ended):
    folder = ended("frames")
    again = options_from(saved_record(folder), {"resume": folder})
    assert np.array_equal(run(again)[0], whole[1])


def test_kept_latent_is_decoded_without_what_comes_before(whole, ended):
    runner = StageRunner()
    frames = np.concatenate(list(decode_saved(ended("frames", "text", "stage_1"), runner)))
    assert np.array_equal(frames, whole[1]) and [report.name for report in runner.reports] == ["decode"]
    (ended() / "stage_2.safetensors").unlink()
    with pytest.raises(RequestError, match="has no latent to decode"):
        decode_saved(ended("stage_2"), StageRunner())


def command(name, *arguments):
    spec = importlib.util.spec_from_file_location(f"{name}_command", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return CliRunner().invoke(cli.as_program(module.main), [str(argument) for argument in arguments])


def test_commands_resume_and_decode_to_the_same_film(whole, ended, tmp_path):
    folder, resumed, decoded = ended("frames", "temporal"), tmp_path / "resumed.mkv", tmp_path / "decoded.mkv"
    result = command("generate", "--resume", folder, "-o", resumed, "--progress", "json")
    assert result.exit_code == 0, result.stderr
    assert "stage_2: found in" in result.stderr and '"begin", "stage": "stage_2"' not in result.stderr
    result = command("decode", ended("frames", "temporal"), "-o", decoded)
    assert result.exit_code == 0, result.stderr
    films = [read_video(path).array() for path in (resumed, decoded)]
    assert len(films[0]) == 17 and np.array_equal(*films)


def test_result_that_is_none_ends_the_run_and_what_was_kept_before_stays(options, tmp_path):
    weights = mx.load(options.weights)
    _, facts = mx.load(options.weights, return_metadata=True)
    name = next(name for name in weights if name.endswith("transformer_blocks.0.attn1.to_out.0.bias"))
    broken = weights | {name: mx.full(weights[name].shape, mx.nan)}
    mx.save_safetensors(str(tmp_path / "broken.safetensors"), broken, metadata=facts)
    folder = tmp_path / "states"
    asked = replace(options, weights=str(tmp_path / "broken.safetensors"), save_latents=folder)
    with pytest.raises(OutputError, match=r"The result of stage_1.*NaN"):
        run(asked)
    assert sorted(path.name for path in folder.iterdir()) == ["request.json", "text.safetensors"]
    with pytest.raises(OutputError, match="stage_1"):
        runner = StageRunner()
        generate_video(request_for(asked), runner, replace(asked, save_latents=None, resume=folder))
    assert [report.name for report in runner.reports] == ["stage_1"]


@pytest.mark.slow
def test_killed_runs_end_in_the_same_film():
    done = subprocess.run(
        [sys.executable, SCRIPTS / "crash_test.py", "--kills", "2"], capture_output=True, text=True, timeout=3600
    )
    assert done.returncode == 0 and "2 kills, every video the same, bit for bit." in done.stdout, done.stderr


def test_crash_test_stops_where_a_run_fails_before_its_first_state(tmp_path):
    # A process of its own, because each run is a fork of it.
    code = f"""
from pathlib import Path
from LTX_2_MLX.development import interrupted_runs
def failing(*_):
    raise OSError("the disk is gone")
interrupted_runs.asked_for = failing
states = Path({str(tmp_path / "states")!r})
interrupted_runs.killed(Path(), states, Path("video.mp4"), wait=states / interrupted_runs.FIRST_STATE, after=0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1800)
    assert "OSError: the disk is gone" in done.stderr
    assert "OutputError: A run ended with status 1 before it saved text.safetensors." in done.stderr
