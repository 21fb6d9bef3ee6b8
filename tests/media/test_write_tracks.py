"""Writing what a video holds beside its frames: sound, subtitles, tags and the record of the run."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from small_streams import clip_of, grey_steps

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.audio import Waveform, read_waveform
from LTX_2_MLX.media.video import read_video, write_video
from LTX_2_MLX.media.writer import read_run_record, run_record

SUFFIXES = [".mp4", ".mov", ".mkv", ".avi", ".webm"]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi"])
def test_every_sound_track_is_copied_bit_by_bit(tmp_path, clip, packets, suffix):
    source = clip(tmp_path / "source.mp4", num_frames=24, sounds=2)
    path = write_video(read_video(source), tmp_path / f"a{suffix}")
    # AVI cannot skip the run-up of an encoder: the packet that holds it is left out.
    first = 1 if suffix == ".avi" else 0
    assert packets(path, "audio") == [track[first:] for track in packets(source, "audio")]
    if suffix != ".avi":
        with av.open(str(path)) as written:
            assert [track.language for track in written.streams.audio] == ["eng", "fra"]


@pytest.mark.parametrize("first", SUFFIXES)
@pytest.mark.parametrize("second", SUFFIXES)
def test_every_container_goes_into_every_other_with_its_sound(tmp_path, pebbles, packets, first, second):
    source = write_video(read_video(pebbles), tmp_path / f"a{first}")
    path = write_video(read_video(source), tmp_path / f"b{second}")
    stream = read_video(path)
    assert (stream.num_frames, stream.frame_rate) == (12, 12)
    assert len(packets(path, "audio")) == 1
    # AAC does not fit into WebM, nor Opus into AVI.
    if ".webm" not in (first, second):
        first = 1 if ".avi" in (first, second) else 0
        assert packets(path, "audio") == [track[first:] for track in packets(pebbles, "audio")]
    sound = read_waveform(path)
    # Only mp4 and mov can say that an encoder's run-up, here 43 ms of silence, is not to be heard.
    assert len(sound.samples) / sound.sample_rate == pytest.approx(1, abs=0.08)


def test_sound_that_does_not_fit_is_encoded_anew_and_said(tmp_path, pebbles, notes):
    path = write_video(read_video(pebbles), tmp_path / "a.webm", progress=notes)
    assert notes.notes == ["Audio track 1 (aac) is re-encoded as libopus: webm cannot hold it as it is."]
    sound = read_waveform(path)
    spectrum = np.abs(np.fft.rfft(sound.samples[:48_000, 0]))
    assert sound.sample_rate == 48_000 and abs(spectrum.argmax() - 440) <= 2


def with_subtitles(path: Path, codec: str) -> Path:
    with av.open(str(path), "w") as output:
        video = output.add_stream("libx264", rate=24)
        video.height, video.width, video.pix_fmt = 32, 48, "yuv420p"
        words = output.add_mux_stream(codec, time_base=Fraction(1, 1000))
        words.metadata["language"] = "fra"
        output.start_encoding()
        for index in range(24):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), 9 * index, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 24)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        for number in range(2):
            text = f"line {number}".encode()
            packet = av.Packet(len(text).to_bytes(2, "big") + text if codec == "mov_text" else text)
            packet.pts = packet.dts = number * 500
            packet.duration, packet.time_base, packet.stream = 400, Fraction(1, 1000), words
            output.mux(packet)
    return path


def texts(packets, path: Path) -> list[bytes]:
    """What is said, without the empty packets by which mp4 ends a line."""
    return [packet for packet in packets(path, "subtitle")[0] if len(packet) > 2]


@pytest.mark.parametrize(("codec", "suffix"), [("subrip", ".mkv"), ("mov_text", ".mp4")])
def test_subtitles_are_kept_where_the_container_allows(tmp_path, packets, codec, suffix):
    source = with_subtitles(tmp_path / f"source{suffix}", codec)
    path = write_video(read_video(source), tmp_path / f"a{suffix}")
    assert texts(packets, path) == texts(packets, source) and len(texts(packets, path)) == 2
    with av.open(str(path)) as written:
        assert written.streams.subtitles[0].language == "fra"


def test_subtitles_that_do_not_fit_are_left_out_and_said(tmp_path, packets, notes):
    source = with_subtitles(tmp_path / "source.mkv", "subrip")
    path = write_video(read_video(source), tmp_path / "a.avi", progress=notes)
    assert packets(path, "subtitle") == []
    assert len(notes.notes) == 1 and "avi cannot hold it" in notes.notes[0]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_video_that_starts_after_its_sound_stays_in_step(tmp_path, clip, suffix):
    source = clip(tmp_path / "source.mkv", num_frames=24, sounds=1, video_start=Fraction(1, 2))
    assert read_video(source).audio.lead == pytest.approx(0.5, abs=0.03)
    path = write_video(read_video(source), tmp_path / f"a{suffix}")
    assert starts(path)["video"] - starts(path)["audio"] == pytest.approx(
        starts(source)["video"] - starts(source)["audio"], abs=0.002
    )


def starts(path: Path) -> dict[str, float]:
    """Time of the first packet of each kind."""
    found: dict[str, float] = {}
    with av.open(str(path)) as source:
        for packet in source.demux():
            if packet.pts is not None:
                time = float(packet.pts * packet.time_base)
                found[packet.stream.type] = min(time, found.get(packet.stream.type, time))
    return found


def test_video_and_sound_are_interleaved_by_time(tmp_path, clip):
    source = clip(tmp_path / "source.mp4", num_frames=120, size=(32, 32), sounds=1)
    path = write_video(read_video(source), tmp_path / "a.mkv")
    latest = {"video": 0.0, "audio": 0.0}
    with av.open(str(path)) as written:
        for packet in written.demux():
            if packet.dts is not None:
                latest[packet.stream.type] = float(packet.dts * packet.time_base)
                assert abs(latest["video"] - latest["audio"]) < 0.5
    assert min(latest.values()) > 4


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("channels", "rate"), [(1, 24_000), (2, 48_000)])
def test_waveform_becomes_a_sound_track(tmp_path, tone, suffix, channels, rate):
    samples = np.repeat(tone(2.0, rate, 500), channels, axis=1)
    stream = clip_of(grey_steps(48, (16, 16)), audio=Waveform(samples=samples, sample_rate=rate))
    sound = read_waveform(write_video(stream, tmp_path / f"a{suffix}"))
    assert sound.samples.shape[1] == channels
    assert len(sound.samples) / sound.sample_rate == pytest.approx(2, abs=0.07)
    middle = sound.samples[sound.sample_rate // 2 : 3 * sound.sample_rate // 2, 0]
    assert abs(int(np.abs(np.fft.rfft(middle)).argmax()) - 500) <= 2
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.06)


def test_waveform_of_another_shape_is_refused(tmp_path):
    stream = clip_of(grey_steps(3), audio=Waveform(samples=np.zeros((3, 800), np.float32), sample_rate=8000))
    with pytest.raises(MediaError, match=r"\(S, 1\) or \(S, 2\)"):
        write_video(stream, tmp_path / "a.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_video_says_how_it_was_made(tmp_path, suffix):
    request = {"prompt": "Ein Ball – «rot» 球", "seed": 7, "image": Path("a.png"), "fps": Fraction(24000, 1001)}
    path = write_video(clip_of(grey_steps(3), metadata=run_record("generate", request)), tmp_path / f"a{suffix}")
    record = read_run_record(path, "generate")
    assert record.request == request | {"image": "a.png", "fps": "24000/1001"}
    assert record.files is None and record.source == path
    with pytest.raises(MediaError, match="made by generate"):
        read_run_record(path, "upscale")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_record_of_a_very_long_prompt_comes_back_whole(tmp_path, suffix):
    prompt = "A blue ball, größer als ein Haus. " * 6000
    path = write_video(
        clip_of(grey_steps(3), metadata=run_record("generate", {"prompt": prompt})), tmp_path / f"a{suffix}"
    )
    assert read_run_record(path, "generate").request["prompt"] == prompt


def test_video_of_others_does_not_say_how_it_was_made(pebbles, tmp_path):
    with pytest.raises(MediaError, match="has no run record"):
        read_run_record(pebbles, "generate")
    with pytest.raises(MediaError, match="does not exist"):
        read_run_record(tmp_path / "a.mp4", "generate")


def test_title_is_carried_from_video_to_video(tmp_path):
    first = write_video(clip_of(grey_steps(3), metadata={"title": "Pebbles"}), tmp_path / "a.mkv")
    second = write_video(read_video(first), tmp_path / "b.mp4")
    assert read_video(second).metadata["title"] == "Pebbles"
