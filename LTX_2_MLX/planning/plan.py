"""Run plan: stages with memory and time estimates, made before any weights are loaded; the precision of networks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import mlx.core as mx

from LTX_2_MLX.checkpoints.load import weights_bytes
from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.checkpoints.quantization import Quantization
from LTX_2_MLX.checkpoints.read_ahead import StoredNetwork
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import MemoryBudgetError
from LTX_2_MLX.models.interfaces import PublishedNetwork
from LTX_2_MLX.ops.device import device_name, largest_array_bytes, on_cpu

if TYPE_CHECKING:
    from LTX_2_MLX.checkpoints.block_run import BlockRun

NetworkName = Literal[
    "text encoder", "text connectors", "duration head", "transformer", "latent upscaler", "video VAE", "sound",
    "latent statistics", "RIFE", "Real-ESRGAN", "FlashVSR",
]  # fmt: skip
Precision = Literal["fp16", "bf16", "fp32", "file"]

DTYPES = {"fp16": mx.float16, "bf16": mx.bfloat16, "fp32": mx.float32}
PRECISIONS = {dtype: name for name, dtype in DTYPES.items()}
# Floating-point operations per second of whole passes of LTX-2's transformer in 16 bit, by the name of the chip. It is
# bound by its matrix products on every Mac, not by reading its weights.
# M1 Max: dmlsrc/LTX-2-MLX, docs/PERFORMANCE.md, 45.5 s at 8784 tokens and 313.5 s at 35136; M5 Max:
# xocialize/ltx-2-mlx-swift, SPEED-PLAN, the median of a machine that is warm.
RATES = {"Apple M1 Max": 6.4e12, "Apple M5 Max": 18.2e12}

# Smaller weights are read in no time.
_READ_AHEAD_BYTES = 2**26
# Memory of decoding that a plan mentions.
_LARGE_SOURCE = 2**27


@dataclass(frozen=True)
class Rule:
    """What a network runs in unless the user asks for another precision.

    Attributes:
        gpu: On a GPU; ``file``: the 16-bit type that most of its file is stored in.
        fp16: What ``--fp16`` gives; None where no flag changes the precision.
        reason: Why, in a few words.
    """

    gpu: Precision
    fp16: Precision | None
    reason: str


# On MLX's CPU backend all of them run in float32: 16-bit products are slow there.
RULES: dict[NetworkName, Rule] = {
    "text encoder": Rule("file", "bf16", "states of Gemma exceed float16's range"),
    "text connectors": Rule("file", "bf16", "they read these states"),
    "duration head": Rule("fp32", None, "small; seconds are an exponential"),
    "transformer": Rule("file", "fp16", "sums, norms and softmax are float32 inside"),
    "latent upscaler": Rule("file", "fp16", "group norms are float32 inside"),
    "video VAE": Rule("file", "fp16", "--decode-dtype float32 decodes in float32"),
    "sound": Rule("fp32", None, "small; the reference runs the vocoder so"),
    "latent statistics": Rule("fp32", None, "two vectors"),
    "RIFE": Rule("fp32", "fp16", "small; flow is in pixels"),
    "Real-ESRGAN": Rule("fp16", "fp16", "half the memory; --fp32 for float32"),
    "FlashVSR": Rule("bf16", "fp16", "as published; --dtype fp32 or fp16"),
}


def dtype_for(network: NetworkName, *, asked: str | None = None, stored: mx.Dtype | None = None) -> mx.Dtype:
    """The data type that a network runs in on this backend.

    Args:
        network: One of ``RULES``.
        asked: ``fp16``, ``bf16`` or ``fp32``, as the user wants it; None leaves it to the table.
        stored: Type of the file, for networks that keep it.
    """
    rule = RULES[network]
    if rule.fp16 is None:
        return mx.float32
    if asked is not None:
        return DTYPES[rule.fp16 if asked == "fp16" else asked]
    if on_cpu():
        return mx.float32
    if rule.gpu != "file":
        return DTYPES[rule.gpu]
    if stored == mx.float16:
        return DTYPES[rule.fp16]
    return stored or mx.bfloat16


def dtype_name(dtype: mx.Dtype | None) -> str:
    """A type's own name, such as bfloat16; empty for None."""
    return "" if dtype is None else str(dtype).rpartition(".")[2]


def precision_table() -> Iterator[str]:
    """The table of the networks' precision in Markdown."""
    yield "| network | on a Mac or NVIDIA | with --fp16 | on a CPU | why |"
    yield "|---|---|---|---|---|"
    names: dict[str | None, str] = {"file": "the file's 16-bit type", None: "float32"}
    names |= {key: dtype_name(value) for key, value in DTYPES.items()}
    for network, rule in RULES.items():
        yield f"| {network} | {names[rule.gpu]} | {names[rule.fp16]} | float32 | {rule.reason} |"


@dataclass(frozen=True)
class Estimate:
    """Memory and time of one stage.

    Attributes:
        name: As in progress and reports.
        work: What the stage does, in a few words.
        file: The file of its weights.
        weights_bytes: Memory of the weights.
        activation_bytes: Memory of its work beside the weights, results that wait for later stages included.
        seconds: Duration, where this machine's rate is known.
        streams: Frames pass through chunk by chunk, so neighbouring stages that stream are loaded at the same time.
        dtype: Precision of its networks.
        array_bytes: The largest single array, where it is large.
        size: A line on the size of the result, for the head of the plan; may be empty.
        stored: Its networks on disk, where they may be read ahead of the stage.
    """

    name: str
    work: str
    file: Path
    weights_bytes: int
    activation_bytes: int = 0
    seconds: float | None = None
    streams: bool = False
    dtype: mx.Dtype | None = None
    array_bytes: int = 0
    size: str = ""
    stored: tuple[StoredNetwork, ...] = ()

    @property
    def peak_bytes(self) -> int:
        """Weights and activations together."""
        return self.weights_bytes + self.activation_bytes

    def as_json(self) -> dict[str, Any]:
        """The estimate for a program."""
        return {
            "stage": self.name,
            "work": self.work,
            "file": str(self.file),
            "dtype": dtype_name(self.dtype),
            "weights_bytes": self.weights_bytes,
            "activation_bytes": self.activation_bytes,
            "peak_bytes": self.peak_bytes,
            "array_bytes": self.array_bytes,
            "seconds": self.seconds,
        }


class Estimated(Protocol):
    """Anything whose memory can be estimated: the part of a pipeline's stage that planning needs."""

    def estimate(self) -> Estimate:
        """Memory and time, from headers and shapes."""


@dataclass(frozen=True)
class Plan:
    """A whole run.

    Attributes:
        sizes: Lines on the sizes of the video.
        stages: In order; each one's weights are freed before the next one's are loaded, unless both stream.
        budget_bytes: Memory that a stage may take; None: no budget set.
        max_array_bytes: What the device holds in one array; None: as much as fits into memory.
        output_bytes: Disk that the output takes at the very least.
        states_bytes: Disk that saved stage results take.
        temporary_bytes: Disk that temporary files take; None: it depends on a length that is not known.
        largest_bytes: Peak of the run; 0 without stages.
        arrays_fit: Whether no array is larger than the device allows.
        fits: Whether every stage stays within the budget, too.
    """

    sizes: tuple[str, ...]
    stages: tuple[Estimate, ...]
    budget_bytes: int | None = None
    output_bytes: int = 0
    states_bytes: int = 0
    temporary_bytes: int | None = 0
    max_array_bytes: int | None = None
    largest_bytes: int = field(init=False)
    arrays_fit: bool = field(init=False)
    fits: bool = field(init=False)

    def __post_init__(self) -> None:
        """Compare the stages with what there is."""
        largest_bytes = largest_array = 0
        for stage in self.stages:
            largest_bytes = max(largest_bytes, stage.peak_bytes)
            largest_array = max(largest_array, stage.array_bytes)
        arrays_fit = self.max_array_bytes is None or largest_array <= self.max_array_bytes
        within_budget = self.budget_bytes is None or largest_bytes <= self.budget_bytes
        # Frozen from here on.
        object.__setattr__(self, "largest_bytes", largest_bytes)
        object.__setattr__(self, "arrays_fit", arrays_fit)
        object.__setattr__(self, "fits", arrays_fit and within_budget)

    @property
    def largest(self) -> Estimate:
        """The stage with the highest peak, which is the peak of the run."""
        return max(self.stages, key=attrgetter("peak_bytes"))

    @property
    def with_largest_array(self) -> Estimate:
        """The stage with the largest single array."""
        return max(self.stages, key=attrgetter("array_bytes"))

    def problem(self, budget_bytes: int) -> str:
        """What does not fit, and what there is; for a plan that does not fit."""
        if self.arrays_fit:
            needs = f"{self.largest.name} needs about {format_bytes(self.largest_bytes)}"
            return f"{needs}, the budget is {format_bytes(budget_bytes)}."
        stage = self.with_largest_array
        return (
            f"{stage.name} makes one array of {format_bytes(stage.array_bytes)}, but this device holds at most "
            f"{format_bytes(self.max_array_bytes or 0)} in one."
        )

    def check(self, advice: str) -> None:
        """Raise ``MemoryBudgetError`` if a stage exceeds the budget; ``advice`` says what to pass instead."""
        if not self.fits:
            raise MemoryBudgetError(f"{self.problem(self.budget_bytes or 0)} {advice} --force goes on regardless.")

    @property
    def seconds(self) -> float | None:
        """Duration of the stages whose rate is known on this machine; None without any."""
        known = [stage.seconds for stage in self.stages if stage.seconds is not None]
        return sum(known) if known else None

    def as_json(self) -> dict[str, Any]:
        """The plan for a program: bytes by stage."""
        return {
            "sizes": list(self.sizes),
            "stages": [stage.as_json() for stage in self.stages],
            "peak_bytes": self.largest_bytes,
            "budget_bytes": self.budget_bytes,
            "max_array_bytes": self.max_array_bytes,
            "fits": self.fits,
            "output_bytes": self.output_bytes,
            "states_bytes": self.states_bytes,
            "temporary_bytes": self.temporary_bytes,
            "seconds": self.seconds,
        }

    def lines(self) -> list[str]:
        """The plan for a person to read."""
        if not self.stages:
            return list(self.sizes)
        peak = f"Peak: {self.largest.name} with {format_bytes(self.largest_bytes)}{self._verdict()}."
        lines = [*self.sizes, *self._rows(), peak, *self._read_ahead()]
        if disk := self._disk():
            lines.append(f"Disk: {disk}.")
        if self.seconds is not None:
            lines.append(f"Time: about {self.seconds / 60:.0f} minutes of denoising on this machine.")
        return lines

    def _rows(self) -> list[str]:
        name_width = max(len(stage.name) for stage in self.stages)
        work_width = max(len(stage.work) for stage in self.stages)
        dtype_width = max(len(dtype_name(stage.dtype)) for stage in self.stages)
        return [
            f"{stage.name:<{name_width}}  {stage.work:<{work_width}}  {dtype_name(stage.dtype):<{dtype_width}}  "
            f"weights {format_bytes(stage.weights_bytes):>10}  peak {format_bytes(stage.peak_bytes):>10}  "
            f"{stage.file.name}"
            for stage in self.stages
        ]

    @property
    def ahead(self) -> dict[str, Estimate]:
        """By stage, the one after it whose weights are read from disk while its last step runs, where there is room.

        What is read stays in the system's file cache, beside the memory of the stage that runs.
        """
        ahead = {}
        for stage, following in pairwise(self.stages):
            if following.weights_bytes < _READ_AHEAD_BYTES or not following.stored:
                continue
            read = sum(stored.num_bytes for stored in following.stored)
            if self.budget_bytes is None or stage.peak_bytes + read <= self.budget_bytes:
                ahead[stage.name] = following
        return ahead

    def _read_ahead(self) -> list[str]:
        stages = ", ".join(following.name for following in self.ahead.values())
        return [f"Weights of {stages}: read from disk during the last step of the stage before."] if stages else []

    def _disk(self) -> str:
        uses = []
        if self.output_bytes:
            uses.append(f"at least {format_bytes(self.output_bytes)} for the video")
        if self.states_bytes:
            uses.append(f"{format_bytes(self.states_bytes)} for saved stage results")
        if self.temporary_bytes is None:
            uses.append("temporary files that grow with the clip's length")
        elif self.temporary_bytes:
            uses.append(f"{format_bytes(self.temporary_bytes)} for temporary files")
        return ", ".join(uses)

    def _verdict(self) -> str:
        if self.budget_bytes is None:
            return ""
        verdict = "" if self.fits else ": it does not fit"
        if not self.arrays_fit:
            verdict = f". It does not fit: {self.problem(self.budget_bytes).rstrip('.')}"
        return f" of {format_bytes(self.budget_bytes)} that may be used{verdict}"


def plan(
    stages: Sequence[Estimated],
    *,
    sizes: Sequence[str] = (),
    budget_bytes: int | None = None,
    output_bytes: int = 0,
    states_bytes: int = 0,
    temporary_bytes: int | None = 0,
    source_bytes: int = 0,
    writer_bytes: int = 0,
) -> Plan:
    """The plan of stages that run in this order; nothing is loaded.

    ``sizes`` come before the lines that the stages give, ``source_bytes`` is the memory of decoding the input, beside
    stages that stream, ``writer_bytes`` that of frames that wait for the video's encoder. The other arguments are those
    of ``Plan``.

    Raises:
        CheckpointError: If a file is missing, of another network, or does not fit the others.
        RequestError: If a stage cannot do what it was asked.
        MemoryBudgetError: If a stage cannot be made small enough at all.
    """
    # Stages that stream one after another are loaded at the same time.
    together: list[list[Estimate]] = []
    lines = list(sizes)
    if source_bytes >= _LARGE_SOURCE:
        lines.append(f"Decoding the input takes up to {format_bytes(source_bytes)}")
    for stage in stages:
        estimate = stage.estimate()
        if estimate.streams:
            beside = source_bytes + writer_bytes
            estimate = replace(estimate, activation_bytes=estimate.activation_bytes + beside)
        if estimate.size:
            lines.append(estimate.size)
        if estimate.streams and together and together[-1][-1].streams:
            together[-1].append(estimate)
        else:
            together.append([estimate])
    estimates = []
    for run in together:
        weights = 0
        for estimate in run:
            weights += estimate.weights_bytes
        for estimate in run:
            others = weights - estimate.weights_bytes
            estimates.append(replace(estimate, activation_bytes=estimate.activation_bytes + others))
    return Plan(
        sizes=tuple(lines),
        stages=tuple(estimates),
        budget_bytes=budget_bytes,
        output_bytes=output_bytes,
        states_bytes=states_bytes,
        temporary_bytes=temporary_bytes,
        max_array_bytes=largest_array_bytes(),
    )


# Where a plan has to be made to fit, the same weights are asked for again and again.
_weights_bytes_cache: dict[tuple[Any, ...], int] = {}


def network_weights_bytes(
    networks: Sequence[type[PublishedNetwork[Any]]],
    checkpoint: Checkpoint,
    *,
    dtype: mx.Dtype,
    loras: Sequence[Lora] = (),
    quantize: Quantization | None = None,
    stream_blocks: bool = False,
    run: "BlockRun | None" = None,
) -> int:
    """Memory of networks' weights, the file checked as loading will check it. The options are those of ``load``.

    Raises:
        CheckpointError: If the file is of another network, or does not fit it.
    """
    options: dict[str, Any] = {"dtype": dtype, "quantize": quantize, "stream_blocks": stream_blocks, "run": run}
    key: list[Any] = [str(dtype), str(quantize), stream_blocks, str(run)]
    files = list(checkpoint.files)
    for lora in loras:
        files.append(lora.checkpoint.path)
        key.append(lora.strength)
    for path in files:
        stat = path.stat()
        key += [path, stat.st_size, stat.st_mtime_ns]
    total = 0
    for network in networks:
        network_key = (network, *key)
        if network_key not in _weights_bytes_cache:
            _weights_bytes_cache[network_key] = weights_bytes(network, checkpoint, loras=loras, **options)
        total += _weights_bytes_cache[network_key]
    return total


def largest_tensor_bytes(network: type[PublishedNetwork[Any]], checkpoint: Checkpoint, dtype: mx.Dtype) -> int:
    """Bytes of the largest tensor of a network, as stored or in ``dtype``: it is read whole before it is quantised."""
    largest = 0
    for name, info in checkpoint.header.tensors.items():
        if network.parameter_name(name) is not None:
            largest = max(largest, info.num_bytes, prod(info.shape) * dtype.size)
    return largest


def seconds_of(operations: float, chip: str | None = None) -> float | None:
    """Seconds of so many floating-point operations on a chip, this machine's unless given; None: rate unknown."""
    rate = RATES.get(device_name() if chip is None else chip)
    return None if rate is None else operations / rate


def format_bytes(num_bytes: int) -> str:
    """Bytes in MiB, or GiB from a quarter of one on."""
    if abs(num_bytes) >= 2**28:
        return f"{num_bytes / 2**30:.2f} GiB"
    return f"{num_bytes / 2**20:.1f} MiB"
