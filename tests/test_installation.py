"""What an installation depends on, and what a user is told where MLX cannot work or leaves a GPU idle."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from LTX_2_MLX.runtime import this_machine
from LTX_2_MLX.runtime.this_machine import idle_gpu_warning, require_mlx

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_every_system_depends_on_plain_mlx_and_linux_takes_an_extra():
    (mlx,) = [line for line in PROJECT["dependencies"] if re.match(r"mlx\b(?!-)", line)]
    assert mlx == "mlx>=0.32.4"
    for extra in ("cpu", "cuda13"):
        assert PROJECT["optional-dependencies"][extra] == [f"mlx[{extra}]>=0.32.4; sys_platform == 'linux'"]
    assert set(PROJECT["optional-dependencies"]) == {"cpu", "cuda13", "test", "compare", "notebook"}


def test_readmes_commands_name_an_extra():
    readme = (ROOT / "README.md").read_text()
    blocks = re.findall(r"<!-- ci: \w+ -->\n```bash\n(.*?)```", readme, flags=re.S)
    installs = [line for block in blocks for line in block.splitlines() if "pip install" in line]
    assert installs and all(".[cpu" in line for line in installs)


def test_entry_point_is_there():
    assert PROJECT["scripts"] == {"ltx-2-mlx": "LTX_2_MLX.cli.app:main"}


def test_missing_library_is_one_line_that_names_both_extras(monkeypatch, tmp_path):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.delitem(sys.modules, "mlx.core", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    for spec in (None, Spec):
        monkeypatch.setattr(this_machine, "find_spec", lambda name, spec=spec: spec)
        with pytest.raises(ImportError, match=r"\[cpu\].*\[cuda13\]") as caught:
            require_mlx()
        assert "\n" not in str(caught.value)
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libmlx.so").touch()
    require_mlx()


def test_command_without_mlx_ends_in_one_line(monkeypatch):
    from typer.testing import CliRunner

    from LTX_2_MLX import cli
    from LTX_2_MLX.cli import command
    from LTX_2_MLX.cli.generate import main

    def missing() -> None:
        raise ImportError("MLX has no library for this machine.")

    monkeypatch.setattr(command, "require_mlx", missing)
    done = CliRunner().invoke(cli.as_program(main), ["a ball"])
    assert done.exit_code == cli.FAILED and done.stderr == "MLX has no library for this machine.\n"


def test_idle_nvidia_gpu_is_reported(monkeypatch):
    import mlx.core as mx

    monkeypatch.setattr(mx, "is_available", lambda device: False)
    monkeypatch.setattr(this_machine.shutil, "which", lambda name: None)
    assert idle_gpu_warning() is None
    monkeypatch.setattr(this_machine.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert "cuda13" in idle_gpu_warning()
    monkeypatch.setattr(mx, "is_available", lambda device: True)
    assert idle_gpu_warning() is None


def test_demo_model_is_found_inside_an_installed_package(monkeypatch, tmp_path):
    from LTX_2_MLX.checkpoints import resolve

    package = tmp_path / "site-packages" / "LTX_2_MLX"
    (package / "weights" / "demo").mkdir(parents=True)
    (package / "checkpoints").mkdir()
    monkeypatch.setattr(resolve, "__file__", str(package / "checkpoints" / "resolve.py"))
    monkeypatch.chdir(tmp_path)
    assert resolve.weights_folders() == [(package / "weights").resolve()]


def test_readme_says_which_macs_and_how_to_tell_a_native_python():
    readme = (ROOT / "README.md").read_text()
    for words in ("macOS 14 or newer", "Apple silicon", "native Python", "platform.machine()", "arm64"):
        assert words in readme
