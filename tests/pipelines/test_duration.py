"""Videos whose length LTX-2.5's duration head decides, and their sound from a file of its own."""

from dataclasses import replace
from fractions import Fraction

import av
import mlx.core as mx
import numpy as np
import pytest
import tiny_split_files
from typer.testing import CliRunner

from LTX_2_MLX import cli, read_video
from LTX_2_MLX.cli.generate import main as generate
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.media.writer import read_run_record
from LTX_2_MLX.models.ltx.duration_head import DurationHead
from LTX_2_MLX.pipelines.generate import Options, generate_video, plan_for, prepare, request_for, stages_for
from LTX_2_MLX.pipelines.generation import duration
from LTX_2_MLX.pipelines.generation.fit import nearest_options
from LTX_2_MLX.pipelines.generation.record import options_from
from LTX_2_MLX.planning.plan import Estimate, Plan
from LTX_2_MLX.runtime.progress import SilentProgress
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.runtime.this_machine import GIB


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return tiny_split_files.write_split_files(tmp_path_factory.mktemp("ltx-2.5"))


@pytest.fixture(scope="module")
def audio_vae(split):
    return tiny_split_files.write_audio_vae(split.transformer.parents[1] / "vae" / tiny_split_files.AUDIO_VAE)


@pytest.fixture(scope="module")
def head(split):
    """Answers of about 0.72 s: 17 frames at 24 per second."""
    folder = split.transformer.parents[1] / "model_patches"
    return tiny_split_files.write_duration_head(folder / tiny_split_files.DURATION_HEAD, seconds=0.72)


class Notes(SilentProgress):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def options(split, head=None, **changes) -> Options:
    """One distilled step, without a length."""
    named = {
        "weights": str(split.transformer),
        "gemma": str(split.gemma),
        "video_vae": str(split.conv_vae),
        "model_variant": "distilled",
        "pipeline": "distilled",
        "steps": 1,
        "height": 64,
        "width": 96,
    }
    if head is not None:
        named |= {"duration_head": str(head), "min_duration": 0.3, "max_duration": 1.5}
    return Options("A blue ball", **named | changes)


def run(asked: Options, runner: StageRunner | None = None):
    """The video and its frames."""
    video = generate_video(request_for(asked), runner or StageRunner(), asked)
    return video, np.concatenate([np.array(chunk) for chunk in video])


def test_head_decides_the_length_and_the_record_holds_it(split, head, tmp_path):
    asked = options(split, head)
    runner = StageRunner(Notes())
    video, frames = run(asked, runner)
    assert video.num_frames == len(frames) == 17
    assert any(line.startswith("Length: 17 frames, 0.71 s.") for line in runner.progress.lines)
    assert [report.name for report in runner.reports][:3] == ["text_encoder", "text_features", "duration_head"]
    path = tmp_path / "video.mp4"
    generate_video(request_for(asked), StageRunner(), asked).save(path)
    record = read_run_record(path, "generate")
    assert "duration_head" not in record.request and "frames" in record.automatic
    repeated = options_from(record, {})
    assert (repeated.frames, repeated.duration_head, repeated.max_duration) == (17, "auto", None)
    again = StageRunner()
    np.testing.assert_array_equal(run(repeated, again)[1], frames)
    assert "duration_head" not in [report.name for report in again.reports]
    asked_again = options_from(record, {"duration_head": str(head), "min_duration": 1.0})
    assert (asked_again.frames, request_for(asked_again).duration.min_seconds) == (None, 1.0)


def test_head_reads_saved_embeddings(split, head, tmp_path):
    saved = tmp_path / "embeddings.safetensors"
    _, frames = run(options(split, head, save_embeddings=saved))
    runner = StageRunner()
    video, again = run(replace(options(split, head), embeddings=saved, gemma="auto"), runner)
    assert video.num_frames == 17
    np.testing.assert_array_equal(again, frames)
    assert "text_encoder" not in [report.name for report in runner.reports]


@pytest.mark.parametrize(("limits", "frames"), [((0.1, 0.5), 9), ((0.9, 2.0), 25), ((0.3, 1.5), 17)])
def test_answer_is_held_between_the_limits(split, head, limits, frames):
    asked = options(split, head, min_duration=limits[0], max_duration=limits[1])
    assert generate_video(request_for(asked), StageRunner(), asked).num_frames == frames


def test_a_run_resumes_without_asking_again(split, head, tmp_path):
    folder = tmp_path / "run"
    _, frames = run(options(split, head, save_latents=folder))
    runner = StageRunner()
    _, again = run(options(split, head, resume=folder), runner)
    np.testing.assert_array_equal(again, frames)
    assert not {"text_encoder", "text_features", "duration_head", "denoise"} & {r.name for r in runner.reports}


def test_each_video_of_a_batch_has_the_length_of_its_prompt(split, head, tmp_path, monkeypatch):
    """And an interrupted batch goes on with these lengths, without asking again."""
    (tmp_path / "prompts.txt").write_text("A blue ball\nA road\nRain\n")
    named = {
        "--weights": split.transformer, "--gemma": split.gemma, "--video-vae": split.conv_vae, "--duration-head": head,
        "--model-variant": "distilled", "--pipeline": "distilled", "--steps": 1, "--height": 64, "--width": 96,
        "--min-duration": 0.3, "--max-duration": 2, "--prompt-file": tmp_path / "prompts.txt",
        "--save-latents": tmp_path / "states", "-o": tmp_path / "clip.mp4",
    }  # fmt: skip
    answers, loads, real = iter([0.4, 1.1, 0.8]), [], duration.load
    monkeypatch.setattr(DurationHead, "__call__", lambda self, contexts: mx.array([next(answers)]))
    monkeypatch.setattr(duration, "load", lambda *words, **options: loads.append(words) or real(*words, **options))
    program = cli.as_program(generate)
    words = [str(word) for pair in named.items() for word in pair]
    done = CliRunner().invoke(program, [*words, "--allow-blank", "--no-cache"])
    assert done.exit_code == 0, done.output
    videos = [tmp_path / f"clip-00{number}.mp4" for number in (1, 2, 3)]
    whole = [read_video(video).array() for video in videos]
    assert [len(frames) for frames in whole] == [9, 25, 17] and len(loads) == 1
    for video, frames, number in zip(videos, whole, (1, 2, 3), strict=True):
        record = read_run_record(video, "generate")
        assert record.request["frames"] == len(frames) and "frames" in record.automatic
        # What was saved before the frames goes on to the same video.
        for path in (tmp_path / f"states/00{number}").glob("frames*"):
            path.unlink()
        video.unlink()
    done = CliRunner().invoke(
        program, ["--no-cache", "--resume", str(tmp_path / "states"), "-o", str(videos[0].with_stem("clip"))]
    )
    assert done.exit_code == 0, done.output
    for video, frames in zip(videos, whole, strict=True):
        np.testing.assert_array_equal(read_video(video).array(), frames)


def test_plan_is_that_of_the_longest_answer(split, head):
    asked = options(split, head)
    request = prepare(asked).request
    planned = plan_for(request, asked)
    assert request.num_frames == 33
    assert planned.sizes == ("Output: 64×96, at most 33 frames at 24 fps, 1.38 s",)
    longest = options(split, frames=33)
    stages = {stage.name: stage.peak_bytes for stage in plan_for(request_for(longest), longest).stages}
    open_length = {stage.name: stage.peak_bytes for stage in planned.stages}
    assert open_length.pop("duration_head") > 0
    assert open_length == stages
    assert [stage.name for stage in stages_for(request)] == [stage.name for stage in planned.stages]


def test_plan_that_does_not_fit_is_shortened_by_the_limit(split, head):
    asked = options(split, head, min_duration=None, max_duration=None)

    def plan_of(other: Options) -> Plan:
        seconds = 20 if other.max_duration is None else other.max_duration
        return Plan((), (Estimate("denoise", "", split.transformer, 0, int(seconds * GIB)),))

    fitted = nearest_options(asked, 481, plan_of, 5 * GIB, open_at=Fraction(24))
    assert fitted.flags == ("--max-duration 4.71",)
    assert request_for(fitted.options).num_frames == 113


def test_without_a_head_the_video_has_the_usual_length_and_a_line_says_so(split):
    notes = []
    assert request_for(options(split), notes.append).num_frames == 97
    assert [line for line in notes if "Without a duration head the video has 97 frames" in line]
    with pytest.raises(RequestError, match="--max-duration needs a duration head"):
        request_for(options(split, max_duration=3.0))


def test_limits_that_cannot_be_kept_are_refused_before_the_work(split, head):
    with pytest.raises(RequestError, match="--min-duration is 2, more than --max-duration"):
        request_for(options(split, head, min_duration=2.0))
    with pytest.raises(RequestError, match="No number of frames of the form 8k"):
        request_for(options(split, head, min_duration=1.0, max_duration=1.0))
    for given in ({"frames": 9}, {"duration": 1.0}):
        with pytest.raises(RequestError, match="mutually exclusive"):
            options(split, head, **given)


def test_head_of_another_model_is_refused(split, tmp_path, head):
    with pytest.raises(CheckpointError, match="holds no DurationHead"):
        request_for(options(split, split.conv_vae))
    other = tiny_split_files.write_duration_head(tmp_path / "other.safetensors", seconds=1.0, video_width=40)
    with pytest.raises(RequestError, match="reads contexts of widths 40 and 24"):
        request_for(options(split, other))


def test_head_and_sound_are_found_among_the_files_of_a_folder(split, head, audio_vae):
    folder = str(split.transformer.parents[1])
    asked = options(split, weights=folder, gemma="auto", max_duration=1.5)
    models = request_for(asked).models
    assert (models.duration_head.path, models.audio_vae.path) == (head, audio_vae)
    assert request_for(replace(asked, frames=9, max_duration=None)).models.duration_head is None


def test_video_with_sound_from_split_files_is_muxed_with_aac_of_its_length(split, audio_vae, tmp_path):
    asked = options(split, frames=17, audio_vae=str(audio_vae))
    request = request_for(asked)
    assert request.audio
    path = tmp_path / "video.mp4"
    generate_video(request, StageRunner(), asked).save(path)
    with av.open(path) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (audio.codec_context.name, audio.rate) == ("aac", 48_000)
        num_samples = sum(frame.samples for frame in container.decode(audio))
        assert video.frames == 17
    assert 0 <= num_samples - 17 * 48_000 // 24 < 2 * 1024
    repeated = options_from(read_run_record(path, "generate"), {})
    assert repeated.audio_vae == str(audio_vae)


def test_silence_is_said_and_two_audio_autoencoders_are_refused(split, audio_vae, tmp_path):
    notes = []
    assert not request_for(options(split, frames=9), notes.append).audio
    assert [line for line in notes if "--audio-vae" in line]
    with pytest.raises(RequestError, match=r"no audio VAE and vocoder.*--audio-vae"):
        request_for(options(split, frames=9, audio=True))
    with pytest.raises(CheckpointError, match="holds no AudioDecoder"):
        request_for(options(split, frames=9, audio_vae=str(split.conv_vae)))
