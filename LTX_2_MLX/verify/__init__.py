"""Golden cases through the real loaders and networks.

Each component of ``case.json`` has one function here, ``Case -> {output name: array}``. It may leave out
``trace.*`` and ``stage.*`` (values inside the run); every other output must be there.
"""

import importlib
import pkgutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx
import numpy as np

from LTX_2_MLX.errors import LTXError
from LTX_2_MLX.verify.case import Case

Outputs = dict[str, np.ndarray | mx.array]
COMPONENTS: dict[str, Callable[[Case], Outputs]] = {}


def component(name: str) -> Callable[[Callable[[Case], Outputs]], Callable[[Case], Outputs]]:
    """Register the function that runs the cases of component ``name``."""

    def register(function: Callable[[Case], Outputs]) -> Callable[[Case], Outputs]:
        COMPONENTS[name] = function
        return function

    return register


@dataclass
class Result:
    """How one case went. ``outputs`` holds the error of every output, in the unit of its tolerance."""

    case: str
    component: str
    ok: bool
    worst: float | None = None
    tolerance: float | None = None
    outputs: dict[str, float] = field(default_factory=dict)
    reason: str = ""


def find_cases(folders: Iterable[str | Path]) -> list[Path]:
    """Case folders at or below the given folders, sorted.

    Raises:
        LTXError: If a folder holds none.
    """
    found = []
    for folder in map(Path, folders):
        below = sorted(path.parent for path in folder.rglob("case.json"))
        if not below:
            raise LTXError(f"{folder} holds no golden case (a folder with case.json and io.safetensors).")
        found += below
    return found


def run_case(path: Path, name: str | None = None) -> Result:
    """Run one case through its component and compare every output."""
    result = Result(case=name or str(path), component="", ok=False)
    with tempfile.TemporaryDirectory() as scratch:
        # One case that cannot be run must not keep the others from running, whatever is wrong with it.
        try:
            case = Case.open(path, Path(scratch))
            result.component = case.spec["component"]
            if result.component not in COMPONENTS:
                result.reason = f"no component {result.component!r} in this version"
                return result
            got = {key: np.array(value) for key, value in COMPONENTS[result.component](case).items()}
            compare(case, got, result)
        except Exception as error:
            result.ok, result.reason = False, f"{type(error).__name__}: {error}"
    return result


def compare(case: Case, got: dict[str, np.ndarray], result: Result) -> None:
    """Fill ``result`` with the error of every reference output, the one nearest to its tolerance first in mind."""
    reasons, nearest = [], -1.0
    for name, wanted in case.outputs().items():
        inside = name.startswith(("trace.", "stage."))
        if name not in got:
            if not inside:
                reasons.append(f"{name} was not computed")
            continue
        value = got[name]
        if value.shape != wanted.shape:
            reasons.append(f"{name} has shape {value.shape}, expected {wanted.shape}")
            continue
        error, tolerance = error_and_tolerance(case, name, value, wanted)
        result.outputs[name] = error
        # NaN fails every comparison, so it lands here too.
        if not error <= tolerance:
            reasons.append(f"{name} is off by {error:.2e}, allowed {tolerance:.0e}")
        share = error / tolerance if tolerance else (0.0 if error == 0 else float("inf"))
        if not share <= nearest:
            nearest, result.worst, result.tolerance = share, error, tolerance
    if not result.outputs:
        reasons.append("no output was compared")
    result.ok, result.reason = not reasons, "; ".join(reasons)


def error_and_tolerance(case: Case, name: str, value: np.ndarray, wanted: np.ndarray) -> tuple[float, float]:
    """Error of one output and what it may be.

    Floats: largest error over largest reference value (or absolute, where the case says so). 8- and 16-bit
    images: levels. Other integers (ids, masks, counts) are exact.
    """
    allowed = dict(case.spec.get("tolerance", {"relative": 1e-4}))
    for key, special in allowed.pop("outputs", {}).items():
        if key in name:
            allowed = special
    if value.size == 0:
        return 0.0, 0.0
    largest = float(np.abs(value.astype(np.float64) - wanted.astype(np.float64)).max())
    if not np.issubdtype(wanted.dtype, np.floating):
        image = wanted.dtype in (np.uint8, np.uint16) and "mask" not in name
        return largest, float(allowed.get("levels", 1)) if image else 0.0
    if "absolute" in allowed:
        return largest, float(allowed["absolute"])
    scale = float(np.abs(wanted).max())
    return (largest / scale if scale else largest), float(allowed.get("relative", 1e-4))


# Components register themselves when their module is imported.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
