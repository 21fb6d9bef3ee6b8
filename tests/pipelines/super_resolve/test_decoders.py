import pytest

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.super_resolve.decoders import ALIASES, DECODERS, DEFAULTS, allowed, choose_decoder


def test_every_mode_has_its_decoders():
    assert {mode: allowed(mode) for mode in DEFAULTS} == {
        "tiny": ["tcd", "tae-w2.1", "lighttae-w2.1"],
        "tiny-long": ["tcd", "tae-w2.1", "lighttae-w2.1"],
        "full": ["wan2.1", "light"],
    }


@pytest.mark.parametrize("mode", DEFAULTS)
@pytest.mark.parametrize("name", [None, *DECODERS, *ALIASES])
def test_a_decoder_that_does_not_fit_gives_way_to_the_modes_own_with_a_word(mode, name):
    chosen, note = choose_decoder(mode, name)
    if name is None or name in allowed(mode):
        assert (chosen, note) == (name or DEFAULTS[mode], None)
    else:
        assert chosen == DEFAULTS[mode]
        assert name in note and all(fitting in note for fitting in allowed(mode))


def test_note_says_why():
    assert "48 channels" in choose_decoder("full", "wan2.2")[1]
    assert "32 channels" in choose_decoder("tiny", "lighttae-hy1.5")[1]
    assert "does not belong to mode full" in choose_decoder("full", "tcd")[1]


def test_unknown_names_are_refused_with_those_there_are():
    with pytest.raises(RequestError, match=r"wan3.*wan2\.1.*lighttae-hy1\.5"):
        choose_decoder("full", "wan3")
    with pytest.raises(RequestError, match="tiny-long"):
        choose_decoder("large", None)
