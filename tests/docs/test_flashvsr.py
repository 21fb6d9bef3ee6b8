"""What docs/FLASHVSR.md says of decoders and options is what the code has."""

import re
from dataclasses import MISSING
from pathlib import Path

import pytest

from LTX_2_MLX.cli.super_resolve import SuperResolveOptions
from LTX_2_MLX.pipelines.options import bounds, declared_options
from LTX_2_MLX.pipelines.super_resolve import Request
from LTX_2_MLX.pipelines.super_resolve.decoders import matrix

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "FLASHVSR.md").read_text()
# Defaults that depend on the run or the machine, told in words.
SETTLED_LATER = {"--vae-type", "--vae-path", "--dtype", "--memory-limit-gb", "--report"}


FLAGS = {
    option.flag: option for options in (SuperResolveOptions, Request) for option in declared_options(options).values()
}


def rows() -> dict[str, list[str]]:
    """Cells of the table of options, by flag."""
    lines = re.findall(r"^\| `(--[a-z-]+)` \|(.*)\|$", PAGE, re.MULTILINE)
    assert len(lines) == len({flag for flag, _ in lines})
    return {flag: [cell.strip() for cell in cells.split("|")] for flag, cells in lines}


def test_matrix_of_modes_and_decoders_is_the_codes():
    written = re.search(r"<!-- matrix -->\n(.*)\n<!-- /matrix -->", PAGE, re.DOTALL)[1]
    assert written.splitlines() == matrix()


def test_every_option_is_in_the_table_and_nothing_else():
    assert sorted(FLAGS) == sorted(rows())


@pytest.mark.parametrize("name", FLAGS)
def test_default_and_range_are_those_of_the_table(name):
    flag = FLAGS[name]
    default, allowed, plugin, pro, meaning = rows()[name]
    assert plugin and pro and meaning
    if flag.default is not MISSING and name not in SETTLED_LATER:
        words = {True: "on", False: "off"}.get(flag.default) if flag.kind is bool else f"`{flag.default}`"
        assert default == words
    if flag.name != "vae_type":
        assert all(f"`{choice}`" in allowed for choice in flag.choices)
    if flag.opt.min is not None and name not in SETTLED_LATER:
        assert allowed.startswith(f"{flag.opt.min:.10g} to ")
        # Half a tile is what the request checks.
        assert name == "--overlap" or allowed.split(",")[0].endswith(bounds(flag.opt).rpartition(" to ")[2])
