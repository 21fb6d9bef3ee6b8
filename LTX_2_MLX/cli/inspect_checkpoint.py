"""Show the contents of a checkpoint: networks, variant, precision, bytes, config."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from LTX_2_MLX.cli.command import REFUSED, command
from LTX_2_MLX.cli.echo import echo, echo_table
from LTX_2_MLX.files import printable
from LTX_2_MLX.pipelines.options import Opt

if TYPE_CHECKING:
    from LTX_2_MLX.checkpoints.contents import Contents, NetworkTensors


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Options of the command."""

    file: Annotated[str, Opt("File or folder: path, catalogue name or repository:file.", positional=True, is_file=True)]
    as_json: Annotated[bool, Opt("Print everything as JSON.", flags=("--json",), only_on=True)] = False


def inspect_checkpoint(own: InspectOptions) -> None:
    """Print the contents of FILE, from its header alone; exit code 2 if a network in it cannot be loaded."""
    from LTX_2_MLX.checkpoints.contents import inspect
    from LTX_2_MLX.checkpoints.resolve import resolve

    contents = inspect(resolve(own.file, "model").path)
    if own.as_json:
        facts = asdict(contents)
        # The key of earlier versions' output.
        facts["parts"] = facts.pop("networks")
        echo(json.dumps(facts, indent=2, default=str))
    else:
        show(contents)
    if any(network.problem for network in contents.networks):
        raise typer.Exit(REFUSED)


def show(contents: "Contents") -> None:
    """Print the contents as a table, what is wrong, and the config."""
    files = f"{contents.num_files} files" if contents.num_files > 1 else "one file"
    echo(f"{contents.path}: {size(contents.num_bytes)} of tensors in {files}")
    if contents.entry is not None:
        variant = f", {contents.entry.variant}" if contents.entry.variant else ""
        echo(f"Published as {contents.entry.name}{variant}: {contents.entry.page}")
    elif any(network.name == "Transformer" for network in contents.networks):
        echo("Nothing in the file tells dev from distilled; --model-variant says it.")
    rows = [(network.name, *figures(network)) for network in contents.networks]
    rows += [(f"({others.name})", *figures(others)) for others in contents.others]
    echo_table(("network", "tensors", "bytes", "precision"), rows)
    for network in contents.networks:
        if network.problem:
            echo(printable(f"{network.name} cannot be loaded: {network.problem}"))
    for described in (*contents.networks, *contents.others):
        if described.note:
            echo(printable(f"{described.name}: {described.note}"))
    for name, value in contents.metadata.items():
        echo(printable(f"{name}: {value}"))
    echo(f"config: {json.dumps(contents.config, indent=1)}")


def figures(network: "NetworkTensors") -> tuple[str, str, str]:
    """Number of tensors, size and precision."""
    names = [f"{dtype} {size(num_bytes)}" for dtype, num_bytes in network.precision.items()]
    precision = ", ".join(names) if len(names) > 1 else "".join(network.precision)
    return str(network.num_tensors), size(network.num_bytes), precision


def size(num_bytes: int) -> str:
    """Bytes in decimal units, as file managers and the hub show them."""
    for unit, divisor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= divisor:
            return f"{num_bytes / divisor:.1f} {unit}"
    return f"{num_bytes} bytes"


main = command("inspect_checkpoint", inspect_checkpoint, InspectOptions)
