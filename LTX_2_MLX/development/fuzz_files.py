"""Small good files of every kind that users give, made here: images, videos, checkpoints, a tokenizer and records."""

import io
import json
import pickle
import struct
import tempfile
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageCms

from LTX_2_MLX.development.fuzz_structures import BOXES, ZIP, Piece

# Room that a recorded request may take in a video, whatever it is changed to.
RECORD_BYTES = 6000
RECORD_START = b'{"program": "LTX-2-MLX"'
_ENCODERS = {
    ".mp4": ("libx264", "aac", "yuv420p"),
    ".mov": ("mjpeg", "pcm_s16le", "yuvj420p"),
    ".mkv": ("ffv1", "flac", "yuv420p"),
    ".avi": ("mpeg4", "mp3", "yuv420p"),
    ".webm": ("libvpx-vp9", "libopus", "yuv420p"),
    ".ts": ("libx264", "mp2", "yuv420p"),
}
_HEIGHT, _WIDTH, _FRAMES = 48, 64, 5
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


def pixels(height: int = 40, width: int = 56) -> np.ndarray:
    """A colour gradient with some noise, ``(H, W, 3)`` uint8."""
    down, across = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 8, (height, width))
    return np.stack([down * 5 % 248 + noise, across * 4 % 256, (down + across) * 2 % 256], -1).astype(np.uint8)


def images() -> dict[str, bytes]:
    """One image of each format that is read, with EXIF, profile and resolution where the format has them."""
    colour = Image.fromarray(pixels())
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a meadow"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    found = {}
    for suffix, name in ((".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP"), (".avif", "AVIF"), (".tiff", "TIFF")):
        found[suffix] = _saved(colour, name, exif=exif.tobytes(), icc_profile=profile, dpi=(72, 72))
    for suffix, name in ((".gif", "GIF"), (".bmp", "BMP"), (".jp2", "JPEG2000")):
        found[suffix] = _saved(colour, name)
    return found | {".heic": heic()}


def _saved(image: Image.Image, name: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, name, **options)
    return stream.getvalue()


def _full(kind: bytes, *content: bytes, version: int = 0, inner: "list[Piece] | None" = None) -> Piece:
    return Piece(kind, struct.pack(">I", version << 24) + b"".join(content), inner)


def heic() -> bytes:
    """A HEIC photo of one image."""
    encoder: Any = av.CodecContext.create("libx265", "w")
    encoder.height, encoder.width, encoder.pix_fmt, encoder.time_base = 40, 56, "yuv420p", Fraction(1)
    encoder.options = {"x265-params": "log-level=none:keyint=1:repeat-headers=1"}
    frame = av.VideoFrame.from_ndarray(pixels(), format="rgb24").reformat(format="yuv420p")
    stream = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    units = [unit for unit in stream.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]
    data = b"".join(struct.pack(">I", len(unit)) + unit for unit in units)
    head = Piece(b"ftyp", b"heic" + bytes(4) + b"mif1heic")
    length = len(BOXES.together([head, _heic_boxes(0, len(data))]))
    return BOXES.together([head, _heic_boxes(length + 8, len(data)), Piece(b"mdat", data)])


def _heic_boxes(offset: int, length: int) -> Piece:
    size = _full(b"ispe", struct.pack(">II", 56, 40))
    # Parameter sets lie in the data itself, so the record needs none of its own.
    record = Piece(b"hvcC", b"\1" + bytes(20) + b"\3\0")
    kinds = [_full(b"infe", struct.pack(">HH4sx", 1, 0, b"hvc1"), version=2)]
    boxes = [
        _full(b"hdlr", bytes(4), b"pict", bytes(13)),
        _full(b"pitm", struct.pack(">H", 1)),
        Piece(b"iinf", struct.pack(">IH", 0, 1), kinds),
        Piece(
            b"iprp",
            inner=[Piece(b"ipco", inner=[size, record]), _full(b"ipma", struct.pack(">IHB", 1, 1, 2), b"\1\2")],
        ),
        _full(b"iloc", struct.pack(">HHHHHII", 0x4400, 1, 1, 0, 1, offset, length)),
    ]
    return Piece(b"meta", bytes(4), boxes)


def videos(folder: Path) -> dict[str, bytes]:
    """One short video of each container with sound, and a record of a generation in its comment."""
    found = {}
    for suffix in _ENCODERS:
        path = folder / f"good{suffix}"
        _write_video(path)
        found[suffix] = path.read_bytes()
    return found


def _write_video(path: Path) -> None:
    codec, sound, layout = _ENCODERS[path.suffix]
    with av.open(str(path), "w") as container:
        container.metadata["comment"] = RECORD_START.decode() + "}" + " " * (RECORD_BYTES - len(RECORD_START) - 1)
        video: Any = container.add_stream(codec, 24)
        video.height, video.width, video.pix_fmt = _HEIGHT, _WIDTH, layout
        audio: Any = container.add_stream(sound, 48_000)
        for number in range(_FRAMES):
            image = np.roll(pixels(_HEIGHT, _WIDTH), 4 * number, 1)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 24)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for packet in _sound_packets(audio):
            container.mux(packet)


def _sound_packets(audio: Any) -> Iterator[Any]:
    tone = (8000 * np.sin(np.arange(9600) / 20)).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(np.repeat(tone, 2)[None], format="s16", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
    yield from audio.encode(frame)
    yield from audio.encode(None)


def with_record(video: bytes, record: bytes) -> bytes:
    """The video with another record in its comment, as far as there is room for it."""
    start = video.index(RECORD_START)
    room = record[:RECORD_BYTES].ljust(RECORD_BYTES)
    return video[:start] + room + video[start + RECORD_BYTES :]


def state_dict(arrays: dict[str, np.ndarray]) -> bytes:
    """The pickle of a state dict of float32 arrays, as torch.save writes it."""
    written = b"\x80\x02ccollections\nOrderedDict\n)R("
    for key, (name, array) in enumerate(arrays.items()):
        storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(str(key)) + _text("cpu")
        strides = tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))
        written += _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((" + storage[1:]
        written += _numbers(array.size) + b"tQK\x00(" + _numbers(*array.shape) + b"t(" + _numbers(*strides) + b"t"
        written += b"\x89ccollections\nOrderedDict\n)RtR"
    return written + b"u."


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _numbers(*numbers: int) -> bytes:
    return b"".join(b"J" + struct.pack("<i", number) for number in numbers)


def torch_zip(main: bytes, arrays: dict[str, np.ndarray]) -> bytes:
    """A file of torch.save in its zip form."""
    pieces = [Piece(b"archive/data.pkl", main), Piece(b"archive/version", b"3\n")]
    pieces += [Piece(f"archive/data/{key}".encode(), array.tobytes()) for key, array in enumerate(arrays.values())]
    return ZIP.together(pieces)


def torch_legacy(main: bytes, arrays: dict[str, np.ndarray]) -> bytes:
    """A file of torch.save in its older form, a sequence of pickles."""
    system = {"protocol_version": _PROTOCOL, "little_endian": True, "type_sizes": {"int": 4}}
    keys = [str(key) for key in range(len(arrays))]
    written = pickle.dumps(_MAGIC, 2) + pickle.dumps(_PROTOCOL, 2) + pickle.dumps(system, 2) + main
    written += pickle.dumps(keys, 2)
    return written + b"".join(struct.pack("<q", array.size) + array.tobytes() for array in arrays.values())


def weights() -> dict[str, np.ndarray]:
    """Tensors of a small upscaler, as Real-ESRGAN's compact ones have them."""
    dice = np.random.default_rng(1)
    shapes = {"body.0.weight": (8, 3, 3, 3), "body.0.bias": (8,), "body.1.weight": (8,)}
    shapes |= {"body.2.weight": (12, 8, 3, 3), "body.2.bias": (12,)}
    return {name: dice.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def record(request: dict[str, Any], **files: str) -> bytes:
    """The record of a generation, as a video's comment holds it."""
    facts = {"version": "1.0.0", "command": "generate", "request": request, "files": files, "automatic": ["weights"]}
    return json.dumps({"program": "LTX-2-MLX"} | facts).encode()


def sound() -> bytes:
    """A WAV file."""
    with tempfile.TemporaryFile() as file:
        with wave.open(file, "wb") as written:
            written.setparams((2, 2, 48_000, 0, "NONE", ""))
            written.writeframes(bytes(4800))
        file.seek(0)
        return file.read()
