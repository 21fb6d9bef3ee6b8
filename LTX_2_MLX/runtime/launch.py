"""Whether ``mlx.launch`` started this process as one of several, and which of them it is."""

import os
import socket
from pathlib import Path

# Set by mlx.launch for the ring, JACCL and NCCL, and by Open MPI.
_RANKS = ("MLX_RANK", "OMPI_COMM_WORLD_RANK")
_RING_FILE = "MLX_HOSTFILE"


def read_rank() -> int | None:
    """The number of this process, from 0; None unless it was started as one of several."""
    found = [os.environ[name] for name in _RANKS if name in os.environ]
    if not found:
        return None
    try:
        # The file is empty where mlx.launch starts one process.
        is_alone = _RING_FILE in os.environ and not Path(os.environ[_RING_FILE]).read_text().strip()
    except OSError:
        is_alone = False
    return None if is_alone else int(found[0])


RANK = read_rank()
# Another process of the run prints and writes.
FOLLOWS = bool(RANK)
# Whether this process has met the others.
joined = False


def name() -> str:
    """This process, for messages."""
    return f"Machine {(RANK or 0) + 1} ({socket.gethostname()})"
