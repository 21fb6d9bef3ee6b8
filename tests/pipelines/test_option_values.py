from dataclasses import asdict, fields
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import LTX_2_MLX
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines import interpolate, super_resolve, upscale, upscale_temporal
from LTX_2_MLX.pipelines.generate import Options, options_from
from LTX_2_MLX.pipelines.option_values import options_for

REQUESTS = [interpolate.Request, super_resolve.Request, upscale.Request, upscale_temporal.Request]


@pytest.mark.parametrize(
    "given",
    [
        {"height": "64"}, {"height": 64.0}, {"frames": True}, {"cfg": "strong"}, {"seed": "a"}, {"seed": 1.5},
        {"weights": None}, {"weights": 3}, {"image": 3}, {"lora": "a.safetensors"}, {"lora": [3]}, {"low_ram": "no"},
        {"pipeline": 2}, {"prompt": 7}, {"fps": True}, {"quantize": "8"},
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused_by_name(given):
    (name, value), *_ = given.items()
    with pytest.raises(RequestError, match=name) as caught:
        LTX_2_MLX.generate(**{"prompt": "A ball"} | given)
    assert repr(value) in str(caught.value) and "expected" in str(caught.value)
    with pytest.raises(RequestError, match=name):
        options_from({"prompt": "A ball"} | given, {})


@pytest.mark.parametrize(
    "given",
    [
        {"height": np.int64(64)}, {"cfg": 3}, {"cfg": np.float32(3)}, {"fps": Fraction(24)}, {"fps": "24000/1001"},
        {"image": Path("a.png")}, {"image": "a.png"}, {"lora": ["a", "b:0.5"]}, {"height": None}, {"low_ram": True},
    ],
)  # fmt: skip
def test_values_of_the_right_type_are_taken_as_they_are(given):
    assert options_for(Options, given, "generate") == given


def test_paths_become_text_where_text_is_held():
    given = {"weights": Path("a/b.safetensors"), "lora": (Path("c"), "d:0.5")}
    assert options_for(Options, given, "generate") == {"weights": "a/b.safetensors", "lora": ("c", "d:0.5")}


def test_precision_is_a_flag_or_a_value():
    assert options_for(Options, {"fp16": True, "bf16": False}, "generate") == {"precision": "fp16"}
    assert options_for(Options, {"fp16": True, "precision": "fp16"}, "generate") == {"precision": "fp16"}
    for given in ({"fp16": True, "bf16": True}, {"fp16": True, "precision": "bf16"}):
        with pytest.raises(RequestError, match="cannot go together"):
            options_for(Options, given, "generate")
    with pytest.raises(RequestError, match="bf15"):
        LTX_2_MLX.generate("A ball", precision="bf15")


def test_unknown_options_are_refused_with_those_that_are_known():
    with pytest.raises(RequestError, match="generate has no option colour") as caught:
        LTX_2_MLX.generate("A ball", colour="blue")
    assert "guidance_rescale, height, image" in str(caught.value)


@pytest.mark.parametrize("request_class", [Options, *REQUESTS], ids=lambda r: r.__module__.rsplit(".", 1)[-1])
def test_every_default_is_of_its_own_fields_type(request_class):
    usual = request_class(prompt="A ball") if request_class is Options else request_class()
    taken = options_for(request_class, {f.name: getattr(usual, f.name) for f in fields(usual)}, "a call")
    assert request_class(**taken) == usual
    assert request_class(**options_for(request_class, asdict(usual), "a call")) == usual
