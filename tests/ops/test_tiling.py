from itertools import pairwise

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops.tiling import (
    Interval,
    TilePlan,
    blend_tiles,
    split_axis,
    split_evenly,
    start_earlier,
    tiled_axis,
)


def _space(length, size, overlap):
    tiles = split_axis(length, size, overlap)
    return tiled_axis(tiles, tiles)


def _time(length, size, overlap):
    tiles = start_earlier(split_axis(length, size, overlap))
    return tiled_axis(tiles, tiles, in_time=True)


@pytest.mark.parametrize("length", range(1, 30))
@pytest.mark.parametrize(("size", "overlap"), [(2, 0), (2, 1), (5, 2), (6, 3), (7, 6)])
def test_tiles_cover_the_axis_and_overlap_as_asked(length, size, overlap):
    tiles = split_axis(length, size, overlap)
    assert tiles[0].start == 0 and tiles[-1].stop == length
    assert all(after.start == before.start + size - overlap for before, after in pairwise(tiles))
    assert all(len(tile) == size for tile in tiles[:-1])


@pytest.mark.parametrize(("length", "size", "overlap"), [(13, 5, 2), (30, 24, 2), (9, 4, 2), (8, 8, 3), (17, 3, 1)])
def test_weights_sum_to_one_in_space_and_time(length, size, overlap):
    for axis in (_space(length, size, overlap), _time(length, size, overlap)):
        assert axis.sums_to_one
        assert np.allclose(axis.weights_sum, 1, atol=1e-6)


def test_overlap_of_more_than_half_a_tile_is_divided_by_the_sum_of_weights():
    assert not _space(11, 5, 4).sums_to_one


@pytest.mark.parametrize("overlaps", [(1, 1, 2), (2, 3, 4), (0, 0, 0)])
def test_blending_what_was_cut_gives_back_the_whole(overlaps):
    x = mx.random.normal((2, 9, 7, 11, 3))
    plan = TilePlan(_time(9, 3, overlaps[0]), _space(7, 4, overlaps[1]), _space(11, 5, overlaps[2]))
    chunks = list(blend_tiles(plan, lambda tile: tile.crop(x[:, tile.time.start : tile.time.stop])))
    assert len(chunks) > 1
    assert np.allclose(np.array(mx.concatenate(chunks, axis=1)), np.array(x), atol=1e-5)


def test_one_tile_is_the_whole():
    x = mx.random.normal((1, 4, 5, 6, 2))
    plan = TilePlan(_time(4, 9, 2), _space(5, 9, 2), _space(6, 9, 2))
    (chunk,) = blend_tiles(plan, lambda tile: tile.crop(x))
    assert all(len(axis.sources) == 1 for axis in (plan.time, plan.height, plan.width))
    assert mx.array_equal(chunk, x)


def test_chunk_leaves_before_the_next_span_of_time_is_worked_on():
    worked = []

    def work(tile):
        worked.append(tile.time.start)
        return mx.ones((1, len(tile.time), 4, 4, 1))

    chunks = blend_tiles(TilePlan(_time(20, 4, 1), _space(4, 4, 0), _space(4, 4, 0)), work)
    next(chunks)
    assert worked == [0]


def test_even_split_differs_by_one_cell_at_most():
    tiles = split_evenly(23, 4, 2)
    assert tiles[0].start == 0 and tiles[-1].stop == 23
    assert [len(tile) for tile in tiles] == [8, 7, 7, 7]
    assert all(before.stop - after.start == 2 for before, after in pairwise(tiles))


def test_first_cell_is_one_frame_and_every_other_eight():
    first, second = start_earlier([Interval(0, 10, 0, 3), Interval(7, 13, 3, 0)])
    assert first.scaled_in_time(8) == Interval(0, 73, 0, 24)
    assert second.scaled_in_time(8) == Interval(48, 97, 25, 0)
