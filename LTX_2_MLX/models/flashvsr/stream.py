"""A clip's way through FlashVSR's networks, chunk by chunk: low-quality frames to latents, latents to frames.

The first chunk takes 25 low-quality frames and gives 21, every later one takes 8 and gives 8: four frames are
looked at before they are made.
"""

from collections.abc import Iterator

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

    def step(self, lq_frames: mx.array, noise: mx.array) -> mx.array:
        """The latent of the next chunk.

        Args:
            lq_frames: The next ``(1, 25, H, W, 3)`` in [-1, 1] at a clip's start, ``(1, 8, H, W, 3)`` later.
            noise: ``(1, 6, H / 8, W / 8, C)``, later ``(1, 2, ...)``.
        """
        if self.past is None:
            self.past = self.projection.start(lq_frames[:, :1], self.causal)
            lq_frames = lq_frames[:, 1:]
        groups = []
        for first in range(0, lq_frames.shape[1], _TIME):
            groups.append(self.projection.step(lq_frames[:, first : first + _TIME], self.past, self.causal))
            mx.eval(groups[-1])
        tokens = [mx.concatenate(layer, axis=1) for layer in zip(*groups, strict=True)]
        latent = self.transformer.step(noise, tokens)
        mx.eval(latent)
        return latent


class FrameDecoder:
    """Latents of one clip to its frames, by any of the decoders."""

    def __init__(self, decoder: Decoder):
        self.decoder = decoder
        self.past: dict = {}

    def step(self, latent: mx.array, lq_frames: mx.array) -> Iterator[mx.array]:
        """Frames of the next latent frames in [-1, 1] or about, one chunk ``(1, T, H, W, 3)`` for each latent frame.

        Args:
            latent: ``(1, T, H / 8, W / 8, C)``.
            lq_frames: The low-quality frames in the places of those that are made, ``(1, 4T, H, W, 3)``, at a clip's
                start three fewer.
        """
        made = 0
        for i in range(latent.shape[1]):
            one = latent[:, i : i + 1]
            if isinstance(self.decoder, ConditionalDecoder):
                count = _TIME if self.past else 1
                frames = self.decoder.step(one, lq_frames[:, made : made + count], self.past)
            else:
                frames = self.decoder.step(one, self.past)
            mx.eval(frames, self.past)
            made += frames.shape[1]
            yield frames
