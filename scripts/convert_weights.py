"""Turn a checkpoint into .safetensors: container, precision and quantisation change, names never do."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from LTX_2_MLX import cli
from LTX_2_MLX.checkpoints.convert import DTYPES, convert
from LTX_2_MLX.checkpoints.quantize import Quantization
from LTX_2_MLX.checkpoints.torch_file import TORCH_SUFFIXES
from LTX_2_MLX.errors import RequestError

Precision = StrEnum("Precision", list(DTYPES))


def main(
    file: Annotated[Path, typer.Argument(help=f"{', '.join(TORCH_SUFFIXES)}, .safetensors, or a folder of shards.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Default: beside FILE, ending in .safetensors.")
    ] = None,
    dtype: Annotated[Precision | None, typer.Option("--dtype", help="Precision of floating-point tensors.")] = None,
    quantize: Annotated[int | None, typer.Option("--quantize", "-q", help="Bits of the large layers: 8 or 4.")] = None,
    group_size: Annotated[
        int, typer.Option("--group-size", help="Weights that share a scale: 32, 64, 128.")
    ] = Quantization.group_size,
) -> None:
    """Write FILE as .safetensors. Nothing in a pickled file is ever executed."""
    if quantize is None and group_size != Quantization.group_size:
        raise RequestError("--group-size does nothing without --quantize. Pass both.")
    target = output or beside(file, dtype, quantize)
    cli.check_output(target, file)
    written = convert(
        file,
        target,
        dtype=DTYPES[dtype] if dtype else None,
        quantize=Quantization(quantize, group_size) if quantize is not None else None,
    )
    typer.echo(f"{written}: {written.stat().st_size / 1e6:.1f} MB" if written.is_file() else str(written))


def beside(file: Path, dtype: Precision | None, quantize: int | None) -> Path:
    """A name that tells what was changed: flownet.pkl.safetensors, model-bfloat16.safetensors, model-8bit."""
    changes = "".join(f"-{change}" for change in (dtype, quantize and f"{quantize}bit") if change)
    if file.is_dir():
        return file.with_name(f"{file.name}{changes or '-joined'}{'' if quantize else '.safetensors'}")
    stem = file.name if file.suffix in TORCH_SUFFIXES else file.stem
    return file.with_name(f"{stem}{changes}.safetensors")


if __name__ == "__main__":
    cli.run(main)
