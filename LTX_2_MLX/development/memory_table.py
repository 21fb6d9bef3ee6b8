"""Tables of what runs of a model take on Macs of several sizes, by the plan that every run makes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from LTX_2_MLX.errors import MemoryBudgetError
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.pipelines.generate import plan_for, prepare
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.request import request_for
from LTX_2_MLX.runtime.this_machine import mac_budget_bytes

# GiB of a Mac.
MACS = (8, 16, 24, 32, 48, 64, 96, 128, 192)
PRESETS: dict[str, dict[str, Any]] = {
    "two-stage 256×384×33": {"height": 256, "width": 384, "frames": 33},
    "two-stage 480×704×97": {"height": 480, "width": 704, "frames": 97},
    "the same with --temporal-upscale": {"height": 480, "width": 704, "frames": 97, "temporal_upscale": True},
    "distilled 480×704×97": {"pipeline": "distilled", "height": 480, "width": 704, "frames": 97},
}
# Of LTX-2.5, whose detailing LoRA has no published list of tensors to plan with.
_RENDERING = {"pipeline": "dfr", "height": 960, "width": 1408, "frames": 97, "detailing_lora": "none"}
RENDERINGS: dict[str, dict[str, Any]] = {
    "dfr 960×1408×97": _RENDERING,
    "the same with --rounds 1": _RENDERING | {"rounds": 1},
}


def table_lines(
    files: Mapping[str, Any], macs: Sequence[int], presets: Mapping[str, Mapping[str, Any]] = PRESETS
) -> Iterator[str]:
    """Lines of two tables in Markdown: every stage's memory, and what fits on each Mac.

    Args:
        files: The model's files, as options.
        macs: GiB of each Mac.
        presets: Names of runs, and their options.
    """
    runs = [Options("a red ball", **files, **preset, precision="bf16") for preset in presets.values()]
    with as_backend("gpu"):
        yield "| stage, GiB | " + " | ".join(presets) + " |"
        yield "|---|" + "---|" * len(presets)
        columns = [each_stage(run) for run in runs]
        for name in dict.fromkeys(stage for column in columns for stage in column):
            yield f"| {name} | " + " | ".join(column.get(name, "") for column in columns) + " |"
        yield "\n| Mac | may be used | " + " | ".join(presets) + " |"
        yield "|---|---|" + "---|" * len(presets)
        for mac in macs:
            budget = mac_budget_bytes(mac)
            cells = [nearest_on(budget, run) for run in runs]
            yield f"| {mac} GB | {budget / 2**30:.1f} GiB | " + " | ".join(cells) + " |"


def each_stage(options: Options) -> dict[str, str]:
    """Weights and activations of every stage as text."""
    made = plan_for(request_for(options), options)
    return {s.name: f"{s.weights_bytes / 2**30:.1f} + {s.activation_bytes / 2**30:.1f}" for s in made.stages}


def nearest_on(budget: int, options: Options) -> str:
    """Flags with which a video fits, and its peak then."""
    asked = replace(options, memory_limit_gb=budget / 2**30, fit=True)
    try:
        notes: list[str] = []
        found = prepare(asked, notes.append)
    except MemoryBudgetError:
        return "too large"
    flags = next((note.partition(": ")[2] for note in notes if note.startswith("To fit")), "as it is")
    return f"{flags} ({found.plan.largest.name} {found.plan.largest_bytes / 2**30:.1f})"
