"""The package before anything else: on Linux it loads a fast BLAS, which has to be there before MLX is."""

import LTX_2_MLX  # noqa: F401
