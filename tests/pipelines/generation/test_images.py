"""Conditioning images: what is typed for them, and first frames, last frames and keyframes in every pipeline."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import LTX_2_MLX
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.writer import RunRecord
from LTX_2_MLX.pipelines.generate import Options, record_of, request_for, stages_for
from LTX_2_MLX.pipelines.generation.image_places import ImagePlace, image_file, image_places
from LTX_2_MLX.pipelines.generation.record import options_from
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.runtime.runner import StageRunner, run_stages


@pytest.fixture(scope="module")
def second(files):
    """Another image, of another size."""
    pixels = np.random.default_rng(7).integers(0, 255, (40, 90, 3), dtype=np.uint8)
    path = files.folder / "second.png"
    Image.fromarray(pixels).resize((180, 80)).save(path)
    return path


@pytest.fixture
def given(files):
    """Options of nine small frames in one step."""
    return {
        "pipeline": "one-stage",
        "weights": str(files.weights),
        "model_variant": "dev",
        "gemma": str(files.gemma),
        "spatial_upscaler_weights": str(files.spatial),
        "distilled_lora": str(files.lora),
        "height": 64,
        "width": 96,
        "frames": 9,
        "cfg": 1.0,
        "audio": False,
    }


@pytest.mark.parametrize(
    ("text", "frame", "strength"),
    [
        ("a.png", 0, 0.7), ("a.png:0", 0, 0.7), ("a.png:12", 12, 0.7), ("a.png:-1", 96, 0.7), ("a.png:-97", 0, 0.7),
        ("a.png:50%", 48, 0.7), ("a.png:100%:0.25", 96, 0.25), ("a.png:8:1", 8, 1.0), ("c:/a:b.png:8:.5", 8, 0.5),
    ],
)  # fmt: skip
def test_place_of_an_image_is_read(text, frame, strength):
    [place] = image_places([text], 97, 0.7)
    assert (place.frame, place.strength) == (frame, strength) and place.path.suffix == ".png"


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a.png:97"], "has frames 0 to 96, or -97 to -1"),
        (["a.png:-98"], "at frame -98"),
        (["a.png:120%"], "0% to 100%"),
        (["a.png:1:1.5"], "has the strength 1.5, expected 0 to 1"),
        (["a.png", "b.png:0"], "b.png:0 is the second image of frame 0"),
    ],
)
def test_places_outside_the_video_are_refused(texts, message):
    with pytest.raises(RequestError, match=message):
        image_places(texts, 97, 1.0)


def test_file_whose_name_looks_like_a_place_comes_first(tmp_path):
    path = tmp_path / "a:1"
    path.write_bytes(b"")
    assert image_file(str(path)) == str(path)
    assert image_places([str(path)], 9, 1.0) == (ImagePlace(path),)


@pytest.mark.parametrize("pipeline", ["one-stage", "distilled", "two-stage"])
def test_first_and_last_frame_reach_every_denoising_stage(given, files, second, pipeline):
    steps = {"steps_stage1": 1, "steps_stage2": 1} if pipeline == "two-stage" else {"steps": 1}
    options = Options(
        "A blue ball", **given | {"pipeline": pipeline, "image": [str(files.picture), f"{second}:-1:0.5"]} | steps
    )
    stages = stages_for(request_for(options))
    plain = stages_for(request_for(replace(options, image=None)))
    names = [stage.name for stage in stages]
    assert names.index("image_encoder") == 2
    runner = StageRunner()
    state = GenerationState()
    for stage in stages[:-1]:
        state = stage.run(runner, state)
        if stage.name in ("denoise", "stage_1", "stage_2"):
            images = [(image.frame, image.strength) for image in stage.images]
            assert images == [(0, 1.0), (8, 0.5)]
            # The image at frame 0 is held in place, the other one is appended and cut off again.
            held = state.images[f"{stage.name}.0"]
            assert np.abs(np.array(state.latents["video"][:, :1] - held)).max() < 1e-5
            [alone] = [each for each in plain if each.name == stage.name]
            assert stage.estimate().activation_bytes > alone.estimate().activation_bytes
    denoising = [name for name in names if name in ("denoise", "stage_1", "stage_2")]
    assert sorted(state.images) == [f"{name}.{number}" for name in denoising for number in (0, 1)]


def test_keyframe_changes_the_video(given, second):
    videos = []
    for image in (None, f"{second}:50%", f"{second}:-1"):
        stages = stages_for(request_for(Options("A blue ball", **given, steps=2, image=image)))
        videos.append(np.concatenate(list(run_stages(stages, StageRunner(), GenerationState()))))
    assert not np.array_equal(videos[0], videos[1]) and not np.array_equal(videos[1], videos[2])


def test_record_repeats_the_places_and_names_changed_images(given, second, tmp_path):
    path = tmp_path / "own.png"
    path.write_bytes(second.read_bytes())
    options = Options("A blue ball", **given, image=[str(second), f"{path}:-1:0.5"], image_strength=0.75)
    request = request_for(options)
    record = record_of(options, request, stages_for(request))
    assert record.request["image"] == [f"{second}:0:0.75", f"{path}:8:0.5"]
    saved = RunRecord(record.request, record.files, record.automatic, source=tmp_path)
    assert request_for(options_from(saved, {})).images == request.images
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(RequestError, match=r"own\.png \(--image\) has changed"):
        options_from(saved, {})


def test_resumed_run_takes_the_saved_images(given, files, second, tmp_path):
    options = {**given, "steps": 1, "image": [str(files.picture), f"{second}:-1"]}
    whole = np.concatenate(list(LTX_2_MLX.generate("A blue ball", **options, save_latents=tmp_path)))
    (tmp_path / "denoise.safetensors").unlink()
    again = np.concatenate(list(LTX_2_MLX.generate("A blue ball", **options, resume=tmp_path)))
    assert np.array_equal(whole, again)
