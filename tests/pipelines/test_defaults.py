"""What a checkpoint implies: by its generation, by its own word, and for its schedules."""

import json
from fractions import Fraction

import pytest

from LTX_2_MLX.diffusion import schedule
from LTX_2_MLX.diffusion.guidance import Guidance
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.pipelines.defaults import ModelDefaults, refinement_sigmas, stage_sigmas, version_of


def header(**metadata):
    return Header(tensors={}, metadata=metadata)


@pytest.mark.parametrize(
    ("text", "version"),
    [("2.3.0", (2, 3, 0)), ("2.3.rc1", (2, 3)), ("2.4-rc2", (2, 4)), ("", ()), ("new", ()), ("2", (2,))],
)
def test_version_is_read_from_every_spelling(text, version):
    assert version_of(header(model_version=text)) == version


@pytest.mark.parametrize(
    ("version", "crf", "block", "sampler"),
    [
        (None, 33, 29, "euler"), ("2.0", 33, 29, "euler"), ("2.3.0", 33, 28, "euler"), ("2.4-rc2", 18, 28, "euler"),
        ("2.5", 18, 28, "ancestral"), ("3.0", 18, 28, "ancestral"),
    ],
)  # fmt: skip
def test_generation_sets_what_differs_between_generations(version, crf, block, sampler):
    found = ModelDefaults.from_header(header(**({"model_version": version} if version else {})))
    assert (found.image_crf, found.stg_block, found.distilled_sampler) == (crf, block, sampler)


def test_published_defaults_hold_where_the_model_says_nothing():
    found = ModelDefaults.from_header(header())
    assert (found.height, found.width, found.num_frames, found.frame_rate) == (480, 704, 97, 24)
    assert (found.steps, found.steps_stage1, found.steps_stage2, found.cfg) == (30, 15, 3, 5.0)


def test_model_may_bring_defaults_of_its_own():
    own = {"height": 64, "width": 96, "num_frames": 17, "frame_rate": "24000/1001", "cfg": 3, "notice": "Small."}
    found = ModelDefaults.from_header(header(defaults=json.dumps(own)))
    assert (found.height, found.width, found.num_frames, found.notice) == (64, 96, 17, "Small.")
    assert found.frame_rate == Fraction(24000, 1001) and found.cfg == 3.0 and found.steps == 30
    assert found.refinement == schedule.REFINEMENT


def test_model_may_bring_noise_levels_of_its_own_for_the_refinement():
    found = ModelDefaults.from_header(header(defaults=json.dumps({"refinement": [0.6, 0.25, 0]})))
    assert found.refinement == (0.6, 0.25, 0.0)


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", '{"height": "tall"}', '{"height": 0}', '{"frame_rate": "1/0"}', "3", '{"refinement": [0.5, 0.6, 0]}',
        '{"refinement": [2, 1, 0]}', '{"refinement": [0]}', '{"refinement": [0.5, 0.1]}', '{"refinement": 0.5}',
    ],
)  # fmt: skip
def test_damaged_defaults_are_refused(text):
    with pytest.raises(CheckpointError, match="own defaults"):
        ModelDefaults.from_header(header(defaults=text))


def test_bypassed_block_lies_at_the_same_depth_in_a_small_network():
    found = ModelDefaults.from_header(header())
    assert found.stg_blocks(48) == (29,)
    assert found.stg_blocks(6) == (3,)
    assert found.stg_blocks(1) == (0,)


def test_distilled_checkpoint_without_guidance_takes_its_own_list():
    assert stage_sigmas(None, Guidance(), distilled=True, usual=15) == schedule.DISTILLED
    stretched = stage_sigmas(4, Guidance(), distilled=True, usual=15)
    assert len(stretched) == 5 and stretched[0] == 1 and stretched[-1] == 0


def test_guided_or_undistilled_stage_takes_the_shifted_schedule():
    usual = tuple(schedule.ltx2_schedule(15).tolist())
    assert stage_sigmas(None, Guidance(guidance_scale=5), distilled=True, usual=15) == usual
    assert stage_sigmas(None, Guidance(), distilled=False, usual=15) == usual
    assert stage_sigmas(7, Guidance(), distilled=False, usual=15) == tuple(schedule.ltx2_schedule(7).tolist())


def test_refinement_begins_at_the_same_noise_level_whatever_its_steps():
    assert refinement_sigmas(schedule.REFINEMENT, 3) == schedule.REFINEMENT
    for steps in (1, 2, 5):
        sigmas = refinement_sigmas(schedule.REFINEMENT, steps)
        assert len(sigmas) == steps + 1
        assert sigmas[0] == pytest.approx(0.909375) and sigmas[-1] == 0
        assert list(sigmas) == sorted(sigmas, reverse=True)
