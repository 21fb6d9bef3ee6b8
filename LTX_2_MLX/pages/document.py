"""The frame of every page: head, style, scripts, and text that is safe between tags."""

import base64
import html
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from LTX_2_MLX.files import printable

# Nothing is loaded from anywhere: the page and what it carries is all.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "img-src data: blob:; media-src blob: data:"
)
_MAX_LETTERS = 4000
# Options that were not used.
_UNSET: tuple[Any, ...] = (None, False, (), [], "")


def document(title: str, body: str, *, scripts: tuple[str, ...] = (), data: Mapping[str, Any] | None = None) -> str:
    """A whole page.

    Args:
        title: Plain text, also its first heading.
        body: HTML below the heading.
        scripts: Names of scripts in this folder, run in this order.
        data: What the scripts read, as JSON in the element ``page-data``.
    """
    parts = [f"<style>{asset('style.css')}</style>", f"<title>{text(title)}</title>"]
    head = "\n".join(parts)
    tail = "".join(f"<script>{asset(name)}</script>\n" for name in scripts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
{head}
</head>
<body>
<main>
<h1>{text(title)}</h1>
{body}
</main>
<script type="application/json" id="page-data">{json_text(data or {})}</script>
{tail}</body>
</html>
"""


@cache
def asset(name: str) -> str:
    """The text of a style or script in this folder."""
    return files("LTX_2_MLX.pages").joinpath(name).read_text(encoding="utf-8")


def text(value: object) -> str:
    """Any value as text between tags and in attributes; control characters are shown as escapes."""
    return html.escape(printable(str(value), _MAX_LETTERS, newlines=True), quote=True)


def json_text(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c")


def base64_text(content: bytes) -> str:
    """Bytes for a ``data:`` address or a script."""
    return base64.b64encode(content).decode("ascii")


def setting_words(settings: Mapping[str, Any]) -> dict[str, str]:
    """The settings that were used, in words."""
    return {name: shown(value) for name, value in settings.items() if value not in _UNSET}


def shown(value: Any) -> str:
    """A setting in words; of a path only the last name, which tells nothing of the user's folders."""
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    words = str(value)
    is_path = isinstance(value, Path) or (isinstance(value, str) and Path(value).is_absolute())
    return Path(words).name if is_path else words
