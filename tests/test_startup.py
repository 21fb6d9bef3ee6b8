"""What a command imports before it answers."""

import json
import subprocess
import sys

HEAVY = ("mlx", "av", "huggingface_hub", "mlx_lm", "transformers")
PROBE = """
import json, sys
from LTX_2_MLX.cli.command import run_command
from LTX_2_MLX.cli.app import program
try:
    run_command(program(), prog_name="ltx-2-mlx")
except SystemExit as end:
    code = end.code
heavy = [name for name in {heavy!r} if name in sys.modules]
print(json.dumps([code, heavy]), file=sys.stdout)
"""


def answer(*words):
    """Exit code and heavy modules of a command."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(heavy=HEAVY), *words], capture_output=True, text=True, check=False
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_help_and_errors_in_the_arguments_import_nothing_heavy():
    assert answer("generate", "--help") == [0, []]
    assert answer("generate", "A ball", "--nope") == [2, []]
    assert answer("generate", "A ball", "--cfg", "-7") == [2, []]
    assert answer("generate", "A ball", "--height", "7") == [2, []]


def test_layers_of_mlx_lm_come_without_what_its_package_imports():
    probe = (
        "import sys; from LTX_2_MLX.checkpoints.gemma3 import mlx_lm_layers; own = mlx_lm_layers('gemma3_text');"
        "assert 'transformers' not in sys.modules; import mlx_lm; assert callable(mlx_lm.load);"
        "assert 'transformers' in sys.modules and mlx_lm.models.gemma3_text is own"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)
