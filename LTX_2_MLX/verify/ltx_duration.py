"""LTX-2.5's duration head and the rule from seconds to frames."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.models.ltx.duration_head import DurationHead, reference_frames
from LTX_2_MLX.planning.plan import dtype_for
from LTX_2_MLX.shapes import StreamName
from LTX_2_MLX.verify.case import Case, Outputs


def duration_head(case: Case) -> Outputs:
    """Seconds of both streams and of each alone, and the frames chosen at the case's rates."""
    head = load(DurationHead, case.checkpoint(), dtype=dtype_for("duration head"))
    inputs = case.inputs()
    contexts: dict[StreamName, mx.array] = {
        "video": mx.array(inputs["video_tokens"]),
        "audio": mx.array(inputs["audio_tokens"]),
    }
    seconds = np.array(head(contexts))
    call = case.spec["call"]
    low, high = call.get("min_seconds", 1.0), call.get("max_seconds", 20.0)
    frames = [[reference_frames(float(s), rate, low, high) for s in seconds] for rate in call["frame_rates"]]
    table = [
        [reference_frames(float(s), float(rate), float(low), float(high)) for s in inputs["table_seconds"]]
        for rate, low, high in inputs["table_settings"]
    ]
    return {
        "seconds": seconds,
        "seconds_video_only": head({"video": contexts["video"]}),
        "seconds_audio_only": head({"audio": contexts["audio"]}),
        "frames": np.array(frames),
        "table_frames": np.array(table),
    }
