"""Processes that wait for one another: all come, one is lost, one does not come."""

import json
import random
import socket
import threading
import time

import pytest

from LTX_2_MLX.errors import OutputError
from LTX_2_MLX.runtime import meeting
from LTX_2_MLX.runtime.launch import RING_FILE


@pytest.fixture
def ring(tmp_path, monkeypatch):
    """Writes the file of a ring of so many processes, and returns their addresses."""

    def write(size: int) -> list[tuple[str, int]]:
        first = random.randrange(20_000, 30_000)
        addresses = [("127.0.0.1", first + rank) for rank in range(size)]
        (tmp_path / "ring.json").write_text(json.dumps([[f"{name}:{port}"] for name, port in addresses]))
        monkeypatch.setenv(RING_FILE, str(tmp_path / "ring.json"))
        return addresses

    return write


def meet(rank: int, outcomes: dict) -> None:
    """Meet the others in a thread's place of a process."""
    try:
        with meeting.met(rank):
            outcomes[rank] = "met"
    except OutputError as error:
        outcomes[rank] = str(error)


def started(ranks: list[int], outcomes: dict) -> list[threading.Thread]:
    threads = [threading.Thread(target=meet, args=(rank, outcomes)) for rank in ranks]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("size", [2, 3, 5])
def test_all_processes_of_a_ring_meet(ring, size):
    assert meeting.ring_addresses() == []
    assert ring(size) == meeting.ring_addresses()
    outcomes: dict = {}
    threads = started(list(range(size))[::-1], outcomes)
    for thread in threads:
        thread.join(200)
    assert outcomes == dict.fromkeys(range(size), "met")


@pytest.mark.parametrize("known", [True, False], ids=["of this program", "a stranger"])
def test_a_lost_process_ends_those_that_wait_for_others(ring, known):
    addresses = ring(3)
    outcomes: dict = {}
    # The second process connects with the first and is lost; the third never comes.
    (first,) = started([0], outcomes)
    with connected(addresses[0]) as last:
        if known:
            last.sendall(b"LTX-2-MLX")
        time.sleep(0.3)
    if known:
        first.join(200)
        assert "Another machine ended or was lost" in outcomes[0]
        return
    # A stranger that goes away changes nothing.
    time.sleep(0.3)
    assert not outcomes
    others = started([1, 2], outcomes)
    for thread in (first, *others):
        thread.join(200)
    assert outcomes == dict.fromkeys(range(3), "met")


def test_a_process_that_does_not_come_is_named(ring, monkeypatch):
    addresses = ring(2)
    monkeypatch.setattr(meeting, "LONGEST_SECONDS", 0.3)
    with pytest.raises(OutputError, match=rf"Machine 2 does not answer at 127.0.0.1:{addresses[1][1]}"), meeting.met(0):
        pass


def test_a_port_in_use_is_named(ring):
    addresses = ring(2)
    with socket.socket() as other:
        other.bind(addresses[0])
        other.listen()
        with pytest.raises(OutputError, match="cannot be opened: Address already in use"), meeting.met(0):
            pass


def connected(address: tuple[str, int]) -> socket.socket:
    """A connection to a process that may not listen yet."""
    for _ in range(2000):
        try:
            return socket.create_connection(address, 1)
        except OSError:
            time.sleep(0.05)
    raise AssertionError("nothing listens")
