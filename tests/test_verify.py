"""Every golden case that comes with the code, through the real loaders and networks."""

from pathlib import Path

import pytest

from LTX_2_MLX.verify import find_cases, run_case

GOLDENS = Path(__file__).parent / "goldens"
CASES = find_cases([GOLDENS])


@pytest.mark.parametrize("path", CASES, ids=[str(path.relative_to(GOLDENS)) for path in CASES])
def test_network_matches_golden(path):
    result = run_case(path)
    assert result.ok, result.reason
