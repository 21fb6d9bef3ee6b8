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
    """

    name: str
    work: str
    file: Path
    weights_bytes: int


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
    def largest_bytes(self) -> int:
        """Weights of the largest stage."""
        return max(stage.weights_bytes for stage in self.stages)

    def lines(self) -> list[str]:
        """The plan for a person to read."""
        names = max(len(stage.name) for stage in self.stages)
        works = max(len(stage.work) for stage in self.stages)
        rows = [
            f"{stage.name:<{names}}  {stage.work:<{works}}  weights {_size(stage.weights_bytes):>10}  {stage.file.name}"
            for stage in self.stages
        ]
        return [*self.sizes, *rows, f"The largest stage holds {_size(self.largest_bytes)} of weights."]


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
) -> PlannedStage:
    """One stage, its files checked as loading will check them.

    Raises:
        CheckpointError: If the file is of another network, or does not fit it.
    """
    held = {"dtype": dtype, "loras": loras, "quantize": quantize, "stream_blocks": stream_blocks}
    count = sum(weights_bytes(network, checkpoint, **held) for network in networks)
    return PlannedStage(name=name, work=work, file=checkpoint.path, weights_bytes=count)


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.1f} MiB"
