"""Options of commands and library calls: the annotation of a field, and the checks that follow from it.

An option is declared once, as a field of a frozen dataclass: ``cfg: Annotated[float | None, Opt(help=..., min=0)]``.
Flags, ranges, records, keys of saved stages and the tables of the documentation follow from that declaration.
"""

import math
import types
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.files import number, path_fault

# Finds a file on this machine, or leaves a choice to the model.
AUTO = "auto"
# On the command line: an optional value that is left out after all, such as ``--lora none``.
NONE = "none"
PRECISION_FLAGS = ("fp16", "bf16", "fp32")
_SHOWN_LETTERS = 60
_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text",
    Path: "a path",
    Fraction: "a rate such as 24 or 24000/1001",
}


@dataclass(frozen=True)
class Opt:
    """What is known of an option beside its name, type and default.

    Attributes:
        help: One sentence for ``--help`` and the documentation.
        group: Heading under which ``--help`` lists it.
        flags: Names on the command line; ``--name-of-the-field`` unless given.
        positional: An argument rather than a flag.
        only_on: A switch without a ``--no-`` form, since no record can turn it on.
        metavar: What ``--help`` shows for the value; the type unless given.
        default: What ``--help`` shows where the model or the pipeline decides.
        min, max: Bounds of a number, themselves allowed.
        above: Bound of a number that is not allowed itself.
        choices: The values allowed; those of a ``Literal`` need not be repeated.
        is_file: It names a file that is read: recorded as an absolute path, with a digest.
        is_output: It names a place to write: never recorded.
        is_rate: A number of frames per second.
        recorded: Whether a record of the run holds it.
        replaces: Options that say the same in another way; a typed option takes the place of a recorded one of them.
        needs: Without any of these other options it has no effect.
        only_in: Pipelines in which it has an effect; all unless given.
        reported: Without an effect it is reported, not refused: sets of files are passed as a whole.
        one_or_more: It may be given several times; a list of one value is that value.
        is_text: A path with more text after it, which is kept as text.
    """

    help: str
    group: str = "Options"
    flags: tuple[str, ...] = ()
    positional: bool = False
    only_on: bool = False
    metavar: str | None = None
    default: str | None = None
    min: float | None = None
    max: float | None = None
    above: float | None = None
    choices: tuple[Any, ...] = ()
    is_file: bool = False
    is_output: bool = False
    is_rate: bool = False
    recorded: bool = True
    replaces: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    only_in: tuple[str, ...] = ()
    reported: bool = False
    one_or_more: bool = False
    is_text: bool = False

    def has_effect(self, values: Mapping[str, Any]) -> bool:
        """Whether it has an effect in the pipeline and beside the other options, by the values of all options."""
        if self.only_in and values["pipeline"] not in self.only_in:
            return False
        for name in self.needs:
            if values[name] not in (None, False):
                return True
        return not self.needs


@dataclass(frozen=True)
class Declared:
    """One option of a dataclass.

    Attributes:
        name: Of the field.
        opt: Its annotation.
        kind: ``str``, ``int``, ``float``, ``bool``, ``Path`` or ``Fraction``.
        default: Of the field; ``dataclasses.MISSING`` where there is none.
        optional: Whether None is allowed.
        repeated: Whether it is a list.
        choices: The values allowed; empty where the type and bounds say it.
    """

    name: str
    opt: Opt
    kind: type
    default: Any
    optional: bool
    repeated: bool
    choices: tuple[Any, ...]

    @property
    def flag(self) -> str:
        """Its first name on the command line."""
        return self.opt.flags[0] if self.opt.flags else flag_of(self.name)


def flag_of(name: str) -> str:
    """``steps_stage1`` as ``--steps-stage1``."""
    return f"--{name.replace('_', '-')}"


@lru_cache
def declared_options(request: type) -> Mapping[str, Declared]:
    """The options of a dataclass by name, in the order of its fields."""
    hints = get_type_hints(request, include_extras=True)
    declared: dict[str, Declared] = {}
    for field in fields(request):
        hint, *notes = get_args(hints[field.name])
        opt = next(note for note in notes if isinstance(note, Opt))
        members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        plain = [member for member in members if member is not type(None)]
        repeated = get_origin(plain[0]) is tuple
        literals = get_args(plain[0]) if get_origin(plain[0]) is Literal else ()
        declared[field.name] = Declared(
            name=field.name,
            opt=opt,
            kind=_kind(plain, opt),
            default=field.default,
            optional=type(None) in members,
            repeated=repeated,
            choices=literals or opt.choices,
        )
    return declared


def _kind(members: list[Any], opt: Opt) -> type:
    if opt.is_rate:
        return Fraction
    if Path in members and not opt.is_text:
        return Path
    first = members[0]
    if get_origin(first) is tuple:
        first = get_args(first)[0]
    if get_origin(first) is Literal:
        return type(get_args(first)[0])
    return first


def check_options(request: Any) -> None:
    """Bring the fields of a frozen dataclass to their types, and hold them to their bounds.

    NumPy's numbers become Python's, ``~`` in paths the home folder, rates fractions.

    Raises:
        RequestError: If a value is of another type, or out of bounds.
    """
    options: type = type(request)
    for name, declared in declared_options(options).items():
        opt = declared.opt
        value = getattr(request, name)
        if value is None and declared.optional:
            continue

        is_list = isinstance(value, list | tuple)
        if declared.repeated and not is_list:
            raise _wrong_type(declared, value)
        if declared.repeated or (opt.one_or_more and is_list and value):
            elements = []
            for element in value:
                elements.append(_scalar(declared, element))
            value = tuple(elements) if declared.repeated or len(elements) > 1 else elements[0]
        else:
            value = _scalar(declared, value)

        if declared.choices:
            if value not in declared.choices:
                raise RequestError(f"{declared.flag} is {shown(value)}, it can be {listed(declared.choices)}.")
        elif (
            (opt.min is not None and value < opt.min)
            or (opt.above is not None and value <= opt.above)
            or (opt.max is not None and value > opt.max)
        ):
            raise RequestError(f"{declared.flag} is {shown(value, plain=True)}, it can be {bounds(opt)}.")
        object.__setattr__(request, name, value)


def refuse_without_effect(request: Any) -> None:
    """Raise ``RequestError`` for a changed option that belongs to other pipelines, or needs another that is off."""
    options: type = type(request)
    for name, declared in declared_options(options).items():
        opt = declared.opt
        if opt.reported or getattr(request, name) == declared.default or opt.has_effect(vars(request)):
            continue
        if opt.only_in and request.pipeline not in opt.only_in:
            others = " and ".join(other for other in opt.only_in if other != "text-to-video")
            raise RequestError(
                f"{declared.flag} belongs to {others}, but --pipeline is {request.pipeline}. Leave it out."
            )
        needed = " or ".join(map(flag_of, opt.needs))
        raise RequestError(f"{declared.flag} does nothing without {needed}. Pass both.")


def _scalar(declared: Declared, value: Any) -> Any:
    """A value, or one of several, in the type of its field."""
    kind = declared.kind
    if isinstance(value, str) and (kind is Path or declared.opt.is_file) and (fault := path_fault(value)):
        raise RequestError(f"{declared.flag} is {shown(value)}, which is no path of a file: {fault}.")
    if hasattr(value, "item") and hasattr(value, "dtype"):
        # A number of NumPy or MLX.
        value = value.item()
    if kind is Fraction:
        return frame_rate(value, declared.flag)
    if kind is Path and isinstance(value, str | Path):
        return Path(value).expanduser()
    if kind is str and isinstance(value, Path):
        return str(value)
    if kind is float and isinstance(value, int | float | Fraction) and not isinstance(value, bool):
        with suppress(OverflowError):
            if math.isfinite(value):
                return float(value)
        raise RequestError(f"{declared.flag} is {shown(value)}, expected a finite number.")
    if type(value) is not kind:
        raise _wrong_type(declared, value)
    if isinstance(value, str) and not declared.opt.is_file:
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _not_utf8(declared, error) from error
    return value


def _wrong_type(declared: Declared, value: Any) -> RequestError:
    expected = f"a list, each {_KINDS[declared.kind]}" if declared.repeated else _KINDS[declared.kind]
    none = " or None" if declared.optional else ""
    return RequestError(f"{declared.name} is {shown(value)}, expected {expected}{none}.")


def _not_utf8(declared: Declared, error: UnicodeEncodeError) -> RequestError:
    return RequestError(
        f"The text of {declared.name} is not UTF-8: it has a stray byte after {error.object[: error.start][-20:]!r}. "
        f"Check the encoding of the terminal or the file that it comes from."
    )


def bounds(opt: Opt) -> str:
    """The bounds of a number in words; empty where there are none."""
    if opt.above is not None:
        return f"above {opt.above:g}" + (f" up to {opt.max:g}" if opt.max is not None else "")
    if opt.min is not None and opt.max is not None:
        highest = str(opt.max) if isinstance(opt.max, int) else f"{opt.max:.10g}"
        return f"from {opt.min:.10g} to {highest}"
    if opt.min is not None:
        return f"at least {opt.min:g}"
    return "" if opt.max is None else f"at most {opt.max:.10g}"


def listed(choices: Collection[Any]) -> str:
    """``a, b, c``."""
    return ", ".join(str(choice) for choice in choices)


def shown(value: Any, *, plain: bool = False) -> str:
    """A value for a message, cut where it is long."""
    if isinstance(value, int) and abs(value) >= 10**_SHOWN_LETTERS:
        return "a number of more than 60 digits"
    text = f"{value:g}" if plain and isinstance(value, float) else str(value) if plain else repr(value)
    return text if len(text) <= _SHOWN_LETTERS else f"{text[:_SHOWN_LETTERS]}…"


def frame_rate(value: Any, flag: str) -> Fraction:
    """A rate of frames per second, above 0 up to 1000, from a number or from text such as ``24000/1001``.

    Raises:
        RequestError: If it is none.
    """
    text = str(value) if isinstance(value, int | float | Fraction | str) and not isinstance(value, bool) else ""
    if isinstance(value, Fraction) and 0 < value <= 1000:
        return value
    with suppress(ValueError, ArithmeticError):
        # Judged as a float first: the fraction of 1e99999999 is never done.
        top, _, bottom = text.partition("/")
        if 0 < number(top, float) / number(bottom or "1", float) <= 1000:
            return number(text, Fraction)
    raise RequestError(
        f"{flag} is {shown(value, plain=True)}, expected a rate above 0 up to 1000 such as 24 or 24000/1001."
    )


def options_of(request: type, given: Mapping[str, Any], call: str) -> dict[str, Any]:
    """The keyword arguments of a call as fields of its request: ``fp16=True`` becomes the request's ``precision``.

    Args:
        request: A frozen dataclass of options.
        given: Options by name.
        call: Name of the call, for messages.

    Raises:
        RequestError: If a name is not known, or two of them contradict each other.
    """
    declared = declared_options(request)
    options = dict(given)
    if "precision" in declared:
        flags = {name: bool(options.pop(name)) for name in PRECISION_FLAGS if name in options}
        if (flagged := precision(**flags)) is not None:
            if options.get("precision") not in (None, flagged):
                raise RequestError(f"precision={options['precision']!r} and {flagged}=True cannot go together.")
            options["precision"] = flagged
    unknown = sorted(options.keys() - declared.keys())
    if unknown:
        raise RequestError(f"{call} has no option {', '.join(unknown)}. It has: {', '.join(sorted(declared))}.")
    return options


def precision(*, fp16: bool = False, bf16: bool = False, fp32: bool = False) -> str | None:
    """The precision that was asked for; None where none was.

    Raises:
        RequestError: If it was more than one.
    """
    given = zip(PRECISION_FLAGS, (fp16, bf16, fp32), strict=True)
    names = [name for name, is_on in given if is_on]
    if len(names) > 1:
        raise RequestError(f"--{' and --'.join(names)} cannot go together. Leave one.")
    return names[0] if names else None
