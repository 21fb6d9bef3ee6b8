"""What the user fixes beforehand, written into a stream before noise is added.

Each function takes a stream and gives a stream. They apply in the order in which they are called; those that
append tokens put them behind all others.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/conditioning/ at 400fd31.
"""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.diffusion.patchify import VideoGrid, patchify_video
from LTX_2_MLX.diffusion.state import LatentState
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.shapes import LatentShape


def fix_latent_frames(
    state: LatentState, latent: mx.array, grid: VideoGrid, *, latent_frame: int = 0, strength: float = 1.0
) -> LatentState:
    """Hold the latent frames from ``latent_frame`` on to ``latent`` ``(B, T, H, W, C)``.

    Raises:
        RequestError: If the frames do not fit into the video.
    """
    frames = grid.shape
    per_frame = frames.height * frames.width
    count = latent.shape[1]
    if latent.shape[2:4] != (frames.height, frames.width) or not 0 <= latent_frame <= frames.num_frames - count:
        raise RequestError(
            f"Latent frames of {latent.shape[2]}x{latent.shape[3]} at {latent_frame} to {latent_frame + count} do not "
            f"fit into a latent of {frames.num_frames} frames of {frames.height}x{frames.width}."
        )
    span = slice(latent_frame * per_frame, (latent_frame + count) * per_frame)
    clean, mask = mx.array(state.clean_latent), mx.array(state.denoise_mask)
    clean[:, span] = patchify_video(latent)
    mask[:, span] = 1 - strength
    return state.replace(clean_latent=clean, denoise_mask=mask)


def append_keyframe(
    state: LatentState,
    latent: mx.array,
    grid: VideoGrid,
    *,
    frame: int,
    strength: float = 1.0,
    num_pixel_frames: int = 1,
) -> LatentState:
    """Append ``latent`` ``(B, T, H, W, C)`` as tokens that stand at pixel frame ``frame``.

    Args:
        state: The stream.
        latent: An encoded image, or a clip.
        grid: The video's grid.
        frame: Pixel frame at which the latent begins.
        strength: 1 keeps the tokens as they are, 0 lets them be denoised.
        num_pixel_frames: How many frames ``latent`` was encoded from; an image spans just one in time.
    """
    bounds = _own_grid(latent, grid).pixel_bounds(causal=frame == 0)
    bounds[:, 0] += frame
    if num_pixel_frames == 1:
        bounds[:, 0, :, 1] = bounds[:, 0, :, 0] + 1
    return _append(state, latent, grid.in_seconds(bounds), grid, strength)


def append_reference(
    state: LatentState,
    latent: mx.array,
    grid: VideoGrid,
    *,
    downscale: int = 1,
    slower: int = 1,
    strength: float = 1.0,
) -> LatentState:
    """Append a reference video's tokens, laid over the target in space and time.

    Args:
        state: The stream.
        latent: Encoded reference ``(B, T, H, W, C)``.
        grid: The target's grid.
        downscale: How many times smaller than the target the reference is in space.
        slower: How many times lower than the target's its frame rate is.
        strength: 1 keeps the tokens as they are, 0 lets them be denoised.
    """
    positions = grid.in_seconds(_own_grid(latent, grid).pixel_bounds(), slower)
    if slower != 1:
        # The reference's last cell ends with the target's; its first stays at the beginning.
        shift = (slower - 1) * state.positions[:, 0, 0, 1].item()
        positions[:, 0] = mx.maximum(positions[:, 0] - shift, 0)
    positions[:, 1:] = positions[:, 1:] * downscale
    return _append(state, latent, positions, grid, strength)


def weigh_attention(
    before: LatentState, after: LatentState, grid: VideoGrid, weight: float | mx.array = 1.0
) -> LatentState:
    """``after`` with the attention between the video and the tokens appended since ``before`` weighed.

    Appended tokens attend to one another within their own group only.

    Args:
        before: The stream before tokens were appended.
        after: The stream with them.
        grid: The video's grid.
        weight: In [0, 1]; one number, or one for each new token ``(B, new)``.
    """
    batch, old, total = after.latent.shape[0], before.num_tokens, after.num_tokens
    target = grid.shape.num_tokens
    weights = mx.broadcast_to(mx.array(weight, dtype=mx.float32), (batch, total - old))
    mask = mx.zeros((batch, total, total))
    mask[:, :old, :old] = 1.0 if before.attention_mask is None else before.attention_mask
    mask[:, old:, old:] = 1.0
    mask[:, :target, old:] = weights[:, None, :]
    mask[:, old:, :target] = weights[:, :, None]
    return after.replace(attention_mask=mask)


def regenerate_region(state: LatentState, start_seconds: float, end_seconds: float) -> LatentState:
    """Denoise only the tokens whose time meets ``[start_seconds, end_seconds)``; hold all others."""
    time = state.positions[:, 0]
    inside = (time[..., 1] > start_seconds) & (time[..., 0] < end_seconds)
    mask = mx.broadcast_to(inside[..., None].astype(mx.float32), state.denoise_mask.shape)
    return state.replace(denoise_mask=mask)


def fix_masked(state: LatentState, latent: mx.array, mask: mx.array, *, strength: float = 1.0) -> LatentState:
    """Hold the cells where ``mask`` ``(B, T, H, W)`` is 1 to ``latent`` ``(B, T, H, W, C)``."""
    given = patchify_video(mask[..., None]).astype(mx.float32)
    return state.replace(
        clean_latent=state.clean_latent * (1 - given) + patchify_video(latent) * given,
        denoise_mask=state.denoise_mask * (1 - given) + (1 - strength) * given,
    )


def token_weights(mask: mx.array, shape: LatentShape) -> mx.array:
    """A mask over pixels ``(B, T, H, W)`` averaged over the cells of a latent, ``(B, N)``.

    The first frame stands for the first latent frame, equal groups of the rest for the others.

    Raises:
        RequestError: If the frames cannot be grouped so.
    """
    batch, frames = mask.shape[:2]
    groups = shape.num_frames - 1
    if (groups == 0) != (frames == 1) or (groups and (frames - 1) % groups):
        raise RequestError(f"A mask of {frames} frames does not fit a latent of {shape.num_frames} frames.")
    pixels = np.array(mask, dtype=np.float32)
    cells = _area_mean(_area_mean(pixels, 2, shape.height), 3, shape.width)
    rest = cells[:, 1:].reshape(batch, groups, -1, shape.height, shape.width).mean(axis=2) if groups else cells[:, 1:]
    return mx.array(np.concatenate([cells[:, :1], rest], axis=1).reshape(batch, -1))


def _area_mean(values: np.ndarray, axis: int, size: int) -> np.ndarray:
    """Means over ``size`` even spans of one axis, each widened to whole elements."""
    length = values.shape[axis]
    spans = [slice(i * length // size, -(-(i + 1) * length // size)) for i in range(size)]
    pick = (slice(None),) * axis
    return np.stack([values[(*pick, span)].mean(axis=axis) for span in spans], axis=axis)


def _own_grid(latent: mx.array, grid: VideoGrid) -> VideoGrid:
    return VideoGrid(LatentShape(*latent.shape[1:4]), grid.compression, grid.frame_rate)


def _append(state: LatentState, latent: mx.array, positions: mx.array, grid: VideoGrid, strength: float) -> LatentState:
    tokens = patchify_video(latent).astype(mx.float32)
    mask = mx.full((*tokens.shape[:2], 1), 1 - strength)
    marked = state.keyframe_mask
    after = state.replace(
        latent=mx.concatenate([state.latent, mx.zeros_like(tokens)], axis=1),
        clean_latent=mx.concatenate([state.clean_latent, tokens], axis=1),
        denoise_mask=mx.concatenate([state.denoise_mask, mask], axis=1),
        positions=mx.concatenate([state.positions, positions], axis=2),
        keyframe_mask=None if marked is None else mx.concatenate([marked, mx.zeros_like(mask)], axis=1),
    )
    return after if state.attention_mask is None else weigh_attention(state, after, grid)
