"""LTX-2.5's duration head: published names, and the rule from seconds to frames."""

import gzip
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from mlx.utils import tree_flatten

from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.ltx.duration_head import DurationHead, DurationHeadConfig, frames_of_duration

TESTS = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def header() -> Header:
    name = "manifests/ltx-2.5-duration-head-bf16.safetensors.json.gz"
    spec = json.loads(gzip.decompress((TESTS / name).read_bytes()))
    tensors = {name: TensorInfo(tuple(shape), dtype, 0) for name, (shape, dtype) in spec["tensors"].items()}
    return Header(tensors=tensors, config=spec["metadata"].get("config", {}))


def test_every_published_tensor_has_its_parameter(header):
    config = DurationHeadConfig.from_header(header)
    assert (config.width, config.num_queries, config.num_heads, config.mlp_width) == (256, 1, 4, 256)
    shapes = {name: tuple(value.shape) for name, value in tree_flatten(DurationHead(config).parameters())}
    landed = {DurationHead.parameter_name(name): info.shape for name, info in header.tensors.items()}
    assert None not in landed
    for kind in ("weight", "bias"):
        # Queries, keys and values lie one under the other in the file.
        rows, *rest = landed.pop(f"attention_pooler.in_proj_{kind}")
        for name in ("q_proj", "k_proj", "v_proj"):
            landed[f"attention_pooler.{name}.{kind}"] = (rows // 3, *rest)
    assert landed == shapes


def test_config_that_contradicts_the_tensors_is_refused(header):
    for section, message in [({"mlp_hidden": 128}, "mlp_hidden"), ({"num_pooler_heads": 3}, "3 heads")]:
        with pytest.raises(CheckpointError, match=message):
            DurationHeadConfig.from_header(replace(header, config={"duration_head": section}))


def test_file_without_the_head_is_not_taken_for_one(header):
    assert DurationHeadConfig.from_header(replace(header, tensors={})) is None


def test_frames_are_a_legal_number_within_the_limits():
    for seconds in (0.2, 1.0, 3.7, 19.99, 400.0):
        for rate in (Fraction(24), Fraction(24000, 1001), Fraction(50)):
            frames = frames_of_duration(seconds, rate)
            assert frames % 8 == 1
            assert round(rate) <= frames <= round(20 * rate)


def test_limits_without_a_legal_number_between_them_are_refused():
    with pytest.raises(RequestError, match="--min-duration"):
        frames_of_duration(1.0, Fraction(24), 1.0, 1.0)
