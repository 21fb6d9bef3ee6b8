"""A numerical self-test of the MLX kernels that this library uses, against NumPy."""

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from LTX_2_MLX.ops.sampling import resize, warp

# Root mean square of the error over that of the result. Winograd in 16 bit is off by 7e-3 in float16, 6e-2 in bfloat16.
_BOUNDS = {mx.float32: 1e-5, mx.float16: 4e-3, mx.bfloat16: 3e-2}
_HEAD_DIMS = (64, 128, 256, 512)
# Two such rows are more elements than a signed index of 32 bits reaches.
_LARGE_ROW = 2**30 + 64


@dataclass(frozen=True)
class KernelCheck:
    """One kernel at one shape.

    Attributes:
        name: Kernel, shape and precision.
        error: Root mean square of the error over that of NumPy's result.
        bound: What is allowed.
    """

    name: str
    error: float
    bound: float

    @property
    def ok(self) -> bool:
        """Whether the error is a number within the bound."""
        return self.error <= self.bound


def check_kernels(*, large_arrays: bool) -> Iterator[KernelCheck]:
    """Run all checks.

    Args:
        large_arrays: Also index an array of 2 GiB; takes 4 GiB of memory.
    """
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        # The second shape passes the gate of Metal's Winograd kernel, the first does not.
        yield _conv3d((3, 13, 11), 24, 40, dtype)
        yield _conv3d((2, 64, 64), 128, 128, dtype)
        for head_dim in _HEAD_DIMS:
            yield _attention(head_dim, dtype, masked=False)
            yield _attention(head_dim, dtype, masked=True)
        yield _quantized(8, dtype)
        yield _quantized(4, dtype)
    yield _resize()
    yield _warp()
    if large_arrays:
        yield _large_index()


def _conv3d(size: tuple[int, int, int], inputs: int, outputs: int, dtype: mx.Dtype) -> KernelCheck:
    x = _random(0, 1, *size, inputs)
    kernel = _random(1, outputs, 3, 3, 3, inputs) / np.float32(27 * inputs) ** np.float32(0.5)
    padded = np.pad(x[0], ((1, 1), (1, 1), (1, 1), (0, 0)))
    frames, height, width = size
    expected = np.zeros((*size, outputs), np.float32)
    for t, row, column in np.ndindex(3, 3, 3):
        window = padded[t : t + frames, row : row + height, column : column + width]
        expected += window @ kernel[:, t, row, column].T
    result = mx.conv_general(mx.array(x, dtype), mx.array(kernel, dtype), padding=1)
    shape = "×".join(map(str, size))
    return _checked(f"conv3d {shape}, {inputs} to {outputs} channels", dtype, result, expected[None])


def _attention(head_dim: int, dtype: mx.Dtype, *, masked: bool) -> KernelCheck:
    queries = _random(0, 1, 2, 70, head_dim)
    keys = _random(1, 1, 2, 90, head_dim)
    values = _random(2, 1, 2, 90, head_dim)
    scale = head_dim**-0.5
    mask = np.random.default_rng(1).random((1, 1, 70, 90)) < 0.7
    scores = queries @ keys.swapaxes(2, 3) * np.float32(scale)
    if masked:
        scores = np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    expected = weights / weights.sum(axis=-1, keepdims=True) @ values
    arrays = [mx.array(each, dtype) for each in (queries, keys, values)]
    result = mx.fast.scaled_dot_product_attention(*arrays, scale=scale, mask=mx.array(mask) if masked else None)
    return _checked(f"attention, heads of {head_dim}{', masked' if masked else ''}", dtype, result, expected)


def _quantized(bits: int, dtype: mx.Dtype) -> KernelCheck:
    x = _random(0, 33, 256)
    packed, scales, biases = mx.quantize(mx.array(_random(1, 96, 256), dtype), group_size=64, bits=bits)
    unpacked = mx.dequantize(packed, scales, biases, group_size=64, bits=bits)
    expected = x @ np.array(unpacked.astype(mx.float32)).T
    result = mx.quantized_matmul(mx.array(x, dtype), packed, scales, biases, group_size=64, bits=bits)
    return _checked(f"quantized matmul, {bits} bits", dtype, result, expected)


def _resize() -> KernelCheck:
    x = _random(0, 1, 9, 15, 3)
    expected = x.reshape(1, 3, 3, 5, 3, 3)[:, :, 1, :, 1]
    # A third of the size: linear interpolation takes the middle pixel of three.
    return _checked("resize to a third", mx.float32, resize(mx.array(x), 3, 5), expected)


def _warp() -> KernelCheck:
    x = _random(0, 1, 12, 14, 3)
    flow = np.zeros((1, 12, 14, 2), np.float32)
    flow[..., 0] = 2
    columns = np.minimum(np.arange(14) + 2, 13)
    return _checked("warp by two columns", mx.float32, warp(mx.array(x), mx.array(flow)), x[:, :, columns])


def _large_index() -> KernelCheck:
    array = mx.zeros((2, _LARGE_ROW), mx.uint8)
    array[1, _LARGE_ROW - 3] = 7
    # A copy of the whole, so that the kernel itself counts beyond 2^31.
    copied = array + mx.array(1, mx.uint8)
    result = copied[1, -5:].astype(mx.float32)
    expected = np.array([1, 1, 8, 1, 1], np.float32)
    return _checked("an index beyond 2^31", mx.float32, result, expected)


def _checked(name: str, dtype: mx.Dtype, result: mx.array, expected: np.ndarray) -> KernelCheck:
    difference = np.array(result.astype(mx.float32)) - expected
    error = float(np.linalg.norm(difference) / np.linalg.norm(expected))
    precision = str(dtype).rpartition(".")[2]
    return KernelCheck(f"{name}, {precision}", error, _BOUNDS[dtype])


def _random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
