"""The package before anything else: on Linux it loads a fast BLAS, which has to be there before MLX is."""

import os

# Named files that are missing are downloaded on first use; no test leaves this machine.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# A test that is about the cache of prompts names a folder of its own.
os.environ["LTX_2_MLX_CACHE"] = ""

if "PYTEST_XDIST_WORKER" in os.environ:
    # The process that starts the workers has made these settings; a worker makes them for itself.
    for variable in ("MLX_CONV_WINOGRAD", "MLX_ENABLE_TF32"):
        if os.environ.get(variable) == "0":
            del os.environ[variable]

import pytest

import LTX_2_MLX  # noqa: F401


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """``machine(files, cached={repository: files})``: a machine that holds just these files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    monkeypatch.setattr("LTX_2_MLX.checkpoints.resolve.weights_folders", lambda: [tmp_path / "weights"])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def place(files=(), cached=None):
        for name in files:
            path = tmp_path / "weights" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        for repository, names in (cached or {}).items():
            home = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
            (home / "refs").mkdir(parents=True)
            (home / "refs/main").write_text("c0ffee")
            for name in names:
                path = home / "snapshots/c0ffee" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"x")
        return tmp_path

    return place
