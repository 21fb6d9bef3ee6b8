"""Tables of the contents that each container keeps: video, sound and subtitles, in Markdown."""

from collections.abc import Sequence

import av

from LTX_2_MLX.media.encoder import CONTAINERS, Container, can_hold_deep_color, keeps_pixel_aspect

# Kinds of sound that files usually have, by FFmpeg's names.
AUDIO_CODECS = (
    "aac", "mp3", "mp2", "opus", "vorbis", "flac", "alac", "ac3", "eac3", "dts", "wmav2", "adpcm_ima_wav", "pcm_alaw",
    "pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_f32le",
)  # fmt: skip
SUBTITLE_CODECS = ("subrip", "ass", "webvtt", "mov_text", "dvd_subtitle", "dvb_subtitle", "hdmv_pgs_subtitle")
# Codecs that containers without a list of their own refuse all the same: PyAV's Matroska muxer knows no tag for them.
_REFUSED = ("wmav2", "adpcm_ima_wav", "pcm_alaw")
COPIED, LEFT_OUT = "copied", "left out"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _yes(held: object) -> str:
    return "yes" if held else "no"


def video_table() -> str:
    """What a container keeps of the video and beside its tracks; a message names what is lost."""
    header = ["container", "codecs", "10 bits and HDR data", "variable rate", "tracks that begin late", "pixel aspect"]
    header += ["chapters", "cover image", "fonts", "time code", "tags"]
    rows = []
    for container in CONTAINERS:
        held = (
            can_hold_deep_color(container),
            container.variable_rate,
            container.late_tracks,
            keeps_pixel_aspect(container),
            container.chapters,
            container.cover,
            container.attachments,
            container.time_code,
        )
        tags = "all" if container.tags is None else ", ".join(sorted(container.tags))
        rows.append([", ".join(container.suffixes), ", ".join(container.video_codecs), *map(_yes, held), tags])
    return _table(header, rows)


def audio_outcome(codec: str, container: Container) -> str:
    """What becomes of a sound track in step with the video: ``copied``, or the codec that it is encoded as."""
    taken = container.audio_codecs
    if codec in taken if taken is not None else codec not in _REFUSED:
        return COPIED
    return str(av.Codec(container.audio_encoder, "w").canonical_name)


def sound_table() -> str:
    """What becomes of each kind of sound in each container."""
    rows = [[codec, *(audio_outcome(codec, container) for container in CONTAINERS)] for codec in AUDIO_CODECS]
    return _table(["sound", *(container.suffixes[0] for container in CONTAINERS)], rows)


def subtitle_outcome(codec: str, container: Container) -> str:
    """What becomes of a subtitle track: ``copied``, the codec that its text is converted to, or ``left out``."""
    if codec in container.subtitle_codecs:
        return COPIED
    is_text = av.Codec(codec, "r").text_sub
    return container.text_codec if is_text and container.text_codec is not None else LEFT_OUT


def subtitle_table() -> str:
    """What becomes of each kind of subtitles in each container; converted text loses its styles."""
    rows = [[codec, *(subtitle_outcome(codec, container) for container in CONTAINERS)] for codec in SUBTITLE_CODECS]
    return _table(["subtitles", *(container.suffixes[0] for container in CONTAINERS)], rows)
