"""Write the tables of what each format keeps into docs/FORMATS.md, from the declarations that the writers follow."""

import sys
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from LTX_2_MLX.media.format_tables import sound_table, subtitle_table, video_table  # noqa: E402
from LTX_2_MLX.media.image_formats import format_table  # noqa: E402

PAGE = ROOT / "docs" / "FORMATS.md"
OPENING = """# What each format keeps

The end of an output's name chooses its format. What a format cannot hold is reported before the work. The tables are
printed by `python scripts/write_formats.py` from the declarations that the writers follow; a test compares.
"""
SOUND = """Sound is copied packet by packet where the container and its players know the codec, else encoded again,
which a message says. In AVI all tracks begin together: a track that begins late or has gaps is encoded there, with
silence.
"""
SUBTITLES = "Text is converted without its styles; images of text are copied or left out."
IMAGES = "Where 16 bits, grey or a colour profile are not held, levels are rounded and colours converted to sRGB."


def main(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 if the page is out of date.")
    ] = False,
) -> None:
    """Bring docs/FORMATS.md up to date."""
    current = page()
    if not check:
        PAGE.write_text(current, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != current:
        typer.echo("docs/FORMATS.md is out of date. Run python scripts/write_formats.py.", err=True)
        raise typer.Exit(1)


def page() -> str:
    """The page with its four tables."""
    sections = [
        OPENING,
        f"## Video\n\n{video_table()}\n",
        f"## Sound\n\n{SOUND}\n{sound_table()}\n",
        f"## Subtitles\n\n{SUBTITLES}\n\n{subtitle_table()}\n",
        f"## Images\n\n{IMAGES}\n\n{format_table()}\n",
    ]
    return "\n".join(sections)


if __name__ == "__main__":
    typer.run(main)
