"""The entry point ``ltx-2-mlx``: every command as a subcommand."""

from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from LTX_2_MLX._version import __version__
from LTX_2_MLX.cli.command import OneLineCommand, run_command
from LTX_2_MLX.cli.echo import echo
from LTX_2_MLX.invocation import ENTRY_POINT

COMMANDS = (
    "generate",
    "decode",
    "upscale_temporal",
    "interpolate",
    "upscale",
    "postprocess",
    "super_resolve",
    "compare",
    "sheet",
    "download_weights",
    "convert_weights",
    "inspect_checkpoint",
    "verify",
    "doctor",
)


class DashedGroup(TyperGroup):
    """Subcommands with dashes, found by the names of the scripts as well."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The subcommand of a name; underscores count as dashes."""
        return super().get_command(ctx, cmd_name.replace("_", "-"))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the subcommand, then show it by its name with dashes."""
        name, subcommand, rest = super().resolve_command(ctx, args)
        return name and name.replace("_", "-"), subcommand, rest


def print_version(asked: bool) -> None:
    """Print the version and stop."""
    if asked:
        echo(f"{ENTRY_POINT} {__version__}")
        raise typer.Exit


def about(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    """Generate video with LTX-2 on a Mac and post-process it, all in MLX."""


def program() -> typer.Typer:
    """All commands as one Typer program."""
    typed = typer.Typer(
        name=ENTRY_POINT,
        cls=DashedGroup,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    typed.callback()(about)

    for name in COMMANDS:
        module = import_module(f"LTX_2_MLX.cli.{name}")
        typed.command(name.replace("_", "-"), cls=OneLineCommand)(module.main)
    return typed


def main() -> None:
    """Run the program on the arguments of this process."""
    run_command(program(), prog_name=ENTRY_POINT)
