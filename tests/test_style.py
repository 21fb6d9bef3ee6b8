"""The house's style: no forbidden words, module docstrings that say what the module provides, short functions."""

import pytest

from LTX_2_MLX.development import style


def texts(offences) -> list[str]:
    return [str(offence) for offence in offences]


def test_no_forbidden_word_in_names_messages_help_and_pages():
    assert texts(style.word_offences()) == []


def test_no_module_docstring_opens_with_a_question_word():
    assert texts(style.opening_offences()) == []


def test_no_function_is_too_long():
    assert texts(style.token_offences()) == []


@pytest.mark.parametrize("line", ["the film", "two Pictures", "roads_to_frames", "_film", "it hears", "nobody"])
def test_forbidden_word_is_found_in_names_and_sentences(line):
    assert style.FORBIDDEN_WORDS.search(line)


@pytest.mark.parametrize("line", ["filmic", "broadcast", "untold", "secure"])
def test_word_that_holds_a_forbidden_one_is_allowed(line):
    assert not style.FORBIDDEN_WORDS.search(line)
