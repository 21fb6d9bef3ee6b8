"""Measure FlashVSR's memory, and its plan's, with networks of stand-in weights.

Weights are random, which changes no shape: it is the memory of networks of this width and depth.
"""

import json
import re
import tempfile
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
    network = WanTransformer(WanTransformerConfig(in_dim=16, out_dim=16, num_layers=layers, **sizes))
    metadata = {"config": json.dumps({"num_heads": heads})}
    write_network(network, folder / "diffusion_pytorch_model_streaming_dmd.safetensors", metadata, rename=published)
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


def measured(stream: FrameStream, request: Request) -> int:
    """The largest peak of MLX's memory."""
    runner = StageRunner()
    for _ in super_resolve(stream, request, runner):
        pass
    return max(report.peak_bytes for report in runner.reports)


def print_lengths(request: Request) -> None:
    """Peaks of clips that differ in length alone."""
    for frames in (25, 73, 217):
        print(f"{frames:4d} frames  peak {measured(clip(frames, 32, 48), request) / 2**20:8.1f} MiB", flush=True)


def print_plans(request: Request) -> None:
    """Planned and measured peaks of pictures of three sizes."""
    for height, width in ((32, 32), (64, 96), (96, 128)):
        expected = plan(clip(29, height, width), request).peak_bytes
        peak = measured(clip(29, height, width), request)
        print(
            f"{height * request.scale:4g} x {width * request.scale:4g}  planned {expected / 2**20:8.1f} MiB  "
            f"measured {peak / 2**20:8.1f} MiB  {expected / peak - 1:+.0%}",
            flush=True,
        )


def main(
    what: Annotated[str, typer.Argument(help="length or plan")] = "length",
    dim: Annotated[int, typer.Option(help="Width of the transformer; the published one has 1536.")] = 256,
    layers: Annotated[int, typer.Option(help="Its blocks; the published one has 30.")] = 4,
    widths: Annotated[int, typer.Option(help="Width of the decoder; the published one has 512.")] = 64,
    options: Annotated[str, typer.Option(help="More of the request, as JSON.")] = "{}",
) -> None:
    """Print peaks by the clip's length, or planned beside measured ones."""
    tables = {"length": print_lengths, "plan": print_plans}
    if what not in tables:
        raise typer.BadParameter(f"{what} is not {' or '.join(tables)}")
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), dim, layers, widths)
        tables[what](Request(weights=folder, **json.loads(options)))


if __name__ == "__main__":
    cli.run(main)
