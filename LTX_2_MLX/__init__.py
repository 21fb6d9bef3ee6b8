"""Generate video with LTX-2 on a Mac and post-process it, all in MLX."""

from LTX_2_MLX.runtime import launch

# Loading BLAS takes long on a busy machine, and a process of several may be ended meanwhile.
launch.end_with_a_line()

from LTX_2_MLX.runtime.this_machine import load_openblas, require_mlx, set_mlx_defaults

set_mlx_defaults()
OPENBLAS_LOADED = load_openblas()

from importlib import import_module
from typing import Any

from LTX_2_MLX._version import __version__

# Public call -> module that has it; imported when it is first asked for.
_PUBLIC = {
    "FrameStream": "LTX_2_MLX.media.frames",
    "NotebookProgress": "LTX_2_MLX.runtime.notebook_progress",
    "drafts": "LTX_2_MLX.pipelines.drafts",
    "generate": "LTX_2_MLX.api",
    "interpolate": "LTX_2_MLX.api",
    "postprocess": "LTX_2_MLX.api",
    "read_video": "LTX_2_MLX.media.video",
    "super_resolve": "LTX_2_MLX.api",
    "upscale": "LTX_2_MLX.api",
    "upscale_temporal": "LTX_2_MLX.api",
    "write_video": "LTX_2_MLX.media.video",
}

__all__ = ["OPENBLAS_LOADED", "__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_mlx()
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
