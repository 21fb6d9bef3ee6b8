"""Reads files of torch.save (.pth, .pkl, .ckpt, .pt) without torch, and without executing code from them.

Supports both formats: the zip archive, and the older sequence of pickles. The unpickler rebuilds tensors and
ordered dictionaries; a file that needs anything else is refused.

Source of the formats: pytorch/pytorch, torch/serialization.py and torch/_utils.py at v2.13.0.
"""

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import mlx.core as mx
import numpy as np

from LTX_2_MLX.errors import CheckpointError

# Storage class -> NumPy dtype of its raw little-endian values.
_STORAGES = {
    "FloatStorage": "<f4", "HalfStorage": "<f2", "BFloat16Storage": "<u2", "DoubleStorage": "<f8", "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
# Pickles of published files are below 1 MB. An opcode of one byte may make an object of a hundred.
_MAX_PICKLE_BYTES = 2_000_000
_MAX_AXES = 16
_MAX_NAME_LETTERS = 80
# Tensors may share values, but no published file's tensors are this many times as large as the file.
_MAX_EXPANSION = 4
# Keys under which trainers store the weights in a file, by priority.
_WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model_state", "model", "net")
# The name of the only tensor in a file that holds nothing else (FlashVSR's prompt, as others store it).
_ONLY_TENSOR = "context"


@dataclass(frozen=True, slots=True)
class _Storage:
    kind: str
    key: str
    num_values: int


@dataclass(frozen=True, slots=True)
class _View:
    """A tensor: a window into a storage; offset and strides are in values."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Refused(Exception):
    """The file needs something that tensors do not."""


# Opcodes that tensors, names and dictionaries need; all others are refused.
_ALLOWED = (
    pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK, pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT,
    pickle.MEMOIZE, pickle.GET, pickle.BINGET, pickle.LONG_BINGET, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE,
    pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG, pickle.LONG1, pickle.BINFLOAT,
    pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.SHORT_BINSTRING, pickle.BINSTRING, pickle.UNICODE,
    pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.EMPTY_LIST, pickle.APPEND,
    pickle.APPENDS, pickle.EMPTY_DICT, pickle.BINPERSID, pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE,
)  # fmt: skip


# The implementation in Python, since the one in C has no table of opcodes to restrict.
_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):
    """Rebuilds tensors as views, and dictionaries with plain keys. Nothing else can be named, hence called.

    Attributes:
        storages: Every storage in the file, by key.
    """

    dispatch: ClassVar[dict[int, Any]] = {code[0]: _PythonUnpickler.dispatch[code[0]] for code in _ALLOWED}

    def __init__(self, file: Any):
        # Names from Python 2 are bytes that hold UTF-8.
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def load_setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self.stack[-1].update(_dictionary([(key, value)]))

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self.stack[-1].update(_dictionary(zip(items[::2], items[1::2], strict=True)))

    def load_build(self) -> None:
        # Attributes of dictionaries and tensors (version numbers of modules) are not used.
        self.stack.pop()

    dispatch |= {pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems, pickle.BUILD[0]: load_build}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _dictionary
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: _view(storage, offset, size, stride)
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda data, *_: data
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return name
        raise _Refused(f"{module}.{name}"[:_MAX_NAME_LETTERS])

    def persistent_load(self, identity: Any) -> _Storage:
        # Types first: comparing, hashing or showing a deeply nested value ends Python, or never ends.
        if type(identity) is not tuple or len(identity) not in (5, 6):
            raise _Refused("a storage of another kind")
        kind, storage, key, _, count, *rest = identity
        if type(kind) is not str or type(storage) is not str or type(key) is not str or type(count) is not int:
            raise _Refused("a storage of another kind")
        if kind != "storage" or storage not in _STORAGES or not 0 <= count < 2**63 or (rest and rest[0] is not None):
            raise _Refused(f"the storage {storage[:_MAX_NAME_LETTERS]!r}")
        return self.storages.setdefault(key, _Storage(storage, key, count))


class _PickleReader:
    """Reads one pickle from a file, no more than its bytes and ``_MAX_PICKLE_BYTES``."""

    def __init__(self, file: BinaryIO, file_bytes: int):
        self._file = file
        self._left = min(_MAX_PICKLE_BYTES, file_bytes - file.tell())

    def read(self, num_bytes: int) -> bytes:
        self._take(num_bytes)
        return self._file.read(num_bytes)

    def readline(self) -> bytes:
        line = self._file.readline(self._left + 1)
        self._take(len(line))
        return line

    def _take(self, num_bytes: int) -> None:
        self._left -= num_bytes
        if self._left < 0:
            raise ValueError("its pickle is truncated or too large")


def _dictionary(items: Iterable[tuple[Any, Any]] = ()) -> dict[str | int, Any]:
    """A dictionary with names and integers as keys. Hashing a deeply nested key would crash Python."""
    result: dict[str | int, Any] = {}
    for key, value in items:
        if type(key) not in (str, int):
            raise ValueError("a dictionary has other keys than names and numbers")
        result[key] = value
    return result


def _view(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> _View:
    if not isinstance(storage, _Storage) or type(size) is not tuple or type(stride) is not tuple:
        raise ValueError("a tensor has no storage, size or strides")
    if len(size) > _MAX_AXES or len(size) != len(stride):
        raise ValueError("a tensor has too many axes, or strides for another number of them")
    if any(type(number) is not int or not 0 <= number < 2**63 for number in (offset, *size, *stride)):
        raise ValueError("a tensor's offset, size or strides are not numbers")
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    num_values = math.prod(size)
    if num_values > storage.num_values or (num_values and last >= storage.num_values):
        raise ValueError("a tensor reaches beyond its storage")
    return _View(storage, offset, tuple(size), tuple(stride))


def read_torch_file(path: Path) -> dict[str, mx.array]:
    """Tensors by name, without wrappers such as ``params_ema``, and with prefixes such as ``module.``.

    Dtypes are kept, except that float64 becomes float32, since MLX has no float64. The tensor of a file that holds
    nothing else is named ``context``.

    Raises:
        CheckpointError: If the file is missing, damaged, holds no tensors, or needs code to be run.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist. Give the path of a .pth, .pkl or .ckpt file.")
    try:
        with path.open("rb") as file:
            file_bytes = path.stat().st_size
            content, values = (_read_zip if zipfile.is_zipfile(file) else _read_legacy)(file, file_bytes)
            views = _unwrapped(content)
            if sum(_num_bytes(view) for view in views.values()) > _MAX_EXPANSION * file_bytes:
                raise ValueError("its tensors are larger than the file")
            return {name: _array(view, values(view.storage)) for name, view in views.items()}
    except _Refused as refused:
        raise CheckpointError(
            f"{path} needs {refused}, which tensors do not. Such a file could run a program on your machine, "
            f"so it is refused. Get the weights as .safetensors."
        ) from refused
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}.") from error
    # A damaged pickle raises whatever its bytes happen to run into.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(
            f"{path} is not a readable torch checkpoint ({reason:.120}): it is of another format, damaged or "
            f"truncated. Download it again."
        ) from error


def _num_bytes(view: _View) -> int:
    return math.prod(view.size) * np.dtype(_STORAGES[view.storage.kind]).itemsize


def _unwrapped(content: Any) -> dict[str, _View]:
    if isinstance(content, _View):
        return {_ONLY_TENSOR: content}
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if not isinstance(content, dict) or not content:
        raise ValueError("it holds no tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not name.isprintable() or not isinstance(value, _View):
            raise ValueError(f"its entry {name!r:.60} is not a tensor")
    return dict(content)


def _check_storages(storages: Iterable[_Storage], file_bytes: int) -> None:
    """Refuse storages that together hold more bytes than the file."""
    if sum(storage.num_values * np.dtype(_STORAGES[storage.kind]).itemsize for storage in storages) > file_bytes:
        raise ValueError("its storages are larger than the file")


def _read_zip(file: BinaryIO, file_bytes: int) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    archive = zipfile.ZipFile(file)
    entries = {entry.filename: entry for entry in archive.infolist()}
    # torch.save stores its entries; a compressed one may unfold to any size.
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size > file_bytes for entry in entries.values()):
        raise ValueError("its entries are compressed")
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("the archive holds no data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
        raise ValueError("its numbers are not little-endian")
    if entries[pickles[0]].file_size > _MAX_PICKLE_BYTES:
        raise ValueError("its pickle is too large")
    unpickler = _Unpickler(io.BytesIO(archive.read(pickles[0])))
    content = unpickler.load()
    _check_storages(unpickler.storages.values(), file_bytes)

    def values(storage: _Storage) -> np.ndarray:
        entry = entries[f"{root}data/{storage.key}"]
        dtype = np.dtype(_STORAGES[storage.kind])
        if entry.file_size != storage.num_values * dtype.itemsize:
            raise ValueError(f"storage {storage.key} has another size than its tensors")
        return np.frombuffer(archive.read(entry), dtype)

    # Tensors that share a storage follow each other.
    return content, _cache_last(values)


def _read_legacy(file: BinaryIO, file_bytes: int) -> tuple[Any, Callable[[_Storage], np.ndarray]]:
    def next_pickle() -> _Unpickler:
        return _Unpickler(_PickleReader(file, file_bytes))

    file.seek(0)
    if not _equals(next_pickle().load(), _LEGACY_MAGIC) or not _equals(next_pickle().load(), _LEGACY_PROTOCOL):
        raise ValueError("it does not begin as torch.save does")
    system = next_pickle().load()
    if type(system) is not dict or system.get("little_endian") is not True:
        raise ValueError("its numbers are not little-endian")
    unpickler = next_pickle()
    content = unpickler.load()
    storages = unpickler.storages
    _check_storages(storages.values(), file_bytes)
    starts: dict[str, int] = {}
    keys = next_pickle().load()
    if type(keys) is not list or any(type(key) is not str for key in keys):
        raise ValueError("its storages have no names")
    end = file.tell()
    for key in keys:
        file.seek(end)
        (num_values,) = struct.unpack("<q", file.read(8))
        if key not in storages or num_values != storages[key].num_values:
            raise ValueError(f"storage {key[:_MAX_NAME_LETTERS]} has another size than its tensors")
        starts[key] = end + 8
        end = starts[key] + num_values * np.dtype(_STORAGES[storages[key].kind]).itemsize

    def values(storage: _Storage) -> np.ndarray:
        dtype = np.dtype(_STORAGES[storage.kind])
        file.seek(starts[storage.key])
        return np.frombuffer(file.read(storage.num_values * dtype.itemsize), dtype)

    return content, _cache_last(values)


def _equals(value: Any, number: int) -> bool:
    return type(value) is int and value == number


def _cache_last(values: Callable[[_Storage], np.ndarray]) -> Callable[[_Storage], np.ndarray]:
    """``values`` with the last storage's result kept."""
    cache: dict[_Storage, np.ndarray] = {}

    def cached(storage: _Storage) -> np.ndarray:
        if storage not in cache:
            cache.clear()
            cache[storage] = values(storage)
        return cache[storage]

    return cached


def _array(view: _View, values: np.ndarray) -> mx.array:
    if values.size != view.storage.num_values:
        raise ValueError("it is truncated")
    strides = [step * values.itemsize for step in view.stride]
    window = np.lib.stride_tricks.as_strided(values[view.offset :], view.size, strides, writeable=False)
    if view.storage.kind == "DoubleStorage":
        window = window.astype(np.float32)
    array = mx.array(np.ascontiguousarray(window).reshape(view.size))
    return array.view(mx.bfloat16) if view.storage.kind == "BFloat16Storage" else array
