"""Time of a denoising step on several machines, by each way to share it, and the way that takes the least."""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import mlx.core as mx

from LTX_2_MLX.models.ltx.config import TransformerConfig, transformer_operations
from LTX_2_MLX.ops.collective import Group
from LTX_2_MLX.ops.device import on_cpu

if TYPE_CHECKING:
    from LTX_2_MLX.runtime.machines import Machines

Way = Literal["guidance", "sequence", "blocks"]
_FLOAT32_BYTES = 4
# Of a measured product: some hundredths of a second.
_WIDTH_ON_CPU = 512
_WIDTH_ON_GPU = 4096
# Of measured exchanges: one that a link needs some hundredths of a second for, and one that takes no more than its way.
_MEASURED_BYTES = 4 * 2**20
_FEW_BYTES = 4
_TIMES = 3


class Speed(NamedTuple):
    """What several machines do in a second.

    Attributes:
        operations: Floating-point operations of the slowest machine.
        link: Bytes that a machine sends to the next.
        wait: Seconds that an exchange takes at least.
    """

    operations: float
    link: float
    wait: float = 0.0

    def __str__(self) -> str:
        waits = f", {1e3 * self.wait:.1f} ms for an exchange" if self.wait else ""
        return f"{self.operations / 1e12:.2f} TFLOP/s a machine, {self.link / 1e9:.2f} GB/s between them{waits}"


@dataclass(frozen=True)
class StepWork:
    """A denoising step.

    Attributes:
        config: Of the transformer.
        tokens: Of the video.
        audio_tokens: Of the sound.
        text_tokens: Of the prompt.
        dtype: Of the network.
        num_passes: Of guidance.
    """

    config: TransformerConfig
    tokens: int
    audio_tokens: int
    text_tokens: int
    dtype: mx.Dtype
    num_passes: int

    @property
    def operations(self) -> float:
        """Floating-point operations of all passes."""
        size = {"tokens": self.tokens, "audio_tokens": self.audio_tokens, "text_tokens": self.text_tokens}
        return self.num_passes * transformer_operations(self.config, **size)

    def sent_bytes(self, way: Way, machines: int) -> int:
        """Bytes that the machine which sends most sends. In a ring every gathered array passes every machine."""
        video, audio = self.config.video, self.config.audio
        item = self.dtype.size
        latents = _FLOAT32_BYTES * self.tokens * video.in_channels
        audio_latents = 0 if audio is None else _FLOAT32_BYTES * self.audio_tokens * audio.in_channels
        if way == "guidance":
            return (machines - 1) * math.ceil(self.num_passes / machines) * (latents + audio_latents)
        if way == "blocks":
            hidden = item * self.tokens * video.width
            hidden += 0 if audio is None else item * self.audio_tokens * audio.width
            return self.num_passes * (hidden + (machines - 1) * (latents + audio_latents))
        # Keys and values: those of the video, and those that the audio attends to.
        keys = 2 * item * self.tokens * (video.width + (0 if audio is None else audio.width))
        shared = (machines - 1) * (self.config.num_layers * keys + latents) // machines
        return self.num_passes * (shared + (machines - 1) * audio_latents)

    def exchanges(self, way: Way, machines: int) -> int:
        """Exchanges one after another."""
        streams = 1 if self.config.audio is None else 2
        if way == "guidance":
            return math.ceil(self.num_passes / machines) * streams
        if way == "blocks":
            return self.num_passes * (1 + streams)
        return self.num_passes * streams * (self.config.num_layers + 1)

    def seconds(self, way: Way, machines: int, speed: Speed) -> float:
        """Of the step: its work, and the exchanges beside it."""
        work = self.operations / speed.operations * work_of(way, self.num_passes, machines)
        sent = self.sent_bytes(way, machines) / speed.link
        return work + sent + self.exchanges(way, machines) * speed.wait

    def fastest(self, machines: int, speed: Speed) -> Way:
        """Of the ways that need as much memory as one machine; of two that take equally long the passes of guidance.

        Sharing the passes of a step that has one means that the first machine computes it.
        """
        ways: tuple[Way, ...] = ("guidance", "sequence")
        return min(ways, key=lambda way: self.seconds(way, machines, speed))


def work_of(way: Way, num_passes: int, machines: int) -> float:
    """Time of a step's work, one machine's being 1; the machines are equally fast."""
    if way == "guidance":
        return math.ceil(num_passes / machines) / num_passes
    if way == "blocks":
        # The first pass goes through all machines, the others follow one behind the other.
        return (num_passes + machines - 1) / (machines * num_passes)
    return 1 / machines


def works_of(stages: Iterable[Any]) -> dict[str, Sequence[StepWork]]:
    """The kinds of steps of each denoising stage, by its name."""
    return {stage.name: stage.step_works() for stage in stages if hasattr(stage, "step_works")}


def ways_text(works: Mapping[str, Sequence[StepWork]], machines: int, speed: Speed) -> str:
    """Which way is the fastest in each stage, and how long its steps take."""
    parts = []
    for name, kinds in works.items():
        for work in kinds:
            way = work.fastest(machines, speed)
            seconds = work.seconds(way, machines, speed)
            steps = f"{name}" if len(kinds) == 1 else f"{name}, {work.num_passes} pass{'es' * (work.num_passes > 1)}"
            parts.append(f"{steps}: {way}, {seconds:.2g} s a step")
    return "; ".join(parts)


def measured_speed(everyone: "Machines", dtype: mx.Dtype) -> Speed:
    """The machines' speed in matrix products of a dtype, and that of their exchanges; the same on all of them."""
    width = _WIDTH_ON_CPU if on_cpu() else _WIDTH_ON_GPU
    matrix = mx.random.normal((width, width), key=mx.random.key(0)).astype(dtype)
    operations = 2 * width**3 / _median_seconds(lambda: mx.eval(matrix @ matrix))
    group = everyone.group
    wait = _median_seconds(lambda: _exchange(group, _FEW_BYTES))
    seconds = max(_median_seconds(lambda: _exchange(group, _MEASURED_BYTES)) - wait, 1e-9)
    sent = (group.size - 1) * _MEASURED_BYTES
    found = [Speed(*values) for _, values in everyone.exchange([operations, sent / seconds, wait])]
    return Speed(
        operations=min(speed.operations for speed in found),
        link=min(speed.link for speed in found),
        wait=max(speed.wait for speed in found),
    )


def _exchange(group: Group, num_bytes: int) -> None:
    mx.eval(group.gather(mx.zeros((num_bytes,), mx.uint8)))


def _median_seconds(work: Callable[[], None]) -> float:
    """Seconds of a piece of work that has been done once before."""
    work()
    seconds = []
    for _ in range(_TIMES):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
