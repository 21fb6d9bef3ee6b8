import os

import mlx.core as mx

from LTX_2_MLX.bench.decoding import decoding_ways
from LTX_2_MLX.bench.workloads import Widths
from LTX_2_MLX.layers import streaming
from LTX_2_MLX.shapes import VideoShape


def test_three_ways_of_decoding_are_timed_beside_float32(monkeypatch):
    monkeypatch.setenv("MLX_CONV_WINOGRAD", "0")
    seen = []
    own = streaming.conv3d_3x3x3

    def convolve(*rest, **more):
        seen.append(os.environ["MLX_CONV_WINOGRAD"])
        return own(*rest, **more)

    monkeypatch.setattr(streaming, "conv3d_3x3x3", convolve)
    rows = decoding_ways(VideoShape(1, 64, 96), Widths(), mx.bfloat16, repeats=1)
    ways = [row["way"] for row in rows]
    assert ways == [
        "float32 without Winograd",
        "bfloat16 without Winograd",
        "bfloat16 with Winograd",
        "float32 with Winograd",
    ]
    assert list(dict.fromkeys(seen)) == ["0", "1"] and os.environ["MLX_CONV_WINOGRAD"] == "0"
    assert rows[0]["error"] == rows[3]["error"] == 0
    assert 1e-3 < rows[1]["error"] < 0.1
    assert all(row["best_seconds"] > 0 for row in rows)
