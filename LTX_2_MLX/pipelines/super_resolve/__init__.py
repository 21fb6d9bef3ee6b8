"""A clip to a sharper, larger one by FlashVSR."""

from LTX_2_MLX.pipelines.super_resolve.memory import Plan, advice, check_plan, plan, prepare
from LTX_2_MLX.pipelines.super_resolve.request import Request
from LTX_2_MLX.pipelines.super_resolve.run import super_resolve

__all__ = ["Plan", "Request", "advice", "check_plan", "plan", "prepare", "super_resolve"]
