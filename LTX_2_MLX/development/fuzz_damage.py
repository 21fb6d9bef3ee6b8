"""Damage by chance: to bytes, to numbers in them, to values of JSON, and to the pieces of a format."""

import copy
import random
import struct
from typing import Any

from LTX_2_MLX.development.fuzz_structures import Format, Piece

_STRANGE: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 2**31, -(2**63), 10**30, 0.5, -0.0, 1e308, "", "x", "1", "🎈", [], [0], [[]],
    {}, {"a": 1}, [1, "2", None], ["compress_all", {"multiplier": 0}], "1e99999999", "9" * 5000,
    "/etc/hosts", "\x1b[2J", "~", "a:b", "-1", "nan", "../../x", "\u202e", "\ud800",
)  # fmt: skip
_NUMBERS = (0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 1000, 4096, 32767, 65535, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1,
            2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)  # fmt: skip


def strange(dice: random.Random, *more: Any) -> Any:
    """An unexpected value, not shared with others."""
    return copy.deepcopy(dice.choice((*_STRANGE, *more)))


def damaged(dice: random.Random, content: bytes, within: int | None = None) -> bytes:
    """Bytes with some flipped, cut, doubled, or put in place of others."""
    data, end = bytearray(content), within or len(content)
    for _ in range(dice.choice((1, 1, 2, 5, 20))):
        place = dice.randrange(max(min(end, len(data)), 1))
        match dice.randrange(5):
            case 0 | 1:
                data[place : place + 1] = bytes([(data[place] if data else 0) ^ (1 << dice.randrange(8))])
            case 2:
                data[place : place + dice.randrange(1, 9)] = dice.randbytes(dice.randrange(9))
            case 3:
                data[place : place + 1] = bytes([dice.choice(b'{}[]",:0-9e\x00\xff')])
            case 4:
                piece = bytes(data[place : place + dice.randrange(1, 64)])
                data[place:place] = piece
    return bytes(data)


def renumbered(dice: random.Random, content: bytes) -> bytes:
    """Bytes with a number of 1, 2, 4 or 8 bytes in them replaced by one at some limit."""
    width = dice.choice((1, 2, 4, 4, 8))
    if len(content) < width:
        return content
    # Most numbers stand at the beginning.
    start = dice.randrange(min(len(content) - width + 1, dice.choice((8, 64, 100_000))))
    number = dice.choice(_NUMBERS) % 2 ** (8 * width)
    return content[:start] + number.to_bytes(width, dice.choice(("big", "little"))) + content[start + width :]


def disturb(dice: random.Random, value: Any) -> None:
    """Change something somewhere inside of parsed JSON."""
    while True:
        places = [*value] if isinstance(value, dict) else list(range(len(value)))
        if not places:
            return
        key = dice.choice(places)
        inner = value[key]
        if isinstance(inner, dict | list) and inner and dice.randrange(6):
            value = inner
            continue
        if dice.randrange(8) or not isinstance(value, dict):
            value[key] = strange(dice)
        else:
            value[dice.choice(("unknown", f"{key}_2"))] = value.pop(key)
        return


def restructured(dice: random.Random, content: bytes, how: Format) -> bytes:
    """A file of a format with some of its pieces changed, left out, doubled, exchanged or nested."""
    pieces = how.apart(content)
    for _ in range(dice.choice((1, 1, 1, 2, 4))):
        _change(dice, pieces)
    return how.together(pieces)


def _change(dice: random.Random, pieces: list[Piece]) -> None:
    siblings = _somewhere(dice, pieces)
    if not siblings:
        return
    place = dice.randrange(len(siblings))
    piece = siblings[place]
    match dice.randrange(12):
        case 0 | 1 | 2 | 3 | 4:
            piece.content = renumbered(dice, piece.content)
        case 5:
            piece.content = damaged(dice, piece.content)
        case 6:
            piece.content = piece.content[: dice.randrange(len(piece.content) + 1)]
        case 7:
            piece.claimed = dice.choice((-9, -1, 1, 8, 100, 2**20, 2**31))
        case 8:
            piece.kind = dice.choice((b"free", piece.kind[::-1], dice.choice(siblings).kind))
        case 9:
            del siblings[place]
        case 10:
            siblings[place:place] = [copy.deepcopy(piece) for _ in range(dice.choice((1, 2, 500)))]
        case 11:
            other = dice.randrange(len(siblings))
            siblings[place], siblings[other] = siblings[other], piece


def _somewhere(dice: random.Random, pieces: list[Piece]) -> list[Piece]:
    """The pieces of the file or of one of its pieces."""
    while parents := [piece for piece in pieces if piece.inner]:
        if not dice.randrange(4):
            break
        pieces = dice.choice(parents).inner or []
    return pieces


def nested(dice: random.Random, opening: bytes, closing: bytes) -> bytes:
    """Brackets in brackets, thousands deep."""
    depth = dice.choice((100, 2000, 100_000))
    return opening * depth + closing * dice.choice((0, depth))


def split_header(content: bytes) -> tuple[bytes, bytes]:
    """The JSON and the data of a .safetensors file."""
    (length,) = struct.unpack("<Q", content[:8])
    return content[8 : 8 + length], content[8 + length :]


def with_header(header: bytes, data: bytes) -> bytes:
    """A .safetensors file of its JSON and data."""
    return struct.pack("<Q", len(header)) + header + data
