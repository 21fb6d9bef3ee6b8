import shutil
from pathlib import Path

import pytest

from LTX_2_MLX.checkpoints.resolve import open_checkpoint
from LTX_2_MLX.errors import CheckpointError

PICKLES = Path(__file__).parents[1] / "goldens/esrgan/checkpoint_files"


def test_pickle_is_converted_beside_itself_on_first_use(tmp_path):
    shutil.copy(PICKLES / "params.pth", tmp_path / "mine.pth")
    opened = open_checkpoint(str(tmp_path / "mine.pth"), "upscaler")
    assert "body.0.weight" in opened.header.tensors
    (converted,) = tmp_path.glob("*.safetensors")
    written = converted.stat().st_mtime_ns
    assert open_checkpoint(str(tmp_path / "mine.pth"), "upscaler").header == opened.header
    assert converted.stat().st_mtime_ns == written


def test_folder_stands_for_the_one_checkpoint_in_it(tmp_path):
    shutil.copy(PICKLES / "module_prefix.pkl", tmp_path / "flownet.pkl")
    for _ in range(2):
        # The second time its conversion lies there too.
        assert "module.body.0.weight" in open_checkpoint(str(tmp_path), "interpolator").header.tensors


def test_folder_with_several_or_none_asks_for_the_file(tmp_path):
    with pytest.raises(CheckpointError, match="holds none"):
        open_checkpoint(str(tmp_path), "upscaler")
    for name in ("params.pth", "bare.pth"):
        shutil.copy(PICKLES / name, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"bare\.pth, params\.pth"):
        open_checkpoint(str(tmp_path), "upscaler")


def test_missing_file_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="download_weights"):
        open_checkpoint("ai-forever/Real-ESRGAN:RealESRGAN_x8.pth", "upscaler")
