"""Decodes 8-bit floats, and finds their scales under the names in use."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError

# Marks a whole file of ComfyUI's older form; the module's settings, the scales of inputs (not needed: inputs keep
# their precision) and of weights, of its older and newer form and of the published files.
_MARKER = "scaled_fp8"
_SETTINGS = "comfy_quant"
_INPUT_SCALES = ("input_scale", "scale_input")
_WEIGHT_SCALES = ("weight_scale", "scale_weight")


def _e4m3_values() -> np.ndarray:
    """All 256 values of E4M3 without infinities: sign, 4 bits of exponent (bias 7), 3 of mantissa; S1111111 is NaN."""
    code = np.arange(256)
    exponent = code >> 3 & 15
    mantissa = code & 7
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    magnitude[code & 127 == 127] = np.nan
    return np.where(code < 128, magnitude, -magnitude).astype(np.float32)


_E4M3 = _e4m3_values()


def decode_e4m3(codes: mx.array, scale: mx.array | None = None) -> mx.array:
    """Float32 values of ``codes``, uint8 of any shape, times ``scale`` (one number).

    Source: the format is FN of Micikevicius et al., "FP8 Formats for Deep Learning", as PyTorch's float8_e4m3fn.
    """
    values = mx.array(_E4M3)[codes]
    return values if scale is None else values * scale.astype(mx.float32).reshape(())


def float8_scales(checkpoint: Checkpoint) -> dict[str, str | None]:
    """Names of the tensors in 8-bit floats, and the name of each one's scale; None without one.

    Raises:
        CheckpointError: If a scale is more than one number, or belongs to a tensor of another precision.
    """
    tensors = checkpoint.header.tensors
    names: dict[str, str | None] = {}
    for name, info in tensors.items():
        if info.dtype == "F8_E4M3" and _last(name) != _MARKER:
            names[name] = None
    for scale_name in tensors:
        if _last(scale_name) not in _WEIGHT_SCALES:
            continue
        name = f"{scale_name.removesuffix(_last(scale_name))}weight"
        if name not in names:
            raise CheckpointError(
                f"{checkpoint.path}: {scale_name} is the scale of a weight that is not in 8-bit floats (E4M3), which "
                f"is not supported. Use the published 8-bit file or the 16-bit one."
            )
        scale = tensors[scale_name]
        if scale.num_bytes == 0 or any(size != 1 for size in scale.shape):
            raise CheckpointError(
                f"{checkpoint.path}: {scale_name} has shape {scale.shape}, but only one scale per tensor is supported. "
                f"Use the published 8-bit file or the 16-bit one."
            )
        names[name] = scale_name
    return names


def is_float8_setting(name: str) -> bool:
    """Whether a tensor only describes how others are stored: scales, settings, the marker of a whole file."""
    return _last(name) in (_MARKER, _SETTINGS, *_INPUT_SCALES, *_WEIGHT_SCALES)


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]
