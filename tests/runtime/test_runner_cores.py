import threading

import mlx.core as mx
import pytest

from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.runtime.runner import map_on_cores, num_workers


def doubled(x: mx.array) -> mx.array:
    result = x @ x.T + x
    mx.eval(result)
    return result


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_results_are_the_same_and_in_order(backend):
    arrays = [mx.random.normal((size, size)) for size in (3, 50, 4, 1, 5)]
    mx.eval(arrays)
    expected = [doubled(x) for x in arrays]
    with as_backend(backend):
        results = map_on_cores(doubled, arrays)
    assert all(mx.array_equal(got, want) for got, want in zip(results, expected, strict=True))


def test_on_a_cpu_two_items_are_in_work_at_once():
    # Neither passes unless both are there.
    barrier = threading.Barrier(2, timeout=600)
    with as_backend("cpu"):
        assert num_workers() == 2
        map_on_cores(lambda item: barrier.wait(), [1, 2])


def test_on_a_gpu_items_are_computed_one_by_one_in_the_calling_thread():
    with as_backend("gpu"):
        assert num_workers() == 1
        threads = map_on_cores(lambda item: threading.current_thread(), [1, 2])
    assert set(threads) == {threading.current_thread()}


def test_an_error_in_one_item_is_raised():
    def fail(item: int) -> int:
        if item == 2:
            raise ValueError("item 2")
        return item

    with as_backend("cpu"), pytest.raises(ValueError, match="item 2"):
        map_on_cores(fail, [1, 2, 3])


def test_arrays_of_one_thread_are_used_in_another():
    arrays = [mx.eye(3), mx.ones((3, 3))]
    mx.eval(arrays)
    with as_backend("cpu"):
        first = map_on_cores(doubled, arrays)
        second = map_on_cores(doubled, first[::-1])
    assert mx.array_equal(second[1], doubled(doubled(mx.eye(3))))


def test_two_calling_threads_can_map_at_once():
    results = {}

    def call(key: int) -> None:
        results[key] = [x.item() for x in map_on_cores(lambda i: doubled(mx.full((1, 1), float(i))), [key, key + 1])]

    with as_backend("cpu"):
        threads = [threading.Thread(target=call, args=(key,)) for key in (1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == {1: [2, 6], 5: [30, 42]}
