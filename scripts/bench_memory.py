"""Measure what plans say of memory, quantised weights' errors, and a full-size transformer with its blocks on disk."""

import gzip
import json
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from LTX_2_MLX import cli
from LTX_2_MLX.development.decoder_memory import peak_lines, shallow_decoder
from LTX_2_MLX.development.full_size import (
    five_sizes,
    prediction_lines,
    streamed_step,
    write_hollow,
    write_hollow_model,
    write_hollow_split_model,
)
from LTX_2_MLX.development.memory_table import MACS, PRESETS, RENDERINGS, table_lines
from LTX_2_MLX.development.quantized import error_lines
from LTX_2_MLX.media.image import StillImage, write_image
from LTX_2_MLX.pipelines.generate import Options
from LTX_2_MLX.shapes import VideoShape
from LTX_2_MLX.verify import find_cases

TESTS = Path(__file__).parents[1] / "tests"
DECODER_MANIFEST = "ltx-2.5-video-vae-bf16.safetensors.json.gz"
DEMO = Path(__file__).parents[1] / "weights" / "demo"
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def quantization(
    cases: Annotated[Path, typer.Argument(help="Folder with golden cases.")] = TESTS / "goldens" / "ltx2",
) -> None:
    """Print how far quantised transformers are from the reference, for every golden case of the transformer."""
    with cli.exit_codes():
        for line in error_lines(path for path in find_cases([cases]) if path.name.startswith("transformer_")):
            print(line, flush=True)


@app.command()
def table(
    macs: Annotated[list[int] | None, typer.Option("--mac", help="GiB of a Mac; repeatable.")] = None,
    model: Annotated[str, typer.Option("--model", help="Of that model alone: LTX-2 19B or LTX-2.5.")] = "",
) -> None:
    """Print what runs of LTX-2 19B and of LTX-2.5 take on Macs of several sizes, by the plan that every run makes."""
    tokenizer = DEMO / "gemma" / "tokenizer.json"
    models = (
        ("LTX-2 19B", write_hollow_model, [PRESETS]),
        ("LTX-2.5", write_hollow_split_model, [PRESETS, RENDERINGS]),
    )
    for name, write, tables in models:
        if model not in ("", name):
            continue
        print(f"\n{name} distilled in bfloat16:\n", flush=True)
        with cli.exit_codes(), tempfile.TemporaryDirectory() as folder:
            files = write(TESTS / "manifests", tokenizer, Path(folder))
            for presets in tables:
                for line in table_lines(files, macs or MACS, presets):
                    print(line, flush=True)
                print()


@app.command()
def prediction(
    height: Annotated[int, typer.Option("--height", help="Pixels of stage 1, of the smallest video.")] = 64,
    width: Annotated[int, typer.Option("--width", help="Pixels.")] = 96,
    frames: Annotated[int, typer.Option("--frames", help="8k + 1.")] = 9,
    weights: cli.option(Options, "weights") = Options.weights,
    spatial_upscaler_weights: cli.option(Options, "spatial_upscaler_weights") = Options.spatial_upscaler_weights,
    temporal_weights: cli.option(Options, "temporal_weights") = Options.temporal_weights,
    distilled_lora: cli.option(Options, "distilled_lora") = Options.distilled_lora,
    gemma: cli.option(Options, "gemma") = Options.gemma,
    quantize: cli.option(Options, "quantize") = None,
    low_ram: cli.option(Options, "low_ram") = False,
) -> None:
    """Print the predicted and the measured peak of every stage of two-stage videos at five sizes."""
    given = {name: value for name, value in locals().items() if name in Options.__dataclass_fields__}
    with cli.exit_codes(), tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "first.png"
        write_image(StillImage(np.random.default_rng(0).integers(0, 255, (120, 180, 3)).astype(np.uint8)), image)
        usual = Options("a red ball", **given, image=image, temporal_upscale=True, steps_stage1=1, steps_stage2=1)
        for line in prediction_lines(usual, five_sizes(VideoShape(frames, height, width))):
            print(line, flush=True)


@app.command()
def decoder(
    height: Annotated[int, typer.Option("--height", help="Pixels of the smallest video.")] = 256,
    width: Annotated[int, typer.Option("--width", help="Pixels.")] = 256,
    frames: Annotated[int, typer.Option("--frames", help="8k + 1.")] = 17,
    sizes: Annotated[int, typer.Option("--sizes", help="How many sizes, up to five.")] = 5,
    limit: Annotated[float, typer.Option("--limit", help="GiB beside the weights.")] = 8.0,
) -> None:
    """Print the planned and the measured peak of LTX-2.5's diffusion decoder in its true widths, a block per stage."""
    manifest = json.loads(gzip.decompress((TESTS / "manifests" / DECODER_MANIFEST).read_bytes()))
    with cli.exit_codes():
        network = shallow_decoder(manifest["metadata"]["config"])
        videos = five_sizes(VideoShape(frames, height, width))[:sizes]
        for line in peak_lines(network, videos, budget=int(limit * 2**30)):
            print(line, flush=True)


@app.command()
def streaming(
    manifest: Annotated[Path, typer.Option("--manifest", help="Names and shapes of a published file.")] = TESTS
    / "manifests"
    / "ltx-2-19b-dev.safetensors.transformer.json.gz",
    height: Annotated[int, typer.Option("--height", help="Pixels.")] = 64,
    width: Annotated[int, typer.Option("--width", help="Pixels.")] = 64,
    frames: Annotated[int, typer.Option("--frames", help="8k + 1.")] = 1,
) -> None:
    """Run one denoising step at the true size of the weights, blocks streamed from a file of holes."""
    with cli.exit_codes(), tempfile.TemporaryDirectory() as folder:
        checkpoint = write_hollow(Path(folder) / "hollow.safetensors", manifest)
        step = streamed_step(checkpoint, VideoShape(frames, height, width))
    print("\n".join(step.lines()))


if __name__ == "__main__":
    app()
