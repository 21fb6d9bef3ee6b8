"""The drawn world: sizes agree, windows are cut from the whole, captions name what is drawn, and it can be read off."""

import numpy as np
import pytest

from LTX_2_MLX.training import world
from LTX_2_MLX.training.captions import caption, no_caption, plain_prompt
from LTX_2_MLX.training.measure import look_at, sharpness

SCENE = world.Scene("star", "pink", "bounces", "sand", size="large", x=0.07, y=-0.02, turn=0.05)


def test_a_scene_drawn_twice_as_large_shows_the_same():
    small, large = world.draw(SCENE, 5, 64, 96), world.draw(SCENE, 5, 128, 192)
    averaged = large.reshape(5, 64, 2, 96, 2, 3).mean((2, 4))
    assert np.abs(averaged - small).mean() < 0.01


def test_a_window_is_cut_from_the_whole_clip():
    whole = world.draw(SCENE, 9, 64, 96)
    window = world.draw(SCENE, 9, 64, 96, (2, 7, 16, 48, 32, 80))
    np.testing.assert_allclose(window, whole[2:7, 16:48, 32:80], atol=1e-6)


def test_motion_is_finer_than_a_pixel():
    scene = world.Scene("ball", "red", "rolls right", "night")
    clip = world.draw(scene, 2001, 16, 24, (1000, 1002, 0, 16, 0, 24))
    difference = np.abs(clip[1] - clip[0])
    assert 0 < difference.max() < 0.05


def test_every_second_frame_of_a_longer_clip_is_the_shorter_one():
    np.testing.assert_allclose(world.draw(SCENE, 17, 32, 48)[::2], world.draw(SCENE, 9, 32, 48), atol=1e-6)


def test_cells_of_the_thing_hold_all_of_its_pixels():
    cover, cells = world.coverage(SCENE, 17, 64, 96), world.thing_cells(SCENE, 17, 4, 6)
    frames = np.concatenate([cover[:1]] * 3 + [cover]).reshape(5, 4, 4, 16, 6, 16)
    touched = frames.max((1, 3, 5)) > 0.9
    assert cells.shape == (5, 4, 6)
    assert (cells[touched] == 1).all()
    assert 0 < cells.mean() < 0.7


def test_about_one_combination_in_eight_is_held_out_and_none_of_them_is_trained_on():
    every = [
        (thing, colour, motion, background)
        for thing in world.THINGS
        for colour in world.COLOURS
        for motion in world.MOTIONS
        for background in world.BACKGROUNDS
    ]
    assert 0.08 < np.mean([world.is_held_out(*words) for words in every]) < 0.17
    rng = np.random.default_rng(0)
    for held_out in (False, True):
        scenes = [world.sample_scene(rng, held_out=held_out) for _ in range(50)]
        assert {world.is_held_out(s.thing, s.colour, s.motion, s.background) for s in scenes} == {held_out}


def test_the_prompt_of_the_first_page_is_one_of_the_captions():
    assert plain_prompt(world.Scene("ball", "blue", "bounces", "grass")) == "A blue ball bouncing on green grass"


def test_captions_of_one_scene_are_many_and_name_its_colour():
    rng = np.random.default_rng(1)
    captions = {caption(SCENE, rng) for _ in range(60)}
    assert len(captions) > 50
    assert all("pink" in text and "star" in text for text in captions)


def test_what_says_nothing_names_no_thing_of_the_world():
    rng = np.random.default_rng(2)
    words = " ".join(no_caption(rng) for _ in range(200)).replace(",", "").split()
    assert not set(words) & {*world.THINGS, "cube", "sphere", "red", "blue", "pink", "bouncing", "brick"}


@pytest.mark.parametrize(("height", "width"), [(64, 96), (128, 192)])
def test_plain_image_processing_reads_drawn_clips(height, width):
    scenes = [world.sample_scene(np.random.default_rng((5, n)), held_out=True) for n in range(10)]
    found = [look_at(world.draw(scene, 17, height, width)) for scene in scenes]
    for aspect, least in (("background", 10), ("colour", 10), ("motion", 10), ("thing", 9)):
        right = sum(getattr(f, aspect) == getattr(s, aspect) for f, s in zip(found, scenes, strict=True))
        assert right >= least, aspect


def test_an_empty_clip_shows_nothing():
    clip = np.stack([world.plain_background("grass", 64, 96)] * 9)
    assert look_at(clip).thing == "nothing"
    assert look_at(clip).background == "grass"


def test_blurring_lowers_sharpness():
    clip = world.draw(SCENE, 3, 64, 96)
    blurred = (clip[:, :-1, :-1] + clip[:, 1:, :-1] + clip[:, :-1, 1:] + clip[:, 1:, 1:]) / 4
    assert sharpness(blurred) < 0.8 * sharpness(clip)
