"""Measure LTX-2's transformer block and video decoder beside the same networks in torch, with the same weights."""

import os
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from LTX_2_MLX import OPENBLAS_LOADED, cli  # The package first: it loads the fast BLAS.

import mlx.core as mx  # isort: skip
import numpy as np

from LTX_2_MLX.bench.workloads import Widths, stand_in, transformer_config, vae_config
from LTX_2_MLX.diffusion.state import VideoGrid
from LTX_2_MLX.layers.transformer import ModulationRows
from LTX_2_MLX.models.ltx.transformer import StreamNetwork
from LTX_2_MLX.models.ltx.transformer_block import StreamArgs, TransformerBlock
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.shapes import Compression, VideoShape

Network = StrEnum("Network", ["block", "decoder"])


def main(
    names: Annotated[list[Network] | None, typer.Argument(help="Networks [default: both].")] = None,
    height: Annotated[int, typer.Option("--height", help="Height of the video in pixels.")] = 192,
    width: Annotated[int, typer.Option("--width", help="Width of the video in pixels.")] = 288,
    frames: Annotated[int, typer.Option("--frames", help="Number of frames, 8k + 1.")] = 17,
    heads: Annotated[int, typer.Option("--heads", help="Heads of the block, 128 features each.")] = 6,
    channels: Annotated[int, typer.Option("--channels", help="Channels of the decoder next to the pixels.")] = 16,
    repeats: Annotated[int, typer.Option("--repeats", help="Turns of each.", min=1)] = 5,
    device: Annotated[str, typer.Option("--device", help="Where torch computes: cpu or cuda.")] = "cpu",
) -> None:
    """Print seconds of each network, ours and torch's, taken in turns."""
    with cli.exit_codes():
        import torch

        threads = torch.get_num_threads()
        print(f"OpenBLAS loaded: {OPENBLAS_LOADED}; torch {torch.__version__}, {threads} threads; ", end="")
        print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; float32, {frames}×{height}×{width}; ", end="")
        print(f"torch on {device}\n")
        print("| network | wall, s: ours, torch | torch / ours | CPU, s: ours, torch | torch / ours | difference |")
        print("|---|---|---|---|---|---|")
        shape = VideoShape(frames, height, width)
        with torch.inference_mode():
            if names is None or Network.block in names:
                compare(f"transformer block, {128 * heads} wide", *blocks(shape, heads, device), repeats)
            if names is None or Network.decoder in names:
                compare(
                    f"video decoder, {channels} to {8 * channels} channels", *decoders(shape, channels, device), repeats
                )


def blocks(shape: VideoShape, heads: int, device: str) -> tuple[Callable, Callable]:
    """The video stream's block of 2.0, ours and torch's, on the same tokens."""
    from comparison.torch_ltx import TorchBlock, torch_weights

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
    from comparison.torch_ltx import TorchDecoder, torch_weights

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


def compare(name: str, ours: Callable, theirs: Callable, repeats: int) -> None:
    """Print the medians of both clocks, and the largest difference over the largest value."""
    from comparison.in_turns import medians

    wanted = theirs()
    difference = float(np.abs(ours() - wanted).max() / np.abs(wanted).max())
    cells = [f"{one:.3f}, {other:.3f} | {other / one:.2f}" for one, other in medians(ours, theirs, repeats)]
    print(f"| {name} | {' | '.join(cells)} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    cli.run(main)
