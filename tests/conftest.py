"""The package before anything else: on Linux it loads a fast BLAS, which has to be there before MLX is."""

import os

# Named files that are missing are downloaded on first use; no test leaves this machine.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import LTX_2_MLX  # noqa: F401
