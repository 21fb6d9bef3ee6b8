"""A command that is ended while it imports: ``early_end.py MODULE HOW FOLDER SCRIPT ARGUMENTS``.

HOW is ``signal``, where the process gets SIGTERM as it imports MODULE; or ``kill``, where the first process waits
there, upon which the second one is killed.
"""

import os
import runpy
import signal
import sys
import time

module, how, folder = sys.argv[1:4]
WAITS = os.path.join(folder, "waits")


class AtImport:
    """Ends the process, or waits to be ended, where ``module`` is imported for the first time."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        """Called by every import before others look for the module."""
        if name != module:
            return
        if how == "signal":
            os.kill(os.getpid(), signal.SIGTERM)
        elif os.environ["MLX_RANK"] == "0":
            os.close(os.open(WAITS, os.O_CREAT))
            time.sleep(600)
        else:
            while not os.path.exists(WAITS):
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)


sys.meta_path.insert(0, AtImport)  # type: ignore[arg-type]
sys.argv = sys.argv[4:]
runpy.run_path(sys.argv[0], run_name="__main__")
