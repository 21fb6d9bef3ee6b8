"""Every pipeline with a checkpoint of each generation, from text alone and from a picture."""

from fractions import Fraction

import numpy as np
import pytest
import tiny_checkpoints

import LTX_2_MLX
from LTX_2_MLX.errors import RequestError

PIPELINES = {
    "one-stage": {"steps": 2},
    "distilled": {"steps": 2},
    "two-stage": {"steps_stage1": 2, "steps_stage2": 1},
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generations")
    return {
        generation: tiny_checkpoints.write_weights(folder / f"{generation}.safetensors", generation=generation)
        for generation in tiny_checkpoints.PUBLISHED
    }


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("generation", tiny_checkpoints.PUBLISHED)
def test_every_pipeline_makes_a_film_of_text_and_of_a_picture(checkpoints, files, generation, pipeline, capfd):
    given = PIPELINES[pipeline] | {
        "pipeline": pipeline,
        "weights": str(checkpoints[generation]),
        "model_variant": "dev" if pipeline == "one-stage" else "distilled",
        "gemma": str(files.gemma),
        "spatial_upscaler_weights": str(files.spatial),
        "temporal_weights": str(files.temporal),
        "height": 64,
        "width": 96,
        "frames": 9,
        "cfg": 1.0,
    }
    factor = 2 if pipeline == "two-stage" else 1
    plain = LTX_2_MLX.generate("A blue ball", **given)
    pictured = LTX_2_MLX.generate("A blue ball", **given, image=files.picture, temporal_upscale=True)
    assert (plain.height, plain.width, plain.num_frames, plain.frame_rate) == (64 * factor, 96 * factor, 9, 24)
    assert (pictured.height, pictured.width) == (plain.height, plain.width)
    assert (pictured.num_frames, pictured.frame_rate) == (17, Fraction(48))
    films = [np.concatenate([np.array(chunk) for chunk in film]) for film in (plain, pictured)]
    assert [len(frames) for frames in films] == [9, 17]
    assert all(frames.std() > 1 for frames in films)
    assert not np.array_equal(films[0], films[1][::2])
    assert capfd.readouterr() == ("", "")


def test_two_stages_of_ltx_2_3_enlarge_one_and_a_half_times(checkpoints, files, tmp_path):
    """With sizes of the output or of stage 1, and a picture encoded at both."""
    upscaler = tiny_checkpoints.write_upscaler(
        tmp_path / "ltx-2.3-spatial-upscaler-x1.5-1.0.safetensors", spatial_scale=1.5
    )
    given = PIPELINES["two-stage"] | {
        "weights": str(checkpoints["2.3"]),
        "model_variant": "distilled",
        "gemma": str(files.gemma),
        "spatial_upscaler_weights": str(upscaler),
        "frames": 9,
        "image": files.picture,
    }
    film = LTX_2_MLX.generate("A blue ball", **given, height=64, width=128)
    assert (film.height, film.width, film.num_frames) == (96, 192, 9)
    frames = film.array()
    assert frames.shape == (9, 96, 192, 3) and frames.std() > 1
    same = LTX_2_MLX.generate("A blue ball", **given, output_height=96, output_width=192)
    np.testing.assert_array_equal(same.array(), frames)
    with pytest.raises(RequestError, match="--output-height is 128, but it must be a multiple of 96"):
        LTX_2_MLX.generate("A blue ball", **given, output_height=128, output_width=192)
