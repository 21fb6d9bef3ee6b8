"""Stage results that cannot become a video."""

import mlx.core as mx
import pytest

from LTX_2_MLX.errors import OutputError
from LTX_2_MLX.runtime.runner import check_moving, check_result


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_result_that_is_not_finite_is_refused(value):
    with pytest.raises(OutputError, match=r"stage_1 \(video\) holds NaN or infinity"):
        check_result("stage_1", {"video": mx.array([1.0, value])})


def test_result_of_a_single_value_is_refused_except_integers_and_scalars():
    with pytest.raises(OutputError, match="single value"):
        check_result("stage_1", {"video": mx.zeros((2, 3))})
    check_result("frames", {"frames": mx.zeros((2, 3), mx.uint8), "one": mx.array([2.0])})


def test_latent_of_identical_frames_is_refused():
    frame = mx.random.normal((1, 1, 3, 5, 4), key=mx.random.key(0))
    still = mx.broadcast_to(frame, (1, 4, 3, 5, 4))
    with pytest.raises(OutputError, match="All 4 frames of the latent of stage_2 are identical"):
        check_moving("stage_2", still)
    check_moving("stage_2", mx.concatenate([still[:, :3], still[:, 3:] + 1e-3], axis=1))
    check_moving("stage_2", frame)
