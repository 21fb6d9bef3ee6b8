"""Files: what others wrote is read within limits or refused, what the library writes appears whole or not at all.

JSON, numbers, paths and texts of others go through here, and so does all writing. A file is known by the digest of its
content.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from LTX_2_MLX.errors import MediaError, RequestError

NumberT = TypeVar("NumberT")
# Longest text of a number: 10 to the power of a billion takes seven letters and all memory.
MAX_NUMBER_LETTERS = 20
_SMALLEST = 1e-12
# Gemma's tokenizer.json has 33 MB.
_MAX_SMALL_BYTES = 200_000_000
# Of Linux; macOS has less for whole paths, and as much for names.
_MAX_PATH_BYTES, _MAX_NAME_BYTES = 4096, 255
_MAX_FAILURE_LETTERS = 200
# A list of missing tensors is longer than any name in it.
MAX_LETTERS = 4000
# Files up to this size are read whole, larger ones in samples spread over their length.
_WHOLE_BYTES = 64 * 2**20
_SAMPLE_BYTES = 2**20
_SAMPLES = 32
_MAX_FILES = 10_000
# A file that was just written may change again without another time: disks count in milliseconds.
_SETTLED_NANOSECONDS = 2 * 10**9
# A file's path below its folder, its size, and the nanosecond of its last change.
Stamp = tuple[str, int, int]
# Digests that this process has taken.
_taken: dict[tuple[Path, tuple[Stamp, ...]], str] = {}
# Temporary files of this process that are being written.
_unfinished: set[Path] = set()
_WRITES: ContextVar[bool] = ContextVar("writes", default=True)
# Whether files that are written stay.
KEEPS_WRITES: ContextVar[bool] = ContextVar("keeps", default=True)


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; NaN, infinities, repeated names and very deep nesting are refused.

    Raises:
        ValueError: If ``text`` is not such JSON.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    try:
        return _DECODER.decode(text)
    except (RecursionError, MemoryError) as error:
        raise ValueError(failure(error)) from error


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Parse a JSON object, as ``parse_json`` does.

    Raises:
        ValueError: If ``text`` is no such object.
    """
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    items = dict(pairs)
    if len(items) != len(pairs):
        raise ValueError("it holds a name twice")
    return items


def _no_constant(text: str) -> None:
    raise ValueError(f"it holds {text}")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def read_small_file(path: Path) -> bytes:
    """The content of a file of settings; a device or pipe, which has no end, is none.

    Raises:
        OSError: If it cannot be read, or is no file, or is larger than any such file.
    """
    if not path.is_file():
        raise OSError(errno.EINVAL if exists(path) else errno.ENOENT, "not a file" if exists(path) else "no such file")
    if path.stat().st_size > _MAX_SMALL_BYTES:
        raise OSError(errno.EFBIG, "too large for a file of settings")
    return path.read_bytes()


def number(text: str, kind: Callable[[str], NumberT]) -> NumberT:
    """The number that a text of bounded length stands for.

    Raises:
        ValueError: If it is none, or longer.
    """
    if len(text) > MAX_NUMBER_LETTERS:
        raise ValueError(f"a number of {len(text)} letters")
    return kind(text)


def fraction(value: float | str) -> Fraction:
    """The fraction that a number, or a text such as ``24000/1001``, stands for.

    Raises:
        ValueError: If it is none, or 0, or out of the range of any rate.
        ZeroDivisionError: If its denominator is 0.
    """
    text = str(value)
    if len(text) > MAX_NUMBER_LETTERS:
        raise ValueError(f"a number of {len(text)} letters")
    top, _, bottom = text.partition("/")
    # Judged as floats first: the fraction of 1e99999999 is never done.
    size = float(top) / float(bottom or "1")
    if not _SMALLEST < abs(size) < 1 / _SMALLEST:
        raise ValueError("a fraction that is 0 or out of range")
    return Fraction(text)


def path_fault(text: str) -> str:
    """Why a text cannot be the path of a file at all, and what to do; empty where it can."""
    try:
        name = os.fsencode(text)
    except UnicodeEncodeError:
        return "it is not UTF-8. Give the name anew"
    if b"\0" in name:
        return "it has a null byte. Give the name anew"
    longest = max(map(len, name.split(b"/")))
    if longest > _MAX_NAME_BYTES:
        return f"a name in it has {longest} bytes, disks allow {_MAX_NAME_BYTES}. Choose a shorter one"
    if len(name) >= _MAX_PATH_BYTES:
        return f"it has {len(name)} bytes, systems allow {_MAX_PATH_BYTES}. Choose a shorter one"
    return ""


def exists(path: str | Path) -> bool:
    """Whether a recorded path leads to something; one that no file can have does not."""
    try:
        return os.path.exists(path)
    except (OSError, ValueError):
        return False


def failure(error: BaseException) -> str:
    """What a reader of somebody else's ran into, in one line: exhausted memory, endless nesting, or its own words."""
    if isinstance(error, MemoryError):
        return "it takes more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = " ".join(str(error).split())[:_MAX_FAILURE_LETTERS].rstrip(".")
    return text or type(error).__name__


def reason(error: Exception, messages: list[str] | None = None) -> str:
    """Return the message of a system or FFmpeg error, with FFmpeg's own last line where it logged one."""
    if getattr(error, "errno", None) == errno.ENOSPC:
        return "the disk is full"
    text = getattr(error, "strerror", None) or failure(error)
    text = text[:1].lower() + text[1:].rstrip(".")
    lines = [line for line in messages or () if line]
    return f"{text} ({lines[-1].rstrip('.')})" if lines else text


def printable(text: str, max_letters: int = MAX_LETTERS, *, newlines: bool = False) -> str:
    """Return text without characters that control a terminal, cut where it is long.

    Args:
        text: Anything, such as a name in a stranger's file.
        max_letters: Letters of the text that are shown.
        newlines: Keep line breaks; else they are escapes as well, so that no file can print a line of its own.
    """
    shown = []
    for letter in text[:max_letters]:
        # Bidirectional controls, lone surrogates and the C1 range are not printable either.
        is_shown = letter.isprintable() or (newlines and letter == "\n")
        shown.append(letter if is_shown else letter.encode("unicode_escape", "backslashreplace").decode("ascii"))
    if len(text) > max_letters:
        shown.append("…")
    return "".join(shown)


def content_digest(path: str | Path) -> str:
    """The SHA-256 of a file's size and content, or of a folder's files with their names.

    Files above 64 MiB are sampled at 32 places of 1 MiB, the beginning and the end among them, so that a checkpoint of
    40 GB takes a moment. Copies have the same digest; neither names nor times of a file itself count.

    Raises:
        RequestError: If it cannot be read, or is no file and no folder of a few files.
    """
    path = Path(path)
    stamps = file_stamps(path)
    key = (path.absolute(), stamps)
    if key in _taken:
        return _taken[key]
    digest = hashlib.sha256()
    is_folder = path.is_dir()
    newest = 0
    try:
        for name, _, changed in stamps:
            newest = max(newest, changed)
            if is_folder:
                digest.update(name.encode())
            with (path / name).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(str(size).encode())
                starts: Sequence[int] = range(0, size, _SAMPLE_BYTES)
                if size > _WHOLE_BYTES:
                    starts = [(size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1) for sample in range(_SAMPLES)]
                for start in starts:
                    file.seek(start)
                    digest.update(file.read(_SAMPLE_BYTES))
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}. Name another file.") from error
    if stamps and time.time_ns() - newest > _SETTLED_NANOSECONDS:
        _taken[key] = digest.hexdigest()
    return digest.hexdigest()


def file_stamps(path: Path) -> tuple[Stamp, ...]:
    """Size and time of a file, or of each of a folder's files, in order. Raises as ``content_digest`` does."""
    try:
        if not path.is_dir():
            # Devices and pipes have no end.
            if path.exists() and not path.is_file():
                raise RequestError(f"{path} is not a file. Name another one.")
            status = path.stat()
            return (("", status.st_size, status.st_mtime_ns),)
        # Not a whole disk.
        found = list(islice(path.rglob("*"), _MAX_FILES + 1))
        if len(found) > _MAX_FILES:
            raise RequestError(f"{path} holds more than {_MAX_FILES} files, so it is no model. Name another folder.")
        stamps = []
        for file in sorted(found):
            if file.is_file() and not file.name.startswith("._"):
                status = file.stat()
                stamps.append((file.relative_to(path).as_posix(), status.st_size, status.st_mtime_ns))
        return tuple(stamps)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}. Name another file.") from error


@contextmanager
def without_writing() -> Iterator[None]:
    """Let every write inside the block fail with ``OSError``, as a dry run promises."""
    token = _WRITES.set(False)
    try:
        yield
    finally:
        _WRITES.reset(token)


@contextmanager
def without_keeping() -> Iterator[None]:
    """Let every write inside the block succeed and leave nothing: another process of the run writes the same."""
    token = KEEPS_WRITES.set(False)
    try:
        yield
    finally:
        KEEPS_WRITES.reset(token)


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, renamed to it when the block succeeds and removed otherwise.

    Of two writers of one path, the last that is complete is kept. A link at ``path`` is replaced, not followed.

    Raises:
        OSError: If the folder cannot be written to or the disk is full.
    """
    if not _WRITES.get():
        raise OSError(errno.EROFS, "a dry run writes nothing", str(path))
    # Absolute, since FFmpeg reads a relative "a:b.mp4" as a protocol; short, since a character may take four bytes.
    folder = path.absolute().parent if KEEPS_WRITES.get() else Path(tempfile.gettempdir())
    temporary = folder / f".{path.stem[:40]}.{secrets.token_hex(6)}.partial{path.suffix}"
    # Before it is there, since a signal may come in between.
    _unfinished.add(temporary)
    try:
        # Links are not followed.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
        if KEEPS_WRITES.get():
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        _unfinished.discard(temporary)


def remove_unfinished() -> None:
    """Remove this process's temporary files, before it ends without the chance to do so itself."""
    for temporary in list(_unfinished):
        temporary.unlink(missing_ok=True)


def write_file(path: Path, content: bytes | str) -> None:
    """Write a file; it appears when it is complete.

    Raises:
        OSError: If the folder cannot be written to or the disk is full.
    """
    with replaced_file(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


def check_writable(path: str | Path, source: Path | None = None) -> Path:
    """Return the path if a file can be written there that is not ``source``, the file that is read.

    Raises:
        MediaError: If its folder is missing, no folder or read-only, the path is a folder or ``source``, or the name
            too long.
    """
    path = Path(path)
    folder = path.parent
    # The methods of pathlib raise if a name is too long.
    if source is not None and os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
        raise MediaError(f"{path} is the input itself. Give --output another name.")
    if not KEEPS_WRITES.get():
        return path
    if os.path.isdir(path):
        raise MediaError(f"{path} is a folder. Give the name of a file in it.")
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise MediaError(f"{folder} is a file, not a folder. Choose a folder for {path.name}.")
    if not os.path.isdir(folder):
        raise MediaError(f"The folder {folder} does not exist. Make it first: mkdir -p {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise MediaError(f"The folder {folder} is read-only. Choose another one for {path.name}.")
    num_bytes = len(os.fsencode(path.name))
    max_bytes = os.pathconf(folder, "PC_NAME_MAX")
    if num_bytes > max_bytes:
        raise MediaError(
            f"The name {path.name[:20]}… has {num_bytes} bytes, the disk allows {max_bytes}. Choose a shorter one."
        )
    return path


def free_bytes(path: str | Path) -> int:
    """Return the free disk space where ``path`` is or will be."""
    folder = Path(path).resolve()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def check_free(path: str | Path, needed_bytes: int) -> None:
    """Raise ``MediaError`` if fewer than ``needed_bytes`` are free on the disk of ``path``."""
    if not KEEPS_WRITES.get():
        return
    free = free_bytes(path)
    if free < needed_bytes:
        raise MediaError(
            f"{path} needs about {needed_bytes / 2**20:.0f} MiB of disk, {free / 2**20:.0f} MiB are free there. "
            f"Make room, or choose another disk."
        )


@contextmanager
def made_folder(folder: str | Path) -> Iterator[Path]:
    """Create a folder if it is missing; a created one is removed again if it is empty when the block ends.

    A process that keeps no files makes none.

    Raises:
        MediaError: If it cannot be created; its parent must exist.
    """
    folder = Path(folder)
    if not KEEPS_WRITES.get():
        # Another process of the run makes it.
        yield folder
        return
    missing = not os.path.isdir(folder)
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise MediaError(f"The folder {folder} cannot be created: {reason(error)}.") from error
    try:
        yield folder
    finally:
        if missing and not any(folder.iterdir()):
            folder.rmdir()


@contextmanager
def replaced_when_complete(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, renamed to it when the block succeeds and removed otherwise.

    Raises:
        MediaError: If the folder cannot be written to or the disk is full.
    """
    path = check_writable(path)
    try:
        with replaced_file(path) as temporary:
            yield temporary
    except OSError as error:
        free = ""
        if error.errno == errno.ENOSPC:
            free = f" {free_bytes(path.parent) / 2**20:.0f} MiB are free there."
        raise MediaError(f"{path} cannot be written: {reason(error)}.{free}") from error
