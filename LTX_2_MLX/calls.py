"""The public calls under the name of their module in earlier versions; ``LTX_2_MLX.api`` has them."""

from LTX_2_MLX.api import Source, interpolate, open_source, super_resolve, upscale, upscale_temporal

__all__ = ["Source", "interpolate", "open_source", "super_resolve", "upscale", "upscale_temporal"]
