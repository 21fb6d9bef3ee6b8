"""The model in the box shows what a prompt says, and takes words that it does not know."""

from pathlib import Path

import numpy as np
import pytest

from LTX_2_MLX.pipelines.generate import generate
from LTX_2_MLX.training.bundle import FILES
from LTX_2_MLX.training.measure import look_at
from LTX_2_MLX.training.report import film
from LTX_2_MLX.training.world import Scene

BOX = Path(__file__).parents[2] / "weights" / "demo"


@pytest.mark.slow
def test_the_prompt_of_the_first_page_gives_a_blue_thing_that_bounces_on_grass():
    found = look_at(film(BOX, Scene("ball", "blue", "bounces", "grass"), seed=0, pipeline="two-stage"))
    assert (found.background, found.colour, found.motion) == ("grass", "blue", "bounces")


@pytest.mark.parametrize(
    "prompt", ["Zwölf Boxkämpfer jagen Viktor 🗼", "the quick brown fox " * 60, "?", "<bos><0x41>"]
)
def test_words_it_does_not_know_still_give_a_film(prompt):
    files = {"weights": str(BOX / FILES["dev"]), "gemma": str(BOX / "gemma")}
    frames = generate(prompt, pipeline="one-stage", steps=3, frames=9, **files).array()
    assert frames.shape == (9, 64, 96, 3)
    assert np.ptp(frames) > 50
