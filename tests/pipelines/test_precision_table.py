"""The one table of data types: what it says is what the pipelines run in, and what a plan prints."""

import mlx.core as mx
import pytest

from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.pipelines.requests import (
    InterpolateRequest,
    SuperResolveRequest,
    UpscaleRequest,
)
from LTX_2_MLX.planning.plan import RULES, Estimate, Plan, dtype_for, precision_table


@pytest.mark.parametrize("network", RULES)
def test_everything_is_float32_on_a_cpu_unless_asked(network):
    with as_backend("cpu"):
        assert dtype_for(network, stored=mx.bfloat16) == mx.float32
        asked = dtype_for(network, asked="bf16")
    assert asked == (mx.float32 if RULES[network].fp16 is None else mx.bfloat16)


@pytest.mark.parametrize(
    ("network", "asked", "stored", "expected"),
    [
        ("transformer", None, mx.float16, mx.float16),
        ("transformer", None, mx.bfloat16, mx.bfloat16),
        ("transformer", None, mx.float32, mx.float32),
        ("transformer", "fp16", mx.bfloat16, mx.float16),
        ("text encoder", None, mx.float16, mx.bfloat16),
        ("text encoder", "fp16", mx.bfloat16, mx.bfloat16),
        ("text connectors", "fp32", mx.bfloat16, mx.float32),
        ("sound", "bf16", mx.bfloat16, mx.float32),
        ("RIFE", None, None, mx.float32),
        ("RIFE", "fp16", None, mx.float16),
        ("Real-ESRGAN", None, None, mx.float16),
        ("FlashVSR", None, None, mx.bfloat16),
    ],
)
def test_a_gpu_takes_what_the_table_says(network, asked, stored, expected):
    with as_backend("gpu"):
        assert dtype_for(network, asked=asked, stored=stored) == expected


def test_requests_of_post_processing_ask_the_table():
    with as_backend("gpu"):
        assert InterpolateRequest().dtype == dtype_for("RIFE")
        assert UpscaleRequest().dtype == dtype_for("Real-ESRGAN")
        assert SuperResolveRequest().mlx_dtype == dtype_for("FlashVSR")


def test_the_table_names_every_network():
    printed = list(precision_table())
    assert len(printed) == 2 + len(RULES)
    assert all(any(line.startswith(f"| {network} |") for line in printed) for network in RULES)


def test_a_plan_prints_the_precision_of_every_stage(tmp_path):
    stages = [
        Estimate(name, "work", tmp_path / "file", 1, dtype=dtype) for name, dtype in (("a", mx.bfloat16), ("b", None))
    ]
    printed = Plan((), tuple(stages)).lines()
    assert "bfloat16" in printed[0] and "bfloat16" not in printed[1]
    assert stages[0].as_json()["dtype"] == "bfloat16"
