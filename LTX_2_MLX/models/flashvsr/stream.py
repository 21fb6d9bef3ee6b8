"""Streaming super-resolution of one clip by FlashVSR's networks: low-quality frames to latents, latents to frames.

The first chunk takes 25 low-quality frames and gives 21, every later one takes 8 and gives 8: the networks look four
frames ahead.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import mlx.core as mx

from LTX_2_MLX.layers.streaming import StreamState, join_frames
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection
from LTX_2_MLX.models.flashvsr.transformer import FIRST_FRAMES, NEXT_FRAMES, TransformerStream
from LTX_2_MLX.models.tae import ConditionalDecoder, TinyAutoencoder
from LTX_2_MLX.models.wan.tiled_decoder import TiledDecoder
from LTX_2_MLX.models.wan.vae import WanDecoder
from LTX_2_MLX.ops.collective import Group

Decoder = ConditionalDecoder | TinyAutoencoder | WanDecoder | TiledDecoder

_TIME = 4
# Low-quality frames that come in, and frames that go out, by the first chunk and by every later one.
FIRST_INPUT = FIRST_FRAMES * _TIME + 1
NEXT_INPUT = NEXT_FRAMES * _TIME
FIRST_OUTPUT = FIRST_INPUT - _TIME
NEXT_OUTPUT = NEXT_INPUT


@dataclass(frozen=True)
class BlockShare:
    """The run of the transformer's blocks that one process computes; the first process has the last run.

    Attributes:
        group: The processes.
        blocks: This one's; the first run has all blocks that low-quality tokens are added before.
        num_blocks: Of all processes.
    """

    group: Group
    blocks: range
    num_blocks: int

    @property
    def takes_part(self) -> bool:
        """Whether this process has blocks, or the result."""
        return self.group.rank == 0 or len(self.blocks) > 0


class LatentStream:
    """Low-quality frames of one clip to its latent."""

    def __init__(self, projection: LQProjection, transformer: TransformerStream, causal: bool):
        """``causal``: the projector sees earlier frames, as in v1.1; in v1 it does not."""
        self.projection = projection
        self.transformer = transformer
        self.causal = causal
        self.state = StreamState()

    def step(self, lq_groups: Iterable[mx.array], noise: mx.array) -> mx.array:
        """The latent of the next chunk.

        Args:
            lq_groups: The chunk's frames in [-1, 1], in groups ``(1, 4, H, W, 3)``: six of them after the first frame
                alone at a clip's start, two later. A group is read when it is needed.
            noise: ``(1, 6, H / 8, W / 8, C)``, later ``(1, 2, ...)``.
        """
        return self.state.checkpoint(self.transformer.step(noise, self._tokens(lq_groups)))

    def shared_step(self, lq_groups: Iterable[mx.array], noise: mx.array, share: BlockShare) -> mx.array | None:
        """``step`` by several processes, whose work on consecutive chunks overlaps; the first one gets the latent."""
        group = share.group
        if not share.takes_part:
            return None
        if share.blocks.start == 0:
            tokens = self._tokens(lq_groups)
            x, grid = self.transformer.start(noise)
        else:
            tokens = []
            x, _ = group.receive_piece(group.rank + 1)
            grid = self.transformer.grid_of(noise)
        if share.blocks:
            x = self.transformer.run_blocks(x, grid, tokens, share.blocks)
        if share.blocks and share.blocks.stop == share.num_blocks:
            x = noise - self.transformer.finish(x, grid)
        x = self.state.checkpoint(x)
        if group.rank == 0:
            return x
        group.send_piece(x, group.rank - 1, last=False)
        return None

    def _tokens(self, lq_groups: Iterable[mx.array]) -> list[mx.array]:
        """The projector's tokens of a chunk, for each block that takes some."""
        tokens_of_groups = []
        for frames in lq_groups:
            tokens = self.projection(frames, self.causal, self.state)
            tokens_of_groups.append([self.state.checkpoint(layer) for layer in tokens])
        return [join_frames(*layer) for layer in zip(*tokens_of_groups, strict=True)]


class FrameDecoder:
    """Latents of one clip to its frames, by any of the decoders."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self.state = StreamState()

    def step(self, latent: mx.array, lq_frames: mx.array) -> mx.array:
        """Frames of the next latent frame, ``(1, T, H, W, 3)``, about [-1, 1]: 4 of them, at a clip's start 1.

        Args:
            latent: ``(1, 1, H / 8, W / 8, C)``.
            lq_frames: The low-quality frames at the positions of the result, in the same size.
        """
        if isinstance(self.decoder, ConditionalDecoder):
            return self.state.checkpoint(self.decoder(latent, lq_frames, self.state))
        # The published wrappers of these decoders clip.
        return self.state.checkpoint(mx.clip(self.decoder(latent, self.state), -1, 1))
