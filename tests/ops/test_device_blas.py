import pytest

from LTX_2_MLX.ops import device
from LTX_2_MLX.ops.device import blas_threads, one_blas_thread


@pytest.mark.skipif(not device._openblas_threads(), reason="OpenBLAS is not in the process")
def test_every_openblas_has_its_threads_again_afterwards_and_after_an_error():
    libraries = device._openblas_threads()
    before = [get_threads() for get_threads, _ in libraries]

    def threads():
        return {get_threads() for get_threads, _ in libraries}

    try:
        for _, set_threads in libraries:
            set_threads(3)
        assert blas_threads() == 3
        with one_blas_thread():
            assert threads() == {1} and blas_threads() == 1
        assert threads() == {3}
        with pytest.raises(ValueError, match="inside"), one_blas_thread():
            raise ValueError("inside")
        assert threads() == {3}
    finally:
        for (_, set_threads), number in zip(libraries, before, strict=True):
            set_threads(number)


def test_without_openblas_nothing_happens(monkeypatch):
    monkeypatch.setattr(device, "_openblas_threads", list)
    with one_blas_thread():
        pass
    assert blas_threads() >= 1
