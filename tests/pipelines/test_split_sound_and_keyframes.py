"""Sound and generated keyframes from LTX-2.5's files in the published split layout."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import tiny_split_files

from LTX_2_MLX.pipelines.generate import generate_video, prepare
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.runtime.runner import StageRunner


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """``asked(**changes)``: nine frames in two distilled steps, with the prompt encoded beforehand."""
    folder = tmp_path_factory.mktemp("ltx-2.5")
    split = tiny_split_files.write_split_files(folder)
    audio = tiny_split_files.write_audio_vae(folder / "vae" / tiny_split_files.AUDIO_VAE)
    settings = {
        "pipeline": "distilled",
        "steps": 2,
        "weights": (str(split.transformer), str(audio)),
        "video_vae": str(split.conv_vae),
        "model_variant": "distilled",
        "height": 64,
        "width": 96,
        "frames": 9,
        "audio": False,
    }
    saved = folder / "prompt.safetensors"
    video_of(Options("A blue ball", **settings, gemma=str(split.gemma), save_embeddings=saved))
    return partial(Options, "A blue ball", **settings | {"embeddings": saved})


def video_of(options: Options):
    prepared = prepare(options)
    return generate_video(prepared.request, StageRunner(), prepared.options)


def test_sound_lasts_as_long_as_the_video(asked):
    sound = video_of(replace(asked(), audio=True)).audio
    assert len(sound.samples) == round(9 / 24 * sound.sample_rate)
    assert np.abs(sound.samples).max() > 0
    assert video_of(asked()).audio is None


def test_generated_keyframes_change_the_video_and_are_no_part_of_it(asked):
    plain = video_of(asked()).array()
    with_keyframes = video_of(asked(keyframes=2)).array()
    assert with_keyframes.shape == plain.shape == (9, 64, 96, 3)
    assert not np.array_equal(with_keyframes, plain)
    np.testing.assert_array_equal(video_of(asked(keyframes=2, low_ram=True)).array(), with_keyframes)
