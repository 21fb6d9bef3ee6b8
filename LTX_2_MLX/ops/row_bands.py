"""Large images through layers in bands of rows, each with the rows beside it that the layers see."""

from collections.abc import Callable

import mlx.core as mx

from LTX_2_MLX.ops.device import evaluated


def in_row_bands(
    function: Callable[[mx.array], mx.array], x: mx.array, *, rows: int, halo: int, scale: int = 1
) -> mx.array:
    """``function(x)``, ``rows`` rows at a time; each band is evaluated before the next one begins.

    Args:
        function: ``(B, T, h, W, C)`` to ``(B, T, scale * h, W', C')``, with zeros beyond its borders.
        x: ``(B, T, H, W, C)``.
        rows: Of ``x`` in a band.
        halo: Rows of ``x`` on either side of a band that its result depends on.
        scale: Factor of the rows.
    """
    height = x.shape[2]
    if rows >= height:
        return function(x)
    bands = []
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        upper = max(top - halo, 0)
        band = function(x[:, :, upper : min(bottom + halo, height)])
        start = (top - upper) * scale
        bands.append(evaluated(band[:, :, start : start + (bottom - top) * scale]))
    return mx.concatenate(bands, axis=2)
