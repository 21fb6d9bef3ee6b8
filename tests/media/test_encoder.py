"""Which encoder writes which video."""

import pytest

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media import encoder
from LTX_2_MLX.media.encoder import choose_encoding, crf_of_quality, least_bytes

APPLE = {"h264_videotoolbox", "hevc_videotoolbox"}
EVERYWHERE = {"libx264", "libx265", "libvpx-vp9", "ffv1"}


@pytest.fixture
def mac(monkeypatch):
    monkeypatch.setattr(encoder.sys, "platform", "darwin")
    monkeypatch.setattr(encoder.av, "codecs_available", APPLE | EVERYWHERE)
    # As Apple's encoders are reported to be limited; the limits differ by chip.
    monkeypatch.setattr(encoder, "encodes", lambda name, size, options, pixel_format: max(size) <= 4096)


@pytest.fixture
def linux(monkeypatch):
    monkeypatch.setattr(encoder.sys, "platform", "linux")
    monkeypatch.setattr(encoder.av, "codecs_available", EVERYWHERE)


@pytest.mark.parametrize(
    ("codec", "size", "expected"),
    [
        ("auto", (480, 704), "h264_videotoolbox"),
        ("h265", (480, 704), "hevc_videotoolbox"),
        ("h264", (481, 704), "h264_videotoolbox"),
        ("h264", (96, 704), "libx264"),
        ("vp9", (480, 704), "libvpx-vp9"),
    ],
)
def test_mac_encodes_in_hardware_what_its_hardware_takes(mac, codec, size, expected):
    assert choose_encoding("a.mp4", size, codec).encoder == expected


def test_mac_takes_the_software_encoder_where_its_own_refuses_the_size(mac):
    within = choose_encoding("a.mp4", (2304, 4096))
    assert (within.encoder, within.notes) == ("h264_videotoolbox", ())
    beyond = choose_encoding("a.mp4", (2304, 4098))
    assert beyond.encoder == "libx264" and beyond.options["crf"] == "17"
    (note,) = beyond.notes
    assert "h264_videotoolbox refuses 4098×2304" in note and "libx264" in note


def test_an_encoder_is_tried_with_one_frame():
    assert encoder.encodes("libx264", (64, 96), {"crf": "17"})
    assert not encoder.encodes("libx264", (64, 96), {"crf": "not a number"})
    assert not encoder.encodes("h264_videotoolbox", (64, 96), {})


def test_mac_without_videotoolbox_takes_the_software_encoder(mac, monkeypatch):
    monkeypatch.setattr(encoder.av, "codecs_available", EVERYWHERE)
    assert choose_encoding("a.mp4", (480, 704)).encoder == "libx264"


def test_hardware_quality_follows_crf(mac):
    qualities = [
        int(choose_encoding("a.mp4", (480, 704), crf=crf).options["global_quality"]) for crf in (0, 17, 30, 51)
    ]
    assert qualities == sorted(qualities, reverse=True) and qualities[0] == 100 * 118 and qualities[-1] == 118


@pytest.mark.parametrize(
    ("name", "codec", "expected"),
    [
        ("a.mp4", "auto", ("mp4", "libx264", "yuv420p", None)),
        ("a.MOV", "h265", ("mov", "libx265", "yuv420p", "hvc1")),
        ("a.mkv", "h265", ("matroska", "libx265", "yuv420p", None)),
        ("a.webm", "auto", ("webm", "libvpx-vp9", "yuv420p", None)),
        ("a.avi", "ffv1", ("avi", "ffv1", "bgr0", None)),
    ],
)
def test_container_and_codec_choose_the_encoding(linux, name, codec, expected):
    got = choose_encoding(name, (96, 128), codec)
    assert (got.container.name, got.encoder, got.pixel_format, got.codec_tag) == expected
    assert got.container.variable_rate is (expected[0] != "avi")


@pytest.mark.parametrize(("codec", "expected"), [("h264", "yuv444p"), ("h265", "yuv444p"), ("vp9", "yuv420p")])
def test_odd_size_keeps_its_pixels_on_request(linux, codec, expected):
    encoding = choose_encoding("a.mkv", (97, 128), codec, exact_size=True)
    assert (encoding.pixel_format, encoding.size) == (expected, (97, 128))


@pytest.mark.parametrize(("codec", "size"), [("h264", (98, 130)), ("h265", (98, 130)), ("vp9", (97, 129))])
def test_odd_size_is_rounded_up_for_apples_players(linux, codec, size):
    encoding = choose_encoding("a.mkv", (97, 129), codec)
    assert (encoding.pixel_format, encoding.size) == ("yuv420p", size)


@pytest.mark.parametrize("codec", ["h264", "h265", "vp9"])
def test_size_that_a_codec_cannot_have_is_refused(linux, codec):
    with pytest.raises(MediaError, match="at most 16384 pixels per side, this video is 16386×64"):
        choose_encoding("a.mkv", (64, 16386), codec)


def test_missing_encoder_is_named(linux, monkeypatch):
    monkeypatch.setattr(encoder.av, "codecs_available", set())
    with pytest.raises(MediaError, match="no encoder libx264"):
        choose_encoding("a.mp4", (96, 128))


def test_quality_from_1_to_10_is_crf_from_35_to_17():
    assert [crf_of_quality(quality) for quality in (1, 6, 10)] == [35, 25, 17]
    for quality in (0, 11):
        with pytest.raises(MediaError, match="expected 1 to 10"):
            crf_of_quality(quality)


def test_least_size_grows_with_pixels_and_frames():
    assert least_bytes((480, 704), 97) < least_bytes((960, 1408), 97) < least_bytes((960, 1408), 193)
    assert least_bytes((480, 704), 97, "ffv1") > least_bytes((480, 704), 97)


@pytest.mark.parametrize(("name", "num_frames", "reordered"), [("a.mp4", 97, True), ("a.mp4", 2, False)])
@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_frames_are_reordered_only_in_video_long_enough(linux, name, num_frames, reordered, codec):
    options = choose_encoding(name, (96, 128), codec, num_frames=num_frames).options
    assert (options.get("bf") == "0" or "bframes=0" in options.get("x265-params", "")) is not reordered
    assert choose_encoding("a.avi", (96, 128), num_frames=97).options["bf"] == "0"
