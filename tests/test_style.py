"""The house's style: no forbidden words, module docstrings that say what the module provides, short functions."""

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def style():
    spec = importlib.util.spec_from_file_location("check_style", ROOT / "scripts" / "check_style.py")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    import sys

    sys.modules["check_style"] = module
    spec.loader.exec_module(module)
    return module


def texts(offences) -> list[str]:
    return [str(offence) for offence in offences]


def test_no_forbidden_word_in_names_messages_help_and_pages(style):
    assert texts(style.word_offences()) == []


def test_no_module_docstring_opens_with_a_question_word(style):
    assert texts(style.opening_offences()) == []


def test_no_function_is_too_long(style):
    assert texts(style.token_offences()) == []


@pytest.mark.parametrize("line", ["the film", "two Pictures", "roads_to_frames", "_film", "it hears", "nobody"])
def test_forbidden_word_is_found_in_names_and_sentences(style, line):
    assert style.FORBIDDEN_WORDS.search(line)


@pytest.mark.parametrize("line", ["filmic", "broadcast", "untold", "secure"])
def test_word_that_holds_a_forbidden_one_is_allowed(style, line):
    assert not style.FORBIDDEN_WORDS.search(line)
