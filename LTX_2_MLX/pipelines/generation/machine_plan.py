"""Plan of a run on several machines: memory of each, bytes that they exchange in a step, and the time of a step."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.ops.collective import Group
from LTX_2_MLX.ops.device import device_name
from LTX_2_MLX.pipelines.generate import plan_for, stages_for
from LTX_2_MLX.pipelines.generation.fastest_way import Speed, StepWork, Way, ways_text, work_of, works_of
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.planning.plan import RATES, Plan, format_bytes, seconds_of
from LTX_2_MLX.runtime.machines import Machines, acting_as
from LTX_2_MLX.runtime.this_machine import mac_budget_bytes

MODES: tuple[Way, ...] = ("guidance", "sequence", "blocks")
# Bytes a second: 10GBASE-T by IEEE 802.3an, and the rates that Intel publishes for Thunderbolt 4 and 5. TCP and RDMA
# reach less.
LINKS = {"10 GbE": 10e9 / 8, "Thunderbolt 4": 40e9 / 8, "Thunderbolt 5": 80e9 / 8}
_MOST_MACHINES = 64


@dataclass(frozen=True)
class ModePlan:
    """A way to share the work.

    Attributes:
        mode: Its name.
        peaks: Bytes of each machine's largest stage.
        fits: Whether each of them may take so much.
        step_bytes: Bytes that each machine sends in a step of the first denoising stage.
        work: Time of the transformer's work in such a step, one machine's being 1; the machines are equally fast.
    """

    mode: Way
    peaks: tuple[int, ...]
    fits: bool
    step_bytes: int
    work: float


def sizes_of(machines: str) -> list[float]:
    """GB of memory of each machine in a text such as ``2x24GB,1x64GB``.

    Raises:
        RequestError: If it is no such text.
    """
    sizes: list[float] = []
    for part in machines.split(","):
        match = re.fullmatch(r"\s*(?:(\d{1,2})\s*x\s*)?(\d{1,4})\s*(?:GB)?\s*", part, flags=re.IGNORECASE)
        if match is None or not int(match[2]):
            raise RequestError(f"--machines is {machines!r:.60}, expected a text such as 2x24GB,1x64GB.")
        sizes += [float(match[2])] * int(match[1] or 1)
    if not 2 <= len(sizes) <= _MOST_MACHINES:
        raise RequestError(f"--machines names {len(sizes)} machines, expected 2 to {_MOST_MACHINES}.")
    return sizes


def mode_plans(request: Request, options: Options, budgets: Sequence[int]) -> list[ModePlan]:
    """Every way to share the work among machines that may take so many bytes."""
    first = first_step(request)
    found = []
    for mode in MODES:
        if mode == "blocks" and first.config.num_layers < len(budgets):
            continue
        shared = replace(request, models=replace(request.models, parallel=mode))
        peaks = []
        # Without a division of blocks all machines need the same.
        for rank in range(len(budgets)) if mode == "blocks" else (0,):
            with acting_as(Machines(Group(rank, len(budgets)))):
                peaks.append(plan_for(shared, options).largest_bytes)
        if mode != "blocks":
            peaks *= len(budgets)
        found.append(
            ModePlan(
                mode=mode,
                peaks=tuple(peaks),
                fits=all(peak <= budget for peak, budget in zip(peaks, budgets, strict=True)),
                step_bytes=first.sent_bytes(mode, len(budgets)),
                work=work_of(mode, first.num_passes, len(budgets)),
            )
        )
    return found


def fitting_modes(plans: Sequence[ModePlan]) -> list[Way]:
    """The ways that auto chooses from: those that need the memory of one machine, or else its blocks; none may fit."""
    fitting = [plan.mode for plan in plans if plan.fits]
    return [mode for mode in fitting if mode != "blocks"] or fitting


def text_of(
    request: Request,
    options: Options,
    plan: Plan,
    budgets: Sequence[int],
    speeds: Mapping[str, Speed],
    *,
    as_json: bool,
) -> str:
    """The plan of one machine and those of several, as a dry run prints them.

    Args:
        request: To plan.
        options: That it came from.
        plan: Of one machine.
        budgets: Bytes that each machine may take.
        speeds: Of the machines, by a name; auto chooses by them.
        as_json: For a program, not for a person.

    Raises:
        RequestError: If the pipeline has no such plan.
    """
    plans = mode_plans(request, options, budgets)
    works = works_of(stages_for(request))
    if as_json:
        machines = {"budgets": list(budgets), "ways": [asdict(each) for each in plans]}
        machines["auto"] = auto_json(plans, works, len(budgets), speeds)
        return json.dumps(plan.as_json() | {"machines": machines}, indent=1)
    seconds = seconds_of(first_step(request).operations)
    lines = [*plan.lines(), *lines_of(plans, budgets, seconds), *auto_lines(plans, works, len(budgets), speeds)]
    return "\n".join(lines)


def lines_of(plans: Sequence[ModePlan], budgets: Sequence[int], seconds: float | None) -> Iterator[str]:
    """The plans for a person to read.

    Args:
        plans: From ``mode_plans``.
        budgets: Bytes that each machine may take.
        seconds: Of a step's work on one machine, where its rate is known.
    """
    yield f"On {len(budgets)} machines, computed from the headers and the links' published rates, not measured:"
    yield f"Each may take: {', '.join(map(format_bytes, budgets))}"
    for plan in plans:
        peaks = ", ".join(map(format_bytes, plan.peaks))
        yield f"{plan.mode}: peak {peaks}{'' if plan.fits else ': it does not fit'}"
        times = []
        for link, rate in LINKS.items():
            sent = plan.step_bytes / rate
            total = "" if seconds is None else f", a step {seconds * plan.work + sent:.2f} s"
            times.append(f"{link} {sent:.3f} s{total}")
        sends = f"sends {format_bytes(plan.step_bytes)} in a step ({'; '.join(times)})"
        yield f"  {plan.work:.2f} of one machine's work in a step, {sends}"


def auto_lines(
    plans: Sequence[ModePlan], works: Mapping[str, Sequence[StepWork]], machines: int, speeds: Mapping[str, Speed]
) -> Iterator[str]:
    """What auto takes: of the ways that fit the fastest in each kind of step, for each of the speeds."""
    modes = fitting_modes(plans)
    if not modes:
        yield "No way fits: name more machines, or pass --quantize 8."
    elif modes == ["blocks"]:
        yield "auto takes blocks, the only way that fits."
    else:
        for name, speed in speeds.items():
            yield f"auto at {name} ({speed}): {ways_text(works, machines, speed)}"


def auto_json(
    plans: Sequence[ModePlan], works: Mapping[str, Sequence[StepWork]], machines: int, speeds: Mapping[str, Speed]
) -> Any:
    """The same for a program."""
    modes = fitting_modes(plans)
    if not modes or modes == ["blocks"]:
        return modes[0] if modes else None
    found = {}
    for name, speed in speeds.items():
        stages = {}
        for stage, kinds in works.items():
            ways = []
            for work in kinds:
                way = work.fastest(machines, speed)
                seconds = work.seconds(way, machines, speed)
                ways.append({"passes": work.num_passes, "way": way, "seconds": seconds})
            stages[stage] = ways
        found[name] = stages
    return found


def published_speeds() -> dict[str, Speed]:
    """This chip, or where its rate is unknown those that are known, with every link."""
    own = device_name()
    chips = {own: RATES[own]} if own in RATES else RATES
    return {f"{chip}, {link}": Speed(rate, sent) for chip, rate in chips.items() for link, sent in LINKS.items()}


def first_step(request: Request) -> StepWork:
    """A step of the first denoising stage."""
    return next(iter(works_of(stages_for(request)).values()))[0]


def mac_budgets(machines: str) -> list[int]:
    """Bytes that a run may take on each of the Macs in a text such as ``2x24GB,1x64GB``."""
    return [mac_budget_bytes(size) for size in sizes_of(machines)]
