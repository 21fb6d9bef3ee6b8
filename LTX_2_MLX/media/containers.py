"""Containers that are written: which codecs, tracks and tags each of them holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from LTX_2_MLX.errors import MediaError

_COMMON_TAGS = frozenset(("title", "artist", "album", "date", "comment", "copyright", "genre", "language", "track"))


@dataclass(frozen=True)
class Container:
    """One kind of file.

    Attributes:
        name: FFmpeg's name.
        suffixes: Of file names, the usual one first.
        video_codecs: That it is written with, the default first.
        audio_codecs: That are copied without decoding; None: every codec that FFmpeg accepts there.
        audio_encoder: FFmpeg's name of the encoder for all other audio.
        subtitle_codecs: That are copied.
        text_codec: Other text subtitles are converted to it; None: they are left out.
        tags: That are kept, in small letters; None: all of them.
        chapters: Whether it holds chapters.
        cover: How it holds a cover image: ``track``, ``attachment``, or None.
        attachments: Whether it holds fonts and other files.
        time_code: Whether it holds the time code of the first frame.
        variable_rate: Whether frames may have times of their own.
        late_tracks: Whether a track may begin after the others.
    """

    name: str
    suffixes: tuple[str, ...]
    video_codecs: tuple[str, ...]
    audio_codecs: frozenset[str] | None
    audio_encoder: str
    subtitle_codecs: frozenset[str]
    text_codec: str | None
    tags: frozenset[str] | None = None
    chapters: bool = True
    cover: str | None = None
    attachments: bool = False
    time_code: bool = True
    variable_rate: bool = True
    late_tracks: bool = True

    def holds_tag(self, name: str) -> bool:
        """Whether a tag is kept."""
        return self.tags is None or name.lower() in self.tags


# Players of mp4 know neither PCM nor Vorbis there; FFmpeg up to 5.1 reads 24-bit PCM of mp4 as noise.
_MP4_AUDIO = frozenset(("aac", "ac3", "alac", "dts", "eac3", "flac", "mp3", "opus"))
_MOV_PCM = frozenset(
    (
        "pcm_s8", "pcm_u8", "pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_s32le", "pcm_s32be",
        "pcm_f32le", "pcm_f32be", "pcm_alaw", "pcm_mulaw",
    )
)  # fmt: skip
_MKV_SUBTITLES = frozenset(
    ("ass", "dvb_subtitle", "dvd_subtitle", "hdmv_pgs_subtitle", "ssa", "subrip", "text", "webvtt")
)

CONTAINERS = (
    Container(
        name="mp4",
        suffixes=(".mp4", ".m4v"),
        video_codecs=("h264", "h265", "vp9"),
        audio_codecs=_MP4_AUDIO,
        audio_encoder="aac",
        subtitle_codecs=frozenset(("mov_text",)),
        text_codec="mov_text",
        cover="track",
    ),
    Container(
        name="mov",
        suffixes=(".mov",),
        video_codecs=("h264", "h265"),
        audio_codecs=frozenset(("aac", "ac3", "alac", "eac3", "mp3")) | _MOV_PCM,
        audio_encoder="aac",
        subtitle_codecs=frozenset(("mov_text",)),
        text_codec="mov_text",
    ),
    Container(
        name="matroska",
        suffixes=(".mkv",),
        video_codecs=("h264", "h265", "vp9", "ffv1"),
        audio_codecs=None,
        audio_encoder="aac",
        subtitle_codecs=_MKV_SUBTITLES,
        text_codec="subrip",
        cover="attachment",
        attachments=True,
    ),
    Container(
        name="avi",
        suffixes=(".avi",),
        video_codecs=("h264", "ffv1"),
        audio_codecs=frozenset(("aac", "ac3", "dts", "mp2", "mp3", "pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le")),
        # AVI cannot skip the run-up of an encoder: only PCM begins where it should.
        audio_encoder="pcm_s16le",
        subtitle_codecs=frozenset(),
        text_codec=None,
        tags=_COMMON_TAGS,
        chapters=False,
        time_code=False,
        variable_rate=False,
        late_tracks=False,
    ),
    Container(
        name="webm",
        suffixes=(".webm",),
        video_codecs=("vp9",),
        audio_codecs=frozenset(("opus", "vorbis")),
        audio_encoder="libopus",
        subtitle_codecs=frozenset(("webvtt",)),
        text_codec="webvtt",
    ),
)
VIDEO_SUFFIXES = tuple(suffix for container in CONTAINERS for suffix in container.suffixes)


def container_of(path: str | Path) -> Container:
    """Return the container of a file name.

    Raises:
        MediaError: If the suffix is unknown.
    """
    suffix = Path(path).suffix.lower()
    for container in CONTAINERS:
        if suffix in container.suffixes:
            return container
    raise MediaError(f"Unsupported video format {suffix or Path(path).name!r} of {path}. Use {listed(VIDEO_SUFFIXES)}.")


def listed(names: Sequence[str]) -> str:
    """Join names to ``a, b or c``."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
