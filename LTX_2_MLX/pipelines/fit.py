"""A plan that does not fit into memory to the nearest one that does.

Nearest is what changes the film least: fewer bits or blocks on disk for the weights, smaller tiles for the decoder, and
only then fewer frames.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from LTX_2_MLX.errors import MemoryBudgetError, RequestError
from LTX_2_MLX.pipelines.plan import Plan
from LTX_2_MLX.runtime.memory import GIB

# How weights are held, nearest first: bits of the large layers, and whether blocks stay on disk.
_HELD = ((None, False), (8, False), (None, True), (8, True), (4, False), (4, True))
# Sides of the decoder's tiles in pixels: multiples of every published compression.
_TILES = (512, 384, 256, 192, 128)
_FRAMES_STEP = 8


class Fitting(Protocol):
    """Options that can be changed to need less."""

    quantize: int | None
    low_ram: bool
    tile_size: int | None
    frames: int | None
    duration: float | None


Asked = TypeVar("Asked", bound=Fitting)


@dataclass(frozen=True)
class Fitted(Generic[Asked]):
    """Options whose plan fits, that plan, and the flags that tell them from what was asked for."""

    options: Asked
    plan: Plan
    flags: tuple[str, ...]


def nearest(asked: Asked, num_frames: int, plan_of: Callable[[Asked], Plan], budget: int) -> Fitted[Asked] | None:
    """The nearest options whose plan fits.

    Args:
        asked: What does not fit.
        num_frames: Its frames, where ``asked`` leaves them to the model.
        plan_of: The plan of options; raises ``MemoryBudgetError`` where even that cannot be made.
        budget: Bytes that a stage may take.

    Returns:
        None where nothing fits: only a smaller picture would help.
    """

    def fits(options: Asked) -> Fitted[Asked] | None:
        try:
            plan = plan_of(options)
        except (MemoryBudgetError, RequestError):
            # Layers may be too narrow for groups of few bits, a tile too small for the cells.
            return None
        return Fitted(options, plan, _flags(asked, options)) if plan.largest_bytes <= budget else None

    def first(of: Asked) -> Fitted[Asked] | None:
        return next(filter(None, (_in_tiles(options, fits) for options in _held_otherwise(of))), None)

    return first(asked) or _longest(num_frames, lambda frames: first(replace(asked, frames=frames, duration=None)))


def refusal(plan: Plan | None, budget: int, found: Fitted | None) -> MemoryBudgetError:
    """Why a plan is not carried out, and what could be; ``plan`` is None where not even tiles are small enough."""
    needs, force = "decode needs more than there is even in its smallest tiles", ""
    if plan is not None:
        needs = f"{plan.largest.name} needs about {plan.largest_bytes / GIB:.2f} GiB"
        force = " --force goes on regardless."
    cure = "No plan of this size fits: pass a smaller --height and --width."
    if found is not None:
        peak = f"{found.plan.largest_bytes / GIB:.2f} GiB"
        cure = f"The nearest plan that fits takes {peak}: pass {' '.join(found.flags)}, or --fit to have it found."
    return MemoryBudgetError(f"{needs}, the budget is {budget / GIB:.2f} GiB. {cure}{force}")


def _held_otherwise(asked: Asked) -> Iterator[Asked]:
    """The same film with weights that take less and less; what was asked for stays at least as small."""
    bits = asked.quantize or 16
    for quantize, low_ram in _HELD:
        if (quantize or 16) <= bits and low_ram >= asked.low_ram:
            yield replace(asked, quantize=quantize, low_ram=low_ram)


def _in_tiles(options: Asked, fits: Callable[[Asked], Fitted[Asked] | None]) -> Fitted[Asked] | None:
    """The options with the largest tiles that make them fit; whole frames first."""
    given = options.tile_size
    sides = [given, *(side for side in _TILES if given is None or side < given)]
    # The smallest decides whether any does.
    if (found := fits(options)) or not fits(replace(options, tile_size=sides[-1])):
        return found
    return next(found for side in sides[1:] if (found := fits(replace(options, tile_size=side))))


def _longest(num_frames: int, of_length: Callable[[int], Fitted[Asked] | None]) -> Fitted[Asked] | None:
    """The longest film that fits: peaks never fall as it grows, so halving finds it."""
    best, low, high = None, 0, (num_frames - 1) // _FRAMES_STEP - 1
    while low <= high:
        middle = (low + high) // 2
        if found := of_length(_FRAMES_STEP * middle + 1):
            best, low = found, middle + 1
        else:
            high = middle - 1
    return best


def _flags(asked: Fitting, options: Fitting) -> tuple[str, ...]:
    changed = {
        name: getattr(options, name)
        for name in ("quantize", "low_ram", "tile_size", "frames")
        if getattr(options, name) != getattr(asked, name)
    }
    return tuple(
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}") for name, value in changed.items()
    )
