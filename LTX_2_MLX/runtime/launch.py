"""Whether ``mlx.launch`` started this process as one of several, and which of them it is."""

import os
import signal
import socket
import sys
from pathlib import Path

# Set by mlx.launch for the ring, JACCL and NCCL, and by Open MPI.
_RANKS = ("MLX_RANK", "OMPI_COMM_WORLD_RANK")
RING_FILE = "MLX_HOSTFILE"
_TERMINATED = 143


def read_rank() -> int | None:
    """The number of this process, from 0; None unless it was started as one of several."""
    found = [os.environ[name] for name in _RANKS if name in os.environ]
    if not found:
        return None
    try:
        # The file is empty where mlx.launch starts one process.
        is_alone = RING_FILE in os.environ and not Path(os.environ[RING_FILE]).read_text().strip()
    except OSError:
        is_alone = False
    return None if is_alone else int(found[0])


RANK = read_rank()
# Another process of the run prints and writes.
FOLLOWS = bool(RANK)
# Whether this process has begun to meet the others. All have the errors before that.
joined = False


def name() -> str:
    """This process, for messages."""
    return f"Machine {(RANK or 0) + 1} ({socket.gethostname()})"


def end_with_a_line() -> None:
    """Let SIGTERM end one of several processes with a line, until the command takes the signal over."""
    if RANK is not None:
        signal.signal(signal.SIGTERM, _end)


def _end(*_: object) -> None:
    sys.stderr.write(f"{name()}: Terminated.\n")
    sys.stderr.flush()
    os._exit(_TERMINATED)
