"""A Mac stays awake during a long command."""

import os
import subprocess
import sys

import pytest

from LTX_2_MLX.cli.command import report


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that were started."""
    commands: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: commands.append(command))
    return commands


def test_a_mac_is_kept_awake_until_the_process_ends(started: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with report(quiet=True):
        assert started == [["caffeinate", "-i", "-w", str(os.getpid())]]


def test_nothing_is_started_elsewhere(started: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    with report(quiet=True):
        assert started == []


def test_a_missing_program_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(command: list[str], **options: object) -> None:
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(subprocess, "Popen", missing)
    with report(quiet=True) as runner:
        assert runner is not None
