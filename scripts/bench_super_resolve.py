"""Measure FlashVSR's memory and time with networks of stand-in weights: by clip length, by output size, by form.

Weights are random, which changes no shape: memory and time of a network of this width and depth.
"""

import json
import re
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Annotated

import typer

from LTX_2_MLX import cli  # The package first: it loads the fast BLAS.

import mlx.core as mx  # isort: skip
import numpy as np
from mlx.utils import tree_flatten

from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection, LQProjectionConfig
from LTX_2_MLX.models.tae import ConditionalConfig, ConditionalDecoder
from LTX_2_MLX.models.wan.transformer import WanTransformer, WanTransformerConfig
from LTX_2_MLX.models.wan.vae import PRESETS, WanDecoder
from LTX_2_MLX.pipelines.super_resolve import Request, plan, super_resolve
from LTX_2_MLX.runtime.runner import StageRunner


def published(name: str) -> str:
    """A parameter's name as the files have it; the inverse of the networks' ``parameter_name``."""
    for ours, theirs in (
        (r"\b(text_embedding|time_embedding|ffn)\.linear_in\.", r"\1.0."),
        (r"\b(text_embedding|time_embedding|ffn)\.linear_out\.", r"\1.2."),
        (r"^time_projection\.", "time_projection.1."),
        (r"^decoder\.layers\.", "decoder.upsamples."),
        (r"\.norm1\.", ".residual.0."),
        (r"(upsamples|middle)\.(\d+)\.conv1\.", r"\1.\2.residual.2."),
        (r"(upsamples|middle)\.(\d+)\.norm2\.", r"\1.\2.residual.3."),
        (r"(upsamples|middle)\.(\d+)\.conv2\.", r"\1.\2.residual.6."),
        (r"upsamples\.(\d+)\.conv\.", r"upsamples.\1.resample.1."),
        (r"\.head_norm\.", ".head.0."),
        (r"\.head_conv\.", ".head.2."),
    ):
        name = re.sub(ours, theirs, name)
    return name


def write_network(network, target: Path, metadata: dict | None = None, rename=lambda name: name) -> None:
    """Save a network's random weights as the published file would hold them."""
    last_first = {4: (0, 3, 1, 2), 5: (0, 4, 1, 2, 3)}
    weights = {}
    for name, value in tree_flatten(network.parameters()):
        kernel = value.ndim in last_first and name.endswith("weight")
        weights[rename(name)] = mx.contiguous(value.transpose(last_first[value.ndim])) if kernel else value
    mx.save_safetensors(str(target), weights, metadata)


def write_folder(folder: Path, dim: int, layers: int, widths: int) -> None:
    """Every file of FlashVSR in the given width and depth."""
    heads = max(1, dim // 128)
    sizes = {"dim": dim, "ffn_dim": round(dim * 8960 / 1536), "text_dim": 64, "freq_dim": 256, "num_heads": heads}
    transformer = WanTransformer(WanTransformerConfig(in_dim=16, out_dim=16, num_layers=layers, **sizes))
    metadata = {"config": json.dumps({"num_heads": heads})}
    write_network(transformer, folder / "diffusion_pytorch_model_streaming_dmd.safetensors", metadata, rename=published)
    projection = LQProjection(LQProjectionConfig(widths=(widths * 4, widths * 6), token_dim=dim, num_layers=1))
    write_network(projection, folder / "LQ_proj_in.safetensors")
    decoder = ConditionalDecoder(ConditionalConfig(16, (widths, widths // 2, widths // 4, widths // 4)))
    write_network(decoder, folder / "TCDecoder.safetensors")
    write_network(WanDecoder(PRESETS["light"]), folder / "lightvaew2_1.safetensors", rename=published)
    mx.save_safetensors(str(folder / "posi_prompt.safetensors"), {"context": mx.random.normal((1, 512, 64))})


def clip(num_frames: int, height: int, width: int) -> FrameStream:
    """A clip of noise, made as it is read."""
    random = np.random.default_rng(0)
    chunks = (random.integers(0, 256, (1, height, width, 3), dtype=np.uint8) for _ in range(num_frames))
    return FrameStream(chunks=chunks, height=height, width=width, frame_rate=Fraction(24), num_frames=num_frames)


def measured(stream: FrameStream, request: Request) -> tuple[list[float], int]:
    """Seconds at which each chunk of frames came, and the largest peak of MLX's memory."""
    runner, times = StageRunner(), [time.perf_counter()]
    result = super_resolve(stream, request, runner)
    for _ in result:
        times.append(time.perf_counter())
    return [later - times[0] for later in times], max(report.peak_bytes for report in runner.reports)


def main(
    what: Annotated[str, typer.Argument(help="length, size or plan")] = "length",
    dim: Annotated[int, typer.Option(help="Width of the transformer; the published one has 1536.")] = 256,
    layers: Annotated[int, typer.Option(help="Its blocks; the published one has 30.")] = 4,
    widths: Annotated[int, typer.Option(help="Width of the decoder; the published one has 512.")] = 64,
    options: Annotated[str, typer.Option(help="More of the request, as JSON.")] = "{}",
) -> None:
    """Print a table of peaks (length, plan) or of seconds per chunk (size)."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), dim, layers, widths)
        request = Request(weights=folder, **json.loads(options))
        if what == "length":
            for frames in (25, 73, 217):
                _, peak = measured(clip(frames, 32, 48), request)
                print(f"{frames:4d} frames  peak {peak / 2**20:8.1f} MiB")
        elif what == "plan":
            for height, width in ((32, 32), (64, 96), (96, 128)):
                expected = plan(clip(29, height, width), request).peak_bytes
                _, peak = measured(clip(29, height, width), request)
                print(
                    f"{height * 4:4d} x {width * 4:4d}  planned {expected / 2**20:8.1f} MiB  "
                    f"measured {peak / 2**20:8.1f} MiB  {expected / peak - 1:+.0%}"
                )
        else:
            raise typer.BadParameter(f"{what} is not length, size or plan")


if __name__ == "__main__":
    cli.run(main)
