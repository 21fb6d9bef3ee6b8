"""Every golden case that comes with the code, through the real loaders and networks."""

from pathlib import Path

import pytest

from LTX_2_MLX.ops.device import as_backend, on_cpu
from LTX_2_MLX.verify import find_cases, run_case

GOLDENS = Path(__file__).parents[1] / "goldens"
CASES = find_cases([GOLDENS])
NAMES = [str(path.relative_to(GOLDENS)) for path in CASES]


@pytest.mark.parametrize("path", CASES, ids=NAMES)
def test_network_matches_golden(path):
    result = run_case(path)
    assert result.ok, result.reason


@pytest.mark.slow
@pytest.mark.parametrize("path", CASES, ids=NAMES)
def test_network_matches_golden_in_the_forms_of_the_other_backend(path):
    with as_backend("gpu" if on_cpu() else "cpu"):
        result = run_case(path)
    assert result.ok, result.reason
