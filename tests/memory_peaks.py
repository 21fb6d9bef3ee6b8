"""Peaks of memory that hold on a busy machine too.

On the CPU, MLX prepares up to ten results ahead of the thread that computes them. On a busy machine it prepares fewer,
so that one run's peak may stay below what the same run takes elsewhere. A plan foresees the largest peak, so it is the
largest of several runs that a test compares with it.
"""

from collections.abc import Callable, Mapping

from LTX_2_MLX.runtime.runner import StageRunner

RUNS = 8


def largest_peaks(run: Callable[[StageRunner], object], planned: Mapping[str, int], most: float) -> dict[str, int]:
    """Largest peak of every stage, in bytes.

    Args:
        run: Does the whole work once.
        planned: Planned peak of every stage by its name.
        most: Ratio of planned to measured peak below which no further run is needed.

    Returns:
        Measured peaks by stage, of one run or of up to eight.
    """
    largest: dict[str, int] = {}
    for _ in range(RUNS):
        runner = StageRunner()
        run(runner)
        for report in runner.reports:
            largest[report.name] = max(report.peak_bytes, largest.get(report.name, 0))
        if all(planned.get(name, 0) < most * peak for name, peak in largest.items()):
            break
    return largest
