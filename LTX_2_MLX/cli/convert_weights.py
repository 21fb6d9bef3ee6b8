"""Convert a checkpoint to .safetensors: container, precision and quantization change, names never do."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from LTX_2_MLX.cli.command import check_existing, command
from LTX_2_MLX.cli.echo import echo
from LTX_2_MLX.pipelines.options import Opt

DtypeName = Literal["float32", "float16", "bfloat16"]
_GROUP_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Options of the command."""

    file: Annotated[
        Path,
        Opt(
            "File of torch.save or of ncnn (.param), .safetensors, or a folder of shards.",
            positional=True,
            is_file=True,
        ),
    ]
    output: Annotated[
        Path | None,
        Opt(
            "File to write.",
            flags=("--output", "-o"),
            metavar="FILE",
            default="beside FILE, ending in .safetensors",
            is_output=True,
        ),
    ] = None
    dtype: Annotated[DtypeName | None, Opt("Precision of floating-point tensors.", default="unchanged")] = None
    quantize: Annotated[
        int | None, Opt("Bits of the large layers: 8 or 4.", flags=("--quantize", "-q"), metavar="BITS")
    ] = None
    group_size: Annotated[int, Opt("Weights that share a scale: 32, 64 or 128.", needs=("quantize",))] = _GROUP_SIZE
    yes: Annotated[bool, Opt("Answer every question with yes.", flags=("--yes", "-y"), only_on=True)] = False


def convert_weights(own: ConvertOptions) -> None:
    """Write FILE as .safetensors. Nothing in a pickled file is ever executed."""
    from LTX_2_MLX.checkpoints.convert import DTYPES, check_replaceable, convert
    from LTX_2_MLX.checkpoints.quantization import Quantization
    from LTX_2_MLX.files import check_writable

    target = own.output or path_beside(own.file, own.dtype, own.quantize)
    check_writable(target, own.file)
    if own.output is None:
        check_replaceable(target)
    check_existing(target, yes=own.yes)
    written = convert(
        own.file,
        target,
        dtype=DTYPES[own.dtype] if own.dtype else None,
        quantize=None if own.quantize is None else Quantization(own.quantize, own.group_size),
    )
    echo(f"{written}: {written.stat().st_size / 1e6:.1f} MB" if written.is_file() else str(written))


def path_beside(file: Path, dtype: str | None, quantize: int | None) -> Path:
    """A name that says what was changed: flownet.pkl.safetensors, model-bfloat16.safetensors, model-8bit."""
    from LTX_2_MLX.checkpoints.ncnn_file import NCNN_SUFFIX
    from LTX_2_MLX.checkpoints.resolve import TORCH_SUFFIXES

    changes = "".join(f"-{change}" for change in (dtype, quantize and f"{quantize}bit") if change)
    if file.is_dir():
        return file.with_name(f"{file.name}{changes or '-joined'}{'' if quantize else '.safetensors'}")
    stem = file.name if file.suffix in (*TORCH_SUFFIXES, NCNN_SUFFIX) else file.stem
    return file.with_name(f"{stem}{changes}.safetensors")


main = command("convert_weights", convert_weights, ConvertOptions)
