"""Detail-fidelity rendering with LTX-2.5's files in the published split layout."""

import shutil
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_checkpoints
import tiny_split_files
from PIL import Image
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from LTX_2_MLX.cli.app import program
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.media.writer import read_run_record
from LTX_2_MLX.pipelines.generate import decode_saved, generate_video, prepare, record_of, stages_for
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.record import options_from
from LTX_2_MLX.pipelines.generation.rendering_stages import RoundStage, SecondStage
from LTX_2_MLX.runtime.runner import StageRunner


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Paths of all files of a small LTX-2.5."""
    folder = tmp_path_factory.mktemp("ltx-2.5")
    files = tiny_split_files.write_split_files(folder)
    spatial, temporal = tiny_split_files.write_upscalers(folder / "latent_upscale_models")
    audio = tiny_split_files.write_audio_vae(folder / "vae" / tiny_split_files.AUDIO_VAE)
    detailing = folder / "loras" / tiny_split_files.DETAILING_LORA
    return SimpleNamespace(
        transformer=str(files.transformer),
        audio_vae=str(audio),
        gemma=str(files.gemma),
        video_vae=str(files.conv_vae),
        spatial=str(spatial),
        temporal=str(temporal),
        detailing=str(tiny_split_files.write_detailing_lora(detailing, files.transformer)),
    )


def options(split, **changes) -> Options:
    """Nine frames of 64×128 without rounds."""
    named = {
        "pipeline": "dfr",
        "weights": (split.transformer, split.audio_vae),
        "gemma": split.gemma,
        "video_vae": split.video_vae,
        "model_variant": "distilled",
        "spatial_upscaler_weights": split.spatial,
        "temporal_weights": split.temporal,
        "detailing_lora": split.detailing,
        "height": 64,
        "width": 128,
        "frames": 9,
    }
    return Options(prompt="A blue ball", **(named | changes))


@pytest.fixture(scope="module")
def embeddings(split, tmp_path_factory):
    """The prompt's contexts in a file: the text encoder takes longer than all the rest."""
    path = tmp_path_factory.mktemp("contexts") / "prompt.safetensors"
    frames_of(options(split, save_embeddings=path))
    return path


@pytest.fixture(scope="module")
def asked(split, embeddings):
    """``asked(**changes)``: the options with the prompt encoded beforehand, without sound, which takes longest."""
    return partial(options, split, gemma="auto", embeddings=embeddings, audio=False)


@pytest.fixture(scope="module")
def one_round(asked, tmp_path_factory):
    """``one_round(**changes)``: one round with a first frame."""
    pixels = np.random.default_rng(4).integers(0, 255, (70, 90, 3)).astype(np.uint8)
    picture = tmp_path_factory.mktemp("picture") / "picture.png"
    Image.fromarray(pixels).save(picture)
    return partial(asked, rounds=1, image=picture)


@pytest.fixture(scope="module")
def rendered(one_round) -> np.ndarray:
    return frames_of(one_round())


def video_of(options: Options, runner: StageRunner | None = None):
    prepared = prepare(options)
    return generate_video(prepared.request, runner or StageRunner(), prepared.options)


def frames_of(options: Options, runner: StageRunner | None = None) -> np.ndarray:
    return np.concatenate([np.array(chunk) for chunk in video_of(options, runner)])


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_rounds_double_the_rate(asked, rounds):
    runner = StageRunner()
    video = video_of(asked(rounds=rounds), runner)
    frames = np.concatenate([np.array(chunk) for chunk in video])
    assert frames.shape == (8 * 2**rounds + 1, 64, 128, 3)
    assert frames.std() > 1
    assert video.frame_rate == Fraction(24) * 2**rounds
    names = ["stage_1", "latent_upscaler", "stage_2"]
    for number in range(1, rounds + 1):
        names += [f"temporal_upscaler_{number}", f"round_{number}"]
    assert [report.name for report in runner.reports] == [*names, "decode"]


def test_previews_show_the_stages_that_denoise_the_whole_video(one_round, rendered, tmp_path):
    frames = frames_of(one_round(preview=tmp_path, preview_every=100))
    np.testing.assert_array_equal(frames, rendered)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stage_1-8.png", "stage_2-3.png"]


def test_sound_is_that_of_stage_1_and_as_long_as_the_video(asked):
    runner = StageRunner()
    video = video_of(asked(audio=True, rounds=1), runner)
    assert [report.name for report in runner.reports][:2] == ["stage_1", "decode_audio"]
    num_frames = sum(len(chunk) for chunk in video)
    assert len(video.audio.samples) == round(num_frames / video.frame_rate * video.audio.sample_rate)
    assert np.abs(video.audio.samples).max() > 0


def test_spatial_doubling_ends_at_the_size_asked_for(one_round):
    runner = StageRunner()
    doubled = one_round(height=128, spatial_doubling=True)
    frames = frames_of(doubled, runner)
    assert frames.shape == (17, 128, 128, 3)
    plan = prepare(doubled).plan
    assert [stage.name for stage in plan.stages] == [report.name for report in runner.reports]
    assert plan.sizes[:2] == ("Stage 1: 32×32, 25 frames", "Output: 128×128, 17 frames at 48 fps, 0.35 s")
    assert [stage.name for stage in plan.stages[-4:]] == ["keyframes", "latent_upscaler_2", "spatial", "decode"]


def test_image_adapter_and_seed_change_the_video(one_round, rendered):
    for changes in (
        {"image": None},
        {"detailing_lora": "none"},
        {"seed": 1},
    ):
        assert not np.array_equal(frames_of(one_round(**changes)), rendered), changes


def test_detailing_adapter_belongs_to_stage_2_alone_at_half_its_strength(one_round):
    stages = stages_for(prepare(one_round()).request)
    for stage in stages:
        if isinstance(stage, SecondStage):
            assert [lora.strength for lora in stage.loras] == [0.5]
            assert stage.reference_downscale == 2
        elif isinstance(stage, RoundStage):
            assert (stage.loras, stage.reference_downscale) == ((), None)


def test_the_earlier_form_has_rounds_without_sound(one_round, rendered):
    earlier = frames_of(one_round(reference="400fd31"))
    assert earlier.shape == rendered.shape
    assert not np.array_equal(earlier, rendered)


def test_dev_transformer_becomes_a_distilled_one_by_its_adapter(split, one_round, rendered, tmp_path):
    lora = tiny_checkpoints.write_lora(tmp_path / "distilled.safetensors", split.transformer, seed=5)
    weights = shutil.copy(split.transformer, tmp_path / "weights.safetensors")
    dev = one_round(weights=str(weights), model_variant="dev", distilled_lora=str(lora))
    request = prepare(dev).request
    assert all(stage.loras for stage in stages_for(request) if isinstance(stage, RoundStage))
    assert not np.array_equal(frames_of(dev), rendered)


def test_streamed_blocks_give_the_same_video_as_resident_ones(one_round, rendered):
    np.testing.assert_array_equal(frames_of(one_round(low_ram=True)), rendered)


class KilledRunner(StageRunner):
    """Ends in one of the stages."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def run(self, name, load, work):
        return super().run(name, load, partial(self._work, name, work))

    def stream(self, name, load, work):
        return super().stream(name, load, partial(self._work, name, work))

    def _work(self, name, work, model):
        if name == self.name:
            raise KeyboardInterrupt
        return work(model)


def test_a_run_killed_in_any_stage_goes_on_to_the_same_video(one_round, rendered, tmp_path):
    changes = {"save_latents": tmp_path / "run"}
    names = [stage.name for stage in stages_for(prepare(one_round()).request)]
    for name in names:
        with pytest.raises(KeyboardInterrupt):
            frames_of(one_round(**changes), KilledRunner(name))
        changes = {"resume": tmp_path / "run"}
    runner = StageRunner()
    np.testing.assert_array_equal(frames_of(one_round(**changes), runner), rendered)
    assert [report.name for report in runner.reports] == ["decode"]
    decoded = decode_saved(tmp_path / "run", StageRunner())
    np.testing.assert_array_equal(np.concatenate([np.array(chunk) for chunk in decoded]), rendered)


def test_a_videos_record_repeats_it(one_round, rendered, tmp_path):
    path = tmp_path / "video.mp4"
    video_of(one_round()).save(path)
    repeated = options_from(read_run_record(path, "generate"), {})
    assert repeated.detailing_lora == one_round().detailing_lora + ":0.5"
    np.testing.assert_array_equal(frames_of(repeated), rendered)
    plain = prepare(one_round(detailing_lora="none"))
    record = record_of(plain.options, plain.request, [])
    assert record.request["detailing_lora"] == "none"


def test_command_renders_a_video(split, embeddings, tmp_path):
    output = tmp_path / "rendered.mp4"
    arguments = ["A blue ball", "--pipeline", "dfr", "--rounds", "1", "--height", "64", "--width", "64"]
    arguments += ["--frames", "9", "--weights", split.transformer, "--weights", split.audio_vae]
    arguments += ["--video-vae", split.video_vae, "--spatial-upscaler-weights", split.spatial]
    arguments += ["--temporal-weights", split.temporal, "--detailing-lora", split.detailing]
    arguments += ["--embeddings", str(embeddings), "--no-audio", "--output", str(output)]
    run = CliRunner().invoke(program(), ["generate", *arguments])
    assert run.exit_code == 0, run.output
    assert read_run_record(output, "generate").request["pipeline"] == "dfr"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"detailing_lora": "auto"}, r"--detailing-lora, or --detailing-lora none"),
        ({"temporal_weights": "auto", "rounds": 1}, r"--rounds 1 requires --temporal-weights\. "),
        ({"spatial_upscaler_weights": "auto"}, r"--pipeline dfr requires --spatial-upscaler-weights\. "),
        ({"height": 96}, r"--height is 96, but it must be a multiple of 64\. Use 64 \(or 128\)"),
        ({"height": 64, "spatial_doubling": True}, r"--height is 64, but it must be a multiple of 128"),
        ({"height": None, "output_height": 80}, r"--output-height is 80, but it must be a multiple of 64"),
        ({"frames": 12}, r"num_frames is 12, but this checkpoint takes 8k \+ 1 frames"),
        ({"frames": 1}, r"takes 9 frames or more"),
    ],
)
def test_what_cannot_be_rendered_is_refused_before_loading(split, changes, message):
    with pytest.raises(RequestError, match=message):
        prepare(options(split, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"motion_speed": 0.5}, r"--motion-speed has no place in --pipeline dfr"),
        ({"keyframes": 2}, r"--keyframes has no place"),
        ({"temporal_upscale": True}, r"--temporal-upscale has no place in --pipeline dfr: it doubles.*--rounds"),
        ({"cfg": 3.0}, r"--cfg has no place in --pipeline dfr: it runs without guidance"),
        ({"steps": 4}, r"--steps belongs to one-stage and distilled"),
        ({"rounds": 3}, r"--rounds is 3, it can be from 0 to 2"),
        ({"pipeline": "two-stage", "rounds": 1}, r"--rounds belongs to dfr"),
        ({"spatial_doubling": True, "reference": "400fd31"}, r"belongs to the newer form"),
        ({"reference": "another"}, r"it can be 400fd31"),
    ],
)
def test_options_of_other_pipelines_are_refused(split, changes, message):
    with pytest.raises(RequestError, match=message):
        options(split, **changes)


def test_wrong_files_are_refused_before_loading(split, files, tmp_path):
    older = {"weights": str(files.weights), "video_vae": "auto", "gemma": str(files.gemma)}
    with pytest.raises(RequestError, match=r"needs LTX-2.5, but ltx.safetensors generates no keyframes"):
        prepare(options(split, **older))
    with pytest.raises(CheckpointError, match=r"upscales in space\. Give --temporal-weights an upscaler in time"):
        prepare(options(split, rounds=1, temporal_weights=split.spatial))
    other = tiny_checkpoints.write_upscaler(tmp_path / "other.safetensors", spatial_scale=1.5)
    with pytest.raises(CheckpointError, match=r"enlarges 1.5 times, but --pipeline dfr doubles the size"):
        prepare(options(split, spatial_upscaler_weights=str(other)))
    with pytest.raises(CheckpointError, match=r"missing.safetensors does not exist"):
        prepare(options(split, detailing_lora="missing.safetensors"))
    damaged = tmp_path / "damaged.safetensors"
    save_file(load_file(split.detailing), damaged, metadata={"reference_downscale_factor": "half"})
    with pytest.raises(CheckpointError, match=r"gives reference_downscale_factor as 'half'"):
        prepare(options(split, detailing_lora=str(damaged)))
