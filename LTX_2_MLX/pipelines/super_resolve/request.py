"""Names of the stages of super-resolution, and its request."""

from LTX_2_MLX.pipelines.requests import SuperResolveRequest as Request

__all__ = ["DECODE_STAGE", "LATENT_STAGE", "STAGE", "Request"]

STAGE, LATENT_STAGE, DECODE_STAGE = "super-resolve", "super-resolve latents", "super-resolve decode"
