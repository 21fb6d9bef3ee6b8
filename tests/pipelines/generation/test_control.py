"""IC-LoRA: a reference video beside the video, in every pipeline that has it."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny_checkpoints
import tiny_split_files
from memory_peaks import largest_peaks
from safetensors.numpy import load_file, save_file

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.errors import CheckpointError, MediaError, RequestError
from LTX_2_MLX.media.first_frame import resize_and_crop
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.video import read_video
from LTX_2_MLX.media.writer import read_run_record
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.pipelines.generate import generate_video, plan_for, prepare, stages_for
from LTX_2_MLX.pipelines.generation.control import Control, EncodeControl, control_stage
from LTX_2_MLX.pipelines.generation.denoise import Denoise
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.record import options_from
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.pipelines.two_stage import first_stage
from LTX_2_MLX.runtime.progress import SilentProgress
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.runtime.this_machine import memory_limits
from LTX_2_MLX.shapes import LatentShape, VideoShape

SIZE = {"height": 64, "width": 128, "frames": 17}


class Notes(SilentProgress):
    """Keeps the notes of a run."""

    def __init__(self):
        self.lines = []
        self.note = self.lines.append


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip of 20 frames, wider than the videos."""
    frames = np.random.default_rng(5).integers(0, 255, (20, 5, 9, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
    path = tmp_path_factory.mktemp("clip") / "control.mp4"
    return FrameStream([frames], 80, 144, Fraction(24), num_frames=20).save(path)


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Files of LTX-2.5, an upscaler, and an IC-LoRA whose reference has half the size."""
    folder = tmp_path_factory.mktemp("ltx-2.5")
    files = tiny_split_files.write_split_files(folder)
    upscaler = tiny_checkpoints.write_upscaler(folder / "spatial.safetensors")
    adapter = tiny_split_files.write_detailing_lora(folder / "adapter.safetensors", files.transformer)
    return files, upscaler, adapter


@pytest.fixture
def asked(split, clip):
    """``asked(**changes)``: two stages of LTX-2.5, distilled, with the clip as reference."""

    def options(**changes) -> Options:
        files, upscaler, adapter = split
        named = {
            "weights": str(files.transformer),
            "gemma": str(files.gemma),
            "video_vae": str(files.conv_vae),
            "spatial_upscaler_weights": str(upscaler),
            "model_variant": "distilled",
            "steps_stage1": 1,
            "steps_stage2": 1,
            "lora": (str(adapter),),
            "control": clip,
        }
        return Options(prompt="A blue ball", **(SIZE | named | changes))

    return options


def adapter_with(path, source, **metadata):
    save_file(load_file(source), path, metadata=metadata)
    return str(path)


def frames_of(options: Options, runner=None) -> np.ndarray:
    prepared = prepare(options)
    return generate_video(prepared.request, runner or StageRunner(), prepared.options).array()


def test_two_stages_read_the_reference_in_the_first_without_noise_in_its_steps(asked, clip):
    request = prepare(asked()).request
    stages = stages_for(request)
    encode, first, second = (stage for stage in stages if isinstance(stage, EncodeControl | Denoise))
    assert isinstance(encode, EncodeControl) and encode.control.shape == VideoShape(17, 32, 64)
    assert (first.control.downscale, first.sampler, len(first.loras)) == (2, "euler", 1)
    assert (second.control, second.sampler, second.loras) == (None, "euler", ())
    # The reference's tokens are planned for.
    plain = replace(first, control=None).estimate()
    assert first.estimate().activation_bytes > plain.activation_bytes
    names = [stage.name for stage in plan_for(request, asked()).stages]
    assert names.index("control_encoder") < names.index("stage_1")


def test_reference_changes_the_video_and_a_run_resumes_and_repeats(asked, clip, split, tmp_path):
    video = frames_of(asked(save_latents=tmp_path / "run"))
    assert video.shape == (17, 128, 256, 3)
    runner = StageRunner()
    np.testing.assert_array_equal(frames_of(asked(resume=tmp_path / "run"), runner), video)
    assert "control_encoder" not in [report.name for report in runner.reports]
    # Another reference is encoded anew.
    other = tmp_path / "other.mp4"
    read_video(clip).replace(chunks=[255 - read_video(clip).array()], audio=None).save(other)
    assert not np.array_equal(frames_of(asked(resume=tmp_path / "run", control=other)), video)
    # So are strength and attention: both are part of what stage 1 follows from.
    prepared = prepare(asked(control_strength=0.5, control_attention=0.25))
    path = tmp_path / "video.mp4"
    stream = generate_video(prepared.request, StageRunner(), prepared.options)
    weaker = stream.array()
    stream.replace(chunks=[weaker]).save(path)
    repeated = options_from(read_run_record(path, "generate"), {})
    assert (str(repeated.control), repeated.control_strength, repeated.control_attention) == (str(clip), 0.5, 0.25)
    assert repeated.lora == (str(split[2]),)
    np.testing.assert_array_equal(frames_of(repeated), weaker)
    assert not np.array_equal(weaker, video)


@pytest.mark.parametrize(
    ("frames", "slower", "kept", "note"),
    [(17, 1, range(17), None), (33, 1, range(17), "has 20 of the video's 33"), (17, 2, [0, *range(1, 17, 2)], None)],
)
def test_frames_are_taken_from_the_beginning_and_cut_to_whole_cells(
    asked, split, clip, frames, slower, kept, note, tmp_path
):
    metadata = {"reference_downscale_factor": "2", "reference_temporal_scale_factor": str(slower)}
    adapter = adapter_with(tmp_path / "slow.safetensors", split[2], **metadata)
    notes = []
    request = prepare(asked(lora=(adapter,), frames=frames), notes.append).request
    assert [note] if note else [line for line in notes if "control.mp4" in line] == []
    stage = control_stage(request)
    latent = stage.run(StageRunner(), GenerationState()).control["reference"]
    pixels = read_video(clip).array()[list(kept)]
    encoder = load(VideoEncoder, request.models.video_vae, dtype=request.models.dtype)
    whole = encoder.encode(mx.concatenate([resize_and_crop(frame, 32, 64) for frame in pixels], axis=1))
    assert latent.shape == whole.shape and mx.allclose(latent, whole, atol=1e-4)


@pytest.mark.slow
def test_encoding_the_reference_takes_what_is_planned(asked, tmp_path):
    clip = np.random.default_rng(5).integers(0, 255, (17, 64, 96, 3), dtype=np.uint8)
    path = FrameStream([clip], 64, 96, Fraction(24), num_frames=17).save(tmp_path / "clip.mp4")
    stage = control_stage(prepare(asked(control=path, height=640, width=512)).request)
    planned = stage.estimate().peak_bytes
    with memory_limits():
        measured = largest_peaks(lambda runner: stage.run(runner, GenerationState()), {stage.name: planned}, most=1.15)
    assert abs(planned / measured[stage.name] - 1) < 0.15


def test_tokens_stand_last_at_twice_their_size_and_slow_with_the_video(asked, clip):
    request = prepare(asked(keyframes=2, motion_speed=0.5)).request
    first = next(stage for stage in stages_for(request) if isinstance(stage, Denoise))
    state = control_stage(request).run(StageRunner(), GenerationState())
    config = Transformer.Config.from_header(request.models.weights.header)
    video = first.first_state(config, state, lambda purpose, shape: mx.zeros(shape))["video"]
    cells, reference = 2 * 4, 3 * 1 * 2
    assert video.num_tokens == (3 + 2) * cells + reference
    assert mx.array_equal(video.clean_latent[:, -reference:], state.control["reference"].flatten(1, 3))
    assert not video.denoise_mask[:, -reference:].any() and not video.keyframe_mask[:, -reference:].any()
    positions = np.array(video.positions[0, :, -reference:])
    np.testing.assert_allclose(positions[0, :, 0].reshape(3, 2)[:, 0], [0, 1 / 48, 9 / 48], rtol=1e-5)
    assert positions[1].max() == 64 and positions[2].max() == 128
    slots = np.array(video.positions[0, 0, 3 * cells : 5 * cells])
    np.testing.assert_allclose(slots[[0, cells], 0], [5 / 48, 11 / 48], rtol=1e-5)


def test_generated_keyframes_are_found_before_the_reference(asked):
    request = prepare(asked(keyframes=2)).request
    first = next(stage for stage in stages_for(request) if isinstance(stage, Denoise))
    kept = {}
    stage = replace(first, noise=lambda purpose, shape: mx.ones(shape), on_step=lambda step, state: kept.update(state))
    contexts = {"positive.video": mx.ones((1, 128, 56)), "positive.audio": mx.ones((1, 128, 24))}
    state = GenerationState(contexts=contexts, control={"reference": mx.zeros((1, 3, 1, 2, 8))})
    keyframes = stage.run(StageRunner(), state).latents["keyframes"]
    assert mx.array_equal(keyframes.flatten(1, 3), kept["video"].latent[:, 24 : 24 + 16])


def test_without_attention_the_video_is_that_without_a_reference(asked, files):
    """With a network for video alone: a sound would attend to the reference, and the video to the sound."""
    weights = {
        "weights": str(files.video_only),
        "gemma": str(files.gemma),
        "video_vae": "auto",
        "lora": (),
    }
    request = prepare(
        asked(**weights, control=None, pipeline="distilled", steps=2, steps_stage1=None, steps_stage2=None)
    ).request
    plain = first_stage(request, "denoise")
    control = Control(Path("clip.mp4"), VideoShape(9, 64, 96), LatentShape(2, 2, 3), downscale=2)
    drawn, reference = (mx.random.normal(shape, key=mx.random.key(1)) for shape in ((1, 200, 8), (1, 2, 2, 3, 8)))
    state = GenerationState(contexts={"positive.video": mx.ones((1, 128, 24))}, control={"reference": reference})

    def video(**changes):
        stage = replace(plain, noise=lambda purpose, shape: drawn[:, : shape[1]], **changes)
        return stage.run(StageRunner(), state).latents["video"]

    absent = video()
    assert mx.allclose(video(control=replace(control, attention=0.0)), absent, atol=1e-5)
    assert not mx.allclose(video(control=control), absent, atol=1e-3)


def test_adapters_without_the_reference_are_as_they_were_in_every_pipeline(asked, files, clip, tmp_path):
    """LTX-2.0, a dev checkpoint: one stage guided, the distilled pipeline, and stage 2 with the distillation LoRA."""
    adapter = adapter_with(tmp_path / "ltx-2-19b-ic-lora-depth.safetensors", files.lora)
    named = {
        "weights": str(files.weights),
        "gemma": str(files.gemma),
        "video_vae": "auto",
        "spatial_upscaler_weights": str(files.spatial),
        "distilled_lora": str(files.lora),
        "model_variant": "dev",
        "lora": (adapter, str(files.lora)),
        "frames": 9,
        "height": 64,
        "width": 96,
    }
    for pipeline, steps, loras in (
        ("one-stage", {"steps": 1}, [2]),
        ("distilled", {"steps": 1}, [3]),
        ("two-stage", {"steps_stage1": 1, "steps_stage2": 1}, [2, 2]),
    ):
        options = asked(**{"steps_stage1": None, "steps_stage2": None} | named | steps, pipeline=pipeline)
        notes = Notes()
        prepared = prepare(options)
        stages = [stage for stage in stages_for(prepared.request) if isinstance(stage, Denoise)]
        assert [len(stage.loras) for stage in stages] == loras
        # A reference as large as the video: the adapter states no factor.
        assert stages[0].control.latent.num_tokens == 2 * 2 * 3
        video = generate_video(prepared.request, StageRunner(notes), prepared.options).array()
        assert len(video) == 9 and not any("--control" in line for line in notes.lines)
    notes = Notes()
    frames_of(
        replace(options, control=None, pipeline="one-stage", steps=1, steps_stage1=None, steps_stage2=None),
        StageRunner(notes),
    )
    assert sum("Give the video with --control" in line for line in notes.lines) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": ()}, "no --lora is one .none is given"),
        ({"control": None, "control_strength": 0.5}, "--control-strength does nothing without --control"),
        (
            {"retake": "clip.mp4", "retake_from": 0.0, "retake_to": 0.5, "height": None, "width": None, "frames": None},
            "--control",
        ),
        ({"pipeline": "hq"}, "--control belongs to one-stage and distilled and two-stage"),
        ({"height": 96}, "height of its stage must be a multiple of 64 from 64 on. It is 96. Use 64 .or 128.."),
    ],
)
def test_what_cannot_be_done_is_refused(asked, changes, message):
    with pytest.raises(RequestError, match=message):
        prepare(asked(**changes))


def test_adapters_that_read_different_references_are_refused(asked, split, tmp_path):
    other = adapter_with(tmp_path / "other.safetensors", split[2], reference_downscale_factor="4")
    with pytest.raises(CheckpointError, match=r"different sizes .*adapter.safetensors 2, other.safetensors 4"):
        prepare(asked(lora=(str(split[2]), other)))
    with pytest.raises(MediaError, match=r"missing.mp4 cannot be read: No such file"):
        prepare(asked(control=tmp_path / "missing.mp4"))
