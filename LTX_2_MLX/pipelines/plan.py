"""What a run is going to do, told before any weights are loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.checkpoints.load import weights_bytes
from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.checkpoints.quantize import Quantization
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import MemoryBudgetError


@dataclass(frozen=True)
class PlannedStage:
    """One stage.

    Attributes:
        name: As in progress and reports.
        work: What it does, in words.
        file: Where its weights come from.
        weights_bytes: What they take in memory.
        activation_bytes: What its work takes beside them, results that wait for later stages included.
        seconds: How long it will take, where this machine's rate is known.
    """

    name: str
    work: str
    file: Path
    weights_bytes: int
    activation_bytes: int = 0
    seconds: float | None = None

    @property
    def peak_bytes(self) -> int:
        """What the stage needs in all."""
        return self.weights_bytes + self.activation_bytes


@dataclass(frozen=True)
class Plan:
    """A whole run.

    Attributes:
        sizes: Lines that tell the film's sizes.
        stages: In order; each one's weights are gone before the next one's come.
        budget_bytes: What a stage may take; None: nobody has said.
        output_bytes: Disk that the film takes at the very least.
        states_bytes: Disk that its kept states take, where they are kept.
    """

    sizes: tuple[str, ...]
    stages: tuple[PlannedStage, ...]
    budget_bytes: int | None = None
    output_bytes: int = 0
    states_bytes: int = 0

    @property
    def largest(self) -> PlannedStage:
        """The stage that needs most: stages come one after another, so it is what the run needs."""
        return max(self.stages, key=lambda stage: stage.peak_bytes)

    @property
    def largest_bytes(self) -> int:
        """Peak of the largest stage; none where there is nothing to do."""
        return self.largest.peak_bytes if self.stages else 0

    @property
    def fits(self) -> bool:
        """Whether every stage stays within the budget."""
        return self.budget_bytes is None or self.largest_bytes <= self.budget_bytes

    def check(self, cure: str) -> None:
        """Raise ``MemoryBudgetError`` if a stage exceeds the budget; ``cure`` says what to pass instead."""
        if not self.fits:
            raise MemoryBudgetError(
                f"{self.largest.name} needs about {_size(self.largest_bytes)}, the budget is "
                f"{_size(self.budget_bytes)}. {cure} --force goes on regardless."
            )

    @property
    def seconds(self) -> float | None:
        """Time of all stages, where this machine's rates are known for each that matters."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if known else None

    def as_json(self) -> dict[str, Any]:
        """The plan for a program: bytes by stage."""
        stages = [
            {
                "stage": stage.name,
                "work": stage.work,
                "file": str(stage.file),
                "weights_bytes": stage.weights_bytes,
                "activation_bytes": stage.activation_bytes,
                "peak_bytes": stage.peak_bytes,
                "seconds": stage.seconds,
            }
            for stage in self.stages
        ]
        return {
            "sizes": list(self.sizes),
            "stages": stages,
            "peak_bytes": self.largest_bytes,
            "budget_bytes": self.budget_bytes,
            "fits": self.fits,
            "output_bytes": self.output_bytes,
            "states_bytes": self.states_bytes,
            "seconds": self.seconds,
        }

    def lines(self) -> list[str]:
        """The plan for a person to read."""
        if not self.stages:
            return list(self.sizes)
        names = max(len(stage.name) for stage in self.stages)
        works = max(len(stage.work) for stage in self.stages)
        rows = [
            f"{stage.name:<{names}}  {stage.work:<{works}}  weights {_size(stage.weights_bytes):>10}  "
            f"peak {_size(stage.peak_bytes):>10}  {stage.file.name}"
            for stage in self.stages
        ]
        lines = [*self.sizes, *rows, f"Peak: {self.largest.name} with {_size(self.largest_bytes)}{self._verdict()}."]
        if self.output_bytes or self.states_bytes:
            states = f", {_size(self.states_bytes)} for its states" if self.states_bytes else ""
            lines.append(f"Disk: at least {_size(self.output_bytes)} for the film{states}.")
        if self.seconds is not None:
            lines.append(f"Time: about {self.seconds / 60:.0f} minutes of denoising on this machine.")
        return lines

    def _verdict(self) -> str:
        if self.budget_bytes is None:
            return ""
        return f" of {_size(self.budget_bytes)} that may be used" + ("" if self.fits else ": it does not fit")


def together(stages: Sequence[PlannedStage]) -> tuple[PlannedStage, ...]:
    """Stages whose frames flow from one to the next: while one works, the weights of the others are there as well."""
    weights = sum(stage.weights_bytes for stage in stages)
    return tuple(
        replace(stage, activation_bytes=stage.activation_bytes + weights - stage.weights_bytes) for stage in stages
    )


def planned(
    name: str,
    work: str,
    checkpoint: Checkpoint,
    networks: Sequence[type[nn.Module]],
    *,
    dtype: mx.Dtype,
    loras: Sequence[Lora] = (),
    quantize: Quantization | None = None,
    stream_blocks: bool = False,
    activation_bytes: int = 0,
    seconds: float | None = None,
) -> PlannedStage:
    """One stage, its files checked as loading will check them.

    Raises:
        CheckpointError: If the file is of another network, or does not fit it.
    """
    held = {"dtype": dtype, "loras": loras, "quantize": quantize, "stream_blocks": stream_blocks}
    count = sum(_weights_bytes(network, checkpoint, **held) for network in networks)
    return PlannedStage(
        name=name,
        work=work,
        file=checkpoint.path,
        weights_bytes=count,
        activation_bytes=activation_bytes,
        seconds=seconds,
    )


# Bytes that were counted before: where a plan has to be made to fit, the same weights are asked for again and again.
_counted: dict[tuple[Any, ...], int] = {}


def _weights_bytes(network: type[nn.Module], checkpoint: Checkpoint, *, loras: Sequence[Lora], **held: Any) -> int:
    files = [*checkpoint.files, *(lora.checkpoint.path for lora in loras)]
    states = [(str(path), (about := path.stat()).st_size, about.st_mtime_ns) for path in files]
    key = (network, *states, *(lora.strength for lora in loras), *map(str, held.values()))
    if key not in _counted:
        _counted[key] = weights_bytes(network, checkpoint, loras=loras, **held)
    return _counted[key]


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"
