"""Figures of an output's distance from its reference, the same for all outputs."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Figures:
    """Three measures of one output.

    Attributes:
        largest: Largest error over the largest reference value.
        rms: Root mean square of the error over that of the reference.
        cosine: Of the angle between output and reference; 1 means the same direction.
    """

    largest: float
    rms: float
    cosine: float

    @classmethod
    def of(cls, value: np.ndarray, reference: np.ndarray) -> "Figures":
        """The figures of an output; NaN where a value is NaN or infinite."""
        if reference.size == 0:
            return cls(0.0, 0.0, 1.0)
        value, reference = (array.astype(np.float64).ravel() for array in (value, reference))
        error = value - reference
        lengths = float(np.linalg.norm(value) * np.linalg.norm(reference))
        return cls(
            largest=_ratio(np.abs(error).max(), np.abs(reference).max()),
            rms=_ratio(np.linalg.norm(error), np.linalg.norm(reference)),
            cosine=float(value @ reference) / lengths if lengths else float(not error.any()),
        )

    def or_wider(self, other: "Figures") -> "Figures":
        """The larger errors of both, as limits."""
        return Figures(max(self.largest, other.largest), max(self.rms, other.rms), min(self.cosine, other.cosine))

    def nearest(self, limit: "Figures") -> tuple[float, float]:
        """Of the largest and the root mean square error the one nearest to its limit, and that limit."""
        pairs = [(self.largest, limit.largest), (self.rms, limit.rms)]
        return max(pairs, key=lambda pair: float("inf") if pair[0] != pair[0] else pair[0] / pair[1])


def _ratio(error: Any, size: Any) -> float:
    """Error over size; the error itself where the reference is zero throughout."""
    return float(error / size if size else error)
