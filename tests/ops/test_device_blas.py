import pytest

from LTX_2_MLX.ops import device
from LTX_2_MLX.ops.device import one_blas_thread

get_threads = device._openblas("openblas_get_num_threads")
set_threads = device._openblas("openblas_set_num_threads")


@pytest.mark.skipif(get_threads is None, reason="OpenBLAS is not in the process")
def test_openblas_has_its_threads_again_afterwards_and_after_an_error():
    before = get_threads()
    try:
        set_threads(3)
        with one_blas_thread():
            assert get_threads() == 1
        assert get_threads() == 3
        with pytest.raises(ValueError, match="inside"), one_blas_thread():
            raise ValueError("inside")
        assert get_threads() == 3
    finally:
        set_threads(before)


def test_without_openblas_nothing_happens(monkeypatch):
    monkeypatch.setattr(device, "_openblas", lambda function: None)
    with one_blas_thread():
        pass
