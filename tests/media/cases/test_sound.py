"""Sound: every track is tried out before the first frame, copied where it can be, else encoded again and said."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.audio import read_waveform
from LTX_2_MLX.media.samples import audio_frame, planar
from LTX_2_MLX.media.video import read_video, write_video

SUFFIXES = (".mp4", ".mov", ".mkv", ".avi", ".webm")


def audio_of(path: Path) -> tuple[str, int, str]:
    """Codec, rate and layout of the first audio track."""
    with av.open(str(path)) as source:
        stream = source.streams.audio[0]
        return stream.codec_context.codec.canonical_name, stream.rate, stream.layout.name


def onset(path: Path) -> float:
    """Seconds from the first frame to the first loud sample."""
    with av.open(str(path)) as source:
        # AVI stores the order of decoding only; FFmpeg makes up when a frame is shown.
        stamps = [(p.dts if path.suffix == ".avi" else p.pts, p.time_base) for p in source.demux(video=0)]
    video = min(stamp * tick for stamp, tick in stamps if stamp is not None)
    with av.open(str(path)) as source:
        for frame in source.decode(audio=0):
            loud = np.flatnonzero(np.abs(planar(frame)[0]) > 0.1)
            if len(loud):
                return float(frame.pts * frame.time_base) + loud[0] / frame.sample_rate - float(video)
    raise AssertionError("silence")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pcm_without_a_layout_is_written(case, copied, notes, suffix):
    path = copied(case("01/pcm2.avi"), suffix)
    codec, _, layout = audio_of(path)
    assert read_video(path).num_frames == 10
    assert codec == {".mp4": "aac", ".webm": "opus"}.get(suffix, "pcm_s16le")
    assert layout == "stereo" or codec == "pcm_s16le"
    assert bool(notes.notes) is (suffix in (".mp4", ".webm"))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".webm"])
@pytest.mark.parametrize("name", ["02/al.mkv", "02/x.wmv"])
def test_sound_without_a_layout_is_encoded(case, copied, notes, name, suffix):
    path = copied(case(name), suffix)
    assert read_video(path).num_frames == 12
    assert audio_of(path)[2] == "mono"
    assert any("re-encoded" in note for note in notes.notes)


@pytest.mark.parametrize("codec", ["pcm_mulaw", "pcm_u8", "pcm_s16be", "pcm_s24le", "pcm_f32le", "flac", "mp2"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_codec_goes_into_every_container(tmp_path, clip, copied, codec, suffix):
    source = tmp_path / "source.nut"
    sound(source, clip(tmp_path / "v.mkv", num_frames=25, rate=25), codec, 48_000)
    path = copied(source, suffix)
    assert read_video(path).num_frames == 25
    assert onset(path) == pytest.approx(0.5, abs=0.012)


def sound(path: Path, video: Path, codec: str, rate: int, layout: str = "mono", start: Fraction = Fraction(0)) -> Path:
    """A file with the frames of ``video`` and half a second of silence before half a second of noise."""
    with av.open(str(video)) as source, av.open(str(path), "w") as output:
        frames = output.add_stream_from_template(source.streams.video[0])
        track = output.add_stream(codec, rate=rate)
        track.codec_context.layout = layout
        context = track.codec_context
        channels = len(av.AudioLayout(layout).channels)
        samples = np.zeros((channels, rate), np.float32)
        samples[:, rate // 2 :] = np.random.default_rng(0).uniform(-0.9, 0.9, (channels, rate - rate // 2))
        frame = audio_frame(samples, layout, rate, int(start * rate))
        output.start_encoding()
        resampler = av.AudioResampler(context.format, context.layout, rate, context.frame_size or 1024)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(track.encode(piece))
        output.mux(track.encode(None))
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = frames
                output.mux(packet)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sound_packet_with_the_time_of_its_neighbour_is_written(case, copied, suffix):
    path = copied(case("04/dupdts.mkv"), suffix)
    assert read_video(path).num_frames == 30
    with av.open(str(path)) as output:
        stamps = [packet.dts for packet in output.demux(audio=0) if packet.dts is not None]
    assert stamps == sorted(set(stamps))


@pytest.mark.parametrize("layout", ["5.1(side)", "2.1", "4.0", "5.0(side)", "5.1", "7.1"])
@pytest.mark.parametrize("suffix", [".webm", ".mp4", ".avi"])
def test_surround_is_written_in_a_layout_that_the_codec_has(tmp_path, clip, copied, notes, layout, suffix):
    source = tmp_path / "source.mkv"
    sound(source, clip(tmp_path / "v.mkv", num_frames=25, rate=25), "flac", 48_000, layout)
    path = copied(source, suffix)
    assert onset(path) == pytest.approx(0.5, abs=0.012)
    written = audio_of(path)[2]
    assert len(av.AudioLayout(written).channels) >= len(av.AudioLayout(layout).channels) or "instead of" in str(
        notes.notes
    )


def test_dolby_surround_to_webm_is_said_in_one_line(case, copied, notes):
    path = copied(case("07/ac351.mkv"), ".webm")
    assert audio_of(path) == ("opus", 48_000, "5.1")
    assert len(notes.notes) == 1 and "5.1 instead of 5.1(side)" in notes.notes[0]


@pytest.mark.parametrize(("rate", "written"), [(192_000, 96_000), (176_400, 96_000), (37_800, 44_100)])
def test_rate_that_aac_lacks_becomes_the_next(tmp_path, clip, copied, notes, rate, written):
    source = tmp_path / "source.mkv"
    sound(source, clip(tmp_path / "v.mkv", num_frames=25, rate=25), "wavpack", rate)
    path = copied(source, ".mp4")
    assert audio_of(path)[:2] == ("aac", written)
    assert f"{written} Hz instead of {rate} Hz" in notes.notes[0]
    assert onset(path) == pytest.approx(0.5, abs=0.012)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_sound_is_written_as_far_as_it_goes_and_said(case, copied, notes, suffix):
    path = copied(case("09/lost.ts"), suffix)
    assert read_video(path).num_frames == 30
    assert any("lost.ts" in note and "damaged" in note for note in notes.notes)


@pytest.mark.parametrize("codec", ["pcm_s24le", "pcm_f32le"])
def test_mp4_gets_no_pcm(tmp_path, clip, copied, notes, codec):
    source = sound(tmp_path / "source.mkv", clip(tmp_path / "v.mkv", num_frames=25, rate=25), codec, 48_000)
    assert audio_of(copied(source, ".mp4"))[0] == "aac"
    assert "re-encoded as aac" in notes.notes[0]
    assert audio_of(copied(source, ".mov"))[0] == codec


def test_late_sound_starts_late_in_avi(case, copied):
    path = copied(case("15/aud_late.mp4"), ".avi")
    waveform = read_waveform(path)
    silent = np.argmax(np.abs(waveform.samples[:, 0]) > 0.05) / waveform.sample_rate
    source = read_waveform(case("15/aud_late.mp4"))
    silent_at_first = np.argmax(np.abs(source.samples[:, 0]) > 0.05) / source.sample_rate
    assert silent - silent_at_first == pytest.approx(10944 / 48_000, abs=0.002)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("start", [Fraction(1, 4), Fraction(-1, 4)])
def test_sound_stays_in_step_with_a_late_or_early_start(tmp_path, clip, copied, suffix, start):
    video = clip(tmp_path / "v.mkv", num_frames=25, rate=25, video_start=max(Fraction(0), -start))
    source = sound(tmp_path / "source.mkv", video, "pcm_s16le", 48_000, start=max(Fraction(0), start))
    assert onset(copied(source, suffix)) == pytest.approx(0.5 + float(start), abs=0.012)


def test_track_that_cannot_be_written_is_found_before_the_first_frame(tmp_path, clip, monkeypatch):
    source = sound(tmp_path / "source.mkv", clip(tmp_path / "v.mkv", num_frames=25, rate=25), "flac", 48_000)
    stream = read_video(source)
    asked = []
    stream = stream.replace(chunks=(asked.append(1) for _ in range(25)), frame_rate=Fraction(1, 10**12))
    with pytest.raises(MediaError, match="cannot be written"):
        write_video(stream, tmp_path / "a.mp4")
    assert asked == []


def test_sound_that_begins_hours_late_fills_no_disk_with_silence(tmp_path, clip, copied, notes):
    source = clip(tmp_path / "a.mkv", num_frames=12, sounds=1, sound_start=Fraction(95_000))
    path = copied(source, ".avi")
    assert path.stat().st_size < 1_000_000
    assert any("is left out: its times leave" in note for note in notes.notes)


def test_sound_before_the_first_frame_that_avi_cannot_hold_is_said(tmp_path, clip, copied, notes):
    copied(clip(tmp_path / "a.mkv", num_frames=12, sounds=1, video_start=Fraction(1, 4)), ".avi")
    assert any("0.250 s of sound before the first frame" in note for note in notes.notes)
