"""Bands: how far the published networks themselves are from float32 when they run in 16 bit.

``tests/goldens/bands.json`` holds the reference's figures by component, case and output. An output passes within
``factor`` times them, or under the floor of its precision. A component whose reference was not measured names others
of the same networks, whose widest band holds for it, and says why.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from LTX_2_MLX.errors import LTXError
from LTX_2_MLX.verify.case import Case
from LTX_2_MLX.verify.figures import Figures

TABLE = Path(__file__).resolve().parents[2] / "tests" / "goldens" / "bands.json"


@dataclass(frozen=True)
class Bands:
    """The table's bands for one precision.

    Attributes:
        table: ``bands.json``.
        precision: ``bf16`` or ``fp16``.
    """

    table: dict[str, Any]
    precision: str

    @classmethod
    def read(cls, precision: str, path: Path = TABLE) -> "Bands":
        """The bands of a precision.

        Raises:
            LTXError: If the table is not there, as in an installation without the repository.
        """
        try:
            return cls(json.loads(path.read_text()), precision)
        except FileNotFoundError:
            raise LTXError(f"{path} does not exist. Run this command in a clone of the repository.") from None

    def limit(self, case: Case, output: str) -> Figures | None:
        """The largest figures with which an output passes; None if it is held to the tolerance of float32."""
        component = self.table["components"].get(case.component, {})
        if "bfloat16" in component and self.precision != "bf16":
            return Bands(self.table, "bf16").limit(case, output)
        if "float32" in component or _pattern(output) in component.get("exact", ()):
            return None
        band = self._band(component, case, output)
        return Figures(
            largest=max(self.table["factor"]["largest"] * band.largest, self._floor.largest),
            rms=max(self.table["factor"]["rms"] * band.rms, self._floor.rms),
            cosine=-1.0,
        )

    def _band(self, component: dict[str, Any], case: Case, output: str) -> Figures:
        """The reference's own figures for this output of this case, or the widest of outputs called like it.

        The largest error is a draw from the tail of a distribution, of which all outputs called alike are the sample.
        """
        if "like" in component:
            others = (self.table["components"][name] for name in component["like"])
            return _widest([band for other in others for _, band in self._of_component(other)])
        bands = self._of_component(component)
        alike = [band for name, band in bands if _pattern(name) == _pattern(output)]
        widest = _widest(alike or [band for _, band in bands])
        for known in component.get("cases", {}).values():
            if known["io"] == digest(case) and output in known.get(self.precision, {}):
                own = Figures(*known[self.precision][output])
                return Figures(widest.largest, own.rms, own.cosine)
        return widest

    def _of_component(self, component: dict[str, Any]) -> list[tuple[str, Figures]]:
        """Every output's band in a component, in all its cases."""
        cases = component.get("cases", {}).values()
        return [(name, Figures(*band)) for case in cases for name, band in case.get(self.precision, {}).items()]

    @cached_property
    def _floor(self) -> Figures:
        floor = self.table["floors"][self.precision]
        return Figures(floor["largest"], floor["rms"], cosine=1.0)


def digest(case: Case) -> str:
    """What tells a case from others of the same name: the start of the SHA-256 of its inputs and outputs."""
    return hashlib.sha256((case.path / "io.safetensors").read_bytes()).hexdigest()[:16]


def _pattern(output: str) -> str:
    """An output's name without its numbers, which count chunks, steps and tiles."""
    return re.sub(r"\d+", "#", output)


def _widest(bands: list[Figures]) -> Figures:
    """The largest of each figure; nothing but the floor where a component has no band."""
    return Figures(
        largest=max((band.largest for band in bands), default=0.0),
        rms=max((band.rms for band in bands), default=0.0),
        cosine=min((band.cosine for band in bands), default=1.0),
    )
