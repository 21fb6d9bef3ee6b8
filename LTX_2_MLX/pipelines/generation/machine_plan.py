"""Plan of a run on several machines: memory of each, bytes that they exchange in a step, and the time of a step."""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from LTX_2_MLX.checkpoints.recognise import config_of
from LTX_2_MLX.diffusion.guidance import passes
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.models.ltx.config import TransformerConfig, transformer_operations
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.ops.collective import Group
from LTX_2_MLX.pipelines.generate import plan_for, stages_for
from LTX_2_MLX.pipelines.generation.denoise import Denoise
from LTX_2_MLX.pipelines.generation.option_groups.memory import ParallelMode
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.planning.plan import Plan, format_bytes, seconds_of
from LTX_2_MLX.runtime.machines import Machines, acting_as
from LTX_2_MLX.runtime.memory import mac_budget_bytes

MODES: tuple[ParallelMode, ...] = ("guidance", "sequence", "blocks")
# Bytes a second: 10GBASE-T by IEEE 802.3an, and the rates that Intel publishes for Thunderbolt 4 and 5. TCP and RDMA
# reach less.
LINKS = {"10 GbE": 10e9 / 8, "Thunderbolt 4": 40e9 / 8, "Thunderbolt 5": 80e9 / 8}
_FLOAT32_BYTES = 4
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

    mode: ParallelMode
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
    first = _first_denoising(request)
    config = config_of(Transformer, request.models.weights)
    found = []
    for mode in MODES:
        if mode == "blocks" and config.num_layers < len(budgets):
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
                step_bytes=step_bytes(mode, config, first, len(budgets)),
                work=work_of(mode, len(passes(first.guidance)), len(budgets)),
            )
        )
    return found


def best_mode(plans: Sequence[ModePlan]) -> ModePlan | None:
    """The way that fits and has the least work in a step, of equal ones that with the fewest bytes; None: none fits."""
    fitting = [plan for plan in plans if plan.fits]
    return min(fitting, key=lambda plan: (plan.work, plan.step_bytes)) if fitting else None


def step_bytes(mode: ParallelMode, config: TransformerConfig, stage: Denoise, machines: int) -> int:
    """Bytes that the machine which sends most sends in a step. In a ring every gathered array passes every machine."""
    size = stage.size()
    tokens = size["tokens"]
    item = stage.models.dtype.size
    num_passes = len(passes(stage.guidance))
    video, audio = config.video, config.audio
    latents = _FLOAT32_BYTES * tokens * video.in_channels
    hidden = item * tokens * video.width
    # Keys and values: those of the video, and those that the audio attends to.
    keys = 2 * item * tokens * video.width
    if audio is not None:
        latents += _FLOAT32_BYTES * size["audio_tokens"] * audio.in_channels
        hidden += item * size["audio_tokens"] * audio.width
        keys += 2 * item * tokens * audio.width
    if mode == "guidance":
        return (machines - 1) * math.ceil(num_passes / machines) * latents
    if mode == "blocks":
        return num_passes * (hidden + (machines - 1) * latents)
    return num_passes * (machines - 1) * (config.num_layers * keys + latents) // machines


def work_of(mode: ParallelMode, num_passes: int, machines: int) -> float:
    """Time of a step's work, one machine's being 1."""
    if mode == "guidance":
        return math.ceil(num_passes / machines) / num_passes
    if mode == "blocks":
        # The first pass goes through all machines, the others follow one behind the other.
        return (num_passes + machines - 1) / (machines * num_passes)
    return 1 / machines


def text_of(request: Request, options: Options, plan: Plan, budgets: Sequence[int], *, as_json: bool) -> str:
    """The plan of one machine and those of several, as a dry run prints them.

    Args:
        request: To plan.
        options: That it came from.
        plan: Of one machine.
        budgets: Bytes that each machine may take.
        as_json: For a program, not for a person.

    Raises:
        RequestError: If the pipeline has no such plan.
    """
    plans = mode_plans(request, options, budgets)
    best = best_mode(plans)
    if as_json:
        machines = {"budgets": list(budgets), "ways": [asdict(each) for each in plans], "best": best and best.mode}
        return json.dumps(plan.as_json() | {"machines": machines}, indent=1)
    first = _first_denoising(request)
    config = config_of(Transformer, request.models.weights)
    seconds = seconds_of(transformer_operations(config, **first.size()) * len(passes(first.guidance)))
    return "\n".join([*plan.lines(), *lines_of(plans, budgets, seconds)])


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
    best = best_mode(plans)
    yield "No way fits: name more machines, or pass --quantize 8." if best is None else f"Best: --parallel {best.mode}"


def _first_denoising(request: Request) -> Denoise:
    for stage in stages_for(request):
        if isinstance(stage, Denoise):
            return stage
    raise RequestError("--pipeline dfr has no plan for several machines. Plan another pipeline.")


def mac_budgets(machines: str) -> list[int]:
    """Bytes that a run may take on each of the Macs in a text such as ``2x24GB,1x64GB``."""
    return [mac_budget_bytes(size) for size in sizes_of(machines)]
