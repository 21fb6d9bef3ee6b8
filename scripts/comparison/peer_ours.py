"""Our transformer block and video decoder, as generation calls them."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import LTX_2_MLX  # noqa: F401 - the package first: it sets MLX's switches

import mlx.core as mx  # isort: skip
import numpy as np
from comparison.peer_work import Work

from LTX_2_MLX.bench.workloads import PUBLISHED, stand_in, transformer_config, vae_config
from LTX_2_MLX.models.ltx.transformer import StreamInput, Transformer
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder

if TYPE_CHECKING:
    # These modules had other names before; everything else here is as old as the networks.
    from LTX_2_MLX.models.ltx.config import TransformerConfig
    from LTX_2_MLX.models.ltx.video_vae import VideoVAEConfig

_SPACE, _TIME, _ALL = (1, 2, 2), (2, 1, 1), (2, 2, 2)
# config.vae.decoder_blocks of the 2.3 file, from the pixels inwards: stride, layers, multiplier.
_BLOCKS_2_3 = [(None, 4), (_SPACE, 0, 2), (None, 6), (_TIME, 0, 2), (None, 4), (_ALL, 0, 1), (None, 2), (_ALL, 0, 2)]


def make(work: Work) -> Callable[[], object]:
    """The call."""
    return _block(work) if work.is_block else _decoder(work)


def block_config(work: Work) -> "TransformerConfig":
    """The transformer with the flags of the work's generation, at its width."""
    widths = replace(PUBLISHED, heads=work.heads, layers=work.layers)
    config = transformer_config(widths, audio=bool(work.audio))
    if not work.is_2_3:
        return config
    flags = {"gated_attention": True, "text_modulation": True, "prompt_modulation": True}
    return replace(config, caption_channels=None, **flags)


def decoder_config(work: Work) -> "VideoVAEConfig":
    """The video decoder of the work's generation, at the published widths."""
    config = vae_config(PUBLISHED)
    if not work.is_2_3:
        return config
    block = type(config.decoder_blocks[0])
    return replace(config, decoder_blocks=tuple(block(*sizes) for sizes in [*_BLOCKS_2_3, (None, 2)]))


def positions(work: Work) -> mx.array:
    """Bounds of the video tokens, ``(1, 3, N, 2)``."""
    places = np.indices(work.shape, dtype=np.float32).reshape(3, -1)
    return mx.array(np.stack([places, places + 1], axis=-1)[None])


def _block(work: Work) -> Callable[[], object]:
    config = block_config(work)
    network = stand_in(Transformer(config), dtype := getattr(mx, work.dtype))
    sigma = mx.array([0.7])

    def stream(count: int, width: int, places: mx.array) -> StreamInput:
        context = mx.random.normal((1, work.text, config.caption_channels or width)).astype(dtype)
        return StreamInput(mx.random.normal((1, count, 128)), sigma, places, context)

    inputs = [stream(work.tokens, config.video.width, positions(work)), None]
    if config.audio is not None:
        times = mx.arange(work.audio, dtype=mx.float32)
        inputs[1] = stream(work.audio, config.audio.width, mx.stack([times, times + 1], axis=-1)[None, None])
    mx.eval(network.parameters(), *[array for each in inputs if each for array in (each.latent, each.context)])
    return lambda: mx.eval(network(*inputs, evaluate_blocks=True))


def _decoder(work: Work) -> Callable[[], object]:
    network = stand_in(VideoDecoder(decoder_config(work)), getattr(mx, work.dtype))
    latent = mx.random.normal((1, *work.shape, 128))
    mx.eval(network.parameters(), latent)

    def call() -> None:
        for chunk in network.stream([latent]):
            mx.eval(chunk)

    return call
