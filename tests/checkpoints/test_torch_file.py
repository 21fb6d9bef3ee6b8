"""Reading files of torch.save without torch, and without running what they ask for."""

import collections
import io
import pickle
import random
import zipfile
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.checkpoints.torch_file import read_torch_file
from LTX_2_MLX.errors import CheckpointError

FILES = Path(__file__).parents[1] / "goldens/esrgan/checkpoint_files"
LEGACY = (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True})


class Named:
    """Pickles as a global, or as a call of it."""

    def __init__(self, module, name, args=None):
        self.module, self.name, self.args = module, name, args


class Pickler(pickle._Pickler):
    """Writes any global by name, whether it exists here or not."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_named(self, value):
        self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        if value.args is not None:
            self.save(value.args)
            self.write(pickle.REDUCE)

    dispatch[Named] = save_named

    def persistent_id(self, value):
        return value.identity if isinstance(value, Stored) else None


class Stored:
    def __init__(self, key, count, kind="FloatStorage"):
        self.identity = ("storage", Named("torch", kind), key, "cpu", count)


def dumped(value):
    file = io.BytesIO()
    Pickler(file, protocol=2).dump(value)
    return file.getvalue()


def tensor(key, size, stride, offset=0, count=6, kind="FloatStorage"):
    args = (Stored(key, count, kind), offset, size, stride, False, collections.OrderedDict())
    return Named("torch._utils", "_rebuild_tensor_v2", args)


@pytest.fixture
def write_zip(tmp_path):
    def write(content, storages=(), name="file.pth", raw=None, **entries):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", dumped(content) if raw is None else raw)
            for key, values in dict(storages).items():
                archive.writestr(f"archive/data/{key}", values)
            for entry, text in entries.items():
                archive.writestr(f"archive/{entry}", text)
        return path

    return write


SIX = np.arange(6, dtype="<f4").tobytes()


def test_every_published_form_gives_the_same_tensors():
    forms = {path.name: read_torch_file(path) for path in FILES.iterdir() if path.suffix in (".pth", ".pkl")}
    assert len(forms) == 7
    wanted = forms["bare.pth"]
    for name, tensors in forms.items():
        prefix = "module." if name == "module_prefix.pkl" else ""
        assert list(tensors) == [prefix + n for n in wanted]
        for n, value in wanted.items():
            want = value.astype(mx.float16) if name == "half.pth" else value
            assert tensors[prefix + n].dtype == want.dtype and mx.array_equal(tensors[prefix + n], want)


def test_offsets_strides_and_shared_storages_are_honoured(write_zip):
    content = {
        "a": tensor("0", (2, 3), (3, 1)),
        "b": tensor("0", (3, 2), (1, 3)),
        "c": tensor("0", (2,), (2,), offset=1),
        "d": tensor("0", (), (), offset=5),
        "e": tensor("0", (0, 4), (4, 1)),
    }
    found = read_torch_file(write_zip(content, {"0": SIX}))
    base = np.arange(6, dtype=np.float32).reshape(2, 3)
    for name, want in {
        "a": base,
        "b": base.T,
        "c": np.float32([1, 3]),
        "d": np.float32(5),
        "e": np.zeros((0, 4)),
    }.items():
        np.testing.assert_array_equal(found[name], want)


@pytest.mark.parametrize(
    ("kind", "raw", "dtype", "values"),
    [
        ("BFloat16Storage", np.array([0x3F80, 0xC000], "<u2").tobytes(), mx.bfloat16, [1.0, -2.0]),
        ("HalfStorage", np.array([1.5, -2], "<f2").tobytes(), mx.float16, [1.5, -2.0]),
        ("DoubleStorage", np.array([1.5, -2], "<f8").tobytes(), mx.float32, [1.5, -2.0]),
        ("LongStorage", np.array([7, -9], "<i8").tobytes(), mx.int64, [7, -9]),
        ("BoolStorage", bytes([1, 0]), mx.bool_, [True, False]),
    ],
)
def test_every_dtype_arrives(write_zip, kind, raw, dtype, values):
    value = read_torch_file(write_zip({"x": tensor("0", (2,), (1,), count=2, kind=kind)}, {"0": raw}))["x"]
    assert value.dtype == dtype and value.tolist() == values


def test_the_exponential_mean_comes_before_other_wrappers(write_zip):
    content = {"params": {"x": tensor("0", (6,), (1,))}, "params_ema": {"x": tensor("1", (6,), (1,))}}
    found = read_torch_file(write_zip(content, {"0": SIX, "1": SIX[::-1]}))
    assert not np.array_equal(found["x"], np.arange(6))
    inner = read_torch_file(write_zip({"epoch": 3, "state_dict": content["params"]}, {"0": SIX}))
    assert inner["x"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_file_of_one_tensor_gives_a_context(write_zip):
    assert list(read_torch_file(write_zip(tensor("0", (1, 2, 3), (6, 3, 1)), {"0": SIX}))) == ["context"]


def test_the_older_form_reads_storages_that_are_not_used(tmp_path):
    content = {"params": {"x": tensor("a", (6,), (1,))}, "params_ema": {"x": tensor("b", (2, 3), (1, 2))}}
    storage = b"\x06\0\0\0\0\0\0\0" + SIX
    path = tmp_path / "old.pth"
    path.write_bytes(b"".join(dumped(part) for part in (*LEGACY, content, ["a", "b"])) + storage + storage)
    np.testing.assert_array_equal(read_torch_file(path)["x"], np.arange(6).reshape(3, 2).T)


HOSTILE = {
    "os.system": Named("os", "system", ("echo harm > {harm}",)),
    "posix.system": Named("posix", "system", ("echo harm > {harm}",)),
    "subprocess": Named("subprocess", "check_call", (["touch", "{harm}"],)),
    "eval": Named("builtins", "eval", ("open('{harm}', 'w')",)),
    "exec, old name": Named("__builtin__", "exec", ("open('{harm}', 'w')",)),
    "open": Named("builtins", "open", ("{harm}", "w")),
    "getattr": Named("builtins", "getattr", (1, "real")),
    "torch.load": Named("torch", "load", ("{harm}",)),
    "runpy": Named("runpy", "run_path", ("{harm}",)),
    "a method of an allowed class": Named("collections", "OrderedDict.fromkeys", ([],)),
    "numpy": Named("numpy.core.multiarray", "_reconstruct", ()),
    "nested in a call of an allowed function": Named(
        "torch._utils", "_rebuild_parameter", (Named("os", "getcwd", ()), 1, 2)
    ),
    "codecs": Named("_codecs", "encode", ("x", "rot13")),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("form", ["zip", "legacy", "in a tensor's place"])
def test_hostile_pickles_never_execute(write_zip, tmp_path, content, form):
    harm = tmp_path / "harm"
    args = content.args and tuple(a.replace("{harm}", str(harm)) if isinstance(a, str) else a for a in content.args)
    content = Named(content.module, content.name, args)
    if form == "zip":
        path = write_zip(content)
    elif form == "legacy":
        path = tmp_path / "file.pth"
        path.write_bytes(b"".join(dumped(part) for part in (*LEGACY, content, [])))
    else:
        path = write_zip({"x": tensor("0", (6,), (1,)), "y": content}, {"0": SIX})
    with pytest.raises(CheckpointError, match="so it is refused"):
        read_torch_file(path)
    assert not harm.exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x80\x02c__builtin__\nexec\n.",
        b"\x80\x02(c__builtin__\nprint\no.",
        b"\x80\x02(i__builtin__\nprint\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02}" + b")" + b"\x85" * 300_000 + b"K\x01s.",
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        b"\x80\x02\x8a\xff" + b"\xff" * 255 + b".",
        b"\x80\x02X\xff\xff\xff\x7fabc.",
        b"\x80\x02ccollections\nOrderedDict\n}(X\x08\x00\x00\x00__code__K\x01ub.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"", b".", b"\x80\x02}.", b"\x80\x02K\x01.",
    ],
)  # fmt: skip
def test_malformed_pickles_are_one_error(write_zip, raw):
    with pytest.raises(CheckpointError) as caught:
        read_torch_file(write_zip(None, raw=raw))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        {"x": tensor("0", (7,), (1,))},
        {"x": tensor("0", (2, 3), (3, 2))},
        {"x": tensor("0", (6,), (1,), offset=1)},
        {"x": tensor("0", (6,), (-1,), offset=5)},
        {"x": tensor("0", (1 << 40,), (0,))},
        {"x": tensor("0", (2, 3), (1,))},
        {"x": tensor("0", (1,) * 60, (1,) * 60)},
        {"x": tensor("0", (6.0,), (1,))},
        {"x": tensor("1", (6,), (1,))},
        {"x": tensor("0", (6,), (1,), count=8)},
        {"x": tensor("../../data.pkl", (6,), (1,))},
        {"x": 3},
        {3: tensor("0", (6,), (1,))},
        {"a\nb": tensor("0", (6,), (1,))},
        [tensor("0", (6,), (1,))],
    ],
)
def test_tensors_that_do_not_fit_their_storage_are_one_error(write_zip, content):
    with pytest.raises(CheckpointError) as caught:
        read_torch_file(write_zip(content, {"0": SIX}))
    assert "\n" not in str(caught.value)


def test_a_small_file_that_would_fill_the_memory_is_refused(write_zip):
    content = {f"x{i}": tensor("0", (100_000,), (1,), count=100_000) for i in range(100)}
    with pytest.raises(CheckpointError, match="larger than the file"):
        read_torch_file(write_zip(content, {"0": bytes(400_000)}))


def test_big_endian_files_and_archives_of_other_kinds_are_refused(write_zip, tmp_path):
    with pytest.raises(CheckpointError, match="little-endian"):
        read_torch_file(write_zip({"x": tensor("0", (6,), (1,))}, {"0": SIX}, byteorder="big"))
    path = tmp_path / "other.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(CheckpointError, match=r"no data\.pkl"):
        read_torch_file(path)
    with pytest.raises(CheckpointError, match="does not exist"):
        read_torch_file(tmp_path / "absent.pth")


@pytest.mark.parametrize("name", ["params.pth", "legacy.pth"])
def test_damaged_files_give_tensors_or_one_error(tmp_path, name):
    whole, path, chance = (FILES / name).read_bytes(), tmp_path / name, random.Random(7)
    for _ in range(150):
        damaged = bytearray(whole)
        if chance.random() < 0.3:
            damaged = damaged[: chance.randrange(len(damaged))]
        for _ in range(chance.randrange(1, 4)):
            if damaged:
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            tensors = read_torch_file(path)
            assert all(isinstance(value, mx.array) for value in tensors.values())
        except CheckpointError as error:
            assert "\n" not in str(error)
