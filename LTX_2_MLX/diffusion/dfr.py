"""Detail-fidelity rendering: a stage's tokens and its run, and the temporal rounds that double the frame rate.

The networks come in as arguments. Layout: ``dfr_layout``; the spatial doubling at the end: ``dfr_spatial``.

Source: Lightricks/LTX-2, packages/ltx-pipelines/src/ltx_pipelines/dfr_pipeline.py at 400fd31, and
huggingface/diffusers 0.42.1, pipelines/ltx2/{pipeline_ltx2_dfr,pipeline_ltx2_dfr_temporal_refine}.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import mlx.core as mx

from LTX_2_MLX.diffusion.conditioning import append_keyframe, append_reference, append_slots, fix_latent_frames
from LTX_2_MLX.diffusion.dfr_layout import RoundTile, next_keyframes, round_tiles
from LTX_2_MLX.diffusion.sampler import DISTILLED, Denoise, OnStep, ancestral, euler, ignore
from LTX_2_MLX.diffusion.state import (
    LatentState,
    Noise,
    State,
    StreamArrays,
    VideoGrid,
    add_noise,
    patchify_video,
    start_state,
    unpatchify_video,
)

# Schedule of a temporal round, and the share of each step's noise that is new.
ROUND_SIGMAS = DISTILLED[4:]
ROUND_ETA = 0.5
# Conditioning strength of keyframes of earlier stages.
KEYFRAME_STRENGTH = 0.95


class Keyframe(NamedTuple):
    """A latent ``(B, 1, H, W, C)`` for one pixel frame, and its conditioning strength."""

    latent: mx.array
    frame: int
    strength: float = 1.0


@dataclass(frozen=True)
class StageTokens:
    """The video tokens of one stage, in the order of the fields.

    Attributes:
        grid: The video's grid.
        latent: What the stage starts from, ``(B, T, H, W, C)``.
        images: Conditioning images; one at frame 0 replaces the first latent frame, others are appended.
        keyframes: Keyframes of an earlier stage, all appended.
        slots: Pixel frames of the generated keyframes.
        slot_latents: What the slots start from, ``(B, K, H, W, C)``; zeros unless given.
        reference: A smaller version of the video, ``(B, T, H', W', C)``.
        reference_downscale: Height and width of the video over those of the reference.
    """

    grid: VideoGrid
    latent: mx.array
    images: Sequence[Keyframe] = ()
    keyframes: Sequence[Keyframe] = ()
    slots: tuple[int, ...] = ()
    slot_latents: mx.array | None = None
    reference: mx.array | None = None
    reference_downscale: int = 2

    def state(self) -> LatentState:
        """The stream before noise is added."""
        grid = self.grid
        video = start_state(patchify_video(self.latent), grid.positions())
        first = mx.arange(video.num_tokens) < grid.shape.height * grid.shape.width
        video = replace(video, keyframe_mask=first[None, :, None].astype(mx.float32))
        for image in self.images:
            if image.frame == 0:
                video = fix_latent_frames(video, image.latent, grid, strength=image.strength)
            else:
                video = append_keyframe(video, image.latent, grid, frame=image.frame, strength=image.strength)
        for keyframe in self.keyframes:
            video = append_keyframe(video, keyframe.latent, grid, frame=keyframe.frame, strength=keyframe.strength)
        video = append_slots(video, grid, self.slots, self.slot_latents)
        if self.reference is not None:
            video = append_reference(video, self.reference, grid, downscale=self.reference_downscale)
        return video

    def video(self, tokens: mx.array) -> mx.array:
        """The video's latent ``(B, T, H, W, C)`` among denoised tokens."""
        return unpatchify_video(tokens, self.grid.shape)

    def generated_keyframes(self, tokens: mx.array) -> mx.array:
        """Latents ``(B, K, H, W, C)`` of the slots among denoised tokens."""
        shape = replace(self.grid.shape, num_frames=len(self.slots))
        appended = len(self.keyframes) + sum(image.frame != 0 for image in self.images)
        first = self.grid.shape.num_tokens + appended * shape.height * shape.width
        return unpatchify_video(tokens[:, first:], shape)


def denoise_stage(
    name: str,
    denoise: Denoise,
    streams: State,
    sigmas: Sequence[float],
    noise: Noise,
    *,
    eta: float | None = None,
    on_step: OnStep = ignore,
) -> State:
    """Add noise at the first noise level and denoise; streams that are frozen stay as they are.

    Args:
        name: Prefix of the noise's purposes.
        denoise: The network with its contexts.
        streams: The streams without noise.
        sigmas: The schedule.
        noise: Noise by purpose: ``NAME.video`` for the start, ``NAME.step_0.video`` for a step.
        eta: Share of new noise in each step of the ancestral sampler; None: plain Euler steps.
        on_step: Called after each step.
    """
    start: State = {}
    for stream, state in streams.items():
        start[stream] = state
        if not state.frozen:
            start[stream] = add_noise(state, noise(f"{name}.{stream}", state.latent.shape), float(sigmas[0]))
    if eta is None:
        return euler(denoise, start, sigmas, on_step)

    def step_noise(step: int) -> StreamArrays:
        fresh: StreamArrays = {}
        for stream, state in start.items():
            shape = state.latent.shape
            fresh[stream] = mx.zeros(shape) if state.frozen else noise(f"{name}.step_{step}.{stream}", shape)
        return fresh

    return ancestral(denoise, start, sigmas, on_step, noise=step_noise, eta=eta)


# The audio of one tile of a round, ``(B, N, D)``, with its positions; None for a round without audio.
TileAudio = Callable[[RoundTile], LatentState]
# Called with the tile's number, its tokens and its denoised streams.
OnTile = Callable[[int, StageTokens, State], None]


def ignore_tile(number: int, tokens: StageTokens, streams: State) -> None:
    """An ``on_tile`` that does nothing."""


@dataclass(frozen=True)
class TemporalRound:
    """One round: a video of twice the frame rate, refined tile by tile between carried keyframes.

    Attributes:
        number: 1 for the first round.
        grid: Grid of the whole round; its frame rate is that of the coordinates.
        keyframes: Carried keyframes at pixel frames of this round, ascending.
        images: Conditioning images at pixel frames of this round.
        audio: Audio that a tile attends to, not denoised; None for rounds without audio.
        hold_result: Whether partly held tokens are moved towards their clean values once more at the end, as in the
            newer form.
        sigmas: The schedule of every tile.
        eta: Share of each step's noise that is new.
        keyframe_strength: Conditioning strength of the new keyframes in later rounds.
        all_images_in_first: Whether tiles from frame 0 on take images behind their end too, as 400fd31 does.
    """

    number: int
    grid: VideoGrid
    keyframes: Sequence[Keyframe]
    images: Sequence[Keyframe] = ()
    audio: TileAudio | None = None
    all_images_in_first: bool = False
    hold_result: bool = True
    sigmas: Sequence[float] = ROUND_SIGMAS
    eta: float = ROUND_ETA
    keyframe_strength: float = KEYFRAME_STRENGTH

    @property
    def tiles(self) -> list[RoundTile]:
        """The tiles of the round."""
        seams = [keyframe.frame for keyframe in self.keyframes]
        return round_tiles(seams, 2**self.number, self.grid.compression.time)

    def tokens(self, tile: RoundTile, video: mx.array) -> StageTokens:
        """Tokens of a tile, its frames counted from the tile's first; ``video`` is the whole round's latent."""
        latent = video[:, tile.first_latent : tile.stop_latent]
        keyframes = [keyframe for keyframe in self.keyframes if keyframe.frame in tile.keyframes]
        return StageTokens(
            grid=replace(self.grid, shape=replace(self.grid.shape, num_frames=latent.shape[1])),
            latent=latent,
            images=_moved([image for image in self.images if self._shows(tile, image)], tile.first_frame),
            keyframes=_moved(keyframes, tile.first_frame),
            slots=tuple(frame - tile.first_frame for frame in tile.slots),
            slot_latents=mx.concatenate([latent[:, seed : seed + 1] for seed in tile.slot_seeds], axis=1),
        )

    def _shows(self, tile: RoundTile, image: Keyframe) -> bool:
        if self.all_images_in_first and tile.first_frame == 0:
            return True
        return tile.first_frame <= image.frame <= tile.last_frame

    def run(
        self,
        denoise: Denoise,
        video: mx.array,
        noise: Noise,
        *,
        on_tile: OnTile = ignore_tile,
        on_step: OnStep = ignore,
    ) -> tuple[mx.array, list[Keyframe]]:
        """Refine a video latent; returns it with the carried and the newly generated keyframes."""
        joined: list[mx.array] = []
        carried = {keyframe.frame: keyframe for keyframe in self.keyframes}
        tiles = self.tiles
        for number, tile in enumerate(tiles):
            tokens = self.tokens(tile, video)
            streams: State = {"video": tokens.state()}
            if self.audio is not None:
                streams["audio"] = self.audio(tile)
            name = f"round_{self.number}.tile_{number}"
            result = denoise_stage(name, denoise, streams, self.sigmas, noise, eta=self.eta, on_step=on_step)
            denoised = result["video"].latent
            if self.hold_result:
                denoised = result["video"].hold(denoised)
            on_tile(number, tokens, {**result, "video": replace(result["video"], latent=denoised)})
            joined.append(tokens.video(denoised)[:, tile.dropped_latents :])
            generated = tokens.generated_keyframes(denoised)
            for index, frame in enumerate(tile.slots):
                # A lead-in repeats slots of the tile before, whose keyframes stay.
                carried.setdefault(frame, Keyframe(generated[:, index : index + 1], frame, self.keyframe_strength))
        frames = next_keyframes([keyframe.frame for keyframe in self.keyframes], tiles)
        return mx.concatenate(joined, axis=1), [carried[frame] for frame in frames]


def _moved(keyframes: Sequence[Keyframe], first_frame: int) -> list[Keyframe]:
    return [keyframe._replace(frame=keyframe.frame - first_frame) for keyframe in keyframes]


def doubled(keyframes: Sequence[Keyframe]) -> list[Keyframe]:
    """The keyframes of a round at the pixel frames of the next one."""
    return [keyframe._replace(frame=2 * keyframe.frame) for keyframe in keyframes]


def carried_keyframes(latents: mx.array, frames: Sequence[int], strength: float = KEYFRAME_STRENGTH) -> list[Keyframe]:
    """Generated keyframes ``(B, K, H, W, C)`` as keyframes of the next stage."""
    return [Keyframe(latents[:, i : i + 1], frame, strength) for i, frame in enumerate(frames)]


def kept_latents(num_frames: int, rounds: int, compression: int = 8) -> int:
    """Latent frames of the finished video, of ``num_frames`` requested frames before ``rounds`` doublings."""
    finished_frames: int = (num_frames - 1) * 2**rounds + 1
    return (finished_frames - 1) // compression + 1
