"""Disturbed clips of all kinds into every container: refused before the work, or as long and in step as they were."""

import random
from fractions import Fraction

import numpy as np
import pytest

from LTX_2_MLX.development.container_fuzz import SUFFIXES, Case, Fault, Measured, cases, measure, run_case, sound_shifts
from LTX_2_MLX.development.odd_clips import KINDS, Plan, noise, write_odd_clip

RUNS = 104


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_disturbed_clips_are_refused_or_stay_in_step(suffix, tmp_path):
    faults = []
    for case in cases(RUNS):
        if case.suffix == suffix:
            try:
                run_case(case, tmp_path)
            except Fault as fault:
                faults.append(f"{case}: {fault}")
    assert faults == []


def test_all_kinds_containers_and_ways_come_in_turn():
    chosen = {(case.kind, case.suffix, case.way) for case in cases(len(KINDS) * 10)}
    assert len(chosen) == len(KINDS) * 10


def test_measure_tells_the_length_and_where_the_sound_begins(tmp_path):
    plan = Plan(num_frames=20, rate=Fraction(25), audio_start=Fraction(1, 8), seconds_of_sound=0.8)
    path = write_odd_clip(KINDS["mkv lossless"], plan, random.Random(1), tmp_path / "a.mkv")
    measured = measure(path)
    assert measured.seconds == pytest.approx(0.8, abs=0.002)
    assert measured.sound_start == pytest.approx(0.125, abs=0.002)
    assert measured.seconds_of_sound == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("moved", [-0.05, 0.0, 0.003])
def test_moved_sound_is_found(moved):
    sound = np.interp(np.arange(16_000) / 16_000, np.arange(48_000) / 48_000, noise(1.0)).astype(np.float32)
    before = Measured(start=0.0, seconds=1.0, sound=sound, sound_start=0.0)
    after = Measured(start=0.0, seconds=1.0, sound=sound, sound_start=moved)
    assert sound_shifts(before, after) == pytest.approx([moved] * 3, abs=0.0002)


def test_wrong_length_without_a_word_is_a_fault(tmp_path, monkeypatch):
    from LTX_2_MLX.development import container_fuzz

    def slower(source, **options):
        stream = real(source, **options)
        return stream.replace(frame_rate=stream.frame_rate / 2)

    real = container_fuzz.read_video
    monkeypatch.setattr(container_fuzz, "read_video", slower)
    monkeypatch.setattr(container_fuzz, "draw_plan", lambda dice: Plan(num_frames=9, rate=Fraction(25)))
    with pytest.raises(Fault, match=r"lasts 0.720 s instead of 0.360 s"):
        run_case(Case("mp4", ".mkv", "copy", 0), tmp_path)
