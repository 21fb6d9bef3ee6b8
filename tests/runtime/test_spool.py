import numpy as np
import pytest

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.runtime.spool import Spool


def test_what_goes_in_comes_out_in_any_order():
    frames = np.random.default_rng(0).integers(0, 256, (5, 3, 7, 3), dtype=np.uint8)
    with Spool((3, 7, 3)) as spool:
        spool.append(frames[:2])
        spool.append(frames[2:])
        assert len(spool) == 5
        np.testing.assert_array_equal(spool[4], frames[4])
        np.testing.assert_array_equal(np.stack(list(spool)), frames)
        np.testing.assert_array_equal(np.stack(list(spool)), frames)


def test_floats_keep_their_bits():
    latents = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    with Spool((4,), np.float32) as spool:
        spool.append(latents)
        np.testing.assert_array_equal(spool[1], latents[1])


def test_array_beyond_the_end_is_an_index_error():
    with Spool((1,)) as spool, pytest.raises(IndexError):
        _ = spool[0]


def test_no_file_is_left_behind(tmp_path):
    with Spool((3,), folder=tmp_path) as spool:
        spool.append(np.zeros((2, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_clear_error(monkeypatch):
    with Spool((3,)) as spool:

        class Full:
            def seek(self, _): ...

            def close(self): ...

            def write(self, _):
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(spool, "_file", Full())
        with pytest.raises(MediaError, match=r"No space left on device.*TMPDIR"):
            spool.append(np.zeros((2, 3), np.uint8))
