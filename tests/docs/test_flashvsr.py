"""What docs/FLASHVSR.md says of decoders and options is what the code has."""

import dataclasses
import importlib.util
import inspect
import re
import typing
from enum import Enum
from pathlib import Path

import pytest

from LTX_2_MLX.pipelines.super_resolve import Request
from LTX_2_MLX.pipelines.super_resolve.decoders import matrix

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "FLASHVSR.md").read_text()
# Defaults that depend on the run or the machine, told in words.
SETTLED_LATER = {"--vae-type", "--vae-path", "--dtype", "--memory-limit-gb"}


@dataclasses.dataclass
class Flag:
    """One option of the command."""

    parameter: str
    name: str
    default: object
    choices: list[str]
    least: float | None
    most: float | None


def flags() -> list[Flag]:
    spec = importlib.util.spec_from_file_location("super_resolve_command", ROOT / "scripts" / "super_resolve.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    hints = typing.get_type_hints(module.main, include_extras=True)
    return [
        flag_of(name, hints[name], parameter.default)
        for name, parameter in inspect.signature(module.main).parameters.items()
    ]


def flag_of(parameter: str, hint: object, default: object) -> Flag:
    kind, option = typing.get_args(hint)
    kinds = typing.get_args(kind) or (kind,)
    choices = [choice.value for each in kinds if isinstance(each, type) and issubclass(each, Enum) for choice in each]
    # Typer keeps the first name of an annotated option where a default would be.
    name = next(name for name in (option.default, *option.param_decls) if name.startswith("--")).split("/")[0]
    return Flag(parameter, name, getattr(default, "value", default), choices, option.min, option.max)


def rows() -> dict[str, list[str]]:
    """Cells of the table of options, by flag."""
    lines = re.findall(r"^\| `(--[a-z-]+)` \|(.*)\|$", PAGE, re.MULTILINE)
    assert len(lines) == len({flag for flag, _ in lines})
    return {flag: [cell.strip() for cell in cells.split("|")] for flag, cells in lines}


def test_matrix_of_modes_and_decoders_is_the_codes():
    written = re.search(r"<!-- matrix -->\n(.*)\n<!-- /matrix -->", PAGE, re.DOTALL)[1]
    assert written.splitlines() == matrix()


def test_every_option_is_in_the_table_and_nothing_else():
    assert sorted(flag.name for flag in flags()) == sorted(rows())
    fields = {field.name for field in dataclasses.fields(Request)}
    assert fields <= {flag.parameter for flag in flags()}


@pytest.mark.parametrize("flag", flags(), ids=lambda flag: flag.parameter)
def test_default_and_range_are_those_of_the_table(flag):
    default, allowed, plugin, pro, meaning = rows()[flag.name]
    assert plugin and pro and meaning
    if flag.default is not inspect.Parameter.empty and flag.name not in SETTLED_LATER:
        words = {True: "on", False: "off"}.get(flag.default) if isinstance(flag.default, bool) else f"`{flag.default}`"
        assert default == words
    assert all(f"`{choice}`" in allowed for choice in flag.choices)
    if flag.least is not None and not SETTLED_LATER & {flag.name}:
        assert allowed.startswith(f"{flag.least:.10g} to ")
        # Half a tile is what the request checks.
        assert flag.name == "--overlap" or allowed.split(",")[0].endswith(f" {flag.most:.10g}")
