"""Commands under ``mlx.launch``: which may run on several machines, and how they end together."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING

import typer

from LTX_2_MLX.cli.command import FAILED, HANGUP, INTERRUPTED, REFUSED, TERMINATED, ended_by_signals
from LTX_2_MLX.errors import LTXError, OutputError, RequestError
from LTX_2_MLX.files import without_keeping
from LTX_2_MLX.invocation import command_line
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.progress import NotesOnly

if TYPE_CHECKING:
    from LTX_2_MLX.cli.generate import GenerateOptions
    from LTX_2_MLX.pipelines.generate import Prepared

SHARED = ("generate", "decode", "interpolate", "upscale", "postprocess", "super_resolve", "upscale_temporal")
# The first process takes this long at the most to print an error and to end.
_PATIENCE_SECONDS = 10.0
_ENDS = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED, signal.SIGHUP: HANGUP}


@contextmanager
def joined_command(name: str) -> Iterator[None]:
    """Run a command together with the other processes that ``mlx.launch`` has started.

    Raises:
        RequestError: If the command runs on one machine alone, or the processes do not agree on their tasks.
        OutputError: If another process ended or was lost.
    """
    # A signal may come while this module is imported, and its functions print what it does.
    from LTX_2_MLX.runtime.machines import joined, machines

    if name not in SHARED:
        raise RequestError(f"{command_line(name)} runs on one machine. Start it without mlx.launch.")
    try:
        with joined(_leave), ended_by_signals(), without_keeping() if launch.FOLLOWS else nullcontext():
            yield
    except LTXError as error:
        if launch.FOLLOWS and machines().failed_together:
            # The first process prints why.
            wait_for_first()
            raise typer.Exit(FAILED if isinstance(error, OutputError) else REFUSED) from None
        raise


def machines_text(ready: "Prepared", own: "GenerateOptions") -> str:
    """The plan of a dry run for the machines of this run, or for those that ``--machines`` names.

    Raises:
        RequestError: If ``--machines`` is no list of sizes, or the pipeline has no such plan.
    """
    from LTX_2_MLX.ops.device import as_backend
    from LTX_2_MLX.pipelines.generate import plan_for
    from LTX_2_MLX.pipelines.generation.fastest_way import measured_speed
    from LTX_2_MLX.pipelines.generation.machine_plan import mac_budgets, published_speeds, text_of
    from LTX_2_MLX.pipelines.generation.request import request_for
    from LTX_2_MLX.runtime.machines import machines
    from LTX_2_MLX.runtime.this_machine import budget_bytes

    options = ready.options
    if own.machines is None:
        budgets = [value for _, value in machines().exchange(budget_bytes(options.memory_limit_gb))]
        speeds = {"the measured speed": measured_speed(machines(), ready.request.models.dtype)}
        return text_of(ready.request, options, ready.plan, budgets, speeds, as_json=own.json)
    budgets = mac_budgets(own.machines)
    # Planned for Macs, whatever this machine is.
    with as_backend("gpu"):
        request = request_for(options)
        return text_of(request, options, plan_for(request, options), budgets, published_speeds(), as_json=own.json)


def follower_text(text: str, alike: bool) -> str:
    """An error as a process prints it that is not the first; empty where the first one has printed the same."""
    if alike and not launch.joined and wait_for_first():
        return ""
    return f"{launch.name()}: {text}"


def wait_for_first() -> bool:
    """Wait until the first process has printed the error that all have, upon which ``mlx.launch`` ends this one.

    Were this one to end before it, ``mlx.launch`` would end the first, which would have printed nothing.

    Returns:
        False if the first process did not end.
    """
    ended = threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        return ended.wait(_PATIENCE_SECONDS)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _leave(number: int) -> None:
    """End the process at once, with a line and the exit code of the signal."""
    with suppress(OSError):
        name = f"{launch.name()}: " if launch.FOLLOWS else ""
        NotesOnly().note(f"{name}Ended by {signal.Signals(number).name}; nothing half-written is left behind.")
    os._exit(_ENDS[signal.Signals(number)])
