"""Keeps a Mac from falling asleep during a long command."""

import os
import subprocess
import sys


def keep_awake() -> None:
    """Hold off idle sleep until this process ends, however it ends; does nothing on other systems."""
    # -i: no idle sleep. -w: until the process with this number has gone.
    command = ["caffeinate", "-i", "-w", str(os.getpid())]
    if sys.platform == "darwin":
        try:
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except OSError:
            # The work does not depend on it.
            return
