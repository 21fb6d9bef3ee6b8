import mlx.core as mx
import pytest

from LTX_2_MLX.ops.device import as_backend, eval_if_large


@pytest.mark.parametrize(
    ("backend", "num_bytes", "evaluates"),
    [("cpu", 2**18, True), ("cpu", 2**18 - 4, False), ("gpu", 2**18, False), ("gpu", 2**26, True)],
)
def test_only_arrays_large_for_the_backend_are_evaluated(monkeypatch, backend, num_bytes, evaluates):
    evaluated = []
    monkeypatch.setattr(mx, "eval", lambda *arrays: evaluated.extend(arrays))
    x = mx.zeros((num_bytes // 4,))
    with as_backend(backend):
        assert eval_if_large(x) is x
    assert bool(evaluated) == evaluates
