"""Every option of the library is a flag, every flag reaches the library, and every default is the library's own."""

import ast
import inspect
from dataclasses import MISSING
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from LTX_2_MLX import cli
from LTX_2_MLX.cli.app import COMMANDS, program
from LTX_2_MLX.cli.command import command
from LTX_2_MLX.cli.decode import DecodeOptions
from LTX_2_MLX.cli.generate import GenerateOptions
from LTX_2_MLX.cli.options import VideoOptions, default_text, help_text
from LTX_2_MLX.cli.super_resolve import SuperResolveOptions
from LTX_2_MLX.cli.upscale import UpscaleOptions
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.options import Declared, declared_options
from LTX_2_MLX.pipelines.requests import (
    InterpolateRequest,
    PostprocessRequest,
    SuperResolveRequest,
    UpscaleRequest,
    UpscaleTemporalRequest,
)
from LTX_2_MLX.runtime import launch

SCRIPTS = sorted((Path(__file__).parent.parent / "scripts").glob("*.py"))
# Name, options of the command, options of the library.
REQUESTS = [
    ("generate", GenerateOptions, Options),
    ("upscale_temporal", VideoOptions, UpscaleTemporalRequest),
    ("interpolate", VideoOptions, InterpolateRequest),
    ("upscale", UpscaleOptions, UpscaleRequest),
    ("postprocess", VideoOptions, PostprocessRequest),
    ("super_resolve", SuperResolveOptions, SuperResolveRequest),
]
CASES = [
    pytest.param(own, request, name, declared, id=f"{command_name}-{name}")
    for command_name, own, request in REQUESTS
    for name, declared in declared_options(request).items()
    if name not in declared_options(own)
]


# Options that others need beside them.
BESIDE = {
    "retake": {"retake_from": 1.0, "retake_to": 9.0},
    "retake_from": {"retake": "given", "retake_to": 9.0},
    "retake_to": {"retake": "given", "retake_from": 1.0},
    "extend": {"seconds": 1.0},
}


def another_value(declared: Declared) -> tuple[str, Any]:
    """What is typed, and the value that it stands for: a legal one that is not the default."""
    opt = declared.opt
    if declared.choices:
        value = next(choice for choice in declared.choices if choice != declared.default)
        return str(value), (value,) if declared.repeated else value
    if declared.kind is Fraction:
        return "25", Fraction(25)
    if declared.name == "local_range":
        return "13", 13
    if declared.name in ("height", "width", "output_height", "output_width"):
        return "64", 64
    if declared.name == "frames" and declared.default is None:
        return "17", 17
    if declared.name in ("guidance_start", "guidance_end"):
        return "0.5", 0.5
    if declared.kind in (int, float):
        low = opt.min if opt.min is not None else opt.above or 0
        high = low + 8 if opt.max is None or low + 8 <= opt.max else opt.max
        value = next(declared.kind(number) for number in (high, low) if number != declared.default)
        assert value != declared.default
        return str(value), (value,) if declared.repeated else value
    if declared.kind is Path:
        return "other", Path("other")
    return "other", ("other",) if declared.repeated else "other"


def words_for(declared: Declared) -> tuple[list[str], Any]:
    if declared.opt.positional:
        text, value = another_value(declared)
        return [text], value
    if declared.kind is bool:
        flag = f"--no-{declared.flag.removeprefix('--')}" if declared.default else declared.flag
        return [flag], not declared.default
    text, value = another_value(declared)
    flag = f"--{text}" if declared.name == "precision" else declared.flag
    return ([flag] if declared.name == "precision" else [flag, text]), value


def required_words(own: type) -> list[str]:
    words: list[str] = []
    for declared in declared_options(own).values():
        if declared.default is MISSING:
            words += ["given"] if declared.opt.positional else [declared.flag, "given"]
    return words


def run(own: type, request: type, words: list[str]) -> tuple[dict[str, Any], Any]:
    """What a command with these options hands to its function."""
    calls: list[tuple[dict[str, Any], Any]] = []
    main = command("try", lambda typed, options: calls.append((typed, options)), own, request)
    done = CliRunner().invoke(cli.as_program(main), words)
    assert done.exit_code == 0, done.output
    return calls[0]


@pytest.mark.parametrize(("own", "request_class", "name", "declared"), CASES)
def test_flag_reaches_the_request_with_its_value(own, request_class, name, declared, monkeypatch):
    words, value = words_for(declared)
    typed, _ = run(own, request_class, [*required_words(own), *words])
    assert list(typed) == [name]
    # Where it needs one of several, BESIDE has it.
    needed = declared.opt.needs if len(declared.opt.needs) == 1 else ()
    switched_on = {key: _enabling(request_class, key) for key in needed}
    prompt = {"prompt": "A ball"} if request_class is Options else {}
    pipeline = {"pipeline": declared.opt.only_in[0]} if declared.opt.only_in else {}
    # A run that machines share is started by mlx.launch.
    monkeypatch.setattr(launch, "RANK", 0 if name == "parallel" else None)
    made = request_class(**{**prompt, **pipeline, **switched_on, **BESIDE.get(name, {}), **typed})
    assert getattr(made, name) == value


def _enabling(request: type, name: str) -> Any:
    kind = declared_options(request)[name].kind
    return True if kind is bool else 0.5 if kind is float else "given"


@pytest.mark.parametrize(("own", "request_class", "name", "declared"), CASES)
def test_option_that_is_not_typed_is_left_to_the_library(own, request_class, name, declared):
    typed, _ = run(own, request_class, required_words(own))
    assert name not in typed


@pytest.mark.parametrize(("own", "request_class", "name", "declared"), CASES)
def test_option_typed_at_its_default_counts_as_typed(own, request_class, name, declared):
    default = declared.default
    if default is None or default is MISSING or declared.repeated or declared.name == "precision":
        return
    if declared.kind is bool:
        flag = declared.flag if default else f"--no-{declared.flag.removeprefix('--')}"
        words = [flag]
    else:
        words = [declared.flag, str(default)]
    typed, _ = run(own, request_class, [*required_words(own), *words])
    # The request makes one value of a list of one.
    assert typed == {name: (default,) if declared.opt.one_or_more else default}


def test_optional_values_are_left_out_by_the_word_none():
    words = ["--lora", "none", "--image", "none", "--quantize", "none", "--cfg", "none", "--negative-prompt", "none"]
    typed, _ = run(GenerateOptions, Options, words)
    assert typed == {"lora": (), "image": None, "quantize": None, "cfg": None, "negative_prompt": "none"}


def test_two_precisions_are_refused():
    calls: list[Any] = []
    main = command("try", lambda *given: calls.append(given), GenerateOptions, Options)
    done = CliRunner().invoke(cli.as_program(main), ["--fp16", "--bf16"])
    assert done.exit_code == cli.REFUSED and "--fp16 and --bf16" in done.stderr and not calls


@pytest.mark.parametrize("own", [GenerateOptions, VideoOptions, UpscaleOptions, SuperResolveOptions, DecodeOptions])
def test_every_option_of_a_command_has_help(own):
    for declared in declared_options(own).values():
        assert declared.opt.help.endswith(".") and help_text(declared).startswith(declared.opt.help)
        assert "None" not in default_text(declared)


def test_impossible_values_of_the_commands_own_options_are_refused():
    program = cli.as_program(command("try", lambda typed, own: None, GenerateOptions, Options))
    for words, message in ((["--crf", "99"], "--crf is 99"), (["--json"], "--json does nothing without --dry-run.")):
        done = CliRunner().invoke(program, words)
        assert done.exit_code == cli.REFUSED and message in done.stderr


def test_entry_point_has_every_command_by_both_spellings():
    app = typer.main.get_command(program())
    context = typer.Context(app)
    for name in COMMANDS:
        for spelling in (name, name.replace("_", "-")):
            assert app.get_command(context, spelling) is not None
    shown = app.list_commands(context)
    assert shown == [name.replace("_", "-") for name in COMMANDS]


@pytest.mark.parametrize("name", COMMANDS)
def test_script_of_a_command_is_two_lines(name):
    path = next(path for path in SCRIPTS if path.stem == name)
    tree = ast.parse(path.read_text())
    statements = tree.body[1:]
    assert ast.get_docstring(tree)
    assert ast.unparse(statements[0]) == f"from LTX_2_MLX.cli.{name} import main"
    assert ast.unparse(statements[1]) == "if __name__ == '__main__':\n    main()" and len(statements) == 2


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_is_thin_and_says_what_it_does(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 150, "what could be reused lives in the package"
    assert ast.get_docstring(ast.parse(text))


def test_a_commands_main_has_the_signature_of_its_flags():
    from LTX_2_MLX.cli.generate import main

    names = set(inspect.signature(main).parameters)
    assert set(declared_options(Options)) - {"precision"} | {"fp16", "bf16", "fp32", "output", "crf"} <= names
