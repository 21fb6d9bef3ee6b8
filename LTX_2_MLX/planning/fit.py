"""The nearest options whose plan fits into memory."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, TypeVar

from LTX_2_MLX.errors import MemoryBudgetError, RequestError
from LTX_2_MLX.planning.plan import Plan, format_bytes

# Fields of the options and their new values.
Change = Mapping[str, Any]
# A frozen dataclass whose fields are named after the command's flags.
Options = TypeVar("Options", bound=Any)


@dataclass(frozen=True)
class Fitted(Generic[Options]):
    """Options whose plan fits, that plan, and the flags in which they differ from what was asked for."""

    options: Options
    plan: Plan
    flags: tuple[str, ...]


def nearest(
    asked: Options, ladders: Iterable[Sequence[Change]], plan_of: Callable[[Options], Plan], budget: int
) -> Fitted[Options] | None:
    """The first change of the options by which their plan fits; None without any.

    Args:
        asked: Options that do not fit.
        ladders: Sequences of changes, the nearest sequence first; in each, memory falls from change to change.
        plan_of: The plan of options. Raises ``MemoryBudgetError`` or ``RequestError`` where they cannot be carried out.
        budget: Bytes that a stage may take.
    """
    for ladder in ladders:
        fitted = _first_that_fits(asked, ladder, plan_of, budget)
        if fitted is not None:
            return fitted
    return None


def longest(num_frames: int, step: int, fitted_at: Callable[[int], Fitted[Options] | None]) -> Fitted[Options] | None:
    """The longest video below ``num_frames`` that fits, of ``step * k + 1`` frames; None where no length fits.

    Memory never falls as a video gets longer, so halving finds it.
    """
    best = None
    low = 0
    high = (num_frames - 1) // step - 1
    while low <= high:
        middle = (low + high) // 2
        fitted = fitted_at(step * middle + 1)
        if fitted is None:
            high = middle - 1
        else:
            best = fitted
            low = middle + 1
    return best


def refusal(
    plan: Plan | None,
    budget: int,
    fitted: Fitted | None,
    otherwise: str = "No plan of this size fits: pass a smaller --height and --width.",
) -> MemoryBudgetError:
    """The error for a plan that does not fit, with the nearest that does.

    ``plan`` is None where the decoder does not fit even in its smallest tiles; ``otherwise`` is the advice without a
    plan that fits.
    """
    needs = f"decode needs more than there is even in its smallest tiles, the budget is {format_bytes(budget)}."
    if fitted is not None:
        needs = "decode does not fit with automatic tiling, which leaves half of the memory free, the budget is "
        needs += f"{format_bytes(budget)}."
    force = ""
    if plan is not None:
        needs = plan.problem(budget)
        force = " --force goes on regardless."
    advice = otherwise
    if fitted is not None:
        peak = format_bytes(fitted.plan.largest_bytes)
        flags = " ".join(fitted.flags)
        advice = f"The nearest plan that fits takes {peak}: pass {flags}, or --fit to change the options automatically."
    return MemoryBudgetError(f"{needs} {advice}{force}")


def _first_that_fits(
    asked: Options, ladder: Sequence[Change], plan_of: Callable[[Options], Plan], budget: int
) -> Fitted[Options] | None:
    nearest_change, *others = ladder
    fitted = _fitted(asked, nearest_change, plan_of, budget)
    # Where the change that needs least does not fit, none of the others does.
    if fitted or not others or not _fitted(asked, others[-1], plan_of, budget):
        return fitted
    attempts = (_fitted(asked, change, plan_of, budget) for change in others)
    return next(attempt for attempt in attempts if attempt)


def _fitted(asked: Options, change: Change, plan_of: Callable[[Options], Plan], budget: int) -> Fitted[Options] | None:
    try:
        options = replace(asked, **change)
        plan = plan_of(options)
    except (MemoryBudgetError, RequestError):
        # Layers may be too narrow for groups of few bits, a tile too small for the compression.
        return None
    return Fitted(options, plan, _flags(asked, options)) if plan.arrays_fit and plan.largest_bytes <= budget else None


def _flags(asked: Options, options: Options) -> tuple[str, ...]:
    """Flags of the fields that were changed to a value; a field that is cleared has none."""
    flags = []
    for field in fields(options):
        value = getattr(options, field.name)
        if value == getattr(asked, field.name) or value is None:
            continue
        flag = f"--{field.name.replace('_', '-')}"
        flags.append(flag if value is True else f"{flag} {value}")
    return tuple(flags)
