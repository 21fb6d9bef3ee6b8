"""Reads Real-ESRGAN networks from ncnn's pair of files, the layers (.param) and their weights (.bin).

ncnn's files hold layers without the published names. Those of the two networks are known by the order and the sizes
of their convolutions, and the tensors get the published names again.

Source of the format: Tencent/ncnn, docs/developer-guide/param-and-model-file-structure.md and
operation-param-weight-table.md.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np

from LTX_2_MLX.errors import CheckpointError

NCNN_SUFFIX = ".param"
_MAGIC = "7767517"
# First word of a convolution's weights: what their numbers are.
_HALF, _SINGLE = 0x01306B47, 0
_LARGEST_TEXT = 2**22
_MOST_CHANNELS = 4096
_LEAKY = 2
_SLOPE = 0.2
_DENSE_LAYERS = 15
_COMPACT_LAYERS = {"PixelShuffle", "Interp", "BinaryOp"}
_LARGE_LAYERS = {"Concat", "Eltwise", "Interp", "BinaryOp"}


@dataclass(frozen=True)
class _Layer:
    """One line of the file of layers.

    Attributes:
        kind: Such as ``Convolution``.
        name: Its own.
        settings: Text of each numbered setting.
    """

    kind: str
    name: str
    settings: dict[int, str]

    def number(self, key: int, default: int = 0) -> int:
        """A setting that is a whole number; raises ValueError."""
        return int(self.settings.get(key, default))

    @property
    def slope(self) -> float:
        """Factor of negative values of the activation inside a convolution; 1 without one."""
        if not self.number(9):
            return 1.0
        values = self.settings.get(-23310, "").split(",")
        return float(values[1]) if self.number(9) == _LEAKY and len(values) == 2 else float("nan")


def ncnn_layers_of(path: Path) -> Path | None:
    """The file of layers, if ``path`` is one of a pair of ncnn's files."""
    if path.suffix == NCNN_SUFFIX:
        return path
    layers = path.with_suffix(NCNN_SUFFIX)
    return layers if path.suffix == ".bin" and layers.is_file() else None


def read_ncnn_files(path: Path) -> dict[str, mx.array]:
    """Tensors of a Real-ESRGAN network by published name.

    Args:
        path: The file of layers; the weights are beside it, ending in .bin.

    Raises:
        CheckpointError: If a file is missing or damaged, or the network is another one.
    """
    weights = path.with_suffix(".bin")
    try:
        if path.stat().st_size > _LARGEST_TEXT:
            raise CheckpointError(f"{path} is no file of ncnn's layers: it has {path.stat().st_size} bytes.")
        lines = path.read_text("utf-8").splitlines()
        data = weights.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{error.filename} does not exist. ncnn's models are two files, {path.name} and {weights.name}, "
            f"side by side."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    try:
        layers = _parse(lines)
        names = _names(layers)
        return _tensors([layer for layer in layers if layer.kind in ("Convolution", "PReLU")], names, data)
    except (ValueError, OverflowError) as error:
        raise CheckpointError(f"{path} is no Real-ESRGAN network of ncnn, or damaged: {error}.") from error


def _parse(lines: list[str]) -> list[_Layer]:
    if not lines or lines[0].strip() != _MAGIC:
        raise ValueError(f"its first line is not {_MAGIC}")
    layers = []
    for line in lines[2:]:
        words = line.split()
        if not words:
            continue
        if len(words) < 4:
            raise ValueError(f"its line {line!r:.60} is no layer")
        first = 4 + int(words[2]) + int(words[3])
        pairs = [word.partition("=") for word in words[first:]]
        layers.append(_Layer(words[0], words[1], {int(key): value for key, _, value in pairs}))
    return layers


def _names(layers: list[_Layer]) -> list[str]:
    """Published names of the layers with weights, in their order."""
    kinds = Counter(layer.kind for layer in layers)
    for kind in ("Input", "Split"):
        del kinds[kind]
    weighted = [layer for layer in layers if layer.kind in ("Convolution", "PReLU")]
    others = set(kinds) - {"Convolution", "PReLU"}
    if kinds["PReLU"] and others <= _COMPACT_LAYERS:
        return _compact_names(weighted, kinds)
    if not kinds["PReLU"] and others <= _LARGE_LAYERS:
        return _large_names(layers, kinds)
    raise ValueError(f"its layers are {', '.join(sorted(kinds))}")


def _compact_names(weighted: list[_Layer], kinds: "Counter[str]") -> list[str]:
    """Convolutions and activations in turns, folded pixels at the end."""
    expected = ["Convolution", "PReLU"] * (len(weighted) // 2) + ["Convolution"]
    if [layer.kind for layer in weighted] != expected or kinds["PixelShuffle"] != 1:
        raise ValueError("its convolutions and activations do not alternate")
    if any(layer.slope != 1 for layer in weighted if layer.kind == "Convolution"):
        raise ValueError("its convolutions have activations of another kind")
    return [f"body.{index}" for index in range(len(weighted))]


def _large_names(layers: list[_Layer], kinds: "Counter[str]") -> list[str]:
    """First convolution, dense blocks of five, trunk, doublings, and two at the end."""
    doublings = kinds["Interp"]
    num_blocks, remainder = divmod(kinds["Convolution"] - 4 - doublings, _DENSE_LAYERS)
    if remainder or num_blocks < 1 or kinds["Concat"] != 12 * num_blocks or kinds["Eltwise"] != 4 * num_blocks:
        raise ValueError(f"its {kinds['Convolution']} convolutions are not those of dense blocks")
    names = ["conv_first"]
    for block in range(num_blocks):
        for dense in (1, 2, 3):
            names += [f"body.{block}.rdb{dense}.conv{index}" for index in (1, 2, 3, 4, 5)]
    names += ["conv_body", *(f"conv_up{index + 1}" for index in range(doublings)), "conv_hr", "conv_last"]
    _check_large(layers, names)
    return names


def _check_large(layers: list[_Layer], names: list[str]) -> None:
    linear = ("conv_first", "conv_body", "conv_last")
    convolutions = [layer for layer in layers if layer.kind == "Convolution"]
    for layer, name in zip(convolutions, names, strict=True):
        expected = 1.0 if name in linear or name.endswith("conv5") else _SLOPE
        if abs(layer.slope - expected) > 1e-6:
            raise ValueError(f"the activation of {layer.name} is another one")
    for layer in layers:
        factors = [float(each) for each in layer.settings.get(-23301, "").split(",")[1:]]
        if layer.kind == "Eltwise" and not np.allclose(sorted(factors), [_SLOPE, 1.0]):
            raise ValueError(f"the sum {layer.name} has the factors {factors}")


def _tensors(layers: list[_Layer], names: list[str], data: bytes) -> dict[str, mx.array]:
    """Weights in the order of the layers; all bytes belong to one."""
    tensors = {}
    start = 0
    inputs = None
    for layer, name in zip(layers, names, strict=True):
        outputs = layer.number(0)
        if not 0 < outputs <= _MOST_CHANNELS:
            raise ValueError(f"{layer.name} has {outputs} channels")
        if layer.kind == "PReLU":
            tensors[f"{name}.weight"], start = _numbers(data, start, outputs, _SINGLE)
            continue
        shape = _weight_shape(layer, outputs)
        kind = int.from_bytes(data[start : start + 4], "little")
        flat, start = _numbers(data, start + 4, layer.number(6), kind)
        tensors[f"{name}.weight"] = flat.reshape(shape)
        tensors[f"{name}.bias"], start = _numbers(data, start, outputs, _SINGLE)
        inputs = inputs or shape[1]
    if start != len(data):
        raise ValueError(f"its weights have {len(data)} bytes, the layers take {start}")
    if inputs != 3:
        raise ValueError(f"it takes {inputs} channels, expected RGB images")
    return tensors


def _weight_shape(layer: _Layer, outputs: int) -> tuple[int, int, int, int]:
    """Published axis order, ``(out, in, 3, 3)``, which is ncnn's too."""
    inputs, remainder = divmod(layer.number(6), 9 * outputs)
    sizes = (layer.number(1), layer.number(11, layer.number(1)), layer.number(4), layer.number(5))
    if remainder or not 0 < inputs <= _MOST_CHANNELS or sizes != (3, 3, 1, 1):
        raise ValueError(f"{layer.name} is no convolution of 3×3 with a bias and a border of 1")
    return outputs, inputs, 3, 3


def _numbers(data: bytes, start: int, count: int, kind: int) -> tuple[mx.array, int]:
    """``count`` numbers from ``start`` on, and where the next ones begin."""
    if kind not in (_HALF, _SINGLE):
        raise ValueError(f"its weights are stored as {kind:#x}; whole and half floats are read")
    dtype = np.dtype("<f2" if kind == _HALF else "<f4")
    end = start + count * dtype.itemsize
    if end > len(data):
        raise ValueError(f"its weights end after {len(data)} bytes")
    # Each array begins at a multiple of four bytes.
    return mx.array(np.frombuffer(data, dtype, count, start)), end + -end % 4
