"""Plans for several machines, from headers alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from LTX_2_MLX.development.full_size import write_hollow_model
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.pipelines.generation import sharing
from LTX_2_MLX.pipelines.generation.fastest_way import Speed, ways_text, work_of
from LTX_2_MLX.pipelines.generation.machine_plan import (
    LINKS,
    auto_lines,
    first_step,
    fitting_modes,
    mac_budgets,
    mode_plans,
    sizes_of,
)
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


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A guided request of the published model, and its options."""
    tokenizer = ROOT / "weights" / "demo" / "gemma" / "tokenizer.json"
    files = write_hollow_model(ROOT / "tests" / "manifests", tokenizer, tmp_path_factory.mktemp("hollow"))
    options = Options("a red ball", height=480, width=704, frames=97, cfg=5, precision="bf16", **files)
    return request_for(options), options


def test_published_model_fits_two_small_macs_by_its_blocks_alone(published):
    with as_backend("gpu"):
        small = mode_plans(*published, mac_budgets("2x32GB"))
    assert {plan.mode: plan.fits for plan in small} == {"guidance": False, "sequence": False, "blocks": True}
    assert fitting_modes(small) == ["blocks"] and max(small[2].peaks) < 21.5 * GIB
    assert list(auto_lines(small, {}, 2, {})) == ["auto takes blocks, the only way that fits."]
    large = [replace(plan, fits=True) for plan in small]
    assert fitting_modes(large) == ["guidance", "sequence"]
    # The latents of one pass: 4290 tokens of 128 channels and 101 of the sound's, in float32.
    assert large[0].step_bytes == 4 * (4290 * 128 + 101 * 128)
    # Half of the keys and values of 48 blocks in 16 bit, those for the sound with 2048 features, in two passes.
    keys = 48 * 4290 * 2 * 2 * (4096 + 2048)
    assert large[1].step_bytes == pytest.approx(keys, rel=0.01)


def test_auto_takes_the_way_that_is_fastest_by_the_link(published):
    two_passes = first_step(published[0])
    three_passes, one_pass = replace(two_passes, num_passes=3), replace(two_passes, num_passes=1)
    fast = Speed(operations=6.4e12, link=LINKS["Thunderbolt 5"])
    slow = Speed(operations=18.2e12, link=1e8)
    # Two passes on two machines are shared as they are, for a thousandth of the bytes.
    assert [two_passes.fastest(2, speed) for speed in (fast, slow)] == ["guidance", "guidance"]
    # One pass is worth sharing where the link is fast, and three on two machines, one of which would compute two.
    assert [one_pass.fastest(2, speed) for speed in (fast, slow)] == ["sequence", "guidance"]
    assert [three_passes.fastest(2, speed) for speed in (fast, slow)] == ["sequence", "guidance"]
    # Exchanges that take long, however fast the link is.
    assert one_pass.fastest(2, fast._replace(wait=1.0)) == "guidance"
    text = ways_text({"stage_1": [two_passes, one_pass], "stage_2": [one_pass]}, 2, slow)
    assert text.startswith("stage_1, 2 passes: guidance, ") and "; stage_2: guidance, " in text


def test_networks_that_do_not_fit_are_divided(monkeypatch):
    monkeypatch.setattr(launch, "RANK", 0)
    notes = []
    roomy = sharing.settled_ways(Options("a red ball", memory_limit_gb=8), notes.append)
    assert roomy.parallel == "auto" and not notes
    tight = sharing.settled_ways(Options("a red ball", memory_limit_gb=0.01, tile_size=64), notes.append)
    assert tight.parallel == "blocks" and "--parallel blocks" in notes[0]
