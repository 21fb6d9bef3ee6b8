"""Published rates of chips: how long a number of operations takes; None on all other machines."""

from LTX_2_MLX.ops.device import device_name

# Floating-point operations per second of whole passes of LTX-2's transformer in 16 bit, by the name of the chip. It is
# bound by its matrix products on every Mac, not by reading its weights.
# M1 Max: dmlsrc/LTX-2-MLX, docs/PERFORMANCE.md, 45.5 s at 8784 tokens and 313.5 s at 35136; M5 Max:
# xocialize/ltx-2-mlx-swift, SPEED-PLAN, the median of a machine that is warm.
RATES = {"Apple M1 Max": 6.4e12, "Apple M5 Max": 18.2e12}


def seconds_of(operations: float, chip: str | None = None) -> float | None:
    """Seconds of so many floating-point operations on a chip, this machine's unless given; None: rate unknown."""
    rate = RATES.get(device_name() if chip is None else chip)
    return None if rate is None else operations / rate
