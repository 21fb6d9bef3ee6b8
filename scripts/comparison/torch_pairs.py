"""LTX-2's transformer block and video decoder, ours and torch's, with the same weights and the same input."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np
from comparison.torch_decoder import TorchDecoder
from comparison.torch_ltx import TorchBlock, torch_weights

from LTX_2_MLX.bench.workloads import Widths, stand_in, transformer_config, vae_config
from LTX_2_MLX.diffusion.state import VideoGrid
from LTX_2_MLX.layers.transformer import ModulationRows
from LTX_2_MLX.models.ltx.transformer import StreamArgs, StreamNetwork, TransformerBlock
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.shapes import Compression, VideoShape


def blocks(shape: VideoShape, heads: int, device: str) -> tuple[Callable, Callable]:
    """The video stream's block of 2.0, ours and torch's, on the same tokens."""
    config = transformer_config(Widths(heads=heads), audio=False)
    block = stand_in(TransformerBlock(config), mx.float32)
    grid = VideoGrid(shape.latent(compression := Compression(8, 32, 32)), compression, 24.0)
    random, features = np.random.default_rng(0), 128 * heads
    tokens, context, rows = (
        random.standard_normal(size, dtype=np.float32)
        for size in ((1, grid.shape.num_tokens, features), (1, 256, features), (1, 6, features))
    )
    rotary = StreamNetwork(config, config.video, keyframe_embedding=False).rotary(grid.positions(), mx.float32)
    modulation = ModulationRows(mx.array(rows), mx.array([[0]]))
    video = mx.array(tokens)
    args = StreamArgs(mx.array(context), rotary, modulation, timestep_embedding=modulation)
    mx.eval(rotary.cos, rotary.sin, block.parameters())
    weights = torch_weights(block, device)
    inputs = [_moved(array, device) for array in (tokens, context, rows[0])]
    tables = [_moved(table[0], device) for table in (rotary.cos, rotary.sin)]
    torch_block = TorchBlock(weights, heads, *tables)
    return (
        lambda: np.array(block({"video": video}, {"video": args}, {})["video"]),
        lambda: torch_block(*inputs).cpu().numpy(),
    )


def decoders(shape: VideoShape, channels: int, device: str) -> tuple[Callable, Callable]:
    """The video decoder with the published blocks of 2.0, ours chunk by chunk and torch's all at once."""
    import torch

    config = vae_config(Widths(latent=32, vae=channels))
    decoder = stand_in(VideoDecoder(config), mx.float32)
    size = shape.latent(config.decoder_compression)
    latent = np.random.default_rng(0).standard_normal(
        (1, size.num_frames, size.height, size.width, 32), dtype=np.float32
    )
    mx.eval(decoder.parameters())
    weights = torch_weights(decoder, device)
    ours = mx.array(latent)
    theirs = torch.from_numpy(np.ascontiguousarray(latent.transpose(0, 4, 1, 2, 3))).to(device)
    torch_decoder = TorchDecoder(weights, config.decoder_blocks[::-1], config.patch_size)
    return (
        lambda: np.concatenate([np.array(chunk) for chunk in decoder.stream([ours])], axis=1),
        lambda: torch_decoder(theirs).cpu().numpy().transpose(0, 2, 3, 4, 1),
    )


def _moved(value: mx.array | np.ndarray, device: str) -> Any:
    import torch

    return torch.from_numpy(np.array(value)).to(device)
