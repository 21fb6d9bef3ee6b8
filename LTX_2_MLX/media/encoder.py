"""Output formats: how a file is shown, what each container holds, and the encoder and settings for a codec and size.

The output is always bt709 (or bt2020, with 10 bits), limited range. Transfer curve and primaries are not converted:
they travel as tags (``Display``).
"""

import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from LTX_2_MLX.errors import MediaError

# ITU-T H.273 code points: of the range, and as primaries and as matrix (bt2020 with constant luminance left out).
FULL_RANGE, LIMITED_RANGE = 2, 1
BT709 = 1
_BT2020 = 9
# H.273 matrix coefficients -> swscale's name of the same matrix.
MATRICES = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9, 10: 9}
# Without these flags swscale repeats chroma samples and rounds roughly: up to 6 levels off instead of 2.
SCALING = (
    Interpolation.BICUBIC
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.ACCURATE_RND
    | Interpolation.BITEXACT
)
# FFmpeg's AVMasteringDisplayMetadata: ten fractions of two 32-bit numbers, then whether each half is filled in.
_MASTERING = struct.Struct("=20i2i")
_LIGHT = struct.Struct("=2I")
# Units of the SEI messages: chromaticities in 0.00002, luminances in 0.0001 cd/m².
_PER_CHROMATICITY = 50_000
_PER_LUMINANCE = 10_000
_COMMON_TAGS = frozenset(("title", "artist", "album", "date", "comment", "copyright", "genre", "language", "track"))


@dataclass(frozen=True)
class HDR:
    """Static HDR metadata of a video (SMPTE ST 2086 and CTA-861.3).

    Attributes:
        primaries: Chromaticities x and y of red, green and blue.
        white: Chromaticity of the white point.
        luminance: Least and largest of the mastering display, in cd/m².
        light: Largest light level of a pixel and largest mean of a frame, in cd/m²; None without.
    """

    primaries: tuple[tuple[Fraction, Fraction], ...] = ()
    white: tuple[Fraction, Fraction] | None = None
    luminance: tuple[Fraction, Fraction] | None = None
    light: tuple[int, int] | None = None

    @classmethod
    def from_side_data(cls, mastering: Any, light: Any) -> "HDR":
        """The metadata in a frame's side data, of which either may be None."""
        levels = None if light is None else _LIGHT.unpack(bytes(light)[: _LIGHT.size])
        if mastering is None:
            return cls(light=levels)
        *numbers, has_primaries, has_luminance = _MASTERING.unpack(bytes(mastering)[: _MASTERING.size])
        values = [Fraction(top, bottom or 1) for top, bottom in zip(numbers[::2], numbers[1::2], strict=True)]
        red, green, blue, white = ((values[index], values[index + 1]) for index in range(0, 8, 2))
        return cls(
            primaries=(red, green, blue) if has_primaries else (),
            white=white if has_primaries else None,
            luminance=(values[8], values[9]) if has_luminance else None,
            light=levels,
        )

    def x265_options(self) -> str:
        """Parameters of libx265, ``:name=value`` each; empty where nothing is complete."""
        options = ""
        if self.primaries and self.white is not None and self.luminance is not None:
            red, green, blue = (_chromaticity(each) for each in self.primaries)
            least, largest = (round(each * _PER_LUMINANCE) for each in self.luminance)
            white = _chromaticity(self.white)
            options += f":master-display=G{green}B{blue}R{red}WP{white}L({largest},{least})"
        if self.light is not None:
            options += ":max-cll={},{}".format(*self.light)
        return options


def _chromaticity(place: tuple[Fraction, Fraction]) -> str:
    x, y = (round(each * _PER_CHROMATICITY) for each in place)
    return f"({x},{y})"


@dataclass(frozen=True)
class Display:
    """Display properties of a file, carried from reader to writer and never applied to the pixels.

    Attributes:
        pixel_aspect: Width of a pixel over its height.
        primaries: ITU-T H.273 colour primaries; 1 is bt709.
        transfer: ITU-T H.273 transfer characteristics; 1 is bt709.
        hdr: Mastering display and content light; None without.
    """

    pixel_aspect: Fraction = Fraction(1)
    primaries: int = 1
    transfer: int = 1
    hdr: HDR | None = None

    def matrix(self, bit_depth: int) -> int:
        """ITU-T H.273 matrix that is written: that of the primaries for bt2020 with 10 bits, else bt709."""
        return _BT2020 if bit_depth > 8 and self.primaries == _BT2020 else BT709


@dataclass(frozen=True)
class YuvWriter:
    """Converts ``(H, W, 3)`` uint8 or uint16 RGB to frames of ``pixel_format``, limited range.

    Attributes:
        pixel_format: FFmpeg's name; RGB formats are not converted.
        matrix: One of H.273.
    """

    pixel_format: str
    matrix: int = BT709
    _reformatter: VideoReformatter = field(default_factory=VideoReformatter)

    def __call__(self, image: np.ndarray) -> av.VideoFrame:
        """Convert one image ``(H, W, 3)`` to a frame without a time stamp."""
        stored = "rgb24" if image.dtype == np.uint8 else "rgb48le"
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format=stored)
        is_rgb = av.VideoFormat(self.pixel_format).is_rgb
        return self._reformatter.reformat(
            frame,
            format=self.pixel_format,
            src_colorspace=MATRICES[self.matrix],
            dst_colorspace=MATRICES[self.matrix],
            src_color_range=FULL_RANGE,
            dst_color_range=FULL_RANGE if is_rgb else LIMITED_RANGE,
            interpolation=SCALING,
        )


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


Codec = Literal["auto", "h264", "h265", "vp9", "ffv1"]
CRF = 17
_MAX_CRF = 51
# Bytes of video per pixel of a frame. Calm videos take this much; noise takes fifty times more.
_BYTES_PER_PIXEL = 0.005
_LOSSLESS_BYTES_PER_PIXEL = 0.1
# libx265 4.2 writes past its buffers with sides below 64 (seen: 48×32 and 48×35 end in "corrupted size").
_MIN_H265_SIDE = 64
# With fewer frames than it looks ahead for reordering, libx265 4.2 returns uninitialised decoding times.
_MIN_REORDERED_FRAMES = 3
# Apple's encoders refuse very small videos; the software encoders take them.
_MIN_APPLE_SIDE = 128

# Largest width or height: H.264 by its highest level, H.265 and VP9 by their encoders.
_MAX_SIDES = {"h264": 16_384, "h265": 16_384, "vp9": 16_384, "ffv1": 65_535}
_APPLE = {"h264": "h264_videotoolbox", "h265": "hevc_videotoolbox"}
_SOFTWARE = {"h264": "libx264", "h265": "libx265", "vp9": "libvpx-vp9", "ffv1": "ffv1"}
# Codecs that are written with 10 bits: H.264 with 10 bits is played by few devices, and PyAV's VP9 has 8 only.
_DEEP_CODECS = ("h265", "ffv1")
# Encoders whose output has no pixel aspect of its own, in containers that take it from there.
SQUARE_ENCODERS = ("ffv1", "libvpx-vp9")
# FFmpeg's unit of quality (FF_QP2LAMBDA).
_QUALITY_UNIT = 118


@dataclass(frozen=True)
class Encoding:
    """Container, encoder and settings of an output file.

    Attributes:
        container: The kind of file.
        size: Height and width of the encoded frames.
        encoder: FFmpeg's name of the encoder.
        pixel_format: FFmpeg's name of the encoder's input format.
        options: The encoder's options.
        codec_tag: Four letters that players expect; None for the container's own choice.
        notes: Lines for the user on how the encoder was chosen.
        bit_depth: Of the encoded frames.
    """

    container: Container
    size: tuple[int, int]
    encoder: str
    pixel_format: str
    options: Mapping[str, str] = field(default_factory=dict)
    codec_tag: str | None = None
    notes: tuple[str, ...] = ()
    bit_depth: int = 8

    @property
    def holds_hdr(self) -> bool:
        """Whether mastering display and content light are written."""
        return self.encoder == "libx265" and self.bit_depth > 8

    def add_stream(self, output: av.container.OutputContainer, rate: Fraction, tick: Fraction, display: Display) -> Any:
        """Add the video stream to an output; ``tick`` is the unit of time stamps."""
        options = dict(self.options)
        if display.hdr is not None and self.holds_hdr:
            options["x265-params"] += display.hdr.x265_options()
        stream = output.add_stream(self.encoder, rate=rate, options=options, time_base=tick)
        # PyAV types the contexts of all kinds of stream together.
        context: Any = stream.codec_context
        context.height, context.width = self.size
        context.pix_fmt = self.pixel_format
        context.sample_aspect_ratio = display.pixel_aspect
        if self.codec_tag:
            context.codec_tag = self.codec_tag
        context.color_primaries, context.color_trc = display.primaries, display.transfer
        if not av.VideoFormat(self.pixel_format).is_rgb:
            context.colorspace, context.color_range = display.matrix(self.bit_depth), 1
        return stream


def choose_encoding(
    path: str | Path,
    size: tuple[int, int],
    codec: Codec = "auto",
    crf: float = CRF,
    num_frames: int | None = None,
    *,
    exact_size: bool = False,
    bit_depth: int = 8,
    hdr: bool = False,
) -> Encoding:
    """Choose the encoding for a file name, a height and width, and a codec.

    H.264 and H.265 store colour in 2x2 blocks, and can only be cropped by whole ones. An odd side is rounded up for
    them, or with ``exact_size`` written with full colour resolution (yuv444p), which Apple's players cannot show.

    Args:
        path: Its suffix selects the container.
        size: Height and width in pixels.
        codec: ``auto`` is H.264 (H.265 with 10 bits), or VP9 in .webm. ``ffv1`` is lossless.
        crf: Quality on x264's scale, 0 (best) to 51; translated for other encoders.
        num_frames: Length of the video, if known.
        exact_size: Keep an odd width or height in H.264 and H.265.
        bit_depth: 8, or 10, which H.265 and FFV1 hold.
        hdr: Mastering display and content light come along, which Apple's encoders do not take here.

    Raises:
        MediaError: If the container is not known, cannot hold the codec or the size, or its encoder is missing.
    """
    container = container_of(path)
    codecs = container.video_codecs
    usual = "h265" if bit_depth > 8 and "h265" in codecs else codecs[0]
    chosen = usual if codec == "auto" else codec
    if bit_depth != 8:
        _check_depth(chosen, bit_depth, container)
    if chosen not in codecs:
        raise MediaError(
            f"{Path(path).suffix.lower()} supports {listed(codecs)}, not {chosen}. Use .mkv, or {codecs[0]}."
        )
    if not 0 <= crf <= _MAX_CRF:
        raise MediaError(f"crf is {crf}, expected 0 (best) to {_MAX_CRF}.")
    # AVI cannot store reordered frames.
    reordered = container.name != "avi" and (num_frames or 0) >= _MIN_REORDERED_FRAMES
    limit = _MAX_SIDES[chosen]
    if max(size) > limit:
        raise MediaError(
            f"{chosen} has at most {limit} pixels per side, this video is {size[1]}×{size[0]}. Choose a smaller scale."
        )
    if chosen in ("h264", "h265") and not exact_size:
        size = (size[0] + size[0] % 2, size[1] + size[1] % 2)
    even = size[0] % 2 == 0 and size[1] % 2 == 0
    notes: tuple[str, ...] = ()
    encoder = _encoder(chosen, hardware=even and min(size) >= _MIN_APPLE_SIDE and not hdr)
    pixel_format, options = _settings(encoder, crf, even, bit_depth, reordered)
    if encoder in _APPLE.values() and not encodes(encoder, size, options, pixel_format):
        notes = (f"{encoder} refuses {size[1]}×{size[0]} on this Mac; {_SOFTWARE[chosen]} encodes the video, slower.",)
        encoder = _encoder(chosen, hardware=False)
        pixel_format, options = _settings(encoder, crf, even, bit_depth, reordered)
    if encoder == "libx265" and min(size) < _MIN_H265_SIDE:
        raise MediaError(
            f"h265 requires at least {_MIN_H265_SIDE} pixels per side, this video is {size[1]}×{size[0]}. Use h264."
        )
    return Encoding(
        container=container,
        size=size,
        encoder=encoder,
        pixel_format=pixel_format,
        options=options,
        # QuickTime plays H.265 under this tag only.
        codec_tag="hvc1" if chosen == "h265" and container.name in ("mp4", "mov") else None,
        notes=notes,
        bit_depth=bit_depth,
    )


def check_bit_depth(bit_depth: int) -> None:
    """Raise ``MediaError`` unless ``bit_depth`` is 8 or 10."""
    if bit_depth not in (8, 10):
        raise MediaError(f"bit_depth is {bit_depth}, expected 8 or 10.")


def can_hold_deep_color(container: Container) -> bool:
    """Whether a container is written with ten bits unless another codec is asked for."""
    return "h265" in container.video_codecs


def keeps_pixel_aspect(container: Container) -> bool:
    """Whether its usual codec, or the container itself, holds the shape of pixels."""
    return _SOFTWARE[container.video_codecs[0]] not in SQUARE_ENCODERS


def _check_depth(codec: str, bit_depth: int, container: Container) -> None:
    check_bit_depth(bit_depth)
    if codec not in _DEEP_CODECS:
        raise MediaError(
            f"--bit-depth 10: {codec} in {container.suffixes[0]} is written with 8 bits here. "
            f"Write .mp4, .mov or .mkv (H.265), or leave the option out."
        )


def encodes(encoder: str, size: tuple[int, int], options: Mapping[str, str], pixel_format: str = "yuv420p") -> bool:
    """Whether an encoder takes frames of this height and width: one grey frame is tried.

    Apple's encoders have limits that differ by chip, and tell them only when they are opened.
    """
    height, width = size
    try:
        # PyAV types the contexts of all kinds of stream together.
        context: Any = av.CodecContext.create(encoder, "w")
        context.height, context.width = height, width
        context.pix_fmt = pixel_format
        context.time_base = Fraction(1, 25)
        context.options = dict(options)
        grey = av.VideoFrame.from_ndarray(np.full((height, width, 3), 128, np.uint8), format="rgb24")
        frame = grey.reformat(format=pixel_format)
        frame.pts = 0
        return len([*context.encode(frame), *context.encode(None)]) == 1
    except (av.FFmpegError, ValueError):
        return False


def least_bytes(size: tuple[int, int], num_frames: int, codec: Codec = "auto") -> int:
    """Return a lower bound for the file size of a video of this height and width, without audio."""
    per_pixel = _LOSSLESS_BYTES_PER_PIXEL if codec == "ffv1" else _BYTES_PER_PIXEL
    return int(size[0] * size[1] * num_frames * per_pixel)


def crf_of_quality(quality: float) -> float:
    """Convert a quality from 1 to 10 to a crf from 35 to 17, as the published super-resolution tools do."""
    if not 1 <= quality <= 10:
        raise MediaError(f"quality is {quality}, expected 1 to 10 (best).")
    return 35 - 2 * (quality - 1)


def _encoder(codec: str, hardware: bool) -> str:
    apple = _APPLE.get(codec)
    if sys.platform == "darwin" and hardware and apple in av.codecs_available:
        return apple
    name = _SOFTWARE[codec]
    if name not in av.codecs_available:
        raise MediaError(f"This PyAV has no encoder {name}. Install the wheel from PyPI: pip install -U av")
    return name


def _settings(encoder: str, crf: float, even: bool, bit_depth: int, reordered: bool) -> tuple[str, dict[str, str]]:
    """FFmpeg's name of an encoder's input format, and the encoder's options."""
    if encoder == "ffv1":
        return "bgr0" if bit_depth == 8 else "gbrp10le", {"level": "3", "slices": "4", "slicecrc": "1"}
    depth = "" if bit_depth == 8 else "10le"
    if encoder == "libvpx-vp9":
        # Its scale ends at 63 and is about 10 higher for the same quality.
        options = {"crf": str(round(min(63, crf + 10))), "b": "0", "row-mt": "1", "cpu-used": "4", "deadline": "good"}
        return f"yuv420p{depth}", options
    pixel_format = f"yuv420p{depth}" if even else f"yuv444p{depth}"
    if encoder.endswith("_videotoolbox"):
        # Quality runs from 0 to 100 there; 65 looks like crf 17.
        quality = round(max(1, min(100, 100 - 2 * crf)))
        options = {"flags": "+qscale", "global_quality": str(quality * _QUALITY_UNIT), "allow_sw": "1"}
        return "p010le" if depth else pixel_format, options
    options = {"crf": str(crf), "preset": "medium"}
    if encoder == "libx265":
        options["x265-params"] = "log-level=error" if reordered else "log-level=error:bframes=0"
        return pixel_format, options
    # With macroblock trees, libx264 of PyAV 18.1 writes equal frames to unequal files: it reads what was never written.
    options["x264-params"] = "mbtree=0"
    if not reordered:
        options["bf"] = "0"
    return pixel_format, options
