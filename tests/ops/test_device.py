"""The backend that estimates are made for."""

import mlx.core as mx
import pytest

from LTX_2_MLX.ops.device import on_cpu, planned_on_gpu


def test_plans_for_a_gpu_can_be_made_anywhere_and_end():
    here = mx.default_device() == mx.Device(mx.cpu)
    assert on_cpu() == here
    with planned_on_gpu():
        assert not on_cpu()
    assert on_cpu() == here


def test_planning_ends_with_an_error_as_well():
    with pytest.raises(ValueError, match="inside"), planned_on_gpu():
        raise ValueError("inside")
    assert on_cpu() == (mx.default_device() == mx.Device(mx.cpu))
