"""A clip's way through FlashVSR's networks, chunk by chunk: low-quality frames to latents, latents to frames.

The first chunk takes 25 low-quality frames and gives 21, every later one takes 8 and gives 8: four frames are
looked at before they are made.
"""

from collections.abc import Iterable

import mlx.core as mx

from LTX_2_MLX.models.flashvsr.lq_projection import LQPast, LQProjection
from LTX_2_MLX.models.flashvsr.transformer import FIRST_FRAMES, NEXT_FRAMES, TransformerStream
from LTX_2_MLX.models.tae import ConditionalDecoder, TinyAutoencoder
from LTX_2_MLX.models.wan.tiled_decoder import TiledDecoder
from LTX_2_MLX.models.wan.vae import WanDecoder

Decoder = ConditionalDecoder | TinyAutoencoder | WanDecoder | TiledDecoder

_TIME = 4
# Low-quality frames looked at, and frames made, by the first chunk and by every later one.
FIRST_SEEN, NEXT_SEEN = FIRST_FRAMES * _TIME + 1, NEXT_FRAMES * _TIME
FIRST_MADE, NEXT_MADE = FIRST_SEEN - _TIME, NEXT_SEEN


class LatentStream:
    """Low-quality frames of one clip to its latent."""

    def __init__(self, projection: LQProjection, transformer: TransformerStream, causal: bool):
        """``causal`` is how the projector of v1.1 sees the frames before; v1's is not."""
        self.projection = projection
        self.transformer = transformer
        self.causal = causal
        self.past: LQPast | None = None

    def step(self, lq_groups: Iterable[mx.array], noise: mx.array) -> mx.array:
        """The latent of the next chunk.

        Args:
            lq_groups: The chunk's frames in [-1, 1], in groups ``(1, 4, H, W, 3)``: six of them after the first frame
                alone at a clip's start, two later. Each is asked for when its turn comes.
            noise: ``(1, 6, H / 8, W / 8, C)``, later ``(1, 2, ...)``.
        """
        groups = iter(lq_groups)
        if self.past is None:
            self.past = self.projection.start(next(groups), self.causal)
        made = []
        for frames in groups:
            made.append(self.projection.step(frames, self.past, self.causal))
            mx.eval(made[-1])
        tokens = [mx.concatenate(layer, axis=1) for layer in zip(*made, strict=True)]
        latent = self.transformer.step(noise, tokens)
        mx.eval(latent)
        return latent


class FrameDecoder:
    """Latents of one clip to its frames, by any of the decoders."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self.past: dict = {}

    def step(self, latent: mx.array, lq_frames: mx.array) -> mx.array:
        """Frames of the next latent frame, ``(1, T, H, W, 3)`` in [-1, 1] or about: 4 of them, at a clip's start 1.

        Args:
            latent: ``(1, 1, H / 8, W / 8, C)``.
            lq_frames: The low-quality frames in the places of those that are made, in the same size.
        """
        if isinstance(self.decoder, ConditionalDecoder):
            frames = self.decoder.step(latent, lq_frames, self.past)
        else:
            # The published wrappers of these decoders clip.
            frames = mx.clip(self.decoder.step(latent, self.past), -1, 1)
        mx.eval(frames, self.past)
        return frames
