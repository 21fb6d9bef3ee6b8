"""Measure post-processing: seconds per frame beside torch, and memory by the length of the clip.

Weights are random, which changes neither.
"""

import multiprocessing
import os
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from LTX_2_MLX import OPENBLAS_LOADED, cli, read_video, write_video  # The package first: it loads the fast BLAS.

import mlx.core as mx  # isort: skip
import mlx.nn as nn
import numpy as np
from comparison.published_weights import published

from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.models.rife import IFNet, IFNetConfig
from LTX_2_MLX.models.srvgg import SRVGG, SRVGGConfig
from LTX_2_MLX.pipelines.postprocess import Request, postprocess
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.runtime.this_machine import memory_limits, peak_process_bytes

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
JOBS = {
    "interpolate": {"enable_frame_interpolation": True},
    "upscale": {"enable_upscaling": True},
    "both": {"enable_frame_interpolation": True, "enable_upscaling": True},
}


@app.command()
def speed(
    height: Annotated[int, typer.Option(help="Height of a frame, a multiple of 32.")] = 256,
    width: Annotated[int, typer.Option(help="Width of a frame, a multiple of 32.")] = 448,
    repeats: Annotated[int, typer.Option(help="Turns of each.")] = 7,
    device: Annotated[str, typer.Option(help="Where torch computes: cpu or cuda.")] = "cpu",
) -> None:
    """Print seconds per frame of IFNet and SRVGG, ours and torch's with the same weights: medians.

    By the clock, and of all cores together, which other work on the machine hardly changes. OPENBLAS_NUM_THREADS
    in the environment sets the threads of both.
    """
    import torch
    from comparison.post_processing import compare_networks

    torch.set_default_device(device)
    if threads := os.environ.get("OPENBLAS_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    print(f"OpenBLAS loaded: {OPENBLAS_LOADED}; torch {torch.__version__}, {torch.get_num_threads()} threads; ", end="")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {height}×{width}; torch on {device}\n")
    print("| network | ours, s | torch, s | torch / ours | ours, CPU s | torch, CPU s | torch / ours | difference |")
    print("|---|---|---|---|---|---|---|---|")
    compare_networks(height, width, repeats)


def peaks(job: str, clip: Path, folder: Path) -> tuple[int, int]:
    """Largest peaks of MLX's memory and of the process, for a clip from file to file."""
    models = {"frame_interpolation_model_path": str(folder / "rife.safetensors")}
    models |= {"upscaling_model_path": str(folder / "srvgg.safetensors")}
    used = {name: path for name, path in models.items() if JOBS[job].get(f"enable_{name.rsplit('_', 2)[0]}")}
    runner = StageRunner()
    with memory_limits():
        write_video(postprocess(read_video(clip), Request(**JOBS[job], **used), runner), folder / f"{job}.mp4")
    return max(report.peak_bytes for report in runner.reports), peak_process_bytes()


@app.command()
def memory(
    height: Annotated[int, typer.Option(help="Height of a frame.")] = 48,
    width: Annotated[int, typer.Option(help="Width of a frame.")] = 64,
    lengths: Annotated[str, typer.Option(help="Numbers of frames, with commas.")] = "50,200,800",
    jobs: Annotated[str, typer.Option(help="Post-processing of the clips, with commas.")] = ",".join(JOBS),
    features: Annotated[int, typer.Option(help="Channels of SRVGG; the published ones have 64.")] = 64,
) -> None:
    """Print peaks by the length of the clip, each measured in a process of its own."""
    print("| work | frames | MLX peak, MiB | process peak, MiB | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_network(folder / "rife.safetensors", IFNet(IFNetConfig()))
        write_network(folder / "srvgg.safetensors", SRVGG(SRVGGConfig(features, 16, 4)))
        for length in lengths.split(","):
            write_clip(folder / f"{length}.mp4", int(length), height, width)
        for job in jobs.split(","):
            for length in lengths.split(","):
                start = time.perf_counter()
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    mlx, process = pool.apply(peaks, (job, folder / f"{length}.mp4", folder))
                seconds = time.perf_counter() - start
                print(f"| {job} | {length} | {mlx / 2**20:.1f} | {process / 2**20:.1f} | {seconds:.0f} |", flush=True)


def write_network(path: Path, network: nn.Module) -> None:
    """A network's random weights in the published format."""
    mx.save_safetensors(str(path), published(network))


def write_clip(path: Path, length: int, height: int, width: int) -> None:
    """A clip of noise that moves to the left."""
    noise = np.random.default_rng(0).integers(0, 256, (height, 2 * width, 3), dtype=np.uint8)
    chunks = (noise[None, :, i % width : i % width + width] for i in range(length))
    write_video(FrameStream(chunks, height, width, Fraction(24), length), path)


if __name__ == "__main__":
    with cli.exit_codes():
        app()
