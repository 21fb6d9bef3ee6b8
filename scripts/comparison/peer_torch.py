"""The same networks in torch, with our stand-in weights: a video stream's block alone, and the decoder of 2.0 and 2.3.

The layers around the block, a thousandth of the work, are left out.
"""

from collections.abc import Callable

import comparison.peer_ours as ours
import mlx.core as mx
import numpy as np
import torch
from comparison.peer_work import Work
from comparison.torch_decoder import TorchDecoder
from comparison.torch_ltx import TorchBlock, torch_weights

from LTX_2_MLX.bench.workloads import stand_in
from LTX_2_MLX.models.ltx.transformer import StreamNetwork, TransformerBlock
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder


def make(work: Work) -> Callable[[], object]:
    """The call."""
    if work.dtype != "float32":
        raise SystemExit("torch is compared in float32 alone")
    call = _block(work) if work.is_block else _decoder(work)

    def without_gradients() -> None:
        with torch.inference_mode():
            call()

    return without_gradients


def _block(work: Work) -> Callable[[], object]:
    if work.audio or work.layers != 1:
        raise SystemExit("torch has one block of the video stream alone: pass --audio 0 --layers 1")
    config = ours.block_config(work)
    weights = torch_weights(stand_in(TransformerBlock(config), mx.float32))
    table = StreamNetwork(config, config.video, keyframe_embedding=False).rotary(ours.positions(work), mx.float32)
    block = TorchBlock(weights, work.heads, *(torch.from_numpy(np.array(each[0])) for each in (table.cos, table.sin)))
    width = config.video.width
    # With prompt modulation nine rows of the tokens' timesteps, and two of the prompt's.
    rows = torch.randn(9 if work.is_2_3 else 6, width)
    prompt_rows = torch.randn(2, width) if work.is_2_3 else None
    tokens, context = torch.randn(1, work.tokens, width), torch.randn(1, work.text, width)
    return lambda: block(tokens, context, rows, prompt_rows)


def _decoder(work: Work) -> Callable[[], object]:
    config = ours.decoder_config(work)
    weights = torch_weights(stand_in(VideoDecoder(config), mx.float32))
    decoder = TorchDecoder(weights, config.decoder_blocks[::-1], config.patch_size)
    latent = torch.randn(1, 128, *work.shape)
    return lambda: decoder(latent)
