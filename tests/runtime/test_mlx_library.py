"""Settings of MLX, in processes of their own: MLX reads them once."""

import os
import subprocess
import sys

import pytest

CODE = "import os, LTX_2_MLX; print(os.environ['MLX_CONV_WINOGRAD'], os.environ['MLX_ENABLE_TF32'])"


def output_of(code, given):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLX_")} | given
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "0 0"), ({"MLX_CONV_WINOGRAD": "1"}, "1 0"), ({"MLX_ENABLE_TF32": "1"}, "0 1")],
)
def test_winograd_and_tf32_are_off_unless_the_user_says_otherwise(given, expected):
    assert output_of(CODE, given) == expected


INSIDE = """
import os, LTX_2_MLX
from LTX_2_MLX.runtime.mlx_library import winograd_convolutions
for wanted in (True, False):
    with winograd_convolutions(wanted):
        print(os.environ["MLX_CONV_WINOGRAD"], end=" ")
print(os.environ["MLX_CONV_WINOGRAD"])
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1 0 0"), ({"MLX_CONV_WINOGRAD": "0"}, "0 0 0"), ({"MLX_ENABLE_TF32": "1"}, "0 0 0")],
)
def test_winograd_is_on_only_where_it_is_wanted_and_exact(given, expected):
    assert output_of(INSIDE, given) == expected
