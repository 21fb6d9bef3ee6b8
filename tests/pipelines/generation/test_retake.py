"""Retake and extension of a clip: the rest is held, the span is made anew, video and sound; runs resume and repeat."""

import importlib.util
from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny_checkpoints
from typer.testing import CliRunner

import LTX_2_MLX
from LTX_2_MLX import cli
from LTX_2_MLX.diffusion.sampler import Guidance
from LTX_2_MLX.errors import LTXError
from LTX_2_MLX.media.audio import Waveform, read_waveform
from LTX_2_MLX.media.frames import FrameStream, SourceTracks
from LTX_2_MLX.pipelines.generate import Options, plan_for, request_for, stages_for
from LTX_2_MLX.pipelines.generation.prompt import prompt_stages, remaining
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.runtime.runner import StageRunner, run_stages

SCRIPT = Path(__file__).parents[3] / "scripts" / "generate.py"
HEIGHT, WIDTH, NUM_FRAMES, RATE = 60, 90, 22, 24_000


def write_clip(path: Path, *, sound: bool = True, num_frames: int = NUM_FRAMES) -> Path:
    """A clip of noise whose sides and length suit no latent."""
    random = np.random.default_rng(1)
    frames = random.integers(0, 255, (num_frames, HEIGHT // 10, WIDTH // 10, 3)).astype(np.uint8)
    frames = frames.repeat(10, axis=1).repeat(10, axis=2)
    samples = random.normal(0, 0.2, (num_frames * RATE // 24, 2)).clip(-0.9, 0.9).astype(np.float32)
    audio = Waveform(samples, RATE) if sound else None
    return FrameStream([frames], HEIGHT, WIDTH, Fraction(24), num_frames, audio).save(path, crf=1)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mkv")


@pytest.fixture(scope="module")
def given(files, tmp_path_factory):
    """Options of a run in one step, with a checkpoint that has sound."""
    path = tmp_path_factory.mktemp("sound") / "ltx.safetensors"
    return {
        "pipeline": "one-stage",
        "steps": 1,
        "cfg": 1.0,
        "weights": str(tiny_checkpoints.write_weights(path, sound=True)),
        "model_variant": "dev",
        "gemma": str(files.gemma),
    }


@pytest.fixture(scope="module")
def contexts(given):
    stages = prompt_stages(request_for(Options("A ball", **given)))
    return run_stages(stages, StageRunner(), GenerationState()).contexts


@pytest.fixture(scope="module")
def span(clip):
    """Frames 8 to 12, which are in the second latent frame and the third."""
    return {"retake": str(clip), "retake_from": 8.5 / 24, "retake_to": 12 / 24}


def states_of(request, contexts):
    """The states after the stages between the prompt and the decoder, by name, and the runner."""
    runner = StageRunner()
    state = GenerationState(contexts=contexts)
    states = {}
    for stage in remaining(stages_for(request)[:-1], state):
        state = states[stage.name] = stage.run(runner, state)
    return states, runner


def test_retake_makes_the_span_anew_and_holds_the_rest(given, contexts, span):
    request = request_for(Options("A ball", **given, **span))
    # Padded to 64×96 and 25 frames.
    assert (request.height, request.width, request.num_frames) == (64, 96, 25)
    states, runner = states_of(request, contexts)
    assert list(states) == ["encode", "encode_audio", "denoise", "decode_audio"]
    before, after = states["encode_audio"].latents, states["denoise"].latents
    changed = mx.abs(after["video"] - before["video"]).max(axis=(0, 2, 3, 4))
    # Latent frames span the frames 0, 1 to 8, 9 to 16, 17 to 24.
    assert [bool(value > 1e-3) for value in changed] == [False, True, True, False]
    assert mx.array_equal(after["video"][:, 0], before["video"][:, 0])
    changed = mx.abs(after["audio"] - before["audio"]).max(axis=(0, 2))
    # An audio latent ends 40 ms times its number plus 10 ms.
    ends = [0.01 + 0.04 * number for number in range(len(changed))]
    starts = [0, *ends[:-1]]
    inside = [end > span["retake_from"] and start < 0.5 for start, end in zip(starts, ends, strict=True)]
    assert [bool(value > 1e-3) for value in changed] == inside and any(inside) and not all(inside)
    waveform = states["decode_audio"].sound["waveform"]
    assert waveform.shape == (NUM_FRAMES * RATE // 24, 2)
    planned = {
        estimate.name: estimate.peak_bytes for estimate in plan_for(request, Options("A ball", **given, **span)).stages
    }
    # Arrays of other tests are counted, too.
    others = 4_000_000
    assert all(report.peak_bytes < 1.15 * planned[report.name] + others for report in runner.reports)


def test_extension_holds_the_clip_and_goes_on_after_its_last_whole_latent(given, contexts, clip):
    notes = []
    request = request_for(Options("A ball", **given, extend=str(clip), seconds=0.5), notes.append)
    assert any("The last 5 frames of clip.mkv are made anew" in line for line in notes)
    # 22 and 12 frames, padded to 8k + 1.
    assert request.num_frames == 41 and request.output_shape.num_frames == 34
    states, _ = states_of(request, contexts)
    before, after = states["encode_audio"].latents, states["denoise"].latents
    changed = mx.abs(after["video"] - before["video"]).max(axis=(0, 2, 3, 4))
    # Three latent frames hold the first 17 frames.
    assert [bool(value > 1e-3) for value in changed] == [False] * 3 + [True] * 3
    changed = mx.abs(after["audio"] - before["audio"]).max(axis=(0, 2))
    held = [bool(value == 0) for value in changed]
    assert held == sorted(held, reverse=True) and sum(held) == 18
    assert states["decode_audio"].sound["waveform"].shape == (34 * RATE // 24, 2)


def test_clip_is_written_at_its_own_size_resumed_and_repeated(given, span, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("generate_command", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*words):
        result = CliRunner().invoke(cli.as_program(module.main), [*map(str, words), "--quiet"])
        assert result.exit_code == 0, result.stderr
        return result

    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items() if name != "pipeline"]
    flags += [f"--retake={span['retake']}", f"--from={span['retake_from']}", f"--to={span['retake_to']}"]
    assert "encode_audio" in run("A ball", *flags, "--dry-run").stdout
    run("A ball", *flags, "--save-latents", "states", "--save-embeddings", "ball.safetensors", "-o", "a.mkv")
    written = LTX_2_MLX.read_video("a.mkv")
    assert (written.num_frames, written.height, written.width, written.frame_rate) == (NUM_FRAMES, HEIGHT, WIDTH, 24)
    assert abs(len(read_waveform("a.mkv").samples) - NUM_FRAMES * RATE // 24) <= 1024
    frames = written.array()
    Path("states/denoise.safetensors").unlink()
    Path("states/frames.safetensors").unlink()
    run("--resume", "states", "-o", "b.mkv")
    # The text encoder takes longer than all the rest.
    again = ["--replay", "a.mkv", "--embeddings", "ball.safetensors", "--yes"]
    run(*again, "-o", "c.mkv")
    assert all(np.array_equal(LTX_2_MLX.read_video(name).array(), frames) for name in ("b.mkv", "c.mkv"))
    run(*again, "--extend", span["retake"], "--seconds", 0.1, "-o", "d.mkv")
    assert LTX_2_MLX.read_video("d.mkv").num_frames == NUM_FRAMES + 2
    run(*again, "--seed", 1, "--seed", 2, "-o", "e.mkv")
    assert LTX_2_MLX.read_video("e-seed2.mkv").num_frames == NUM_FRAMES


def test_sound_is_kept_as_it_is_without_audio_and_made_for_a_silent_clip(given, files, span, tmp_path):
    kept = request_for(Options("A ball", **given, **span, audio=False))
    assert kept.given.frozen_audio and isinstance(kept.given.written, SourceTracks) and not kept.audio
    assert kept.guidance["audio"] == Guidance()
    notes = []
    own = given | {"weights": str(files.weights)}
    kept = request_for(Options("A ball", **own, **span), notes.append)
    assert any("stays as it is: ltx.safetensors makes none" in line for line in notes)
    assert kept.given.sound is None and isinstance(kept.given.written, SourceTracks)
    silent = write_clip(tmp_path / "silent.mkv", sound=False)
    made = request_for(Options("A ball", **given, **span | {"retake": str(silent)}))
    assert made.audio and made.given.sound is None and made.given.written is None
    video = LTX_2_MLX.generate("A ball", **own, **span)
    assert video.audio == kept.given.written and video.array().shape == (NUM_FRAMES, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retake": "missing.mp4"}, "missing.mp4 does not exist"),
        ({"retake_to": 2.0}, r"--to is 2, but clip.mkv lasts 0.92 s. Give a span inside the clip"),
        ({"retake_from": 1.0, "retake_to": 1.5}, r"--from is 1, but clip.mkv lasts 0.92 s"),
        ({"retake_from": 0.5, "retake_to": 0.5}, "Give a span that ends after it begins"),
        ({"retake_to": None}, "needs the span"),
        ({"extend": "a.mp4"}, "mutually exclusive"),
        ({"retake": None}, "--from does nothing without --retake"),
        ({"height": 64}, "--height has no place beside --retake: the clip has its own size"),
        ({"frames": 25}, "--frames has no place"),
        ({"fps": 25}, "--fps has no place"),
        ({"image": "a.png"}, "--image has no place"),
        ({"audio_input": "a.wav"}, "--audio-input has no place"),
        ({"motion_speed": 0.5}, "--motion-speed has no place"),
        ({"temporal_upscale": True}, "--temporal-upscale has no place"),
        ({"pipeline": "hq", "steps": None}, "--pipeline can be one-stage or distilled, not hq"),
    ],
)
def test_what_does_not_fit_a_clip_is_refused_in_one_line(given, span, changes, message):
    with pytest.raises(LTXError, match=message) as caught:
        request_for(Options("A ball", **given | span | changes))
    assert "\n" not in str(caught.value)


def test_extension_needs_its_length_and_default_pipeline_is_one_stage(given, clip):
    with pytest.raises(LTXError, match="--extend needs --seconds"):
        Options("A ball", **given, extend=str(clip))
    with pytest.raises(LTXError, match="--seconds does nothing without --extend"):
        Options("A ball", **given, seconds=1.0)
    own = {name: value for name, value in given.items() if name != "pipeline"}
    assert Options("A ball", **own, extend=str(clip), seconds=1.0).pipeline == "one-stage"
