from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.models.srvgg import SRVGG, SRVGGConfig
from LTX_2_MLX.pipelines.postprocess import Request, plan_for, postprocess
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.verify.case import Case

CASE = Path(__file__).parents[1] / "goldens/rife/procedure"
# One picture that grows lighter: unrelated ones would be cuts.
FRAMES = np.random.default_rng(0).integers(0, 200, (19, 26, 3), dtype=np.uint8) + np.uint8(
    [[[[0]]], [[[20]]], [[[40]]]]
)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    mx.random.seed(0)
    network = SRVGG(SRVGGConfig(4, 1, 2))
    weights = {
        n: mx.contiguous(v.transpose(0, 3, 1, 2)) if v.ndim == 4 else v for n, v in tree_flatten(network.parameters())
    }
    mx.save_safetensors(str(folder / "compact.safetensors"), weights)
    return {
        "frame_interpolation_model_path": str(Case.open(CASE, folder).write_checkpoint("flownet.safetensors")),
        "upscaling_model_path": str(folder / "compact.safetensors"),
    }


def clip(num_frames: int = 3) -> FrameStream:
    return FrameStream(iter([FRAMES[:num_frames]]), 19, 26, Fraction(12), num_frames, audio="its sound")


@pytest.mark.parametrize("order", ["interpolate-first", "upscale-first"])
def test_clip_becomes_smoother_and_larger_in_either_order(models, order):
    request = Request(enable_frame_interpolation=True, enable_upscaling=True, upscaling_scale=2, order=order, **models)
    runner = StageRunner()
    made = postprocess(clip(), request, runner)
    assert (made.num_frames, made.height, made.width, made.frame_rate) == (5, 38, 52, 24) and made.audio == "its sound"
    assert made.array().shape == (5, 38, 52, 3)
    # The inner stage ends first.
    names = ["interpolate", "upscale"]
    assert [r.name for r in runner.reports] == (names if order == "interpolate-first" else names[::-1])


def test_orders_differ_and_each_keeps_the_given_frames(models):
    request = Request(enable_upscaling=True, upscaling_model_path=models["upscaling_model_path"])
    larger = postprocess(clip(), request).array()
    both = {
        order: postprocess(
            clip(), Request(enable_frame_interpolation=True, enable_upscaling=True, order=order, **models)
        ).array()
        for order in ("interpolate-first", "upscale-first")
    }
    for made in both.values():
        assert np.abs(made[::2].astype(int) - larger).max() <= 1
    assert not np.array_equal(*both.values())


def test_nothing_enabled_is_the_clip_itself():
    given = clip()
    assert postprocess(given, Request()) is given and not Request().anything


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frame_interpolation_exp": 2}, "frame-interpolation-exp does nothing without --enable-frame-interpolation"),
        ({"upscaling_scale": 2}, "upscaling-scale does nothing without --enable-upscaling"),
        ({"enable_frame_interpolation": True, "frame_interpolation_exp": 7}, "0 to 4"),
        ({"enable_upscaling": True, "upscaling_scale": 0}, "above 0"),
        ({"order": "backwards"}, "interpolate-first"),
    ],
)
def test_requests_that_cannot_be_are_refused(changes, said):
    with pytest.raises(RequestError, match=said):
        Request(**changes)


def test_plan_follows_the_order(models):
    request = Request(
        enable_frame_interpolation=True, enable_upscaling=True, upscaling_scale=2, order="upscale-first", **models
    )
    told = plan_for(clip(), request)
    assert [stage.name for stage in told.stages] == ["upscale", "interpolate"]
    assert told.stages[1].work == "38×52" and told.sizes[1] == "Interpolate: 3 to 5 frames, 12 to 24 fps"
