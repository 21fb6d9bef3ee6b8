import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.pipelines.super_resolve.lq_frames import Fit, in_groups, lq_chunks, padded_length


def numbered(count: int) -> list[np.ndarray]:
    return [np.full((2, 3, 3), i % 256, np.uint8) for i in range(count)]


@pytest.mark.parametrize("count", [*range(1, 31), 33, 60])
def test_chunks_hold_every_frame_once_and_repeat_the_last(count):
    chunks = list(lq_chunks(numbered(count)))
    projected = np.concatenate([chunk.projected[:, 0, 0, 0] for chunk in chunks])
    decoded = np.concatenate([chunk.decoded[:, 0, 0, 0] for chunk in chunks])
    assert len(decoded) == padded_length(count) and len(projected) == len(decoded) + 4
    assert projected.tolist() == [min(i, count - 1) for i in range(len(projected))]
    assert decoded.tolist() == projected[: len(decoded)].tolist()
    assert sum(chunk.num_output for chunk in chunks) == count
    assert [len(chunk.projected) for chunk in chunks] == [25] + [8] * (len(chunks) - 1)


def test_chunks_come_before_the_clip_ends():
    def endless():
        while True:
            yield np.zeros((2, 3, 3), np.uint8)

    chunks = lq_chunks(endless())
    assert [next(chunks).num_output for _ in range(3)] == [21, 8, 8]


def test_clip_without_a_frame_is_refused():
    with pytest.raises(MediaError, match="no frame"):
        next(lq_chunks([]))


def test_groups_are_four_frames_after_the_first():
    def enlarge(frames):
        return mx.array(frames)

    sizes = [[len(g) for g in in_groups(np.zeros((n, 2, 2, 3), np.uint8), enlarge)] for n in (25, 21, 8, 1)]
    assert sizes == [[1] + [4] * 6, [1] + [4] * 5, [4, 4], [1]]


@pytest.mark.parametrize("scale", [1, 1.5, 4])
@pytest.mark.parametrize("size", [(2, 3), (33, 65), (50, 128)])
def test_padded_picture_comes_back_whole(size, scale):
    fit = Fit(*size, scale)
    frames = np.random.default_rng(0).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    lq = fit.lq(frames)
    assert lq.shape == (1, 2, *fit.target, 3) and all(side % 128 == 0 for side in fit.target)
    restored = np.array(fit.restore(lq))[0]
    assert restored.shape[1:3] == fit.scaled == fit.output
    if scale == 1:
        np.testing.assert_allclose(restored, frames / 127.5 - 1, atol=1e-6)


def test_cropped_picture_keeps_its_middle():
    fit = Fit(140, 300, 1, borders="crop")
    frames = np.random.default_rng(0).integers(0, 256, (1, 140, 300, 3), dtype=np.uint8)
    lq = np.array(fit.lq(frames))[0]
    assert fit.output == fit.target == (128, 256)
    np.testing.assert_allclose(lq, frames[:, 6:134, 22:278] / 127.5 - 1, atol=1e-6)


def test_what_is_added_mirrors_the_picture():
    fit = Fit(40, 120, 1)
    lq = np.array(fit.lq(np.random.default_rng(0).integers(0, 256, (1, 40, 120, 3), dtype=np.uint8)))[0, 0]
    np.testing.assert_array_equal(lq[40:79], lq[38::-1])
    np.testing.assert_array_equal(lq[:, 120:128], lq[:, 118:110:-1])


def test_eight_bit_enlargement_has_whole_levels_and_no_overshoot():
    frames = np.zeros((1, 40, 40, 3), np.uint8)
    frames[:, 20:] = 255
    floats, bits = (np.array(Fit(40, 40, 4, resizing=kind).lq(frames)) for kind in ("float", "8bit"))
    assert floats.max() > 1.01 and bits.max() == pytest.approx(1)
    np.testing.assert_allclose((bits + 1) * 127.5, np.rint((bits + 1) * 127.5), atol=1e-4)
