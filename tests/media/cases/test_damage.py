"""Damaged videos: refused before any work, and read as far as they go with ``repair``."""

import pytest

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.video import read_video, write_video


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("19/half.mkv", "ends at 0.58 s, its header says 1.22 s"),
        ("19/one_bad_frame.mkv", "1 of 23 frames cannot be decoded"),
        ("19/lost_packets.ts", "data is missing in 1 of 28 video packets"),
    ],
)
def test_damage_is_found_before_the_work(case, name, damage):
    with pytest.raises(MediaError, match=damage) as caught:
        read_video(case(name))
    assert "--repair" in str(caught.value)


def test_damage_is_found_every_time(case):
    # Several frames decoded at once are returned before they are marked as damaged, most times.
    found = {read_video(case("19/one_bad_frame.mkv"), repair=True).num_frames for _ in range(12)}
    assert found == {30}


@pytest.mark.parametrize(
    ("name", "num_frames", "remedy"),
    [
        ("19/half.mkv", 14, "The frames that can be decoded are used."),
        ("19/one_bad_frame.mkv", 30, "Frames are repeated in the gaps."),
        ("19/lost_packets.ts", 30, "Frames are repeated in the gaps."),
    ],
)
def test_repaired_video_keeps_its_pace_and_says_what_was_done(case, tmp_path, notes, name, num_frames, remedy):
    stream = read_video(case(name), repair=True)
    target = write_video(stream, tmp_path / "repaired.mkv", progress=notes)
    assert any(remedy in note for note in notes.notes)
    written = read_video(target)
    assert (written.num_frames, written.frame_rate) == (num_frames, stream.frame_rate)
    assert written.array().shape[0] == num_frames
