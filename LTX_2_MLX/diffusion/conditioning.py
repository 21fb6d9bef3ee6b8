"""Conditioning: given latents written into a stream's state before noise is added.

Each function takes a state and returns a new one. They apply in the order of the calls; appended tokens go to the
end.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/conditioning/ at 400fd31.
"""

from collections.abc import Sequence
from dataclasses import replace

import mlx.core as mx

from LTX_2_MLX.diffusion.state import LatentState, VideoGrid, patchify_video
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.shapes import LatentShape


def fix_latent_frames(
    state: LatentState, latent: mx.array, grid: VideoGrid, *, latent_frame: int = 0, strength: float = 1.0
) -> LatentState:
    """Hold the T latent frames from ``latent_frame`` on at ``latent`` ``(B, T, H, W, C)``.

    Raises:
        RequestError: If the frames do not fit into the video.
    """
    shape = grid.shape
    num_frames, height, width = latent.shape[1:4]
    same_size = (height, width) == (shape.height, shape.width)
    if not same_size or not 0 <= latent_frame <= shape.num_frames - num_frames:
        raise RequestError(
            f"Latent frames of {height}x{width} at {latent_frame} to {latent_frame + num_frames} do not fit into a "
            f"latent of {shape.num_frames} frames of {shape.height}x{shape.width}."
        )
    tokens_per_frame = height * width
    span = slice(latent_frame * tokens_per_frame, (latent_frame + num_frames) * tokens_per_frame)
    clean = mx.array(state.clean_latent)
    mask = mx.array(state.denoise_mask)
    clean[:, span] = patchify_video(latent)
    mask[:, span] = 1 - strength
    return replace(state, clean_latent=clean, denoise_mask=mask)


def append_keyframe(
    state: LatentState,
    latent: mx.array,
    grid: VideoGrid,
    *,
    frame: int,
    strength: float = 1.0,
    num_pixel_frames: int = 1,
) -> LatentState:
    """Append ``latent`` ``(B, T, H, W, C)`` as tokens positioned at pixel frame ``frame``.

    Args:
        state: The video stream.
        latent: An encoded image or clip.
        grid: The video's grid.
        frame: Pixel frame at which the latent begins.
        strength: Conditioning strength: 1 holds the tokens, 0 lets them be denoised.
        num_pixel_frames: Number of frames that ``latent`` was encoded from; an image spans one frame in time.
    """
    bounds = _grid_of(latent, grid).pixel_bounds(causal=frame == 0)
    bounds[:, 0] += frame
    if num_pixel_frames == 1:
        bounds[:, 0, :, 1] = bounds[:, 0, :, 0] + 1
    return _append(state, latent, grid.positions(bounds), grid, strength)


def append_slots(
    state: LatentState, grid: VideoGrid, frames: Sequence[int], latents: mx.array | None = None
) -> LatentState:
    """Append keyframes that are generated with the video: one latent frame at each of the given pixel frames.

    Args:
        state: The video stream of a network with a keyframe embedding.
        grid: The video's grid.
        frames: Pixel frames, ascending.
        latents: What the slots start from, ``(B, K, H, W, C)``; zeros unless given.

    Raises:
        RequestError: If the network has no keyframe embedding, or a frame does not lie in the video.
    """
    if state.keyframe_mask is None:
        raise RequestError("This checkpoint generates no keyframes. Leave out --keyframes, or use LTX-2.5.")
    last = grid.shape.pixels(grid.compression).num_frames - 1
    if any(not 0 <= frame <= last for frame in frames):
        raise RequestError(f"Generated keyframes at {list(frames)} do not lie in a video of {last + 1} frames.")
    shape = (state.latent.shape[0], 1, grid.shape.height, grid.shape.width, state.latent.shape[-1])
    for number, frame in enumerate(frames):
        before = state.num_tokens
        state = append_keyframe(state, mx.zeros(shape), grid, frame=frame, strength=0.0)
        assert state.keyframe_mask is not None
        mask = mx.array(state.keyframe_mask)
        mask[:, before:] = 1
        latent = mx.array(state.latent)
        if latents is not None:
            latent[:, before:] = patchify_video(latents[:, number : number + 1])
        state = replace(state, latent=latent, keyframe_mask=mask)
    return state


def append_reference(
    state: LatentState,
    latent: mx.array,
    grid: VideoGrid,
    *,
    downscale: int = 1,
    slower: int = 1,
    strength: float = 1.0,
) -> LatentState:
    """Append the tokens of a reference video, positioned over the target in space and time.

    Args:
        state: The video stream.
        latent: Encoded reference ``(B, T, H, W, C)``.
        grid: The target's grid.
        downscale: Height and width of the target over those of the reference.
        slower: Frame rate of the target over that of the reference.
        strength: Conditioning strength: 1 holds the tokens, 0 lets them be denoised.
    """
    positions = _grid_of(latent, grid).positions(slower=slower)
    if slower != 1:
        # The reference's last cell ends with the target's; its first cell stays at the start.
        shift = (slower - 1) * state.positions[:, 0, 0, 1].item()
        positions[:, 0] = mx.maximum(positions[:, 0] - shift, 0)
    positions[:, 1:] = positions[:, 1:] * downscale
    return _append(state, latent, positions, grid, strength)


def weigh_attention(
    before: LatentState, after: LatentState, grid: VideoGrid, weight: float | mx.array = 1.0
) -> LatentState:
    """Weigh the attention between the video and the tokens appended since ``before``.

    Appended tokens attend to one another within their own group only.

    Args:
        before: The state before tokens were appended.
        after: The state with the appended tokens.
        grid: The video's grid.
        weight: In [0, 1]; one number, or one for each new token ``(B, new)``.

    Returns:
        ``after`` with an attention mask.
    """
    batch = after.latent.shape[0]
    old = before.num_tokens
    total = after.num_tokens
    target = grid.shape.num_tokens
    weights = mx.broadcast_to(mx.array(weight, dtype=mx.float32), (batch, total - old))
    mask = mx.zeros((batch, total, total))
    mask[:, :old, :old] = 1.0 if before.attention_mask is None else before.attention_mask
    mask[:, old:, old:] = 1.0
    mask[:, :target, old:] = weights[:, None, :]
    mask[:, old:, :target] = weights[:, :, None]
    return replace(after, attention_mask=mask)


def regenerate_region(state: LatentState, start_seconds: float, end_seconds: float) -> LatentState:
    """Denoise only the tokens whose time overlaps ``[start_seconds, end_seconds)``; hold all others."""
    time = state.positions[:, 0]
    inside = (time[..., 1] > start_seconds) & (time[..., 0] < end_seconds)
    mask = mx.broadcast_to(inside[..., None].astype(mx.float32), state.denoise_mask.shape)
    return replace(state, denoise_mask=mask)


def _grid_of(latent: mx.array, grid: VideoGrid) -> VideoGrid:
    return VideoGrid(LatentShape(*latent.shape[1:4]), grid.compression, grid.frame_rate)


def _append(state: LatentState, latent: mx.array, positions: mx.array, grid: VideoGrid, strength: float) -> LatentState:
    tokens = patchify_video(latent).astype(mx.float32)
    mask = mx.full((*tokens.shape[:2], 1), 1 - strength)
    keyframe_mask = state.keyframe_mask
    if keyframe_mask is not None:
        keyframe_mask = mx.concatenate([keyframe_mask, mx.zeros_like(mask)], axis=1)
    after = replace(
        state,
        latent=mx.concatenate([state.latent, mx.zeros_like(tokens)], axis=1),
        clean_latent=mx.concatenate([state.clean_latent, tokens], axis=1),
        denoise_mask=mx.concatenate([state.denoise_mask, mask], axis=1),
        positions=mx.concatenate([state.positions, positions], axis=2),
        keyframe_mask=keyframe_mask,
    )
    return after if state.attention_mask is None else weigh_attention(state, after, grid)
