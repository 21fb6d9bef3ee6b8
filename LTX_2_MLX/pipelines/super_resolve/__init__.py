"""Super-resolution of clips with FlashVSR."""

from LTX_2_MLX.pipelines.requests import SuperResolveRequest as Request
from LTX_2_MLX.pipelines.super_resolve.pipeline import nearest_fit, plan_of, prepare, super_resolve, weight_files

__all__ = ["Request", "nearest_fit", "plan_of", "prepare", "super_resolve", "weight_files"]
