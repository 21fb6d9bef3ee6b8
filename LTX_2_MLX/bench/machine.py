"""Facts about the machine, MLX and the weights on disk, each with what to do where it stands in the way."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mlx.core as mx

from LTX_2_MLX.checkpoints.catalog import ENTRIES
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.resolve import BY_NAME, installed_path
from LTX_2_MLX.errors import LTXError
from LTX_2_MLX.ops.device import device_name
from LTX_2_MLX.runtime.this_machine import GIB, budget_bytes, total_bytes

_OLDEST_MACOS = 14
_OLDEST_MLX = (0, 32, 4)
_SMALL_BYTES = 32 * GIB
# What the default run of the real model needs on disk.
_DEFAULT_MODEL = ("ltx-2-19b-distilled", "ltx-2-spatial-upscaler-x2-1.0", "gemma-3-12b-it-bf16")
_SWITCHES = {
    "MLX_CONV_WINOGRAD": "convolutions in 16 bit lose precision",
    "MLX_ENABLE_TF32": "float32 products keep about 10 bits, and scene cuts are found where there are none",
}


@dataclass(frozen=True)
class Finding:
    """One fact.

    Attributes:
        subject: What it is about.
        value: The fact, without paths or names of the user's.
        advice: What to do; empty where nothing is wrong.
    """

    subject: str
    value: str
    advice: str = ""


def findings() -> Iterator[Finding]:
    """All facts, in the order of the report."""
    yield _system()
    yield _processor()
    yield from _memory()
    yield _disk()
    yield _mlx()
    yield from _switches()
    yield from _weights()


def _system() -> Finding:
    if sys.platform == "darwin":
        release = platform.mac_ver()[0]
        advice = ""
        if int(release.split(".")[0]) < _OLDEST_MACOS:
            advice = f"MLX needs macOS {_OLDEST_MACOS} or newer: update the system."
        return Finding("system", f"macOS {release}", advice)
    return Finding("system", f"{platform.system()} {platform.release()}")


def _processor() -> Finding:
    value = f"{device_name() or platform.machine()}, Python {platform.python_version()} for {platform.machine()}"
    if sys.platform == "darwin" and platform.machine() != "arm64":
        return Finding("processor", value, "This Python runs under Rosetta: install one for arm64.")
    return Finding("processor", value)


def _memory() -> Iterator[Finding]:
    total = total_bytes()
    advice = ""
    if total < _SMALL_BYTES:
        advice = "The whole model does not fit: pass --low-ram, or --quantize 8; --dry-run tells what a run needs."
    yield Finding("memory", f"{total / GIB:.0f} GiB, of which one stage may use {budget_bytes() / GIB:.1f} GiB", advice)
    if not mx.is_available(mx.gpu):
        yield Finding("GPU", "none that MLX can use", "" if sys.platform == "linux" else "Install MLX's own wheel.")
        return
    info = mx.device_info(mx.gpu)
    if "max_buffer_length" in info:
        yield Finding("largest buffer", f"{int(info['max_buffer_length']) / GIB:.1f} GiB")
    if "max_recommended_working_set_size" in info:
        wired = int(info["max_recommended_working_set_size"])
        raised = _sysctl("iogpu.wired_limit_mb")
        yield Finding("wired limit", f"{wired / GIB:.1f} GiB (iogpu.wired_limit_mb: {raised or 'unknown'})")


def _sysctl(name: str) -> str:
    """A value of macOS's kernel; empty where there is none."""
    try:
        result = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.strip()


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    needed = 0
    for name in _DEFAULT_MODEL:
        if installed_path(BY_NAME[name]) is None:
            needed += BY_NAME[name].num_bytes or 0
    advice = ""
    if free < needed:
        advice = f"The distilled model and its text encoder take {needed / GIB:.0f} GiB more: make room first."
    return Finding("free disk", f"{free / GIB:.0f} GiB here", advice)


def _mlx() -> Finding:
    installed = version("mlx")
    numbers = tuple(int(number) for number in installed.split(".")[:3] if number.isdigit())
    advice = ""
    if numbers < _OLDEST_MLX:
        oldest = ".".join(map(str, _OLDEST_MLX))
        advice = f"Convolutions are wrong in 16 bit before {oldest}: pip install -U 'mlx>={oldest}'"
    return Finding("MLX", f"{installed} on {_device()}", advice)


def _device() -> str:
    return "a GPU" if mx.is_available(mx.gpu) else "the CPU"


def _switches() -> Iterator[Finding]:
    for name, price in _SWITCHES.items():
        value = os.environ.get(name, "")
        advice = "" if value == "0" else f"With {name}={value} {price}. Unset it, unless you measure."
        yield Finding(name, value, advice)


def _weights() -> Iterator[Finding]:
    for entry in ENTRIES:
        path = installed_path(entry)
        if path is None or path.suffix != ".safetensors":
            if path is not None:
                yield Finding(entry.name, "on disk")
            continue
        try:
            checkpoint = Checkpoint(path)
        except LTXError:
            advice = "The file is damaged or incomplete: delete it and download it again."
            yield Finding(entry.name, "on disk, cannot be read", advice)
            continue
        yield Finding(entry.name, f"on disk, {len(checkpoint.header.tensors)} tensors, whole by its header")
