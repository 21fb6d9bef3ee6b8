"""Files of torch.save, written without torch."""

import io
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np


class _Storage:
    def __init__(self, key: str, size: int, kind: type):
        self.key, self.size, self.kind = key, size, kind


class _Tensor:
    def __init__(self, storage: _Storage, shape: tuple[int, ...], rebuild):
        strides = tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
        self.arguments = (storage, 0, shape, strides, False, OrderedDict())
        self.rebuild = rebuild

    def __reduce__(self):
        return self.rebuild, self.arguments


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        if isinstance(value, _Storage):
            return ("storage", value.kind, value.key, "cpu", value.size)
        return None


def write_torch(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write float32 arrays as a state dict in the zip form of torch.save."""
    modules = {name: types.ModuleType(name) for name in ("torch", "torch._utils")}
    kind = type("FloatStorage", (), {"__module__": "torch"})
    modules["torch"].FloatStorage = kind

    def _rebuild_tensor_v2(*arguments):
        raise AssertionError

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    modules["torch._utils"]._rebuild_tensor_v2 = _rebuild_tensor_v2
    state = OrderedDict()
    for key, (name, array) in enumerate(arrays.items()):
        state[name] = _Tensor(_Storage(str(key), array.size, kind), array.shape, _rebuild_tensor_v2)
    stream = io.BytesIO()
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        _Pickler(stream, 2).dump(state)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/version", "3\n")
        for key, array in enumerate(arrays.values()):
            archive.writestr(f"archive/data/{key}", np.ascontiguousarray(array, "<f4").tobytes())
    return path
