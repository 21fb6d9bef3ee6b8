"""The processes of a run under ``mlx.launch``: how they meet, compare what they are to do, and end together."""

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import mlx.core as mx

from LTX_2_MLX._version import __version__
from LTX_2_MLX.errors import LTXError, OutputError, RequestError
from LTX_2_MLX.files import parse_json, remove_unfinished
from LTX_2_MLX.ops.collective import ALONE, Group
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.job import differing_facts
from LTX_2_MLX.runtime.meeting import LONGEST_SECONDS, LOST, met

# Set to anything to send a counter along with every exchange, which finds one that is out of order.
ORDER_VARIABLE = "LTX_2_MLX_CHECK_ORDER"
# A process that is ended while it waits inside MLX cannot clean up; it gets this long.
_GRACE_SECONDS = 4.0
# A connection on which nothing arrives is asked for a sign of life, and given up without one.
_IDLE_SECONDS = 5
_PROBE_SECONDS = 1
_PROBES = 3
_MOST_DESCRIPTORS = 1024
# Of MLX's errors when a connection ends (mlx/distributed/ring, jaccl and nccl).
_LOST_WORDS = ("[ring]", "[jaccl]", "[nccl]", "nccl error", "peer was lost")
# The option of TCP for the seconds of silence before the first probe, by system. No limit is set for data that is not
# confirmed: a machine reads none while it computes.
_IDLE_OPTIONS = ("TCP_KEEPIDLE", "TCP_KEEPALIVE")


class Machines:
    """The processes of this run.

    Attributes:
        group: For the exchange of arrays.
        agreed: Whether all have compared their tasks.
        failed_together: Whether they found there that they cannot work together, so that all end with an error.
    """

    def __init__(self, group: Group):
        self.group = group
        self.agreed = False
        self.failed_together = False

    def agree(self, facts: Mapping[str, Any] | None = None) -> None:
        """Compare what all processes are about to do, once; every process calls it.

        Args:
            facts: Everything that results follow from, as values that JSON has a form for.

        Raises:
            RequestError: If another process cannot take part, or its version, request or files are not those of the
                first.
        """
        if self.agreed:
            return
        mlx_version = mx.__version__  # type: ignore[attr-defined]
        tasks = self.exchange({"version": __version__, "mlx": mlx_version, "facts": facts or {}})
        self.agreed = True
        for name, task in tasks:
            differing = differing_facts(tasks[0][1], task)
            if differing:
                self.failed_together = True
                raise RequestError(
                    f"{name} differs from machine 1 in {', '.join(differing)}. Start the same command with the same "
                    f"version and the same files on all machines."
                )

    def exchange(self, value: Any, error: LTXError | None = None) -> list[tuple[str, Any]]:
        """Every process's name and value, which JSON has a form for.

        Args:
            value: Of this process.
            error: Why this process cannot take part any more; the others end with it.

        Raises:
            RequestError: If another process cannot take part.
        """
        fault = "" if error is None else f"{type(error).__name__}: {error}"
        message = json.dumps([launch.name(), fault, value], default=str)
        everyone = [parse_json(data) for data in self.group.gather_bytes(message.encode())]
        for name, fault, _ in everyone:
            if fault:
                self.agreed = self.failed_together = True
                if error is None:
                    raise RequestError(f"{name} cannot take part. {fault}")
        return [(name, other) for name, _, other in everyone]


_current = Machines(ALONE)


def machines() -> Machines:
    """The processes of this run; one alone unless ``joined``."""
    return _current


@contextmanager
def acting_as(others: Machines) -> Iterator[None]:
    """Plan as one of other machines would, inside the block; nothing can be exchanged there."""
    global _current
    previous = _current
    _current = others
    try:
        yield
    finally:
        _current = previous


@contextmanager
def joined(leave: Callable[[int], None]) -> Iterator[Machines]:
    """Connect to the other processes, which ``mlx.launch`` has started with the same command.

    Args:
        leave: Prints why the process ends at a signal, for one that waits inside MLX and cannot end by itself.

    Raises:
        RequestError: If they do not agree on their tasks.
        OutputError: If another process ended or was lost.
    """
    global _current
    with _ended_in_time(leave), _lost_as_error():
        launch.joined = True
        _current = Machines(_connected())
        try:
            yield _current
        except LTXError as error:
            if not _current.agreed:
                _current.exchange(None, error)
            raise
        _current.agree()
        _current.exchange("finished")


def _connected() -> Group:
    with met(launch.RANK or 0), _ended_by_a_shell():
        handle = mx.distributed.init(strict=True)
    _watch_connections()
    return Group(handle.rank(), handle.size(), handle, checked=ORDER_VARIABLE in os.environ)


@contextmanager
def _ended_by_a_shell() -> Iterator[None]:
    """Let a shell answer a signal inside the block, where MLX waits for the other machines and Python does not run.

    Python's own handlers, which C calls, write to the shell, and that prints a line and kills this process. In this
    order, since ``mlx.launch`` reads nothing after a process has ended. A clock ends it where another machine is lost
    in the middle, for which MLX waits for ever.
    """
    text = f"{launch.name()}: Ended while MLX connected the machines; nothing half-written is left behind."
    script = 'trap "" HUP INT TERM; [ "$(head -c 1 | wc -c)" -eq 0 ] || { echo "$0" >&2; kill -KILL $PPID; }'
    with subprocess.Popen(["/bin/sh", "-c", script, text], stdin=subprocess.PIPE) as shell:
        assert shell.stdin is not None
        os.set_blocking(shell.stdin.fileno(), False)
        previous = signal.set_wakeup_fd(shell.stdin.fileno(), warn_on_full_buffer=False)
        before = signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, LONGEST_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            signal.set_wakeup_fd(previous)


@contextmanager
def _lost_as_error() -> Iterator[None]:
    try:
        yield
    except (RuntimeError, LTXError) as error:
        if not _tells_of_loss(error):
            raise
        raise OutputError(LOST) from error


def _tells_of_loss(error: BaseException | None) -> bool:
    """Whether an error, or one that it follows from, is MLX's when a connection ends; any evaluation may raise it."""
    while error is not None:
        if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in _LOST_WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def _watch_connections() -> None:
    """Let the system notice that a machine has gone without a word: without power, or off the network.

    MLX has no option for that, so it is set on the connections that this process has.
    """
    for descriptor in range(_MOST_DESCRIPTORS):
        with suppress(OSError):
            connection = socket.socket(fileno=os.dup(descriptor))
            with connection:
                connection.getpeername()
                _watch(connection)


def _watch(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name in _IDLE_OPTIONS:
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), _IDLE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _PROBE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)


@contextmanager
def _ended_in_time(leave: Callable[[int], None]) -> Iterator[None]:
    """End the process some seconds after a signal, if it has not ended by itself: it may wait inside MLX for others."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def end() -> None:
        while data := os.read(reading, 1):
            if data[0] in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                break
        else:
            return
        if not ended.wait(_GRACE_SECONDS):
            remove_unfinished()
            leave(data[0])

    ended = threading.Event()
    previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=end, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(previous)
        os.close(writing)
