"""Command-line programs, one module each, and what they share."""

from importlib import import_module
from typing import Any

# Name -> module that has it; imported when it is first asked for.
_SHARED = {
    "FAILED": "command",
    "HANGUP": "command",
    "INTERRUPTED": "command",
    "REFUSED": "command",
    "TERMINATED": "command",
    "as_program": "command",
    "exit_codes": "command",
    "option": "options",
    "report": "command",
    "report_lines": "command",
    "run": "command",
}


def __getattr__(name: str) -> Any:
    if name not in _SHARED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_SHARED[name]}"), "run_command" if name == "run" else name)
