"""The model in the box shows what a prompt says, and takes words that it does not know."""

from pathlib import Path

import numpy as np
import pytest

from LTX_2_MLX.pipelines.generate import generate
from LTX_2_MLX.training.bundle import FILES
from LTX_2_MLX.training.measure import Findings, look_at
from LTX_2_MLX.training.report import generated
from LTX_2_MLX.training.sound_report import sounded
from LTX_2_MLX.training.world import Scene

BOX = Path(__file__).parents[2] / "weights" / "demo"


@pytest.mark.slow
@pytest.mark.parametrize(
    "scene",
    [
        Scene("ball", "blue", "bounces", "grass"),
        Scene("star", "yellow", "rises", "night"),
        Scene("box", "red", "grows", "sand", size="large"),
    ],
    ids=lambda scene: scene.thing,
)
def test_the_films_of_the_first_page_show_what_their_prompts_say(scene):
    found = look_at(generated(BOX, scene, seed=0, pipeline="two-stage"))
    assert found == Findings(scene.background, scene.colour, scene.motion, scene.thing)


@pytest.mark.slow
@pytest.mark.parametrize("pipeline", ["two-stage", "distilled"])
def test_the_ball_of_the_first_command_knocks_where_it_bounces_and_one_that_rises_does_not(pipeline):
    seen, content = sounded(BOX, Scene("ball", "blue", "bounces", "grass"), seed=0, pipeline=pipeline)
    assert len(content.knocks) == 1 and content.knocks[0] == pytest.approx(seen, abs=0.1)
    _, risen = sounded(BOX, Scene("ball", "blue", "rises", "grass"), seed=0, pipeline=pipeline)
    assert risen.knocks == ()
    for sounds in (content, risen):
        assert np.median(sounds.hum_hz) == pytest.approx(500, rel=0.1)


@pytest.mark.parametrize(
    "prompt", ["Zwölf Boxkämpfer jagen Viktor 🗼", "the quick brown fox " * 60, "?", "<bos><0x41>"]
)
def test_words_it_does_not_know_still_give_a_film(prompt):
    files = {"weights": str(BOX / FILES["dev"]), "gemma": str(BOX / "gemma")}
    frames = generate(prompt, pipeline="one-stage", steps=3, frames=9, **files).array()
    assert frames.shape == (9, 64, 96, 3)
    assert np.ptp(frames) > 50
