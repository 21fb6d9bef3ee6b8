"""Budgets, limits that are restored, advice for exhausted memory, and MLX's settings, which it reads once."""

import os
import subprocess
import sys

import mlx.core as mx
import pytest

from LTX_2_MLX.ops import device
from LTX_2_MLX.runtime import this_machine
from LTX_2_MLX.runtime.this_machine import GIB


def test_budget_leaves_the_system_its_share():
    total, budget = this_machine.total_bytes(), this_machine.budget_bytes()
    assert total // 4 <= budget < total
    assert this_machine.budget_bytes(limit_gib=3.5) == int(3.5 * GIB)


@pytest.mark.parametrize(("total", "expected"), [(8, 4), (16, 12), (64, 54.4), (128, 108.8)])
def test_reserve_is_four_gib_or_a_share(monkeypatch, total, expected):
    monkeypatch.setattr(this_machine, "total_bytes", lambda: total * GIB)
    monkeypatch.setattr(device, "device", lambda: mx.Device(mx.cpu))
    assert this_machine.budget_bytes() / GIB == pytest.approx(expected)


# Keys of each backend's device_info in MLX 0.32.4 (mlx/backend/metal/device_info.cpp, cuda/device_info.cpp).
METAL = {
    "device_name": "Apple M2 Pro",
    "memory_size": 32 * GIB,
    "max_recommended_working_set_size": 21 * GIB,
    "max_buffer_length": 16 * GIB,
}
CUDA = {"device_name": "NVIDIA L4", "total_memory": 24 * GIB, "free_memory": 11 * GIB}


@pytest.fixture
def machine(monkeypatch):
    """``machine(default, gpu)``: the device that arrays are computed on, and what MLX tells about the GPU."""

    def patch(default, gpu):
        def device_info(asked=None):
            kind = default if asked is None else getattr(asked, "type", asked)
            return gpu if kind == mx.gpu else {"device_name": "CPU", "architecture": "arm64"}

        monkeypatch.setattr(device, "device", lambda: mx.Device(default))
        monkeypatch.setattr(mx, "device_info", device_info)
        monkeypatch.setattr(mx.metal, "is_available", lambda: gpu is METAL)

    return patch


@pytest.mark.parametrize(("gpu", "total", "budget"), [(METAL, 32, 21), (CUDA, 24, 11)])
def test_gpu_memory_is_read_by_the_keys_of_its_backend(machine, gpu, total, budget):
    machine(mx.gpu, gpu)
    assert this_machine.total_bytes() == total * GIB
    assert this_machine.budget_bytes() == budget * GIB


@pytest.mark.parametrize("gpu", [METAL, CUDA])
def test_cpu_as_default_device_is_planned_by_the_memory_of_the_machine(machine, gpu):
    total, budget = this_machine.total_bytes(), this_machine.budget_bytes()
    machine(mx.cpu, gpu)
    assert this_machine.total_bytes() == total
    assert this_machine.budget_bytes() == budget


@pytest.mark.parametrize(("default", "wired"), [(mx.gpu, [21 * GIB, 5]), (mx.cpu, [])])
def test_memory_is_wired_up_to_the_working_set_where_a_mac_computes_on_its_gpu(machine, monkeypatch, default, wired):
    machine(default, METAL)
    limits = []
    monkeypatch.setattr(mx, "set_wired_limit", lambda limit: limits.append(limit) or 5)
    with this_machine.memory_limits(wired_bytes=100 * GIB):
        pass
    assert limits == wired


@pytest.mark.parametrize("fails", [False, True])
def test_limits_are_as_before_afterwards(fails):
    before = mx.set_cache_limit(123 * 2**20)
    try:
        try:
            with this_machine.memory_limits(wired_bytes=GIB):
                inside = mx.set_cache_limit(GIB)
                assert inside == GIB
                if fails:
                    raise RuntimeError
        except RuntimeError:
            assert fails
        assert mx.set_cache_limit(0) == 123 * 2**20
    finally:
        mx.set_cache_limit(before)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("[metal::malloc] Attempting to allocate 24000000000 bytes which is greater than"), "memory"),
        (RuntimeError("[METAL] Command buffer execution failed: Insufficient Memory (00000008)"), "memory"),
        (MemoryError(), "memory"),
        (RuntimeError("std::bad_alloc"), "memory"),
        (RuntimeError("[METAL] Command buffer execution failed: Caused GPU Timeout Error"), "watchdog"),
        (RuntimeError("Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackError)"), "watchdog"),
    ],
)
def test_exhausted_memory_and_the_watchdog_are_recognised(error, words):
    assert words in this_machine.resource_advice(error)


@pytest.mark.parametrize("error", [ValueError("shapes (3,) and (4,)"), KeyError("a"), RuntimeError("[matmul] axes")])
def test_other_errors_get_no_advice(error):
    assert this_machine.resource_advice(error) is None


def test_peak_of_the_process_grows_with_what_it_holds():
    before = this_machine.peak_process_bytes()
    assert 2**20 < before < 2**40
    block = bytearray(b"\1") * (before + 64 * 2**20)
    assert this_machine.peak_process_bytes() >= before + 2**20 and len(block) > before


@pytest.mark.parametrize(("total", "expected"), [(8, 4), (16, 32 / 3), (32, 64 / 3), (64, 48), (128, 96), (192, 144)])
def test_mac_keeps_its_reserve_and_what_the_system_does_not_lend(total, expected):
    assert this_machine.mac_budget_bytes(total) / GIB == pytest.approx(expected)


CODE = "import os, LTX_2_MLX; print(os.environ['MLX_CONV_WINOGRAD'], os.environ['MLX_ENABLE_TF32'])"


def output_of(code, given):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLX_")} | given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "0 0"), ({"MLX_CONV_WINOGRAD": "1"}, "1 0"), ({"MLX_ENABLE_TF32": "1"}, "0 1")],
)
def test_winograd_and_tf32_are_off_unless_the_user_says_otherwise(given, expected):
    assert output_of(CODE, given) == expected


INSIDE = """
import os, LTX_2_MLX
from LTX_2_MLX.runtime.this_machine import winograd_convolutions
for wanted in (True, False):
    with winograd_convolutions(wanted):
        print(os.environ["MLX_CONV_WINOGRAD"], end=" ")
print(os.environ["MLX_CONV_WINOGRAD"])
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1 0 0"), ({"MLX_CONV_WINOGRAD": "0"}, "0 0 0"), ({"MLX_ENABLE_TF32": "1"}, "0 0 0")],
)
def test_winograd_is_on_only_where_it_is_wanted_and_exact(given, expected):
    assert output_of(INSIDE, given) == expected
