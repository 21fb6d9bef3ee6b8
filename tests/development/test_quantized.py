from pathlib import Path

import pytest

from LTX_2_MLX.development.quantized import ERROR_BAND, MID_SIZE_BAND, golden_errors, mid_size_error

GOLDENS = Path(__file__).parents[1] / "goldens" / "ltx2"
CASES = sorted(path.name for path in GOLDENS.glob("transformer_*"))


@pytest.mark.parametrize("bits", sorted(ERROR_BAND))
@pytest.mark.parametrize("name", CASES)
def test_quantised_transformer_stays_in_its_band_at_every_golden_output(name, bits):
    errors, _ = golden_errors(GOLDENS / name, bits)
    assert errors
    # An error of nothing would mean that nothing was quantised.
    assert all(0 < error < ERROR_BAND[bits] for error in errors.values()), errors


@pytest.mark.parametrize("bits", sorted(MID_SIZE_BAND))
@pytest.mark.parametrize("name", CASES)
def test_every_layer_of_a_wider_network_is_quantised_and_it_stays_in_its_band(name, bits):
    error, share = mid_size_error(GOLDENS / name, bits)
    quantized, layers = share.split(" of ")
    assert quantized == layers
    assert 0 < error < MID_SIZE_BAND[bits]
