"""The processes of a run wait for one another before MLX connects them in a ring.

MLX waits without letting Python run: a signal would end the process without a word, and one that cannot connect tries
for half a minute. Here signals are answered, and a machine that ends is noticed at once. The addresses are those that
MLX opens afterwards.
"""

import os
import select
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from LTX_2_MLX.errors import OutputError
from LTX_2_MLX.files import parse_json
from LTX_2_MLX.runtime import launch

LOST = (
    "Another machine ended or was lost, and so this one ends; nothing half-written is left behind. "
    "Stages saved by --save-latents are kept: continue with --resume on the machines that are left."
)
# As long as a machine may take from its start to this place, and MLX to connect them afterwards.
LONGEST_SECONDS = 120.0
_POLL_SECONDS = 0.1
_GREETING_SECONDS = 1.0
_GREETING = b"LTX-2-MLX"
_ALL_THERE = b"1"
_GO = b"2"
# In MLX the last process connects first; where the other does not listen yet, it waits for a second.
_HEAD_START_SECONDS = 0.05

Address = tuple[str, int]


@contextmanager
def met(rank: int) -> Iterator[None]:
    """Wait until every process of MLX's ring is there, and stay in touch with them inside the block.

    Without a file of the ring's addresses nothing is waited for: MLX then connects the machines in another way.

    Raises:
        OutputError: If another process ended, was lost or does not come, or an address cannot be opened.
    """
    addresses = ring_addresses()
    if len(addresses) < 2:
        yield
        return
    with ExitStack() as opened:
        try:
            _meet(rank, addresses, opened)
        except OSError as error:
            raise OutputError(LOST) from error
        yield


def ring_addresses() -> list[Address]:
    """The first address of every process of MLX's ring; none without a ring."""
    name = os.environ.get(launch.RING_FILE)
    text = "" if name is None else Path(name).read_text().strip()
    addresses = []
    for host in parse_json(text) if text else ():
        name, _, port = host[0].partition(":")
        addresses.append((name, int(port)))
    return addresses


def _meet(rank: int, addresses: list[Address], opened: ExitStack) -> None:
    """Connect with the neighbours, and return in all processes at about the same time."""
    left, right = _neighbours(rank, addresses, opened)
    if rank == 0:
        right.sendall(_ALL_THERE)
        _await(_ALL_THERE, left, right)
        right.sendall(_GO)
        return
    _await(_ALL_THERE, left, right)
    right.sendall(_ALL_THERE)
    if rank < len(addresses) - 1:
        _await(_GO, left, right)
        right.sendall(_GO)
        return
    # The first process has gone already.
    _await(_GO, left)
    time.sleep(_HEAD_START_SECONDS)


def _neighbours(rank: int, addresses: list[Address], opened: ExitStack) -> tuple[socket.socket, socket.socket]:
    """Connections from the process before this one, and to the one after it."""
    following = (rank + 1) % len(addresses)
    deadline = time.monotonic() + LONGEST_SECONDS
    left = right = None
    with _listening(addresses[rank]) as listener:
        while left is None or right is None:
            left = left or _accepted(listener, opened)
            right = right or _connected(addresses[following], opened)
            _check(left, right)
            if time.monotonic() > deadline:
                place = ":".join(map(str, addresses[following] if right is None else addresses[rank]))
                missing = f"Machine {following + 1} does not answer at" if right is None else "No machine connects to"
                raise OutputError(f"{missing} {place}. Did the command start on all machines, and is the port open?")
    return left, right


def _listening(address: Address) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        place = ":".join(map(str, address))
        raise OutputError(
            f"{place} cannot be opened: {error.strerror}. Another run may use the port; give mlx.launch another "
            f"--starting-port."
        ) from error
    listener.listen()
    listener.settimeout(_POLL_SECONDS)
    return listener


def _accepted(listener: socket.socket, opened: ExitStack) -> socket.socket | None:
    """A connection of another process of the run; None if none has come."""
    with suppress(TimeoutError):
        connection = listener.accept()[0]
        connection.settimeout(_GREETING_SECONDS)
        with suppress(OSError):
            if connection.recv(len(_GREETING), socket.MSG_WAITALL) == _GREETING:
                return opened.enter_context(connection)
        connection.close()
    return None


def _connected(address: Address, opened: ExitStack) -> socket.socket | None:
    """A connection to another process of the run; None if it does not listen yet."""
    try:
        connection = socket.create_connection(address, _GREETING_SECONDS)
    except OSError:
        time.sleep(_POLL_SECONDS)
        return None
    connection.sendall(_GREETING)
    return opened.enter_context(connection)


def _await(word: bytes, left: socket.socket, *others: socket.socket) -> None:
    """Return when the process before this one has sent a word; raises ``OutputError`` if one has ended."""
    while True:
        _check(left, *others)
        if select.select([left], [], [], _POLL_SECONDS)[0] and left.recv(len(word)) == word:
            return


def _check(*connections: socket.socket | None) -> None:
    """Raise ``OutputError`` if a process has ended."""
    for connection in connections:
        if connection is None or not select.select([connection], [], [], 0)[0]:
            continue
        try:
            is_open = bool(connection.recv(1, socket.MSG_PEEK))
        except OSError:
            is_open = False
        if not is_open:
            raise OutputError(LOST)
