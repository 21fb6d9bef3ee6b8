"""Command lines for messages, in the form in which the user started the program."""

import sys
from pathlib import Path

ENTRY_POINT = "ltx-2-mlx"
_PACKAGE = Path(__file__).resolve().parent
_SCRIPTS = _PACKAGE.parent / "scripts"


def command_line(name: str) -> str:
    """The words that start a command: ``python scripts/generate.py`` in a clone, ``ltx-2-mlx generate`` elsewhere.

    Args:
        name: The command with underscores, such as ``download_weights``.
    """
    started = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path(ENTRY_POINT)
    subcommand = name.replace("_", "-")
    if started.suffix == ".py" and (started.parent / f"{name}.py").is_file():
        return f"python {started.parent / name}.py"
    if started.name == "__main__.py" and started.parent.resolve() == _PACKAGE:
        return f"python -m {_PACKAGE.name} {subcommand}"
    if started.stem != ENTRY_POINT and (_SCRIPTS / f"{name}.py").is_file():
        return f"python scripts/{name}.py"
    return f"{ENTRY_POINT} {subcommand}"
