import mlx.core as mx
import pytest

from LTX_2_MLX.ops import streams
from LTX_2_MLX.ops.streams import finished, in_groups, side_by_side


def counted(part: int, steps: int = 3):
    total = mx.full((2,), part)
    for _ in range(steps):
        total = total + 1
        yield total
    return total, part


def test_results_come_in_the_order_of_the_parts():
    made = side_by_side(lambda part: counted(part, steps=part), [3, 1, 4, 1, 5])
    assert [(array.tolist(), part) for array, part in made] == [([2 * p, 2 * p], p) for p in (3, 1, 4, 1, 5)]


def test_work_goes_on_in_turns_on_the_cpu():
    order = []

    def work(part: str):
        for step in range(2):
            order.append(part + str(step))
            yield mx.ones(2)

    side_by_side(work, "ab")
    assert order == (["a0", "b0", "a1", "b1"] if mx.default_device() == mx.cpu else ["a0", "a1", "b0", "b1"])


def test_work_by_itself_ends_with_the_same():
    assert finished(counted(4))[0].tolist() == [7, 7]


def test_groups_keep_every_part_in_order():
    groups = list(in_groups(range(5)))
    assert [part for group in groups for part in group] == [0, 1, 2, 3, 4]
    assert {len(group) for group in groups[:-1]} == ({2} if mx.default_device() == mx.cpu else {1})


@pytest.mark.skipif(streams._openblas("openblas_get_num_threads") is None, reason="OpenBLAS is not in the process")
@pytest.mark.parametrize("fails", [False, True])
def test_openblas_has_its_threads_again_afterwards(fails):
    threads = streams._openblas("openblas_get_num_threads")
    before, inside = threads(), []

    def work(part: int):
        inside.append(threads())
        yield mx.ones((part, part))
        if fails:
            raise RuntimeError

    try:
        streams._openblas("openblas_set_num_threads")(3)
        if fails:
            with pytest.raises(RuntimeError):
                side_by_side(work, [2, 3])
        else:
            side_by_side(work, [2, 3])
        assert threads() == 3 and set(inside) == {1}
    finally:
        streams._openblas("openblas_set_num_threads")(before)
