"""What a run is going to do, told before any weights are loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.checkpoints.load import weights_bytes
from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.checkpoints.quantize import Quantization
from LTX_2_MLX.checkpoints.reader import Checkpoint


@dataclass(frozen=True)
class PlannedStage:
    """One stage.

    Attributes:
        name: As in progress and reports.
        work: What it does, in words.
        file: Where its weights come from.
        weights_bytes: What they take in memory.
        activation_bytes: What its work takes beside them, results that wait for later stages included.
    """

    name: str
    work: str
    file: Path
    weights_bytes: int
    activation_bytes: int = 0

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
    """

    sizes: tuple[str, ...]
    stages: tuple[PlannedStage, ...]

    @property
    def largest(self) -> PlannedStage:
        """The stage that needs most: stages come one after another, so it is what the run needs."""
        return max(self.stages, key=lambda stage: stage.peak_bytes)

    @property
    def largest_bytes(self) -> int:
        """Peak of the largest stage."""
        return self.largest.peak_bytes

    def as_json(self) -> dict[str, object]:
        """The plan for a program: bytes by stage."""
        stages = [
            {
                "stage": stage.name,
                "work": stage.work,
                "file": str(stage.file),
                "weights_bytes": stage.weights_bytes,
                "activation_bytes": stage.activation_bytes,
                "peak_bytes": stage.peak_bytes,
            }
            for stage in self.stages
        ]
        return {"sizes": list(self.sizes), "stages": stages, "peak_bytes": self.largest_bytes}

    def lines(self) -> list[str]:
        """The plan for a person to read."""
        names = max(len(stage.name) for stage in self.stages)
        works = max(len(stage.work) for stage in self.stages)
        rows = [
            f"{stage.name:<{names}}  {stage.work:<{works}}  weights {_size(stage.weights_bytes):>10}  "
            f"peak {_size(stage.peak_bytes):>10}  {stage.file.name}"
            for stage in self.stages
        ]
        return [*self.sizes, *rows, f"Peak: {self.largest.name} with {_size(self.largest_bytes)}."]


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
) -> PlannedStage:
    """One stage, its files checked as loading will check them.

    Raises:
        CheckpointError: If the file is of another network, or does not fit it.
    """
    held = {"dtype": dtype, "loras": loras, "quantize": quantize, "stream_blocks": stream_blocks}
    count = sum(weights_bytes(network, checkpoint, **held) for network in networks)
    return PlannedStage(
        name=name, work=work, file=checkpoint.path, weights_bytes=count, activation_bytes=activation_bytes
    )


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"
