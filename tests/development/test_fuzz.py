"""A few hundred of the damaged files that scripts/fuzz.py reads by the thousand, and that it would see a fault."""

import random
from pathlib import Path

import pytest

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.development import fuzz
from LTX_2_MLX.development.fuzz import ACCEPTED, KINDS, REFUSED, Good, run_fuzz
from LTX_2_MLX.errors import CheckpointError

TESTS = Path(__file__).parents[1]
CASES = 34


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    gemma = TESTS.parent / "weights" / "demo" / "gemma"
    return Good.make(TESTS / "goldens", TESTS / "media" / "pebbles_160x112.mp4", gemma, tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file_is_refused_in_words_or_accepted_for_what_it_is(kind, good, tmp_path):
    found = [run_fuzz(kind, seed, good, tmp_path) for seed in range(CASES)]
    assert set(found) <= {REFUSED, ACCEPTED}
    assert REFUSED in found or kind == "state"


@pytest.mark.parametrize("name", fuzz._CASES)
def test_good_file_is_accepted(name, good, tmp_path):
    fuzz._read(tmp_path, name, good.checkpoints[name])
    header, data = fuzz._split(good.checkpoints[name])
    fuzz._read(tmp_path, name, fuzz._joined(header, data))


def test_good_state_is_found(good, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "damaged", lambda dice, content: content)
    fuzz._state(random.Random(1), good, tmp_path)


def test_any_other_error_is_a_fault(good, tmp_path, monkeypatch):
    def careless(path):
        raise KeyError("shape")

    monkeypatch.setattr(fuzz, "Checkpoint", careless)
    with pytest.raises(KeyError):
        run_fuzz("config", 0, good, tmp_path)


def test_case_without_end_is_a_fault(good, tmp_path, monkeypatch):
    def forever(path):
        while True:
            pass

    monkeypatch.setattr(fuzz, "PATIENCE", 1)
    monkeypatch.setattr(fuzz, "Checkpoint", forever)
    with pytest.raises(TimeoutError):
        run_fuzz("config", 0, good, tmp_path)


def test_wrong_success_is_a_fault(good, tmp_path, monkeypatch):
    class Gullible(Checkpoint):
        def __init__(self, path):
            whole = tmp_path / "whole.safetensors"
            whole.write_bytes(good.checkpoints["upscaler"])
            super().__init__(whole)

    monkeypatch.setattr(fuzz, "_CASES", {"upscaler": fuzz._CASES["upscaler"]})
    monkeypatch.setattr(fuzz, "Checkpoint", Gullible)
    with pytest.raises(AssertionError):
        run_fuzz("cut checkpoint", 0, good, tmp_path)
    with pytest.raises(CheckpointError):
        Checkpoint(tmp_path / "case" / "file.safetensors")
