"""Options as users of the library give them, to those that a request takes: known names, values of the right type."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from LTX_2_MLX.errors import RequestError

# The commands have a flag for each; a request has one field.
PRECISIONS = ("fp16", "bf16", "fp32")
_LEAST_GIB, _MOST_GIB = 0.01, 100_000
_NUMBERS = {int: Integral, float: Real}


def precision(*, fp16: bool = False, bf16: bool = False, fp32: bool = False) -> str | None:
    """The precision that was asked for; None where none was.

    Raises:
        RequestError: If it was more than one.
    """
    asked = [name for name, given in (("fp16", fp16), ("bf16", bf16), ("fp32", fp32)) if given]
    if len(asked) > 1:
        raise RequestError(f"--{' and --'.join(asked)} cannot go together. Leave one.")
    return asked[0] if asked else None


def check_memory_limit(gib: float | None) -> None:
    """Raise ``RequestError`` for a limit that no run can have; None is none."""
    if gib is not None and not _LEAST_GIB <= gib <= _MOST_GIB:
        raise RequestError(f"memory_limit_gb is {gib:g}, it can be from {_LEAST_GIB} to {_MOST_GIB} GiB.")


def options_for(request: type, given: Mapping[str, Any], call: str) -> dict[str, Any]:
    """The options of a call as fields of its request.

    ``fp16=True`` and its like become the request's ``precision``, paths become text where a field holds text.

    Args:
        request: A frozen dataclass.
        given: Options by name.
        call: The call's name, for messages.

    Raises:
        RequestError: If a name is not known, or a value is of another type than the field.
    """
    hints = {field.name: hint for field, hint in zip(fields(request), _hints(request), strict=True)}
    flags = {name: given[name] for name in PRECISIONS if name in given and "precision" in hints}
    options = {name: value for name, value in given.items() if name not in flags}
    if (asked := precision(**flags)) is not None:
        if options.get("precision") not in (None, asked):
            raise RequestError(f"precision={options['precision']!r} and {asked}=True cannot go together. Leave one.")
        options["precision"] = asked
    if unknown := sorted(options.keys() - hints.keys()):
        raise RequestError(f"{call} has no option {', '.join(unknown)}. It has: {', '.join(sorted(hints))}.")
    return {name: _taken(name, value, hints[name]) for name, value in options.items()}


def _hints(request: type) -> list[Any]:
    hints = get_type_hints(request)
    return [hints[field.name] for field in fields(request)]


def _taken(name: str, value: Any, hint: Any) -> Any:
    if _fits(value, hint):
        return value
    if isinstance(value, Path) and _fits(str(value), hint):
        return str(value)
    if isinstance(value, list | tuple) and _fits([str(v) if isinstance(v, Path) else v for v in value], hint):
        return type(value)(str(v) for v in value)
    raise RequestError(f"{name} is {value!r}, expected {_told(hint)}.")


def _fits(value: Any, hint: Any) -> bool:
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in inside)
    if origin is Literal:
        # Which of its values it is, is for the request to say.
        return any(type(value) is type(each) for each in inside)
    if origin in (Sequence, tuple):
        return isinstance(value, list | tuple) and all(_fits(each, inside[0]) for each in value)
    kind = _NUMBERS.get(hint, hint)
    return isinstance(value, kind) and (hint is bool or not isinstance(value, bool))


def _told(hint: Any) -> str:
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_told(each) for each in inside)
    if origin is Literal:
        return " or ".join(repr(each) for each in inside)
    if origin in (Sequence, tuple):
        return f"a list of {_told(inside[0])}"
    words = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "None"}
    return words.get(hint, f"a {hint.__name__}")
