"""Decoding stage of LTX-2.5's diffusion decoder: video latents to frames, in tiles that fit into memory.

Noise is drawn for each frame of the video by itself, so that tiles see the same noise where they overlap and a seed
means the same video whatever the tiles. The reference draws for each tile.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import config_of
from LTX_2_MLX.checkpoints.read_ahead import StoredNetwork
from LTX_2_MLX.diffusion.state import key_for
from LTX_2_MLX.media.frames import signed_to_levels
from LTX_2_MLX.models.ltx.diffusion_decoder import DiffusionVideoDecoder
from LTX_2_MLX.models.ltx.diffusion_decoder_blocks import AttentionMode
from LTX_2_MLX.models.ltx.diffusion_decoder_config import Axes
from LTX_2_MLX.models.ltx.diffusion_decoder_memory import DecodingPlan, array_bytes, decoding_plan
from LTX_2_MLX.models.ltx.diffusion_decoder_tiling import AxisTiling, DiffusionTiling, Noise, decode, padded_shape
from LTX_2_MLX.ops.collective import ALONE, Group
from LTX_2_MLX.pipelines.generation.decode import DecodeVideo, activation_budget
from LTX_2_MLX.pipelines.sharing import smallest
from LTX_2_MLX.planning.plan import Estimate, network_weights_bytes


@dataclass(frozen=True)
class DecodeByDiffusion(DecodeVideo):
    """Diffusion decoder: a latent to a stream of frames, made as they are read.

    Attributes:
        attention: See ``AttentionMode``.
    """

    attention: AttentionMode = "chunked"
    network = DiffusionVideoDecoder

    def estimate(self) -> Estimate:
        """One tile, what it is made from and the frames that tiles are blended into.

        Raises:
            RequestError: If the tiles do not suit the decoder.
            MemoryBudgetError: If no tile is small enough.
        """
        size = self.size()
        plan = self.plan()
        config = config_of(DiffusionVideoDecoder, self.weights)
        return Estimate(
            name=self.name,
            work=f"{size.height}×{size.width}, {size.num_frames} frames, by diffusion",
            dtype=self.dtype,
            file=self.weights.path,
            weights_bytes=network_weights_bytes([DiffusionVideoDecoder], self.weights, dtype=self.dtype),
            activation_bytes=plan.num_bytes,
            streams=True,
            array_bytes=array_bytes(config, self.shape, plan, self.dtype, self.attention),
            stored=(StoredNetwork(self.weights, DiffusionVideoDecoder),),
        )

    def facts(self) -> dict[str, Any]:
        """The checkpoint, its precision, its attention and what tiles follow from."""
        return super().facts() | {"attention": self.attention}

    def plan(self) -> DecodingPlan:
        """The tiles, by the budget alone: planning and running share them."""
        return decoding_plan(
            config_of(DiffusionVideoDecoder, self.weights),
            self.shape,
            budget=activation_budget() if self.budget is None else self.budget,
            dtype=self.dtype,
            mode=self.attention,
            side=self.tile_size,
        )

    def chunks_of(self, decoder: Any, latent: mx.array, group: Group = ALONE) -> Iterator[np.ndarray]:
        """Chunks ``(T, H, W, 3)`` uint8 of all the frames that the latent holds, by a loaded diffusion decoder."""
        plan = smallest(self.plan(), _tile_volume, _plan_of)
        video = padded_shape(decoder.config, self.shape).pixels(self.compression)
        noise = frame_noise(self.seed, (video.height, video.width, decoder.config.out_channels))
        chunks = decode(
            decoder,
            latent,
            noise,
            tiling=plan.tiling,
            mode=self.attention,
            frames_at_once=plan.frames_at_once,
            group=group,
        )
        for chunk in chunks:
            yield signed_to_levels(chunk[0])


def _tile_volume(plan: dict[str, Any]) -> float:
    """Size of a plan's tiles, of a plan as JSON has it, and that of its pieces."""
    return prod(tile["size"] for tile in plan["tiling"].values() if tile is not None) * plan["frames_at_once"]


def _plan_of(plan: dict[str, Any]) -> DecodingPlan:
    tiling = {axis: None if tile is None else AxisTiling(**tile) for axis, tile in plan["tiling"].items()}
    return DecodingPlan(DiffusionTiling(**tiling), plan["frames_at_once"], plan["num_bytes"])


def frame_noise(seed: int, frame: Axes) -> Noise:
    """Noise of a video, drawn frame by frame; ``frame`` is a frame's height, width and channels."""

    def draw(shape: tuple[int, ...], first: Axes) -> mx.array:
        _, num_frames, height, width, _ = shape
        start, top, left = first
        frames = []
        for number in range(start, start + num_frames):
            whole = mx.random.normal(frame, key=key_for(seed, f"decode.frame_{number}"))
            frames.append(mx.contiguous(whole[top : top + height, left : left + width]))
            mx.eval(frames[-1])
        return mx.stack(frames)[None]

    return draw
