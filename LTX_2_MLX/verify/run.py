"""Golden cases through the real loaders and networks, compared with the reference's outputs."""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np

from LTX_2_MLX.errors import LTXError
from LTX_2_MLX.verify.bands import Bands
from LTX_2_MLX.verify.case import Case
from LTX_2_MLX.verify.components import COMPONENTS
from LTX_2_MLX.verify.figures import Figures
from LTX_2_MLX.verify.layout import readable

# Without a tolerance of its own, a case allows this error over the largest reference value.
DEFAULT_RELATIVE = 1e-4


@dataclass
class Result:
    """How one case went.

    Attributes:
        worst: Error of the output nearest to its tolerance.
        tolerance: That output's tolerance, in the same unit.
        outputs: Error of every output, each in the unit of its tolerance.
        reason: Why the case failed; empty if it passed.
        figures: Error of every output in figures that are the same for all outputs.
        limits: The largest figures allowed, of the outputs that are held to a band.
    """

    case: str
    component: str
    ok: bool
    worst: float | None = None
    tolerance: float | None = None
    outputs: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    figures: dict[str, Figures] = field(default_factory=dict)
    limits: dict[str, Figures] = field(default_factory=dict)


def find_cases(folders: Iterable[str | Path]) -> list[Path]:
    """Case folders at or below the given folders, sorted.

    Raises:
        LTXError: If a folder holds none.
    """
    cases = []
    for folder in map(Path, folders):
        below = sorted(path.parent for path in folder.rglob("case.json"))
        if not below:
            raise LTXError(f"{folder} holds no golden case (a folder with case.json and io.safetensors).")
        cases += below
    return cases


def component_of(path: Path) -> str | None:
    """The component that a case folder names; None if its ``case.json`` cannot be read."""
    try:
        return json.loads((path / "case.json").read_text())["component"]
    except (OSError, ValueError, LookupError):
        return None


def run_case(path: Path, name: str | None = None, dtype: mx.Dtype = mx.float32, bands: Bands | None = None) -> Result:
    """Run one case through its component and compare every output.

    Args:
        path: Its folder.
        name: What the result calls it; the folder if not given.
        dtype: Precision of the networks.
        bands: What outputs in this precision are held to; None means the tolerances of float32.
    """
    result = Result(case=name or str(path), component="", ok=False)
    with tempfile.TemporaryDirectory() as scratch:
        # One case that cannot be run must not keep the others from running, whatever is wrong with it.
        try:
            case = Case.open(path, Path(scratch), dtype)
            result.component = case.component
            run = COMPONENTS.get(case.component)
            if run is None:
                result.reason = f"unknown component {case.component!r}"
                return result
            computed = {output: readable(value) for output, value in run(case).items()}
            compare(case, computed, result, bands)
        except Exception as error:
            result.ok = False
            result.reason = f"{type(error).__name__}: {error}"
    return result


def compare(case: Case, computed: dict[str, np.ndarray], result: Result, bands: Bands | None = None) -> None:
    """Write the error of every reference output into ``result``."""
    reasons = []
    for name, reference in case.outputs().items():
        if name in computed:
            reasons += compare_output(case, name, computed[name], reference, result, bands)
        elif not name.startswith(("trace.", "stage.")):
            reasons.append(f"{name} was not computed")
    if not result.outputs:
        reasons.append("no output was compared")
    result.ok = not reasons
    result.reason = "; ".join(reasons)


def compare_output(
    case: Case, name: str, value: np.ndarray, reference: np.ndarray, result: Result, bands: Bands | None
) -> list[str]:
    """Write one output's error into ``result``; returns what is wrong with it."""
    if value.shape != reference.shape:
        return [f"{name} has shape {value.shape}, expected {reference.shape}"]
    figures = result.figures[name] = Figures.of(value, reference)
    limit = bands.limit(case, name) if bands is not None else None
    if limit is not None and is_image(name, reference):
        limit = limit.or_wider(Figures.of(reference + float(tolerance_of(case, name).get("levels", 1)), reference))
    if limit is not None and reference.size == 1:
        # Of a single number both errors are the same one.
        limit = limit.or_wider(Figures(0.0, limit.largest, 1.0))
    if limit is None:
        error, tolerance = error_and_tolerance(case, name, value, reference)
    else:
        result.limits[name] = limit
        error, tolerance = figures.nearest(limit)
    result.outputs[name] = error
    worst = None
    if result.worst is not None and result.tolerance is not None:
        worst = fraction(result.worst, result.tolerance)
    if worst is None or not fraction(error, tolerance) <= worst:
        result.worst = error
        result.tolerance = tolerance
    # NaN fails every comparison, so it lands here too.
    if not error <= tolerance:
        return [f"{name} is off by {error:.2e}, allowed {tolerance:.0e}"]
    return []


def fraction(error: float, tolerance: float) -> float:
    """Error as a fraction of its tolerance; infinite where the tolerance is zero and the error is not."""
    if tolerance == 0:
        return 0.0 if error == 0 else float("inf")
    return error / tolerance


def error_and_tolerance(case: Case, name: str, value: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Error of one output and its tolerance.

    Floats: largest error over largest reference value (or absolute, where the case says so). 8- and 16-bit
    images: levels. Other integers (ids, masks, counts) are exact.
    """
    tolerance = tolerance_of(case, name)
    if value.size == 0:
        return 0.0, 0.0
    largest = float(np.abs(value.astype(np.float64) - reference.astype(np.float64)).max())
    if not np.issubdtype(reference.dtype, np.floating):
        return largest, float(tolerance.get("levels", 1)) if is_image(name, reference) else 0.0
    if "absolute" in tolerance:
        return largest, float(tolerance["absolute"])
    scale = float(np.abs(reference).max())
    relative = float(tolerance.get("relative", DEFAULT_RELATIVE))
    return (largest / scale if scale else largest), relative


def is_image(name: str, reference: np.ndarray) -> bool:
    """Whether an output is an image, which may differ by levels."""
    return reference.dtype in (np.uint8, np.uint16) and "mask" not in name


def tolerance_of(case: Case, name: str) -> dict[str, float]:
    """The case's tolerance for one output: that of the entry whose key is in its name, or the common one."""
    common = dict(case.spec.get("tolerance", {}))
    by_output = common.pop("outputs", {})
    matching = [tolerance for key, tolerance in by_output.items() if key in name]
    return matching[-1] if matching else common
