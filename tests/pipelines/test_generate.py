"""The public call: options to requests, files to models, and what is said on the way."""

from fractions import Fraction

import pytest
import tiny_checkpoints

import LTX_2_MLX
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.pipelines.generate import Options, generate, plan_for, request_for
from LTX_2_MLX.pipelines.two_stage import first_stage
from LTX_2_MLX.runtime.progress import SilentProgress


class Listening(SilentProgress):
    """Keeps every note and stage."""

    def __init__(self):
        self.notes, self.stages, self.steps = [], [], {}

    def begin(self, stage):
        self.stages.append(stage)

    def advance(self, stage, done, total):
        self.steps[stage] = (done, total)

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def own(files):
    """Options that name the small files."""
    return {
        "weights": str(files.weights),
        "spatial_upscaler_weights": str(files.spatial),
        "temporal_weights": str(files.temporal),
        "distilled_lora": str(files.lora),
        "gemma": str(files.gemma),
        "precision": "fp32",
    }


def request(own, **options):
    return request_for(Options("A blue ball", **own | options))


def planned(own, **options):
    asked = Options("A blue ball", **own | options)
    return plan_for(request_for(asked), asked)


def test_public_call_gives_a_film_and_prints_nothing(own, capfd):
    heard = Listening()
    film = LTX_2_MLX.generate("A blue ball", progress=heard, height=64, width=64, frames=9, steps_stage1=2, **own)
    assert (film.height, film.width, film.num_frames, film.frame_rate) == (128, 128, 9, 24)
    assert film.array().shape == (9, 128, 128, 3)
    assert capfd.readouterr() == ("", "")
    assert heard.stages == ["text_encoder", "text_features", "stage_1", "latent_upscaler", "stage_2", "decode"]
    in_one_step = dict.fromkeys(("text_features", "latent_upscaler"), (1, 1))
    assert heard.steps == in_one_step | {"stage_1": (2, 2), "stage_2": (3, 3), "decode": (9, 9)}


def test_film_carries_the_options_it_was_made_with(own):
    film = generate("A blue ball", pipeline="one-stage", height=64, width=64, frames=9, steps=1, seed=7, **own)
    assert '"seed": 7' in film.metadata["comment"] and "A blue ball" in film.metadata["comment"]
    film.close()


def test_request_is_checked_whole_before_anything_loads(own):
    heard = Listening()
    with pytest.raises(RequestError, match="Use 9"):
        generate("A blue ball", progress=heard, height=64, width=64, frames=10, **own)
    assert heard.stages == []


def test_stage_1_has_the_size_given_and_the_film_twice_that(own):
    made = request(own, height=480, width=704)
    assert (made.height, made.width) == (480, 704)
    assert (made.output_shape.height, made.output_shape.width) == (960, 1408)
    assert planned(own, height=480, width=704).sizes[0] == "Stage 1: 480×704"


def test_output_size_is_halved_for_stage_1(own):
    made = request(own, output_height=512, output_width=768)
    assert (made.height, made.width) == (256, 384)
    assert request(own, pipeline="one-stage", output_height=96, output_width=64).height == 96


def test_output_size_follows_the_upscalers_own_scale(own, files):
    path = tiny_checkpoints.write_upscaler(files.folder / "x15.safetensors", spatial_scale=1.5)
    own = own | {"spatial_upscaler_weights": str(path)}
    made = request(own, output_height=192, output_width=288)
    assert (made.height, made.width) == (128, 192)
    assert request(own, height=480, width=704).output_shape.height == 736
    with pytest.raises(RequestError, match="multiple of 96"):
        request(own, output_height=128)


@pytest.mark.parametrize(("seconds", "fps", "frames"), [(4, 24, 97), (4.05, 24, 105), (0.01, 24, 1), (1, 16, 17)])
def test_duration_is_rounded_up_to_a_legal_length(own, seconds, fps, frames):
    assert request(own, duration=seconds, fps=fps).num_frames == frames


@pytest.mark.parametrize(("given", "rate"), [(24, 24), ("24000/1001", Fraction(24000, 1001)), (12.5, Fraction(25, 2))])
def test_frame_rate_is_exact(own, given, rate):
    assert request(own, fps=given).frame_rate == rate


def test_sizes_that_are_not_given_come_from_the_model(own, files):
    metadata = {"defaults": '{"height": 64, "width": 96, "num_frames": 17, "frame_rate": 12, "notice": "Small model."}'}
    path = tiny_checkpoints.write_weights(files.folder / "own.safetensors", metadata=metadata)
    notes = []
    made = request_for(Options("A blue ball", **own | {"weights": str(path)}), notes.append)
    assert (made.height, made.width, made.num_frames, made.frame_rate) == (64, 96, 17, 12)
    assert notes[1:] == ["Small model.", "Guidance: --cfg 5"] and "counts as a dev checkpoint" in notes[0]


def test_guidance_is_five_for_dev_and_none_for_distilled(own):
    assert request(own).guidance["video"].guidance_scale == 5.0
    assert request(own, model_variant="distilled").guidance["video"].guidance_scale == 1.0
    assert request(own, cfg=3.0).guidance["video"].guidance_scale == 3.0
    assert request(own, cfg=3.0, cfg_stage1=4.0).guidance["video"].guidance_scale == 4.0


def test_guidance_on_a_distilled_checkpoint_is_allowed_with_a_warning(own):
    notes = []
    request_for(Options("A blue ball", cfg=5.0, model_variant="distilled", **own), notes.append)
    assert len(notes) == 2 and "distilled" in notes[0] and notes[1] == "Guidance: --cfg 5"


def test_distilled_pipeline_makes_a_dev_checkpoint_distilled_by_its_adapter(own):
    made = request(own, pipeline="distilled")
    assert not made.two_stages
    assert made.models.distilled and len(made.models.loras) == 1
    assert len(first_stage(made, "denoise").sigmas) == 9


def test_dev_checkpoint_without_the_adapter_cannot_refine(own, files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match="lora"):
        request(own | {"distilled_lora": "auto"})
    made = request(own | {"distilled_lora": "auto"}, model_variant="distilled")
    assert made.two_stages and made.models.distilled_lora is None


def test_text_encoder_of_another_checkpoint_is_refused_before_it_loads(own, files):
    section = tiny_checkpoints.transformer_section(caption_channels=48, connector_attention_head_dim=16)
    path = tiny_checkpoints.write_weights(files.folder / "wide.safetensors", text_states=9, transformer=section)
    with pytest.raises(CheckpointError, match="--gemma"):
        planned(own | {"weights": str(path), "distilled_lora": "auto"}, pipeline="one-stage")


def test_text_encoder_beside_the_checkpoint_is_found(own, files):
    assert request(own | {"gemma": "auto"}).models.text_encoder == files.gemma


def test_upscaler_of_another_latent_is_refused(own, files):
    path = tiny_checkpoints.write_upscaler(files.folder / "other.safetensors", in_channels=16)
    with pytest.raises(CheckpointError, match="16 channels"):
        planned(own | {"spatial_upscaler_weights": str(path)}, height=64, width=64)


def test_film_too_small_for_the_decoder_is_refused(own):
    with pytest.raises(RequestError, match="64×64"):
        planned(own, pipeline="one-stage", height=32, width=64)


def test_tiles_reach_the_decoder_and_bad_ones_are_refused_early(own):
    size = {"pipeline": "one-stage", "height": 128, "width": 128, "frames": 9, "steps": 1, "cfg": 1.0}
    whole, tiled = (generate("A blue ball", tile_size=tile, **size, **own).array() for tile in (None, 64))
    assert tiled.shape == whole.shape and (tiled != whole).any()
    with pytest.raises(RequestError, match="multiples of 32"):
        planned(own, tile_size=50, pipeline="one-stage")


@pytest.mark.parametrize("name", ["pipeline", "model_variant", "precision"])
def test_unknown_choices_are_refused_with_the_known_ones(name):
    with pytest.raises(RequestError, match="it can be"):
        Options("A blue ball", **{name: "other"})


def test_unknown_options_are_refused(own):
    with pytest.raises(RequestError, match="hight"):
        generate("A blue ball", hight=64, **own)


def test_generated_keyframes_are_spread_evenly_over_the_video(own, with_keyframe_embedding):
    made = request(own | {"weights": str(with_keyframe_embedding)}, keyframes=3, frames=33)
    assert made.slots == (8, 16, 24)


def test_generated_keyframes_are_refused_where_the_checkpoint_or_the_length_allows_none(own, with_keyframe_embedding):
    with pytest.raises(RequestError, match="Leave out --keyframes"):
        request(own, keyframes=2)
    with pytest.raises(RequestError, match="9 frames have room for 7"):
        request(own | {"weights": str(with_keyframe_embedding)}, keyframes=8, frames=9)


def test_guided_steps_are_refused_where_nothing_is_guided(own):
    assert request(own, guidance_end=0.5).guided_share == (0.0, 0.5)
    with pytest.raises(RequestError, match="--guidance-start and --guidance-end choose"):
        request(own, guidance_end=0.5, model_variant="distilled")
    assert request(own, guidance_end=0.5, model_variant="distilled", cfg=2.0).guided_share == (0.0, 0.5)


def test_step_cache_is_refused_for_distilled_schedules(own):
    assert request(own, step_cache=0.1).step_cache == 0.1
    with pytest.raises(RequestError, match="distilled"):
        request(own, step_cache=0.1, model_variant="distilled")
    with pytest.raises(RequestError, match="--step-cache belongs to"):
        request(own, step_cache=0.1, pipeline="distilled")
