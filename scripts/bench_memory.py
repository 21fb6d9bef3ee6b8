"""Measure what saves memory: quantised weights' errors, and a full-size transformer with its blocks on disk."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from LTX_2_MLX import cli
from LTX_2_MLX.shapes import VideoShape
from LTX_2_MLX.verify import find_cases
from LTX_2_MLX.verify.full_size import streamed_step, write_hollow
from LTX_2_MLX.verify.quantized import ERROR_BAND, MID_SIZE_BAND, golden_errors, mid_size_error

TESTS = Path(__file__).parents[1] / "tests"
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
