"""The model in the box shows what a prompt says, and takes words that it does not know."""

from pathlib import Path

import numpy as np
import pytest

from LTX_2_MLX.pipelines.generate import generate
from LTX_2_MLX.training.bundle import FILES
from LTX_2_MLX.training.measure import Findings, look_at
from LTX_2_MLX.training.report import generated
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


@pytest.mark.parametrize(
    "prompt", ["Zwölf Boxkämpfer jagen Viktor 🗼", "the quick brown fox " * 60, "?", "<bos><0x41>"]
)
def test_words_it_does_not_know_still_give_a_film(prompt):
    files = {"weights": str(BOX / FILES["dev"]), "gemma": str(BOX / "gemma")}
    frames = generate(prompt, pipeline="one-stage", steps=3, frames=9, **files).array()
    assert frames.shape == (9, 64, 96, 3)
    assert np.ptp(frames) > 50
