"""Golden cases: inputs and outputs of the published reference networks, with stand-in weights.

A case is a folder with ``case.json`` and ``io.safetensors``. It stores no weights: each tensor's value
follows from its published name, its shape, a seed and a few rules, on any machine.
"""

import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors.numpy import load_file, save_file

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import LTXError
from LTX_2_MLX.planning.plan import PRECISIONS, dtype_for

# Arrays of NumPy or MLX, or sequences of numbers, by the names of the reference's outputs.
Outputs = dict[str, Any]

# Applied after the case's own rules; the first pattern found in the name wins.
_DEFAULT_RULES = [
    [r"std-of-means|\.std$|running_var", "positive", 0.5, 0.5],
    [r"mean-of-means|\.mean$|running_mean", "plain", 0.1],
]


def seeded_tensor(name: str, shape: list[int], seed: int, rules: list) -> np.ndarray:
    """Value of tensor ``name``: float32, ``shape``, from ``seed`` and the first rule whose pattern is in the name.

    Rule kinds: ``fan_in a`` is normal * a / sqrt(prod(shape[1:])); ``one a`` 1 + a * normal; ``plain a``
    a * normal; ``positive a b`` a + b * |normal|; ``const a``. Without a match: ``fan_in 1`` for two or more
    axes, ``one 0.1`` for a vector named weight, gamma or scale, ``plain 0.1`` otherwise.
    """
    generator = np.random.RandomState((zlib.crc32(name.encode()) + 7919 * seed) % 2**32)
    normal = generator.standard_normal(shape)
    kind, arguments = _rule(name, shape, rules)
    if kind == "fan_in":
        value = normal * arguments[0] / np.sqrt(max(1, int(np.prod(shape[1:]))))
    elif kind == "one":
        value = 1.0 + arguments[0] * normal
    elif kind == "plain":
        value = arguments[0] * normal
    elif kind == "positive":
        value = arguments[0] + arguments[1] * np.abs(normal)
    elif kind == "const":
        value = np.full(shape, arguments[0])
    else:
        raise LTXError(f"The golden case has the unknown rule kind {kind!r} for {name}.")
    return np.asarray(value, dtype=np.float32)


def _rule(name: str, shape: list[int], rules: list) -> tuple[str, list[float]]:
    """Kind and arguments of the rule that gives a tensor its values."""
    for pattern, kind, *arguments in [*rules, *_DEFAULT_RULES]:
        if re.search(pattern, name):
            return kind, arguments
    if len(shape) >= 2:
        return "fan_in", [1.0]
    if re.search(r"(weight|gamma|scale)$", name):
        return "one", [0.1]
    return "plain", [0.1]


@dataclass
class Case:
    """One golden case.

    Attributes:
        path: Its folder.
        spec: ``case.json``.
        io: The tensors of ``io.safetensors`` in the reference's own layout.
        scratch: A folder for checkpoints written on the way.
        dtype: Precision of the networks.
    """

    path: Path
    spec: dict[str, Any]
    io: dict[str, np.ndarray]
    scratch: Path
    dtype: mx.Dtype = mx.float32

    @classmethod
    def open(cls, path: Path, scratch: Path, dtype: mx.Dtype = mx.float32) -> "Case":
        """Read a case folder."""
        spec = json.loads((path / "case.json").read_text())
        return cls(path=path, spec=spec, io=load_file(path / "io.safetensors"), scratch=scratch, dtype=dtype)

    @property
    def text_dtype(self) -> mx.Dtype:
        """Precision of the text encoder and the connectors."""
        return dtype_for("text encoder", asked=PRECISIONS[self.dtype])

    @property
    def component(self) -> str:
        """The network or procedure that the case runs."""
        return self.spec["component"]

    @property
    def config(self) -> dict[str, Any]:
        """The published config, at the case's size."""
        return self.spec["metadata"]["config"]

    @property
    def parameters(self) -> dict[str, Any]:
        """Arguments of the call: ``metadata.parameters`` and ``call``; empty if the case needs none."""
        return self.spec.get("metadata", {}).get("parameters", {}) | self.spec.get("call", {})

    def parameter(self, name: str) -> Any:
        """One argument of the call.

        Raises:
            LTXError: If the case does not give it.
        """
        if name not in self.parameters:
            raise LTXError(f"The golden case gives no {name!r} in metadata.parameters.")
        return self.parameters[name]

    def weights(self) -> dict[str, np.ndarray]:
        """All checkpoint tensors by published name, float32."""
        seed = self.spec["seed"]
        rules = self.spec.get("rules", [])
        seeded = {name: seeded_tensor(name, shape, seed, rules) for name, shape in self.spec["tensors"].items()}
        return seeded | self._under("explicit.")

    def write_checkpoint(self, name: str = "checkpoint.safetensors") -> Path:
        """Write the weights as a file in the published format, metadata included."""
        metadata = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in self.spec.get("metadata", {}).items()
        }
        target = self.scratch / name
        save_file(self.weights(), str(target), metadata=metadata or None)
        return target

    def checkpoint(self) -> Checkpoint:
        """The case's weights, written and opened as any user's file is."""
        return Checkpoint(self.write_checkpoint())

    def inputs(self, prefix: str = "") -> dict[str, np.ndarray]:
        """Tensors under ``input.<prefix>``, by the rest of their names."""
        return self._under(f"input.{prefix}")

    def outputs(self) -> dict[str, np.ndarray]:
        """Reference values by name without ``output.``, those for finding faults included."""
        return self._under("output.")

    def _under(self, prefix: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(prefix): value for name, value in self.io.items() if name.startswith(prefix)}
