"""Decoding and encoding a video one after the other, and at once as commands do, timed in turns in one run."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np

from LTX_2_MLX.bench.workloads import Widths, stand_in, vae_config
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.video import write_video
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.shapes import VideoShape

WAYS = ("decoding", "encoding", "both at once")
_RATE = Fraction(24)


def moving_waves(shape: VideoShape) -> np.ndarray:
    """Frames ``(T, H, W, 3)`` uint8 of waves that move a few pixels in each."""
    time_axis, rows, columns = np.indices((shape.num_frames, shape.height, shape.width), dtype=np.float32)
    waves = [np.sin((rows * slope + columns + 3 * time_axis) / 17) for slope in (0.3, 0.8, -0.5)]
    return (127.5 + 100 * np.stack(waves, axis=-1)).astype(np.uint8)


def writing_seconds(shape: VideoShape, widths: Widths, turns: int) -> dict[str, float]:
    """Medians of the wall's seconds, by the name of the way.

    The decoder has stand-in weights, and the frames that are encoded are drawn ones: noise would take the encoder much
    longer than a video does.
    """
    decoder = stand_in(VideoDecoder(vae_config(widths)), mx.float32)
    size = shape.latent(decoder.compression)
    latent = mx.random.normal((1, size.num_frames, size.height, size.width, widths.latent), key=mx.random.key(1))
    mx.eval(decoder.parameters(), latent)
    drawn = moving_waves(shape)

    def decoded() -> Iterator[np.ndarray]:
        done = 0
        for chunk in decoder.stream([latent]):
            mx.eval(chunk)
            yield drawn[done : done + chunk.shape[1]]
            done += chunk.shape[1]

    with tempfile.TemporaryDirectory() as folder:

        def write(chunks: Iterator[np.ndarray]) -> None:
            stream = FrameStream(chunks, shape.height, shape.width, _RATE, shape.num_frames)
            write_video(stream, Path(folder) / "video.mp4")

        ways: dict[str, Callable[[], object]] = {
            "decoding": lambda: list(decoded()),
            "encoding": lambda: write(iter([drawn])),
            "both at once": lambda: write(decoded()),
        }
        taken: dict[str, list[float]] = {name: [] for name in WAYS}
        for _ in range(turns + 1):
            for name, work in ways.items():
                start = time.perf_counter()
                work()
                taken[name].append(time.perf_counter() - start)
    # The first turn compiles and fills caches.
    return {name: statistics.median(seconds[1:]) for name, seconds in taken.items()}


def writing_lines(seconds: dict[str, float]) -> list[str]:
    """The seconds of each way, and the share that both at once take of one after the other."""
    decoding, encoding, both = seconds.values()
    lines = [f"{name}: {each:.2f} s" for name, each in seconds.items()]
    return [*lines, f"At once over one after the other: {both / (decoding + encoding):.2f}"]
