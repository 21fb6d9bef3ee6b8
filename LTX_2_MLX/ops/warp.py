"""Pictures pulled along a flow: bilinear samples at any place, edge pixels repeated beyond the border.

Pictures are planes, ``(B, C, H, W)``: the share of a neighbour is then one number for whole rows of products, and
what is read lies in the order in which it is written.
"""

import mlx.core as mx

# A picture and how it changes, see ``slopes``.
Slopes = list[mx.array]


def slopes(planes: mx.array) -> Slopes:
    """Planes ``(B, C, H, W)`` ready for sampling: they and their changes, each ``(B, C, H, W)``.

    The changes are those to the row below, to the right, and of the one along the other. Beyond the right and the
    lower edge they have no meaning; a sample there has no share of them.
    """
    width, values = planes.shape[3], planes.reshape(-1)
    padded = mx.concatenate([values, mx.zeros((width + 1,), dtype=planes.dtype)])
    to_below = padded[width:] - padded[:-width]
    to_right = padded[1 : 1 - (width + 1)] - values
    parts = [values, to_below[:-1], to_right, to_below[1:] - to_below[:-1]]
    return [part.reshape(planes.shape) for part in parts]


def sample(prepared: Slopes, x: mx.array, y: mx.array) -> mx.array:
    """Bilinear samples at columns ``x`` and rows ``y``, clamped to the picture.

    Coordinates stay float32: float16 knows only quarter pixels at a width of 448.

    Args:
        prepared: Result of ``slopes``, each ``(B, C, H, W)``.
        x: ``(B, ...)``, float32, in pixels; 0 is the centre of the first column.
        y: Like ``x``, for rows.

    Returns:
        ``(B, C, ...)`` in the dtype of ``prepared``.
    """
    batch, channels, height, width = prepared[0].shape
    shape = (batch, channels, *x.shape[1:])
    x, y = (mx.clip(place.reshape(batch, -1), 0, size - 1) for place, size in ((x, width), (y, height)))
    # None is negative, so that cutting off is rounding down, and on the CPU four times as fast.
    left, top = x.astype(mx.int32), y.astype(mx.int32)
    right_share, lower_share = (
        (place - whole).astype(prepared[0].dtype)[:, None] for place, whole in ((x, left), (y, top))
    )
    index = (top * width + left)[:, None]
    index = mx.broadcast_to(index, (batch, channels, index.shape[-1]))
    values, to_below, to_right, across = (
        mx.take_along_axis(part.reshape(batch, channels, -1), index, axis=2) for part in prepared
    )
    return (values + to_right * right_share + (to_below + across * right_share) * lower_share).reshape(shape)


def warp(prepared: Slopes, flow: mx.array) -> mx.array:
    """Each output pixel taken from its own place plus ``flow``.

    Args:
        prepared: Result of ``slopes``, each ``(B, C, H, W)``.
        flow: ``(B, 2, H, W)``, displacement (x, y) in pixels.

    Returns:
        ``(B, C, H, W)`` in the dtype of ``prepared``.

    Source: hzwer/Practical-RIFE, model/warplayer.py at 17d8c7a: grid_sample, bilinear, border padding, corners aligned.
    """
    height, width = flow.shape[2:]
    x = flow[:, 0].astype(mx.float32) + mx.arange(width, dtype=mx.float32)
    y = flow[:, 1].astype(mx.float32) + mx.arange(height, dtype=mx.float32)[:, None]
    return sample(prepared, x, y)
