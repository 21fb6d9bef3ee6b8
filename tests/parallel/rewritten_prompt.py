"""``generate`` on several processes, each of which prints the prompt that it goes on with; only the first may ask."""

import os
import runpy
import sys

import LTX_2_MLX  # noqa: F401  (loads BLAS before MLX)
from LTX_2_MLX.pipelines.generation import enhance

rank = os.environ["MLX_RANK"]
rewritten, answer = enhance._answer, enhance.answer


def answered_by_the_first(*arguments):
    """The chat model's answer; other processes must not ask for it."""
    assert rank == "0"
    return answer(*arguments)


def printed(*arguments):
    """The prompt that all processes have."""
    text = rewritten(*arguments)
    os.write(1, f"LINE {rank} {text}\n".encode())
    return text


enhance.answer = answered_by_the_first
enhance._answer = printed
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
