"""Sound of every pipeline: its length, rate and place, its memory, and runs that resume."""

from dataclasses import replace
from fractions import Fraction

import av
import mlx.core as mx
import numpy as np
import pytest
import tiny_checkpoints
from memory_peaks import largest_peaks

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError, MediaError, RequestError
from LTX_2_MLX.media.audio import Waveform, read_waveform
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.pipelines.generate import (
    Options,
    decode_saved,
    generate_video,
    plan_for,
    prepare,
    request_for,
    stages_for,
)
from LTX_2_MLX.pipelines.generation.sound import DecodeSound
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.runtime.this_machine import memory_limits

RATES = {"2.0": 24_000, "2.3": 48_000}


@pytest.fixture(scope="module")
def sounding(tmp_path_factory):
    """A checkpoint of each generation with an audio VAE and a vocoder."""
    folder = tmp_path_factory.mktemp("sound")
    paths = {}
    for generation in RATES:
        path = folder / f"{generation}.safetensors"
        paths[generation] = tiny_checkpoints.write_weights(path, generation=generation, sound=True)
    return paths


@pytest.fixture(scope="module")
def options_of(files, sounding):
    """``options_of(generation, **changes)``: nine frames in one step."""

    def options(generation="2.0", **changes):
        own = {
            "pipeline": "one-stage",
            "height": 64,
            "width": 64,
            "frames": 9,
            "cfg": 1.0,
            "weights": str(sounding[generation]),
            "spatial_upscaler_weights": str(files.spatial),
            "distilled_lora": str(files.lora),
            "gemma": str(files.gemma),
            "precision": "fp32",
        }
        if changes.get("pipeline") == "two-stage":
            own |= {"steps_stage1": 1, "steps_stage2": 1}
        else:
            own |= {"steps": 1}
        return Options("A blue ball", **own | changes)

    return options


def run(options):
    """The video, and the stages that ran."""
    runner = StageRunner()
    video = generate_video(request_for(options), runner, options)
    list(video)
    return video, [report.name for report in runner.reports]


@pytest.mark.parametrize("generation", RATES)
def test_video_has_the_sound_of_its_generation_as_long_as_itself(options_of, generation):
    video, stages = run(options_of(generation))
    assert stages == ["text_encoder", "text_features", "denoise", "decode_audio", "decode"]
    assert video.audio.sample_rate == RATES[generation]
    assert video.audio.samples.shape == (RATES[generation] * 9 // 24, 2)
    assert video.audio.samples.std() > 1e-3


def test_silent_video_runs_no_sound_stage(options_of):
    video, stages = run(options_of(audio=False))
    assert video.audio is None and "decode_audio" not in stages
    video, stages = run(options_of(frames=1))
    assert video.audio is None and "decode_audio" not in stages


@pytest.mark.parametrize(("variant", "after"), [("dev", "stage_1"), ("distilled", "stage_2")])
def test_two_stages_take_the_sound_of_the_stage_that_the_reference_takes(options_of, variant, after):
    options = options_of(pipeline="two-stage", model_variant=variant, fps="24000/1001")
    names = [stage.name for stage in stages_for(request_for(options))]
    assert names[names.index("decode_audio") - 1] == after
    video, _ = run(options)
    assert len(video.audio.samples) == round(9 * 1001 / 24000 * 24000)


def test_written_file_plays_the_sound_from_its_first_frame_to_its_last(options_of, tmp_path):
    options = options_of(frames=33, save_audio=tmp_path / "sound.wav")
    video = generate_video(request_for(options), StageRunner(), options)
    samples = np.array(video.audio.samples)
    written = read_waveform(tmp_path / "sound.wav")
    assert written.sample_rate == 24_000 and np.abs(written.samples - samples).max() < 1e-4
    video.save(tmp_path / "video.mp4")
    with av.open(str(tmp_path / "video.mp4")) as container:
        audio = container.streams.audio[0]
        assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 24_000, 2)
        assert abs(float(audio.duration * audio.time_base) - 33 / 24) < 1024 / 24_000


def test_checkpoint_without_sound_makes_a_silent_video_and_refuses_audio(options_of, files, tmp_path):
    silent = {"weights": str(files.weights)}
    assert not request_for(options_of(**silent)).audio
    with pytest.raises(RequestError, match=r"--audio is given, but ltx\.safetensors has no audio VAE"):
        request_for(options_of(**silent, audio=True))
    with pytest.raises(RequestError, match="--save-audio is given"):
        request_for(options_of(**silent, save_audio=tmp_path / "a.wav"))
    with pytest.raises(RequestError, match="mutually exclusive"):
        options_of(audio=False, save_audio=tmp_path / "a.wav")


def test_files_of_the_user_are_not_replaced_by_sound(options_of, tmp_path):
    (tmp_path / "mine.wav").write_bytes(b"mine")
    for name, message in (("mine.wav", "is no sound"), ("sound.ogg", "Use .wav")):
        with pytest.raises(MediaError, match=message):
            prepare(options_of(save_audio=tmp_path / name))
    assert (tmp_path / "mine.wav").read_bytes() == b"mine"


def test_run_resumes_with_the_same_sound(options_of, tmp_path):
    folder = tmp_path / "states"
    options = options_of(pipeline="two-stage", save_latents=folder)
    whole, _ = run(options)
    again = replace(options, save_latents=None, resume=folder)
    resumed, stages = run(again)
    assert stages == [] and np.array_equal(resumed.audio.samples, whole.audio.samples)
    (folder / "sound.safetensors").unlink()
    resumed, stages = run(again)
    assert stages == ["decode_audio"] and np.array_equal(resumed.audio.samples, whole.audio.samples)
    assert np.array_equal(decode_saved(folder, StageRunner()).audio.samples, whole.audio.samples)


def test_parts_of_different_models_are_refused_before_the_work(options_of, tmp_path):
    sections = {"transformer": tiny_checkpoints.transformer_section(audio_in_channels=32, audio_out_channels=32)}
    path = tiny_checkpoints.write_weights(tmp_path / "mixed.safetensors", sound=True, **sections)
    options = options_of(weights=str(path))
    with pytest.raises(CheckpointError, match="different models"):
        plan_for(request_for(options), options)


@pytest.fixture(params=["2.0", "2.3"])
def checkpoint(request, sounding):
    return Checkpoint(sounding[request.param])


def test_planned_memory_is_within_15_percent_of_the_measured(checkpoint):
    stage = DecodeSound(checkpoint, 25, Fraction(25), piece_frames=25)
    expected = stage.estimate().peak_bytes
    latent = mx.array(np.random.default_rng(0).normal(size=(1, 25, 16)).astype(np.float32))

    def decode(runner: StageRunner) -> None:
        with memory_limits():
            stage.run(runner, GenerationState(latents={"audio": latent}))

    measured = largest_peaks(decode, {"decode_audio": expected}, most=1.15)
    assert expected / measured["decode_audio"] == pytest.approx(1, abs=0.15)


def test_memory_of_decoding_does_not_grow_beyond_20_seconds(checkpoint):
    stage = DecodeSound(checkpoint, 20 * 25, Fraction(25))
    longer = DecodeSound(checkpoint, 1200 * 25, Fraction(25))
    rate = RATES["2.3" if "2.3" in checkpoint.path.name else "2.0"]
    waveforms = (1200 - 20) * rate * 2 * 4
    assert longer.estimate().peak_bytes - stage.estimate().peak_bytes == waveforms


CODEC_FRAMES = {".mp4": 1024, ".mov": 1024, ".mkv": 1024, ".webm": 960}


@pytest.mark.parametrize(
    ("rate", "num_frames", "generation"),
    [
        (Fraction(24000, 1001), 9, "2.3"),
        (Fraction(24), 33, "2.3"),
        (Fraction(25), 9, "2.0"),
        (Fraction(30), 33, "2.0"),
        (Fraction(50), 97, "2.3"),
    ],
)
def test_decoded_sound_is_as_long_as_the_frames_in_every_container(sounding, tmp_path, rate, num_frames, generation):
    """Within one frame of the codec; the written file is decoded again. All lengths: ``tests/media/test_sound.py``."""
    stage = DecodeSound(Checkpoint(sounding[generation]), num_frames, rate)
    shape = (1, round(num_frames / rate * 25), 16)
    latent = mx.array(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    sound = stage.run(StageRunner(), GenerationState(latents={"audio": latent})).sound
    waveform = Waveform(np.array(sound["waveform"]), int(sound["sample_rate"]))
    for suffix, codec_frame in CODEC_FRAMES.items():
        path = tmp_path / f"video{suffix}"
        chunks = [np.full((num_frames, 16, 16, 3), 128, np.uint8)]
        FrameStream(chunks, 16, 16, rate, num_frames, waveform).save(path)
        with av.open(str(path)) as container:
            blocks = list(container.decode(audio=0))
        seconds = sum(block.samples for block in blocks) / blocks[0].sample_rate
        lead = float(blocks[0].pts * blocks[0].time_base)
        # Matroska's times are whole milliseconds.
        assert abs(seconds + lead - num_frames / rate) <= codec_frame / blocks[0].sample_rate + 1e-3
