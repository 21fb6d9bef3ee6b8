"""Measure post-processing: seconds per frame beside torch, and memory by the length of the clip.

Weights are random, which changes neither.
"""

import multiprocessing
import os
import tempfile
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Annotated

import typer

from LTX_2_MLX import OPENBLAS_LOADED, cli, read_video, write_video  # The package first: it loads the fast BLAS.

import mlx.core as mx  # isort: skip
import numpy as np
from mlx.utils import tree_flatten

from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.models.rife import IFNet, IFNetConfig
from LTX_2_MLX.models.srvgg import SRVGG, SRVGGConfig
from LTX_2_MLX.pipelines.postprocess import Request, postprocess
from LTX_2_MLX.runtime.memory import memory_limits, peak_process_bytes
from LTX_2_MLX.runtime.parallel import map_on_cores
from LTX_2_MLX.runtime.runner import StageRunner

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)
JOBS = {
    "interpolate": {"enable_frame_interpolation": True},
    "upscale": {"enable_upscaling": True},
    "both": {"enable_frame_interpolation": True, "enable_upscaling": True},
}


def published(network) -> dict[str, mx.array]:
    """A network's weights in published axis order."""

    def turned(name: str, value: mx.array) -> mx.array:
        if value.ndim != 4 or not name.endswith("weight"):
            return value
        transposed = "lastconv" in name or "cnn3" in name
        return mx.contiguous(value.transpose((3, 0, 1, 2) if transposed else (0, 3, 1, 2)))

    return {name: turned(name, value) for name, value in tree_flatten(network.parameters())}


@app.command()
def speed(
    height: Annotated[int, typer.Option(help="Rows of a frame, a multiple of 32.")] = 256,
    width: Annotated[int, typer.Option(help="Columns of a frame, a multiple of 32.")] = 448,
    repeats: Annotated[int, typer.Option(help="Turns of each.")] = 7,
) -> None:
    """Print seconds per frame of IFNet and SRVGG, ours and torch's with the same weights: medians.

    By the clock, and of all cores together, which other work on the machine hardly changes. OPENBLAS_NUM_THREADS
    in the environment sets the threads of both.
    """
    import torch
    from comparison.in_turns import compare
    from comparison.torch_networks import new_frames, torch_ifnet, torch_srvgg

    if threads := os.environ.get("OPENBLAS_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    print(f"OpenBLAS loaded: {OPENBLAS_LOADED}; torch {torch.__version__}, {torch.get_num_threads()} threads; ", end="")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {height}×{width}\n")
    print("| network | ours, s | torch, s | torch / ours | ours, CPU s | torch, CPU s | torch / ours | difference |")
    print("|---|---|---|---|---|---|---|---|")
    frames = np.random.default_rng(0).random((3, height, width, 3), dtype=np.float32)
    theirs = [torch.from_numpy(frame[None].transpose(0, 3, 1, 2).copy()) for frame in frames]

    def theirs_of(network) -> dict:
        return {name: torch.from_numpy(np.array(value)) for name, value in published(network).items()}

    def arranged(result) -> np.ndarray:
        return result.numpy().transpose(0, 2, 3, 1)

    ifnet, srvgg = IFNet(IFNetConfig()), SRVGG(SRVGGConfig(num_features=64, num_convolutions=16, scale=4))
    ours = [mx.array(frame[None]) for frame in frames]
    encoded = ifnet.encode_frame(ours[0])
    mx.eval(ours, encoded, srvgg.parameters())

    def encode(frame: mx.array) -> mx.array:
        mx.eval(encoded := ifnet.encode_frame(frame))
        return encoded

    def between(pair: tuple[mx.array, mx.array]) -> np.ndarray:
        return np.asarray(ifnet.between(*pair, 0.5, 1.0))

    # The first frame has been encoded, the two new ones after it have not.
    def one() -> np.ndarray:
        return between((encoded, encode(ours[1])))

    def two() -> np.ndarray:
        frames = [encoded, *map_on_cores(encode, ours[1:])]
        return np.concatenate(map_on_cores(between, list(pairwise(frames))))

    with torch.inference_mode(), memory_limits():
        their_one, their_two, their_batch = new_frames(*torch_ifnet(theirs_of(ifnet)), theirs)
        compare("IFNet, one frame", one, lambda: arranged(their_one()), repeats)
        compare("IFNet, two frames", two, lambda: arranged(their_two()), repeats, frames=2)
        compare("IFNet, two frames, torch's in a batch", two, lambda: arranged(their_batch()), repeats, frames=2)
        larger = torch_srvgg(theirs_of(srvgg), 4)
        compare("SRVGG 64×16, x4", lambda: np.asarray(srvgg(ours[0])), lambda: arranged(larger(theirs[0])), repeats)


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
    height: Annotated[int, typer.Option(help="Rows of a frame.")] = 48,
    width: Annotated[int, typer.Option(help="Columns of a frame.")] = 64,
    lengths: Annotated[str, typer.Option(help="Numbers of frames.")] = "50,200,800",
    jobs: Annotated[str, typer.Option(help="What is done to the clips.")] = ",".join(JOBS),
    features: Annotated[int, typer.Option(help="Channels of SRVGG; the published ones have 64.")] = 64,
) -> None:
    """Print peaks by the length of the clip, each measured in a process of its own."""
    print("| work | frames | MLX peak, MiB | process peak, MiB | seconds |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        mx.save_safetensors(str(folder / "rife.safetensors"), published(IFNet(IFNetConfig())))
        mx.save_safetensors(str(folder / "srvgg.safetensors"), published(SRVGG(SRVGGConfig(features, 16, 4))))
        picture = np.random.default_rng(0).integers(0, 256, (height, 2 * width, 3), dtype=np.uint8)
        for count in map(int, lengths.split(",")):
            chunks = (picture[None, :, i % width : i % width + width] for i in range(count))
            write_video(FrameStream(chunks, height, width, Fraction(24), count), folder / f"{count}.mp4")
        for job in jobs.split(","):
            for count in map(int, lengths.split(",")):
                start = time.perf_counter()
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    mlx, process = pool.apply(peaks, (job, folder / f"{count}.mp4", folder))
                seconds = time.perf_counter() - start
                print(f"| {job} | {count} | {mlx / 2**20:.1f} | {process / 2**20:.1f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    with cli.exit_codes():
        app()
