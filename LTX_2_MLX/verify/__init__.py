"""Golden cases through the real loaders and networks."""

from LTX_2_MLX.verify.bands import Bands
from LTX_2_MLX.verify.components import COMPONENTS
from LTX_2_MLX.verify.run import Result, component_of, find_cases, run_case

__all__ = ["COMPONENTS", "Bands", "Result", "component_of", "find_cases", "run_case"]
