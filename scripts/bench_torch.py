"""Measure LTX-2's transformer block and video decoder beside the same networks in torch, with the same weights."""

import os
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import numpy as np
import typer

from LTX_2_MLX import OPENBLAS_LOADED, cli  # The package first: it loads the fast BLAS.
from LTX_2_MLX.shapes import VideoShape

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
        from comparison.torch_pairs import blocks, decoders

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


def compare(name: str, ours: Callable, theirs: Callable, repeats: int) -> None:
    """Print the medians of both clocks, and the largest difference over the largest value."""
    from comparison.in_turns import medians

    wanted = theirs()
    difference = float(np.abs(ours() - wanted).max() / np.abs(wanted).max())
    cells = [f"{one:.3f}, {other:.3f} | {other / one:.2f}" for one, other in medians(ours, theirs, repeats)]
    print(f"| {name} | {' | '.join(cells)} | {difference:.1e} |", flush=True)


if __name__ == "__main__":
    cli.run(main)
