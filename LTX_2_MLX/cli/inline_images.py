"""Images inside the terminal, by the protocols of iTerm2 and of kitty."""

import base64
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Literal

from LTX_2_MLX.errors import RequestError

Protocol = Literal["iterm2", "kitty"]
# kitty takes data in pieces of at most this many bytes.
_KITTY_PIECE = 4096
_BY_PROGRAM: dict[str, Protocol] = {"iTerm.app": "iterm2", "WezTerm": "iterm2", "ghostty": "kitty"}


def terminal_images() -> Callable[[Path], None]:
    """A function that shows a PNG file in the terminal of standard error, where progress bars are.

    Raises:
        RequestError: If that is no terminal, or one that shows no images.
    """
    if not sys.stderr.isatty():
        raise RequestError("--preview-inline needs a terminal, but standard error is none. Leave it out.")
    protocol = terminal_protocol()
    return lambda path: write_image(path, sys.stderr, protocol)


def terminal_protocol(environment: Mapping[str, str] = os.environ) -> Protocol:
    """The protocol of the terminal that the environment's variables tell of.

    Raises:
        RequestError: If it shows no images, or nothing says that it does.
    """
    program = environment.get("TERM_PROGRAM", "")
    inside = environment.get("TMUX") or environment.get("STY")
    if not inside:
        if program in _BY_PROGRAM:
            return _BY_PROGRAM[program]
        if environment.get("LC_TERMINAL") == "iTerm2":
            return "iterm2"
        if environment.get("KITTY_WINDOW_ID") or environment.get("TERM") in ("xterm-kitty", "xterm-ghostty"):
            return "kitty"
    known = "tmux or screen" if inside else program or environment.get("TERM") or "unknown"
    raise RequestError(
        f"--preview-inline shows images in iTerm2, kitty, WezTerm and Ghostty; this terminal is {known}. Leave it out: "
        f"the sheets are in the folder of --preview."
    )


def write_image(path: Path, file: IO[str], protocol: Protocol) -> None:
    """Write a PNG file to a terminal, on lines of its own."""
    text = base64.b64encode(path.read_bytes()).decode("ascii")
    if protocol == "iterm2":
        file.write(f"\033]1337;File=inline=1;preserveAspectRatio=1:{text}\a\n")
    else:
        file.writelines(_kitty(text))
        file.write("\n")
    file.flush()


def _kitty(text: str) -> Iterator[str]:
    pieces = [text[start : start + _KITTY_PIECE] for start in range(0, len(text), _KITTY_PIECE)]
    for number, piece in enumerate(pieces):
        more = int(number < len(pieces) - 1)
        keys = f"f=100,a=T,m={more}" if number == 0 else f"m={more}"
        yield f"\033_G{keys};{piece}\033\\"
