"""List what the house's style forbids: words, openings of module docstrings, and functions that are too long."""

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).parents[1]))

from LTX_2_MLX.development.style import opening_offences, token_offences, word_offences


def main(
    words: Annotated[bool, typer.Option("--words", help="Words and openings of module docstrings alone.")] = False,
) -> None:
    """Print every offence; exit code 1 if there is one."""
    offences = [*word_offences(), *opening_offences()]
    if not words:
        offences += token_offences()
    for offence in offences:
        typer.echo(str(offence))
    typer.echo(f"{len(offences)} offences")
    raise typer.Exit(1 if offences else 0)


if __name__ == "__main__":
    typer.run(main)
