"""The video decoder's ways on this machine: 16 bit without and with Winograd's convolutions, float32 with them."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX.bench.workloads import Widths, stand_in, vae_config
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.shapes import Compression, VideoShape

_COMPRESSION = Compression(8, 32, 32)
_WINOGRAD = "MLX_CONV_WINOGRAD"


def decoding_ways(shape: VideoShape, widths: Widths, dtype: mx.Dtype, repeats: int) -> list[dict[str, Any]]:
    """Seconds, peak memory and error of decoding one latent in each way.

    Args:
        shape: Size of the video.
        widths: Of the decoder; its weights are random.
        dtype: The 16-bit type.
        repeats: Calls after the first.

    Returns:
        A row for each way: ``way``, ``first_seconds``, ``best_seconds``, ``peak_bytes``, and ``error``, the root mean
        square of the difference to float32 without Winograd, over that of its frames.
    """
    latent = shape.latent(_COMPRESSION)
    size = (1, latent.num_frames, latent.height, latent.width, widths.latent)
    x = mx.random.normal(size, key=mx.random.key(1))
    name = str(dtype).rpartition(".")[2]
    ways = [
        ("float32 without Winograd", mx.float32, False),
        (f"{name} without Winograd", dtype, False),
        (f"{name} with Winograd", dtype, True),
        ("float32 with Winograd", mx.float32, True),
    ]
    rows = []
    expected = None
    for way, precision, winograd in ways:
        decoder = stand_in(VideoDecoder(vae_config(widths)), precision)
        mx.eval(decoder.parameters())
        with _winograd(winograd):
            row, frames = _timed(decoder, x, repeats)
        expected = frames if expected is None else expected
        rows.append({"way": way} | row | {"error": _relative_error(frames, expected)})
        del decoder
        mx.clear_cache()
    return rows


def decoding_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The rows of ``decoding_ways`` as a Markdown table."""
    lines = ["| decoder | first, s | best, s | peak, MiB | error |", "|---|---|---|---|---|"]
    for row in rows:
        cells = (f"{row['first_seconds']:.2f}", f"{row['best_seconds']:.3f}", f"{row['peak_bytes'] / 2**20:.0f}")
        lines.append(f"| {row['way']} | {' | '.join(cells)} | {row['error']:.1e} |")
    return lines


@contextmanager
def _winograd(on: bool) -> Iterator[None]:
    before = os.environ.get(_WINOGRAD)
    os.environ[_WINOGRAD] = "1" if on else "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_WINOGRAD]
        else:
            os.environ[_WINOGRAD] = before


def _timed(decoder: Any, latent: mx.array, repeats: int) -> tuple[dict[str, Any], np.ndarray]:
    """Seconds and peak of decoding, and the frames, float32."""
    mx.reset_peak_memory()
    seconds = []
    frames: list[np.ndarray] = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        frames = [np.array(chunk.astype(mx.float32)) for chunk in decoder.stream([latent])]
        seconds.append(time.perf_counter() - start)
    row = {
        "first_seconds": seconds[0],
        "best_seconds": min(seconds[1:]),
        "peak_bytes": mx.get_peak_memory(),
    }
    return row, np.concatenate(frames, axis=1)


def _relative_error(frames: np.ndarray, expected: np.ndarray) -> float:
    return float(np.sqrt(np.mean((frames - expected) ** 2) / np.mean(expected**2)))
