"""Whether ``mlx.launch`` started this process as one of several, and which of them it is.

Imported before everything else, since a signal may come at any time; so it imports little.
"""

import os
import signal

# Set by mlx.launch for the ring, JACCL and NCCL, and by Open MPI.
_RANKS = ("MLX_RANK", "OMPI_COMM_WORLD_RANK")
RING_FILE = "MLX_HOSTFILE"
# How a process ends that a signal ends; see the codes of commands.
_ENDS = {signal.SIGTERM: ("Terminated", 143), signal.SIGHUP: ("Hung up", 129)}


def read_rank() -> int | None:
    """The number of this process, from 0; None unless it was started as one of several."""
    found = [os.environ[name] for name in _RANKS if name in os.environ]
    if not found:
        return None
    is_alone = False
    if RING_FILE in os.environ:
        try:
            with open(os.environ[RING_FILE]) as file:
                # It is empty where mlx.launch starts one process.
                is_alone = not file.read().strip()
        except OSError:
            pass
    return None if is_alone else int(found[0])


RANK = read_rank()
# Another process of the run prints and writes.
FOLLOWS = bool(RANK)
# Whether this process has begun to meet the others. All have the errors before that.
joined = False


def name() -> str:
    """This process, for messages."""
    return f"Machine {(RANK or 0) + 1} ({os.uname().nodename})"


def end_with_a_line() -> None:
    """Let SIGTERM and SIGHUP end one of several processes at once with a line, unless something else answers them.

    ``mlx.launch`` ends the processes of a run by SIGTERM when one has ended. Until they have met there is nothing to
    clean up, and an exception in the middle of an import may be turned into another one or be lost.
    """
    if RANK is None:
        return
    for number in _ENDS:
        if signal.getsignal(number) is not signal.SIG_DFL:
            continue
        try:
            signal.signal(number, _end)
        except ValueError:
            # Only the main thread may.
            return


def _end(number: int, *_: object) -> None:
    word, code = _ENDS[signal.Signals(number)]
    # Not by sys.stderr, which may be in the middle of a line.
    os.write(2, f"{name()}: {word}.\n".encode())
    os._exit(code)
