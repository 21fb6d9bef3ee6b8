"""Text from files as it may be printed: escapes instead of control characters, and a bounded length."""

# A list of missing tensors is longer than any name in it.
MAX_LETTERS = 4000


def printable(text: str, max_letters: int = MAX_LETTERS, *, newlines: bool = False) -> str:
    """Return text without characters that control a terminal, cut where it is long.

    Args:
        text: Anything, such as a name in a stranger's file.
        max_letters: Letters of the text that are shown.
        newlines: Keep line breaks; else they are escapes as well, so that no file can print a line of its own.
    """
    shown = "".join(_letter(letter, newlines) for letter in text[:max_letters])
    return f"{shown}…" if len(text) > max_letters else shown


def _letter(letter: str, newlines: bool) -> str:
    # Bidirectional controls, lone surrogates and the C1 range are not printable either.
    if letter.isprintable() or (newlines and letter == "\n"):
        return letter
    return letter.encode("unicode_escape", "backslashreplace").decode("ascii")
