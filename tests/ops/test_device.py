import threading

import mlx.core as mx
import pytest

from LTX_2_MLX.ops.device import as_backend, backend, device, on_cpu

COMPUTES_ON_CPU = mx.default_device() == mx.Device(mx.cpu)


def test_without_as_backend_the_default_device_decides():
    assert on_cpu() == COMPUTES_ON_CPU
    assert backend() == ("cpu" if COMPUTES_ON_CPU else "gpu")


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_as_backend_answers_for_another_backend_until_it_ends(name):
    with as_backend(name):
        assert backend() == name
        assert on_cpu() == (name == "cpu")
    assert on_cpu() == COMPUTES_ON_CPU


def test_as_backend_can_be_nested():
    with as_backend("gpu"):
        with as_backend("cpu"):
            assert on_cpu()
        assert not on_cpu()


def test_as_backend_ends_with_an_error_as_well():
    with pytest.raises(ValueError, match="inside"), as_backend("gpu"):
        raise ValueError("inside")
    assert on_cpu() == COMPUTES_ON_CPU


def test_as_backend_holds_in_other_threads():
    answers = []
    with as_backend("gpu"):
        thread = threading.Thread(target=lambda: answers.append(on_cpu()))
        thread.start()
        thread.join()
    assert answers == [False]


def test_as_backend_refuses_an_unknown_name():
    with pytest.raises(ValueError, match="Unknown backend 'metal'"), as_backend("metal"):
        pass


def test_arrays_are_computed_on_the_same_device_whatever_the_backend():
    with as_backend("gpu"):
        assert device() == mx.default_device()
