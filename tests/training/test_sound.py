"""The model's sound is made again in small, beside a video that stays as it is; the world's sounds are heard."""

from pathlib import Path

import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import load_file

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.models.ltx.audio_vae import AudioDecoder, AudioEncoder
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.vocoder import Vocoder
from LTX_2_MLX.pipelines.generate import generate
from LTX_2_MLX.training import bundle, sound, sound_bundle, world
from LTX_2_MLX.training.measure import ground_time
from LTX_2_MLX.training.sound_measure import listen, share_in_time
from LTX_2_MLX.training.sound_recipe import SOUND_RUNS, SoundRecipe, SoundWorkshop

BOX = Path(__file__).parents[2] / "weights" / "demo"
RATE, FRAMES = 12, 17


def scene(motion: str, size: str = "middling") -> world.Scene:
    return world.Scene("ball", "blue", motion, "grass", size=size)


def test_a_knock_is_heard_when_the_ball_is_seen_on_the_ground():
    heard = listen(sound.sound(scene("bounces"), FRAMES, RATE), sound.SAMPLE_RATE)
    seen = ground_time(world.draw(scene("bounces"), FRAMES, 64, 96), RATE)
    assert seen == pytest.approx(8 / RATE, abs=0.02)
    assert heard.knocks == pytest.approx([8 / RATE], abs=0.01)


@pytest.mark.parametrize("motion", [motion for motion in world.MOTIONS if motion != "bounces"])
def test_things_that_do_not_bounce_do_not_knock(motion):
    assert listen(sound.sound(scene(motion), FRAMES, RATE), sound.SAMPLE_RATE).knocks == ()


def test_the_hum_follows_the_size():
    heard = {}
    for size, radius in world.SIZES.items():
        heard[size] = np.median(listen(sound.sound(scene("stays", size), FRAMES, RATE), sound.SAMPLE_RATE).hum_hz)
        assert heard[size] == pytest.approx(sound.hum_hz(np.array(radius)), rel=0.05)
    assert heard["small"] > heard["middling"] > heard["large"]
    grows = listen(sound.sound(scene("grows"), FRAMES, RATE), sound.SAMPLE_RATE).hum_hz
    assert grows[20] > 2 * grows[-20]


def test_a_bounce_that_was_not_seen_or_heard_counts_as_missed():
    assert share_in_time([0.5, 0.5, None, 0.5], [(0.1, 0.58), (0.7,), (0.5,), ()], within=0.1) == 0.25


def test_published_names_of_the_sound_lead_back_to_the_parameters():
    network = bundle.new_transformer(sound=True)
    silent = dict(tree_flatten(bundle.new_transformer().parameters()))
    added = [name for name, _ in tree_flatten(network.parameters()) if name not in silent]
    assert len(added) > 100
    for parameter in added:
        assert Transformer.parameter_name(sound_bundle.stream_name(parameter)) == parameter
    assert set(sound_bundle.stream_tensors(network)) == {sound_bundle.stream_name(name) for name in added}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """The model with a sound that was trained for two steps."""
    folder = tmp_path_factory.mktemp("sound")
    workshop = SoundWorkshop(folder / "work", BOX, SoundRecipe().shortened(2))
    for name in SOUND_RUNS:
        workshop.run(name)
        assert workshop.finished(name) == 2
    workshop.write(folder / "made")
    return folder / "made"


@pytest.mark.slow
def test_a_shortened_run_writes_sound_beside_the_same_video(made):
    for kind in ("dev", "distilled"):
        before, after = load_file(BOX / bundle.FILES[kind]), load_file(made / bundle.FILES[kind])
        video = [name for name in before if not sound_bundle.is_sound(name)]
        assert len(video) > 150
        for name in video:
            assert after[name].tobytes() == before[name].tobytes(), name
        for network in (Transformer, TextFeatures, AudioEncoder, AudioDecoder, Vocoder):
            load(network, Checkpoint(made / bundle.FILES[kind]))


@pytest.mark.slow
def test_frames_are_the_same_whatever_the_sound(made):
    # The audio stream of one is trained, that of the other hardly is, and the third is not asked for its sound.
    videos = []
    for folder, audio in ((BOX, True), (made, True), (BOX, False)):
        files = {"weights": str(folder / bundle.FILES["dev"]), "gemma": str(folder / "gemma")}
        videos.append(generate("A blue ball bouncing", pipeline="one-stage", steps=2, audio=audio, **files))
    frames = [video.array() for video in videos]
    assert np.array_equal(frames[0], frames[1]) and np.array_equal(frames[0], frames[2])
    assert not np.array_equal(videos[0].audio.samples, videos[1].audio.samples) and videos[2].audio is None
