"""The files in examples/ run as they are, with the demo model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from LTX_2_MLX import read_video

ROOT = Path(__file__).parents[2]
MEDIA = ROOT / "tests" / "media"
FIRST_FRAME = "first.png"
EXAMPLES = {
    "text_to_video": (["A blue ball bouncing on green grass"], "video.mp4"),
    "image_to_video": ([FIRST_FRAME, "A red box rolls to the left"], "video.mp4"),
    "double_frame_rate": ([MEDIA / "pebbles_160x112.mp4"], "smooth.mp4"),
}


def test_every_example_is_tried():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_example_writes_its_video(name, tmp_path):
    arguments, output = EXAMPLES[name]
    Image.new("RGB", (96, 64), "green").save(tmp_path / FIRST_FRAME)
    script = ROOT / "examples" / f"{name}.py"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, script, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert read_video(tmp_path / output).num_frames > 1
