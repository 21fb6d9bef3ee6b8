"""Measure what plans say of memory, quantised weights' errors, and a full-size transformer with its blocks on disk."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from LTX_2_MLX import cli
from LTX_2_MLX.media.image import Picture, write_image
from LTX_2_MLX.pipelines.generate import Options, film, prepare
from LTX_2_MLX.runtime.memory import memory_limits
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.shapes import VideoShape
from LTX_2_MLX.verify import find_cases
from LTX_2_MLX.verify.full_size import streamed_step, write_hollow
from LTX_2_MLX.verify.quantized import ERROR_BAND, MID_SIZE_BAND, golden_errors, mid_size_error

TESTS = Path(__file__).parents[1] / "tests"
# Half heights, half widths and lengths of the five films, in those of the smallest.
SIZES = ((2, 2, 1), (3, 2, 3), (3, 4, 2), (4, 3, 4), (5, 4, 3))
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def quantization(
    cases: Annotated[Path, typer.Argument(help="Folder with golden cases.")] = TESTS / "goldens" / "ltx2",
) -> None:
    """Print how far quantised transformers are from the reference, for every golden case of the transformer."""
    with cli.exit_codes():
        print("| case | bits | layers quantised | worst output | a wider network |\n|---|---|---|---|---|")
        for path in find_cases([cases]):
            if not path.name.startswith("transformer_"):
                continue
            for bits in sorted(ERROR_BAND, reverse=True):
                errors, share = golden_errors(path, bits)
                wider, _ = mid_size_error(path, bits)
                print(f"| {path.name} | {bits} | {share} | {max(errors.values()):.2%} | {wider:.2%} |")
        for bits in sorted(ERROR_BAND, reverse=True):
            print(f"Band at {bits} bits: {ERROR_BAND[bits]:.1%} at the cases, {MID_SIZE_BAND[bits]:.1%} when wider.")


@app.command()
def prediction(
    height: Annotated[int, typer.Option("--height", help="Pixels of stage 1, of the smallest film.")] = 64,
    width: Annotated[int, typer.Option("--width", help="Pixels.")] = 96,
    frames: Annotated[int, typer.Option("--frames", help="8k + 1.")] = 9,
    weights: cli.Weights = Options.weights,
    spatial_upscaler_weights: cli.SpatialUpscalerWeights = Options.spatial_upscaler_weights,
    temporal_weights: cli.TemporalWeights = Options.temporal_weights,
    distilled_lora: cli.DistilledLora = Options.distilled_lora,
    gemma: cli.Gemma = Options.gemma,
    quantize: cli.Quantize = None,
    low_ram: cli.LowRam = False,
) -> None:
    """Print the predicted and the measured peak of every stage of two-stage films at five sizes."""
    given = {name: value for name, value in locals().items() if name in Options.__dataclass_fields__}
    with cli.exit_codes(), tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.png"
        write_image(Picture(np.random.default_rng(0).integers(0, 255, (120, 180, 3)).astype(np.uint8)), picture)
        usual = Options("a red ball", **given, image=picture, temporal_upscale=True, steps_stage1=1, steps_stage2=1)
        print("| stage 1 | stage | predicted, MiB | measured, MiB | ratio |\n|---|---|---|---|---|")
        for tall, wide, longer in SIZES:
            size = {"height": height * tall // 2, "width": width * wide // 2, "frames": (frames - 1) * longer + 1}
            for name, expected, measured in predicted_and_measured(replace(usual, **size)):
                print(
                    f"| {'×'.join(map(str, size.values()))} | {name} | {expected / 2**20:.1f} | "
                    f"{measured / 2**20:.1f} | {expected / measured:.3f} |"
                )


def predicted_and_measured(options: Options) -> list[tuple[str, int, int]]:
    """Each stage's name, planned peak and measured peak in bytes."""
    prepared, runner = prepare(options), StageRunner()
    with memory_limits():
        for _ in film(prepared.request, runner, prepared.options):
            pass
    measured = {report.name: report.peak_bytes for report in runner.reports}
    return [(stage.name, stage.peak_bytes, measured[stage.name]) for stage in prepared.plan.stages]


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
        checkpoint = write_hollow(manifest, Path(folder) / "hollow.safetensors")
        step = streamed_step(checkpoint, VideoShape(frames, height, width))
    gib = 2**30
    print(f"weights if resident  {step.resident_bytes / gib:6.2f} GiB")
    print(
        f"peak of the stage    {step.peak_bytes / gib:6.2f} GiB, 1/{step.resident_bytes / step.peak_bytes:.1f} of them"
    )
    print(f"peak of the process  {step.process_bytes / gib:6.2f} GiB")
    print(f"seconds              {step.seconds:6.1f}")


if __name__ == "__main__":
    app()
