"""What `doctor` finds, on this machine and on Macs of several sizes."""

import json
import platform
import subprocess
import sys
from types import SimpleNamespace

# Imported before a test names another platform: it asks Python for the platform's own modules.
import huggingface_hub.file_download  # noqa: F401
import mlx.core as mx
import pytest
from typer.testing import CliRunner

from LTX_2_MLX.bench import kernels, machine
from LTX_2_MLX.bench.kernels import KernelCheck, check_kernels
from LTX_2_MLX.bench.machine import findings
from LTX_2_MLX.cli.app import program
from LTX_2_MLX.ops import device

GIB = 2**30


def by_subject():
    return {finding.subject: finding for finding in findings()}


def be_a_mac(monkeypatch, gibibytes, release="15.5", architecture="arm64"):
    """A Mac of this size, as Python and MLX describe it."""
    info = {
        "device_name": "Apple M2",
        "memory_size": gibibytes * GIB,
        "max_recommended_working_set_size": gibibytes * GIB * 2 // 3,
        "max_buffer_length": gibibytes * GIB // 2,
    }
    sysctl = SimpleNamespace(stdout="0\n")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: (release, ("", "", ""), architecture))
    monkeypatch.setattr(platform, "machine", lambda: architecture)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: sysctl)
    monkeypatch.setattr(mx, "is_available", lambda device: True)
    monkeypatch.setattr(mx, "device_info", lambda *device: info)
    monkeypatch.setattr(device, "device", lambda: mx.Device(mx.gpu))


@pytest.mark.parametrize(("gibibytes", "is_small"), [(8, True), (32, False), (128, False)])
def test_a_mac_is_described_and_a_small_one_gets_advice(gibibytes, is_small, monkeypatch):
    be_a_mac(monkeypatch, gibibytes)
    facts = by_subject()
    assert facts["system"].value == "macOS 15.5" and not facts["system"].advice
    assert facts["processor"].value.startswith("Apple M2") and not facts["processor"].advice
    assert facts["memory"].value.startswith(f"{gibibytes} GiB")
    assert ("--low-ram" in facts["memory"].advice) is is_small
    assert facts["largest buffer"].value == f"{gibibytes / 2:.1f} GiB"
    assert facts["wired limit"].value == f"{gibibytes * 2 / 3:.1f} GiB (iogpu.wired_limit_mb: 0)"


def test_what_stands_in_the_way_is_said_with_what_to_do(monkeypatch):
    be_a_mac(monkeypatch, 32, release="13.6.1", architecture="x86_64")
    monkeypatch.setattr(machine, "version", lambda package: "0.31.2")
    monkeypatch.setenv("MLX_CONV_WINOGRAD", "1")
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=GIB))
    facts = by_subject()
    assert "update the system" in facts["system"].advice
    assert "Rosetta" in facts["processor"].advice
    assert "mlx>=0.32.4" in facts["MLX"].advice
    assert "Unset it" in facts["MLX_CONV_WINOGRAD"].advice
    assert "make room" in facts["free disk"].advice


def test_a_damaged_file_is_named_without_its_folder(tmp_path, monkeypatch):
    path = tmp_path / "weights" / "ltx-2" / "ltx-2-19b-distilled.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\x05\x00\x00\x00\x00\x00\x00\x00{]")
    monkeypatch.chdir(tmp_path)
    fact = by_subject()["ltx-2-19b-distilled"]
    assert "download it again" in fact.advice
    assert not any(str(tmp_path) in f"{each.value} {each.advice}" for each in findings())


def test_kernels_of_this_machine_are_right():
    checks = list(check_kernels(large_arrays=False))
    assert len(checks) > 30 and all(check.ok for check in checks)


def test_a_wrong_kernel_is_found(monkeypatch):
    attention = mx.fast.scaled_dot_product_attention
    monkeypatch.setattr(
        mx.fast, "scaled_dot_product_attention", lambda *arrays, scale, mask: attention(*arrays, scale=scale)
    )
    wrong = [check.name for check in check_kernels(large_arrays=False) if not check.ok]
    assert len(wrong) == 12 and all("masked" in name for name in wrong)


def test_the_command_prints_a_report_and_its_exit_code_tells(monkeypatch):
    runner = CliRunner()
    monkeypatch.setattr(kernels, "check_kernels", lambda **options: iter([KernelCheck("conv3d", 2e-7, 1e-5)]))
    result = runner.invoke(program(), ["doctor", "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["kernels"][0]["name"] == "conv3d"
    monkeypatch.setattr(kernels, "check_kernels", lambda **options: iter([KernelCheck("conv3d", float("nan"), 1e-5)]))
    result = runner.invoke(program(), ["doctor"])
    assert result.exit_code == 1
    assert "WRONG  conv3d" in result.stdout and "demo-distilled" in result.stdout
