"""dgrauet/ltx-2-mlx's transformer block of 2.3, and its video decoder."""

from collections.abc import Callable

import mlx.core as mx
import numpy as np
from comparison.peer_work import Work
from mlx.utils import tree_map


def make(work: Work) -> Callable[[], object]:
    """The call."""
    if not work.is_2_3:
        raise SystemExit("dgrauet's port has the networks of 2.3 alone")
    if work.is_block and not work.audio:
        raise SystemExit("dgrauet's transformer has an audio stream: pass --audio 1 or more")
    return _block(work) if work.is_block else _decoder(work)


def _block(work: Work) -> Callable[[], object]:
    from ltx_core_mlx.model.transformer.model import LTXModel, LTXModelConfig

    widths = {"video_dim": work.heads * 128, "audio_dim": work.heads * 64}
    heads = {f"{name}_num_heads": work.heads for name in ("video", "audio", "av_cross")}
    config = LTXModelConfig(num_layers=work.layers, av_ca_timestep_scale_multiplier=1000, **widths, **heads)
    network, dtype = _random(LTXModel(config), work, 0.02), getattr(mx, work.dtype)
    places = np.indices(work.shape, dtype=np.float32).reshape(1, 3, -1).swapaxes(1, 2)
    inputs = [
        mx.random.normal((1, work.tokens, 128)),
        mx.random.normal((1, work.audio, 128)),
        mx.array([0.7]),
        mx.random.normal((1, work.text, widths["video_dim"])).astype(dtype),
        mx.random.normal((1, work.text, widths["audio_dim"])).astype(dtype),
        mx.array(places),
        mx.arange(work.audio, dtype=mx.float32)[None, :, None],
    ]
    mx.eval(*inputs)
    return lambda: mx.eval(network(*inputs))


def _decoder(work: Work) -> Callable[[], object]:
    from ltx_core_mlx.model.video_vae.video_vae import VideoDecoder

    network = _random(VideoDecoder(), work, 0.01)
    latent = mx.random.normal((1, 128, *work.shape)).astype(getattr(mx, work.dtype))
    mx.eval(latent)
    return lambda: mx.eval(network.decode(latent))


def _random(network, work: Work, scale: float):
    """The network with random weights."""
    dtype = getattr(mx, work.dtype)
    network.update(tree_map(lambda like: (mx.random.normal(like.shape) * scale).astype(dtype), network.parameters()))
    mx.eval(network.parameters())
    return network
