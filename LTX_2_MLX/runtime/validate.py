"""Detects stage results that cannot become a video: NaN, constant or frozen."""

from collections.abc import Mapping

import mlx.core as mx

from LTX_2_MLX.errors import OutputError


def check_result(stage: str, arrays: Mapping[str, mx.array]) -> None:
    """Check the floating-point arrays of a stage.

    Raises:
        OutputError: If one is not finite, or holds a single value.
    """
    for name, array in arrays.items():
        if not mx.issubdtype(array.dtype, mx.floating):
            continue
        if not mx.isfinite(array).all().item():
            raise OutputError(
                f"The result of {stage} ({name}) holds NaN or infinity. Try another precision (--bf16 or --fp32) or a "
                f"lower --cfg. Results saved before this stage are kept."
            )
        if array.size > 1 and (array == array.reshape(-1)[0]).all().item():
            raise OutputError(
                f"The result of {stage} ({name}) is a single value, which decodes to a blank video. Check the "
                f"weights. Results saved before this stage are kept."
            )


def check_moving(stage: str, latent: mx.array) -> None:
    """Check that the frames of a video latent ``(B, T, H, W, C)`` differ.

    Raises:
        OutputError: If all of them are equal.
    """
    if latent.shape[1] > 1 and (latent == latent[:, :1]).all().item():
        raise OutputError(
            f"All {latent.shape[1]} frames of the latent of {stage} are identical. Check the weights, or try another "
            f"--seed. Results saved before this stage are kept."
        )
