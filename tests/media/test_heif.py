"""HEIC photos built of boxes: single images, grids of tiles, rotation, crop, alpha, profile and EXIF."""

import struct
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.media.heif import heif_size, is_heif, read_heif
from LTX_2_MLX.media.image import read_header, read_image
from LTX_2_MLX.media.video import read_video


def box(kind: bytes, *payload: bytes) -> bytes:
    body = b"".join(payload)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def full(kind: bytes, *payload: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, struct.pack(">I", version << 24 | flags), *payload)


def hevc(pixels: np.ndarray) -> tuple[bytes, bytes]:
    """An image ``(H, W, 3)`` as ``hvcC`` record and length-prefixed HEVC."""
    encoder = av.CodecContext.create("libx265", "w")
    encoder.height, encoder.width = pixels.shape[:2]
    encoder.pix_fmt = "yuv444p"
    encoder.time_base = Fraction(1)
    encoder.options = {"x265-params": "log-level=error:crf=4:keyint=1:repeat-headers=1:colormatrix=smpte170m"}
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv444p", dst_colorspace=5)
    data = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    units = [unit for unit in data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if unit]
    stored = b"".join(struct.pack(">I", len(unit)) + unit for unit in units)
    # Parameter sets lie in the data itself, so the record needs none of its own.
    record = b"\1" + bytes(20) + b"\3\0"
    return record, stored


def heic(path, tiles, rows, columns, size, *, transforms=(), extra=(), exif=None, cut=0):
    """Write a HEIC file of ``tiles``; one tile without a grid where rows and columns are 1."""
    records = [hevc(tile) for tile in tiles]
    grid = rows * columns > 1
    properties = [full(b"ispe", struct.pack(">II", *tiles[0].shape[1::-1])), box(b"hvcC", records[0][0])]
    items = [(number, b"hvc1", stored, [1, 2]) for number, (_, stored) in enumerate(records, start=1)]
    references = []
    primary = 1
    if grid:
        primary = len(tiles) + 1
        properties.append(full(b"ispe", struct.pack(">II", size[1], size[0])))
        data = struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, size[1], size[0])
        items.append((primary, b"grid", data, [3]))
        numbers = range(1, len(tiles) + 1)
        references.append(box(b"dimg", struct.pack(f">HH{len(tiles)}H", primary, len(tiles), *numbers)))
    for payload in (*transforms, *extra):
        properties.append(payload)
        items[primary - 1][3].append(len(properties))
    if exif is not None:
        items.append((len(items) + 1, b"Exif", bytes(4) + exif, []))
        references.append(box(b"cdsc", struct.pack(">HHH", len(items), 1, primary)))
    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    path.write_bytes(b"".join(assemble(head, items, properties, references, primary))[: -cut or None])
    return path


def assemble(head, items, properties, references, primary):
    entries = [full(b"infe", struct.pack(">HH4sx", number, 0, kind), version=2) for number, kind, _, _ in items]
    linked = b"".join(struct.pack(">HB", number, len(of)) + bytes(of) for number, _, _, of in items)
    parts = [
        full(b"hdlr", bytes(4), b"pict", bytes(13)),
        full(b"pitm", struct.pack(">H", primary)),
        full(b"iinf", struct.pack(">H", len(items)), *entries),
        box(b"iprp", box(b"ipco", *properties), full(b"ipma", struct.pack(">I", len(items)), linked)),
        full(b"iref", *references),
    ]
    size_of_iloc = 16 + len(items) * 14
    start = len(head) + 12 + sum(map(len, parts)) + size_of_iloc + 8
    places = b""
    for number, _, data, _ in items:
        places += struct.pack(">HHHII", number, 0, 1, start, len(data))
        start += len(data)
    iloc = full(b"iloc", b"\x44\0", struct.pack(">H", len(items)), places)
    assert len(iloc) == size_of_iloc
    return [head, full(b"meta", *parts, iloc), box(b"mdat", *(data for _, _, data, _ in items))]


def scene(height, width):
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 255 // height, columns * 255 // width, (rows + columns) % 200], -1).astype(np.uint8)


def close(got, wanted):
    return got.shape == wanted.shape and np.abs(got.astype(int) - wanted).mean() < 4


def test_single_image_is_read(tmp_path):
    wanted = scene(64, 96)
    path = heic(tmp_path / "a.heic", [wanted], 1, 1, (64, 96))
    assert is_heif(path) and heif_size(path) == (64, 96)
    assert close(read_heif(path).pixels, wanted)
    with pytest.raises(MediaError, match=r"is a still image \(HEIC\)"):
        read_video(path)


def test_tiles_of_a_grid_are_joined_and_cut_to_size(tmp_path):
    wanted = scene(128, 192)
    tiles = [wanted[top : top + 64, left : left + 64] for top in (0, 64) for left in (0, 64, 128)]
    path = heic(tmp_path / "a.heic", tiles, 2, 3, (100, 150))
    assert read_header(path).height == 100
    assert close(read_image(path).pixels, wanted[:100, :150])


@pytest.mark.parametrize(
    ("transform", "upright"),
    [
        (box(b"irot", b"\1"), lambda image: np.rot90(image)),
        (box(b"irot", b"\3"), lambda image: np.rot90(image, 3)),
        (box(b"imir", b"\0"), lambda image: image[::-1]),
        (box(b"imir", b"\1"), lambda image: image[:, ::-1]),
        (box(b"clap", struct.pack(">IIIIiIiI", 90, 1, 50, 1, -1, 1, 2, 1)), lambda image: image[9:59, 2:92]),
    ],
)
def test_rotation_mirror_and_crop_are_applied(tmp_path, transform, upright):
    image = scene(64, 96)
    path = heic(tmp_path / "a.heic", [image], 1, 1, (64, 96), transforms=[transform])
    assert heif_size(path) == upright(image).shape[:2]
    assert close(read_heif(path).pixels, upright(image))


def test_profile_and_exif_come_with_the_image(tmp_path):
    exif = Image.Exif()
    exif[271] = "Some Maker"
    exif[274] = 6
    tiff = exif.tobytes().removeprefix(b"Exif\0\0")
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = heic(tmp_path / "a.heic", [scene(64, 64)], 1, 1, (64, 64), extra=[box(b"colr", b"prof", profile)], exif=tiff)
    got = read_image(path)
    assert got.icc_profile == profile and got.pixels.shape == (64, 64, 3)
    kept = Image.Exif()
    kept.load(got.exif)
    assert dict(kept) == {271: "Some Maker"}


def test_damaged_file_is_refused_with_a_way_on(tmp_path):
    path = heic(tmp_path / "a.heic", [scene(64, 64)], 1, 1, (64, 64), cut=40)
    with pytest.raises(MediaError, match=r"cut short.*sips"):
        read_image(path)
    whole = heic(tmp_path / "b.heic", [scene(64, 64)] * 2, 1, 2, (64, 128)).read_bytes()
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for index in random.integers(28, 420, 3):
            damaged[index] ^= int(random.integers(1, 256))
        path.write_bytes(damaged)
        try:
            assert read_image(path).pixels.ndim == 3
        except MediaError as error:
            assert "a.heic" in str(error)
