"""Seconds and peak memory of a network's call, and the share of the machine's own rates that it reaches."""

import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from LTX_2_MLX.bench.operations import Clock, Operation, rate
from LTX_2_MLX.bench.workloads import Workload


@dataclass(frozen=True)
class Timing:
    """What a network's calls took.

    Attributes:
        name: The network.
        size: What it was given.
        weights_bytes: Of its weights.
        peak_bytes: Peak of MLX's memory in a call, weights included.
        first_seconds: Of the first call, in which kernels are compiled.
        best_seconds: Of the fastest call after it.
        median_seconds: Of the middle one.
        flops: Floating-point operations of one call.
    """

    name: str
    size: str
    weights_bytes: int
    peak_bytes: int
    first_seconds: float
    best_seconds: float
    median_seconds: float
    flops: int

    @property
    def flops_per_second(self) -> float:
        """Of the fastest call."""
        return self.flops / self.best_seconds


def time_network(workload: Workload, repeats: int, clock: Clock = time.perf_counter) -> Timing:
    """Build a network, call it once and then ``repeats`` times, and free it."""
    network = workload.build()
    mx.eval(network.parameters())
    weights_bytes = sum(array.nbytes for array in dict(tree_flatten(network.parameters())).values())
    mx.clear_cache()
    mx.reset_peak_memory()
    seconds = [_seconds(workload, network, clock) for _ in range(1 + repeats)]
    peak_bytes = mx.get_peak_memory()
    del network
    mx.clear_cache()
    return Timing(
        name=workload.name,
        size=workload.size,
        weights_bytes=weights_bytes,
        peak_bytes=peak_bytes,
        first_seconds=seconds[0],
        best_seconds=min(seconds[1:]),
        median_seconds=statistics.median(seconds[1:]),
        flops=workload.flops,
    )


def rates_of(
    operations: Iterable[Operation], dtype: mx.Dtype, clock: Clock = time.perf_counter
) -> dict[Operation, float]:
    """Floating-point operations in a second of each operation by itself on this machine."""
    rates = {}
    for operation in operations:
        if operation not in rates:
            rates[operation] = rate(operation, dtype, clock=clock)
            mx.clear_cache()
    return rates


def possible_seconds(workload: Workload, rates: Mapping[Operation, float]) -> float:
    """A call's operations one after another, each at its own rate: norms, activations and copies would be free."""
    return sum(operation.flops * count / rates[operation] for operation, count in workload.operations.items())


def _seconds(workload: Workload, network: nn.Module, clock: Clock) -> float:
    start = clock()
    workload.call(network)
    return clock() - start
