"""Settings of MLX, in processes of their own: MLX reads them once."""

import os
import subprocess
import sys

import pytest

CODE = "import os, LTX_2_MLX; print(os.environ['MLX_CONV_WINOGRAD'], os.environ['MLX_ENABLE_TF32'])"


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "0 0"), ({"MLX_CONV_WINOGRAD": "1"}, "1 0"), ({"MLX_ENABLE_TF32": "1"}, "0 1")],
)
def test_winograd_and_tf32_are_off_unless_the_user_says_otherwise(given, expected):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLX_")} | given
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
