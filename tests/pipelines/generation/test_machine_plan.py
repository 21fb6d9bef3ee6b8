"""Plans for several machines, from headers alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from LTX_2_MLX.development.full_size import write_hollow_model
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.pipelines.generation import sharing
from LTX_2_MLX.pipelines.generation.machine_plan import best_mode, mac_budgets, mode_plans, sizes_of, work_of
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.request import request_for
from LTX_2_MLX.runtime import launch

ROOT = Path(__file__).parents[3]
GIB = 2**30


def test_sizes_are_read():
    assert sizes_of("2x24GB,1x64GB") == [24, 24, 64]
    assert sizes_of("16, 32gb") == [16, 32]


@pytest.mark.parametrize("text", ["", "24GB", "2x", "0GB,1GB", "two", "99x8", "2x24GB;1x64GB"])
def test_other_texts_are_refused(text):
    with pytest.raises(RequestError, match="--machines"):
        sizes_of(text)


def test_work_of_a_step():
    assert [work_of(mode, 2, 2) for mode in ("guidance", "sequence", "blocks")] == [0.5, 0.5, 0.75]
    assert [work_of(mode, 1, 2) for mode in ("guidance", "sequence", "blocks")] == [1, 0.5, 1]
    assert work_of("guidance", 3, 2) == pytest.approx(2 / 3)


def test_published_model_fits_two_small_macs_by_its_blocks_alone(tmp_path):
    tokenizer = ROOT / "weights" / "demo" / "gemma" / "tokenizer.json"
    files = write_hollow_model(ROOT / "tests" / "manifests", tokenizer, tmp_path)
    options = Options("a red ball", height=480, width=704, frames=97, cfg=5, precision="bf16", **files)
    with as_backend("gpu"):
        small = mode_plans(request_for(options), options, mac_budgets("2x32GB"))
    assert {plan.mode: plan.fits for plan in small} == {"guidance": False, "sequence": False, "blocks": True}
    assert best_mode(small).mode == "blocks" and max(small[2].peaks) < 21.5 * GIB
    large = [replace(plan, fits=True) for plan in small]
    # Of equal work, that which sends less.
    assert best_mode(large).mode == "guidance"
    # The latents of one pass: 4290 tokens of 128 channels and 101 of the sound's, in float32.
    assert large[0].step_bytes == 4 * (4290 * 128 + 101 * 128)
    # Half of the keys and values of 48 blocks in 16 bit, those for the sound with 2048 features, in two passes.
    keys = 48 * 4290 * 2 * 2 * (4096 + 2048)
    assert large[1].step_bytes == pytest.approx(keys, rel=0.01)


def test_networks_that_do_not_fit_are_divided(monkeypatch):
    monkeypatch.setattr(launch, "RANK", 0)
    notes = []
    roomy = sharing.settled_ways(Options("a red ball", memory_limit_gb=8), notes.append)
    assert roomy.parallel == "auto" and not notes
    tight = sharing.settled_ways(Options("a red ball", memory_limit_gb=0.01, tile_size=64), notes.append)
    assert tight.parallel == "blocks" and "--parallel blocks" in notes[0]


def test_ways_that_exclude_each_other_are_refused(monkeypatch):
    monkeypatch.setattr(launch, "RANK", 0)
    with pytest.raises(RequestError, match="--parallel blocks and --low-ram are mutually exclusive"):
        Options("a red ball", parallel="blocks", low_ram=True)
