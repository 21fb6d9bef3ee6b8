"""The public calls: a file, a folder or a clip in; a clip out, with its sound; nothing printed."""

import inspect
from dataclasses import MISSING
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import LTX_2_MLX
from LTX_2_MLX.errors import MediaError, RequestError
from LTX_2_MLX.media.image import StillImage, write_image
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.options import declared_options
from LTX_2_MLX.pipelines.requests import (
    InterpolateRequest,
    PostprocessRequest,
    SuperResolveRequest,
    UpscaleRequest,
    UpscaleTemporalRequest,
)
from LTX_2_MLX.verify.case import Case

HERE = Path(__file__).parent
PEBBLES = HERE / "media" / "pebbles_160x112.mp4"


@pytest.fixture
def rife(tmp_path) -> str:
    return str(Case.open(HERE / "goldens" / "rife" / "ifnet_4_22_lite", tmp_path).write_checkpoint())


def test_film_is_interpolated_from_its_path_to_its_file(rife, tmp_path, capfd):
    stream = LTX_2_MLX.interpolate(PEBBLES, model_path=rife, scale=0.5)
    assert isinstance(stream, LTX_2_MLX.FrameStream)
    assert (stream.num_frames, stream.frame_rate) == (23, 24)
    written = LTX_2_MLX.read_video(stream.save(tmp_path / "smooth.mkv", codec="ffv1"))
    assert (written.num_frames, written.frame_rate) == (23, 24) and written.audio is not None
    np.testing.assert_array_equal(written.array()[::2], LTX_2_MLX.read_video(PEBBLES).array())
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""


def test_clip_in_memory_and_folder_of_pictures_are_taken(rife, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 48, 3)).astype(np.uint8)
    clip = LTX_2_MLX.FrameStream(iter([frames]), 32, 48, Fraction(24), 3)
    assert LTX_2_MLX.interpolate(clip, model_path=rife).array().shape == (5, 32, 48, 3)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, frame in enumerate(frames):
        write_image(StillImage(frame), folder / f"{index}.png")
    assert LTX_2_MLX.interpolate(folder, model_path=rife).array().shape == (5, 32, 48, 3)


def test_progress_hears_of_the_stage(rife):
    heard = []

    class Progress:
        def begin(self, stage):
            heard.append(stage)

        def advance(self, stage, done, total): ...

        def end(self, stage): ...

        def note(self, text): ...

    LTX_2_MLX.interpolate(PEBBLES, model_path=rife, progress=Progress()).close()
    assert heard in ([], ["interpolate"])
    LTX_2_MLX.interpolate(PEBBLES, model_path=rife, scale=0.25, progress=Progress()).array()
    assert heard[-1] == "interpolate"


CALLS = {
    "generate": Options,
    "upscale_temporal": UpscaleTemporalRequest,
    "interpolate": InterpolateRequest,
    "upscale": UpscaleRequest,
    "postprocess": PostprocessRequest,
    "super_resolve": SuperResolveRequest,
}


@pytest.mark.parametrize("name", CALLS)
def test_signature_is_that_of_the_options(name):
    parameters = dict(inspect.signature(getattr(LTX_2_MLX, name)).parameters)
    assert parameters.pop("progress").default is None
    parameters.pop("video", None)
    flags = {flag: parameters.pop(flag) for flag in ("fp16", "bf16", "fp32") if flag in parameters}
    declared = declared_options(CALLS[name])
    assert list(parameters) == list(declared)
    for option, parameter in parameters.items():
        if declared[option].default is MISSING:
            assert parameter.default is inspect.Parameter.empty
        else:
            assert parameter.default == declared[option].default
    assert set(flags) == set(declared["precision"].choices if "precision" in declared else ())
    assert all(flag.default is False for flag in flags.values())


def test_options_without_a_field_are_refused_by_python():
    with pytest.raises(TypeError, match="expo"):
        LTX_2_MLX.interpolate(PEBBLES, expo=2)


def test_names_of_earlier_versions_are_the_same_calls():
    from LTX_2_MLX import api, calls
    from LTX_2_MLX.pipelines.generate import generate

    assert calls.interpolate is api.interpolate and calls.upscale is LTX_2_MLX.upscale
    with pytest.raises(RequestError, match="generate has no option colour"):
        generate("A ball", colour="blue")


@pytest.mark.parametrize("call", ["interpolate", "upscale", "upscale_temporal", "super_resolve"])
def test_missing_film_is_one_clear_error(call, tmp_path):
    with pytest.raises(MediaError, match="does not exist"):
        getattr(LTX_2_MLX, call)(tmp_path / "missing.mp4")
