import numpy as np
import pytest

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.super_resolve.tiles import (
    Tile,
    feather,
    frame_tiles,
    join_tiles,
    published_feather,
)


@pytest.mark.parametrize(("height", "width", "size", "overlap"), [(44, 70, 32, 8), (20, 300, 64, 0), (5, 7, 64, 32)])
def test_tiles_of_any_picture_join_to_the_picture(height, width, size, overlap):
    picture = np.random.default_rng(0).random((2, height, width, 3)).astype(np.float32)
    tiles = frame_tiles(height, width, size, overlap)
    weights = [feather(tile, height, width, overlap) for tile in tiles]
    joined = join_tiles([tile.cut(picture) for tile in tiles], tiles, weights, height, width)
    np.testing.assert_allclose(joined, picture, atol=1e-6)


def test_published_weights_lose_the_pictures_edge_and_ours_do_not():
    picture = np.ones((1, 44, 70, 3), np.float32)
    tiles = frame_tiles(44, 70, 32, 8)
    parts = [tile.cut(picture) for tile in tiles]
    published = join_tiles(parts, tiles, [published_feather(tile, 8) for tile in tiles], 44, 70)
    assert not published[:, 0].any() and not published[:, :, -1].any()
    assert join_tiles(parts, tiles, [feather(tile, 44, 70, 8) for tile in tiles], 44, 70).min() == pytest.approx(1)


def test_last_tile_moves_inward_to_keep_its_size():
    assert frame_tiles(135, 240, 128, 16)[-1] == Tile(112, 7, 240, 135)


def test_sides_are_cut_to_a_multiple():
    assert {(t.right - t.left, t.bottom - t.top) for t in frame_tiles(256, 384, 100, 20, multiple=32)} == {(96, 96)}


def test_overlap_beyond_half_a_tile_is_refused():
    with pytest.raises(RequestError, match="overlap is 40"):
        frame_tiles(100, 100, 64, 40)


def test_weights_are_one_along_the_pictures_edges_and_rise_inside():
    weights = feather(Tile(0, 12, 32, 44), 44, 70, 8)
    assert weights[-1, 0] == 1 and weights[20, 0] == 1
    np.testing.assert_allclose(weights[:9, 0], [*(np.arange(1, 9) / 8), 1])
