"""Measure FlashVSR's memory and time with networks of stand-in weights.

Weights are random, which changes no shape: memory and time of a network of this width and depth. Seconds are those of
the processor where networks run on it, so that other programs do not count, and of the clock on a GPU.
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
from LTX_2_MLX.models.flashvsr import transformer
from LTX_2_MLX.models.flashvsr.block_attention import FORMS, Sparsity, attend, locality, pool, select, topk_ratio
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection, LQProjectionConfig
from LTX_2_MLX.models.flashvsr.transformer import TransformerStream
from LTX_2_MLX.models.tae import ConditionalConfig, ConditionalDecoder
from LTX_2_MLX.models.wan.transformer import WanTransformer, WanTransformerConfig
from LTX_2_MLX.models.wan.vae import PRESETS, WanDecoder
from LTX_2_MLX.pipelines.super_resolve import Request, plan, super_resolve
from LTX_2_MLX.runtime.runner import StageRunner

# 480p, 720p and 1080p films in whole windows: height and width.
SIZES = ((512, 896), (768, 1280), (1152, 1920))


def seconds() -> float:
    """The time by which things are measured on the default device."""
    return time.process_time() if mx.default_device() == mx.cpu else time.perf_counter()


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


def form_seconds(height: int, width: int, sparse_ratio: float) -> tuple[float, dict[str, float]]:
    """Share of pairs kept by one head of 128 in a later chunk, and seconds of each form of attention over them."""
    rows, columns = height // 128, width // 128
    tokens = 128 * rows * columns
    queries, keys, values = (mx.random.normal((1, count * tokens, 128)) for count in (1, 4, 4))
    sparsity = Sparsity("block", topk_ratio(sparse_ratio, height, width), 11)
    mask = select(pool(queries, 128), pool(keys, 128), locality(rows, columns, 11), sparsity)
    mx.eval(queries, keys, values)
    taken = {}
    for form in FORMS:
        start = seconds()
        mx.eval(attend(queries, keys, values, mask, form))
        taken[form] = seconds() - start
    return float(mask.mean()), taken


def chunk_cost(dim: int, layers: int, height: int, width: int) -> tuple[float, float, int]:
    """Seconds of one later chunk in the transformer, and in its attention alone; pairs of windows that stay."""
    sizes = {"dim": dim, "ffn_dim": round(dim * 8960 / 1536), "text_dim": 64, "freq_dim": 256, "num_heads": dim // 128}
    network = WanTransformer(WanTransformerConfig(in_dim=16, out_dim=16, num_layers=layers, **sizes))
    pairs: list[int] = []
    sparsity = Sparsity("block", topk_ratio(2.0, height, width), 11)
    stream = TransformerStream(network, mx.random.normal((512, 64)), sparsity, 3, lambda mask: pairs.append(mask.sum()))
    attention = 0.0

    def timed(*arguments):
        nonlocal attention
        mx.eval(arguments[:3])
        start = seconds()
        result = attend(*arguments)
        mx.eval(result)
        attention += seconds() - start
        return result

    transformer.attend = timed
    for frames in (6, 2, 2):
        noise = mx.random.normal((1, frames, height // 8, width // 8, 16))
        mx.eval(noise)
        pairs.clear()
        attention, start = 0.0, seconds()
        mx.eval(stream.step(noise, []))
        whole = seconds() - start
    transformer.attend = attend
    return whole, attention, int(sum(pairs))


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


def print_sizes(dim: int, layers: int) -> None:
    """What a later chunk costs in the transformer, and how that grows against the pairs of windows that stay."""
    smallest = None
    for height, width in SIZES:
        whole, attention, pairs = chunk_cost(dim, layers, height, width)
        smallest = smallest or (pairs, whole, attention)
        growth = [now / then for now, then in zip((pairs, whole, attention), smallest, strict=True)]
        print(
            f"{height:4d} x {width:4d}  pairs kept {pairs:6d} (x {growth[0]:.2f})  chunk {whole:6.2f} s "
            f"(x {growth[1]:.2f})  its attention {attention:6.2f} s (x {growth[2]:.2f})",
            flush=True,
        )


def print_forms(sparse_ratio: float) -> None:
    """What each form of attention costs by size."""
    for height, width in SIZES:
        share, taken = form_seconds(height, width, sparse_ratio)
        columns = "  ".join(f"{form} {value:6.2f} s" for form, value in taken.items())
        print(f"{height:4d} x {width:4d}  kept {share:4.0%}  {columns}", flush=True)


def main(
    what: Annotated[str, typer.Argument(help="length, plan, size or forms")] = "length",
    dim: Annotated[int, typer.Option(help="Width of the transformer; the published one has 1536.")] = 256,
    layers: Annotated[int, typer.Option(help="Its blocks; the published one has 30.")] = 4,
    widths: Annotated[int, typer.Option(help="Width of the decoder; the published one has 512.")] = 64,
    options: Annotated[str, typer.Option(help="More of the request, as JSON.")] = "{}",
) -> None:
    """Print a table of peaks (length, plan) or of seconds (size, forms)."""
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), dim, layers, widths)
        request = Request(weights=folder, **json.loads(options))
        tables = {
            "length": lambda: print_lengths(request),
            "plan": lambda: print_plans(request),
            "size": lambda: print_sizes(dim, layers),
            "forms": lambda: print_forms(request.sparse_ratio),
        }
        if what not in tables:
            raise typer.BadParameter(f"{what} is not {', '.join(tables)}")
        tables[what]()


if __name__ == "__main__":
    cli.run(main)
