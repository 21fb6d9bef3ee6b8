"""Some hundred of the damaged files that scripts/fuzz.py reads by the thousand, and that it would see a fault."""

import random
import signal
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.torch_file import read_torch_file
from LTX_2_MLX.development import fuzz, fuzz_files, fuzz_process
from LTX_2_MLX.development.fuzz import ACCEPTED, KINDS, REFUSED, Good, run_fuzz
from LTX_2_MLX.development.fuzz_process import FAULT, FuzzProcess
from LTX_2_MLX.development.fuzz_structures import format_of
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.media.image import read_image
from LTX_2_MLX.media.video import read_video

TESTS = Path(__file__).parents[1]
GEMMA = TESTS.parent / "weights" / "demo" / "gemma"
VIDEO = TESTS / "media" / "pebbles_160x112.mp4"
# Of each kind: more than three hundred files in all.
CASES = 17


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return Good.make(TESTS / "goldens", VIDEO, GEMMA, tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def process():
    with closing(FuzzProcess(TESTS / "goldens", VIDEO, GEMMA)) as started:
        yield started


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_file_is_refused_in_words_or_accepted_for_what_it_is(kind, process):
    found = [process.read(kind, seed) for seed in range(CASES)]
    assert [outcome.text for outcome in found if outcome.result == FAULT] == []
    assert REFUSED in {outcome.result for outcome in found} or kind == "state"


@pytest.mark.parametrize("ended", [signal.SIGSEGV, signal.SIGSTOP])
def test_process_that_ends_or_stays_away_is_a_fault_and_is_started_anew(ended, process, monkeypatch):
    process.read("request", 0)
    process._child.send_signal(ended)
    with monkeypatch.context() as patch:
        patch.setattr(fuzz_process, "PATIENCE", 1)
        outcome = process.read("request", 0)
    assert outcome.result == FAULT and ("SIGSEGV" in outcome.text or "no end in 1 s" in outcome.text)
    assert process.read("request", 0).result in (REFUSED, ACCEPTED)


def test_memory_beyond_the_limit_and_other_errors_are_faults(tmp_path):
    def hungry(*_):
        return str(len(np.ones(60_000_000)))[:0] + ACCEPTED

    def careless(*_):
        raise KeyError("shape")

    def modest(*_):
        return ACCEPTED

    assert fuzz_process._read(modest, "", 0, None, tmp_path).result == ACCEPTED
    assert fuzz_process._read(hungry, "", 0, None, tmp_path).text.endswith("MB for a file of 0 bytes")
    assert "KeyError: 'shape'" in fuzz_process._read(careless, "", 0, None, tmp_path).text


def test_files_that_are_only_taken_apart_and_put_together_are_read(good, tmp_path):
    for suffix, content in (good.samples.images | good.samples.videos).items():
        how, path = format_of(suffix), tmp_path / f"file{suffix}"
        pieces = how.apart(content)
        path.write_bytes(how.together(pieces))
        assert len(pieces) > 1 or pieces[0].inner
        shape = read_image(path).pixels.shape if suffix in good.samples.images else read_video(path).array().shape
        assert shape in ((40, 56, 3), (56, 40, 3), (5, 48, 64, 3))


@pytest.mark.parametrize("form", [fuzz_files.torch_zip, fuzz_files.torch_legacy])
def test_good_torch_files_are_accepted(form, good, tmp_path):
    path = tmp_path / "file.pth"
    path.write_bytes(form(good.samples.state_dict, good.samples.weights))
    tensors = read_torch_file(path)
    assert tensors.keys() == good.samples.weights.keys()
    for name, array in good.samples.weights.items():
        np.testing.assert_array_equal(np.array(tensors[name]), array)


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
