"""Measurements of networks as tables of text and as data for programs."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import mlx.core as mx

from LTX_2_MLX.bench.measure import Timing, possible_seconds, rates_of, time_network
from LTX_2_MLX.bench.operations import Operation
from LTX_2_MLX.bench.workloads import Workload
from LTX_2_MLX.ops.device import device

_CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}

MIB = 2**20
# Operations with a smaller share of every network's work are left out of the table of rates.
_LEAST_SHARE = 0.05


@dataclass(frozen=True)
class Report:
    """Networks measured on one machine.

    Attributes:
        machine: Device, precision, BLAS and clock, as printed.
        workloads: One call of each network.
        rates: Floating-point operations per second of each operation by itself.
        timings: In the order of ``workloads``.
    """

    machine: Mapping[str, Any]
    workloads: list[Workload]
    rates: Mapping[Operation, float]
    timings: list[Timing]

    def lines(self) -> list[str]:
        """Two tables: the machine's own rates, and the networks."""
        lines = [", ".join(f"{name} {value}" for name, value in self.machine.items())]
        lines += ["", "| the machine's own | shape | GFLOP/s |", "|---|---|---|"]
        for operation in main_operations(self.workloads):
            lines.append(f"| {operation.kind} | {operation} | {self.rates[operation] / 1e9:.0f} |")
        lines += ["", "| network | input | weights | peak | first | best (median), s | GFLOP | GFLOP/s | of possible |"]
        lines.append("|---|---|---|---|---|---|---|---|---|")
        for workload, timing in zip(self.workloads, self.timings, strict=True):
            lines.append(row(timing, possible_seconds(workload, self.rates)))
        return lines

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON's types."""
        rates = [
            {"kind": operation.kind, "shape": str(operation), "flops_per_second": rate}
            for operation, rate in self.rates.items()
        ]
        networks = []
        for workload, timing in zip(self.workloads, self.timings, strict=True):
            networks.append(asdict(timing) | {"possible_seconds": possible_seconds(workload, self.rates)})
        return {"machine": dict(self.machine), "rates": rates, "networks": networks}


def measured(
    chosen: list[Workload], precision: str, dtype: mx.Dtype, repeats: int, clock: str, *, openblas: bool
) -> Report:
    """Rates of the operations by themselves, then the networks; ``clock`` is ``wall`` or ``cpu``."""
    machine = {"device": str(device()), "precision": precision, "openblas": openblas, "clock": clock}
    operations = [operation for workload in chosen for operation in workload.operations]
    rates = rates_of(operations, dtype, _CLOCKS[clock])
    timings = [time_network(workload, repeats, _CLOCKS[clock]) for workload in chosen]
    return Report(machine, chosen, rates, timings)


def main_operations(workloads: Iterable[Workload]) -> list[Operation]:
    """Operations that make up a twentieth of some network's work or more, each once."""
    large: dict[Operation, None] = {}
    for workload in workloads:
        for operation, calls in workload.operations.items():
            if operation.flops * calls >= _LEAST_SHARE * workload.flops:
                large[operation] = None
    return list(large)


def row(timing: Timing, possible: float) -> str:
    """One network as a row of the table."""
    cells = (
        timing.name,
        timing.size,
        f"{timing.weights_bytes / MIB:.0f} MiB",
        f"{timing.peak_bytes / MIB:.0f} MiB",
        f"{timing.first_seconds:.2f} s",
        f"{timing.best_seconds:.3f} ({timing.median_seconds:.3f})",
        f"{timing.flops / 1e9:.1f}",
        f"{timing.flops_per_second / 1e9:.0f}",
        f"{possible / timing.best_seconds:.0%}",
    )
    return f"| {' | '.join(cells)} |"
