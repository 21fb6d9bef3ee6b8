"""Budgets, limits that are given back, and the words for a machine that gave out."""

import mlx.core as mx
import pytest

from LTX_2_MLX.errors import MemoryBudgetError
from LTX_2_MLX.runtime import memory
from LTX_2_MLX.runtime.memory import GIB


def test_budget_leaves_the_system_its_share():
    total, budget = memory.total_bytes(), memory.budget_bytes()
    assert total // 4 <= budget < total
    assert memory.budget_bytes(limit_gib=3.5) == int(3.5 * GIB)


@pytest.mark.parametrize(("total", "expected"), [(8, 4), (16, 12), (64, 54.4), (128, 108.8)])
def test_reserve_is_four_gib_or_a_share(monkeypatch, total, expected):
    monkeypatch.setattr(memory, "total_bytes", lambda: total * GIB)
    monkeypatch.setattr(memory.mx.metal, "is_available", lambda: False)
    assert memory.budget_bytes() / GIB == pytest.approx(expected)


def test_stage_over_the_budget_is_refused_with_what_to_do():
    memory.check_budget("decode", GIB, "Pass --tile-size 256.", limit_gib=2)
    with pytest.raises(MemoryBudgetError) as caught:
        memory.check_budget("decode", 21 * GIB, "Pass --tile-size 256.", limit_gib=16)
    assert str(caught.value) == "decode needs about 21.0 GiB, the budget is 16.0 GiB. Pass --tile-size 256."


@pytest.mark.parametrize("fails", [False, True])
def test_limits_are_as_before_afterwards(fails):
    before = mx.set_cache_limit(123 * 2**20)
    try:
        try:
            with memory.memory_limits(wired_bytes=GIB):
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
        (RuntimeError("[METAL] Command buffer execution failed: Caused GPU Timeout Error"), "GPU away"),
        (RuntimeError("Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackError)"), "GPU away"),
    ],
)
def test_machine_that_gave_out_is_recognised(error, words):
    assert words in memory.machine_trouble(error)


@pytest.mark.parametrize("error", [ValueError("shapes (3,) and (4,)"), KeyError("a"), RuntimeError("[matmul] axes")])
def test_other_errors_are_not_blamed_on_the_machine(error):
    assert memory.machine_trouble(error) is None


def test_peak_of_the_process_grows_with_what_it_holds():
    before = memory.peak_process_bytes()
    assert 2**20 < before < 2**40
    block = bytearray(b"\1") * (before + 64 * 2**20)
    assert memory.peak_process_bytes() >= before + 2**20 and len(block) > before


@pytest.mark.parametrize(("total", "expected"), [(8, 4), (16, 32 / 3), (32, 64 / 3), (64, 48), (128, 96), (192, 144)])
def test_mac_keeps_its_reserve_and_what_the_system_does_not_lend(total, expected):
    assert memory.mac_budget_bytes(total) / GIB == pytest.approx(expected)
