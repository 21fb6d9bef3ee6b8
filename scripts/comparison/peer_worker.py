"""One implementation's call, timed on demand: prints "ready", then a line of JSON for each line that it reads."""

import ctypes
import importlib
import json
import resource
import sys
import time

from comparison.peer_work import Work

# The package of these loads the same BLAS itself, and sets it.
_OURS = ("peer_ours", "peer_version")


def main() -> None:
    """Arguments: the implementation's module and the work as JSON."""
    if sys.platform == "linux" and sys.argv[1] not in _OURS:
        # The same fast BLAS for every implementation, before mlx.core is imported.
        try:
            ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
        except OSError:
            print("libopenblas.so.0 was not found: MLX's matrix products are slow", file=sys.stderr)
    implementation = importlib.import_module(f"comparison.{sys.argv[1]}")
    call = implementation.make(Work.from_json(json.loads(sys.argv[2])))
    call()
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(timed(call)), flush=True)


def timed(call) -> dict[str, float]:
    """Seconds of one call by both clocks, its peak of MLX's memory and the process's so far, in bytes."""
    import mlx.core as mx

    mx.reset_peak_memory()
    cpu, wall = time.process_time(), time.perf_counter()
    call()
    seconds = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {**seconds, "peak": mx.get_peak_memory(), "rss": rss}


if __name__ == "__main__":
    main()
