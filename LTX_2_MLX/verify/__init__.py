"""Golden cases through the real loaders and networks."""

from LTX_2_MLX.verify.run import Result, find_cases, run_case

__all__ = ["Result", "find_cases", "run_case"]
