"""Block and video decoder of Acelogic/LTX-2-MLX and of dmlsrc/LTX-2-MLX, which share their calls."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
from comparison.peer_work import Work
from mlx.utils import tree_map

# Blocks of the 2.3 decoder as these ports name them.
_BLOCKS_2_3 = [
    ("res_x", 4), ("compress_space", {"multiplier": 2}), ("res_x", 6), ("compress_time", {"multiplier": 2}),
    ("res_x", 4), ("compress_all", {"multiplier": 1}), ("res_x", 2), ("compress_all", {"multiplier": 2}), ("res_x", 2),
]  # fmt: skip


def make(work: Work) -> Callable[[], object]:
    """The call."""
    return _block(work) if work.is_block else _decoder(work)


def _block(work: Work) -> Callable[[], object]:
    from LTX_2_MLX.model.transformer.model import LTXModel, LTXModelType

    # Their audio stream has 32 heads whatever the width.
    LTXModel.AUDIO_ATTENTION_HEADS = work.heads
    network = LTXModel(
        model_type=LTXModelType.AudioVideo if work.audio else LTXModelType.VideoOnly,
        num_attention_heads=work.heads, cross_attention_dim=work.heads * 128, num_layers=work.layers,
        caption_channels=None if work.is_2_3 else 3840, av_ca_timestep_scale_multiplier=1000,
        compute_dtype=getattr(mx, work.dtype), cross_attention_adaln=work.is_2_3, apply_gated_attention=work.is_2_3,
    )  # fmt: skip
    _randomize(network, work, 0.02)
    places = np.indices(work.shape, dtype=np.float32).reshape(3, -1)
    video = _stream(work, work.tokens, work.heads * 128, places)
    audio = _stream(work, work.audio, work.heads * 64, np.arange(work.audio)[None]) if work.audio else None
    return lambda: mx.eval(network(video, audio))


def _stream(work: Work, count: int, width: int, places: np.ndarray):
    from LTX_2_MLX.model.transformer.model import Modality

    sigma = mx.array([0.7])
    context = mx.random.normal((1, work.text, width if work.is_2_3 else 3840)).astype(getattr(mx, work.dtype))
    bounds = mx.array(np.stack([places, places + 1], axis=-1)[None].astype(np.float32))
    latent = mx.random.normal((1, count, 128))
    mx.eval(latent, context, bounds)
    return Modality(
        latent=latent, context=context, context_mask=None, timesteps=sigma, positions=bounds, sigma=sigma
    )  # fmt: skip


def _decoder(work: Work) -> Callable[[], object]:
    from LTX_2_MLX.model.video_vae.simple_decoder import SimpleVideoDecoder

    blocks = {"decoder_blocks": _BLOCKS_2_3, "timestep_conditioning": False} if work.is_2_3 else {}
    network = SimpleVideoDecoder(compute_dtype=getattr(mx, work.dtype), **blocks)
    _randomize(network, work, 0.01)
    latent = mx.random.normal((1, 128, *work.shape)).astype(getattr(mx, work.dtype))
    mx.eval(latent)
    return lambda: mx.eval(network(latent))


def _randomize(network, work: Work, scale: float) -> None:
    dtype = getattr(mx, work.dtype)
    network.update(tree_map(lambda like: (mx.random.normal(like.shape) * scale).astype(dtype), network.parameters()))
    mx.eval(network.parameters())
