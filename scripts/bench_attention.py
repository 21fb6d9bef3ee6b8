"""Measure FlashVSR's block-sparse attention: its exact forms, and the cost of a chunk as frames grow.

Weights are random, which changes no shape. Seconds are those of the processor where networks run on it, so that other
programs do not count, and of the clock on a GPU.
"""

import time
from typing import Annotated

import typer

from LTX_2_MLX import cli  # The package first: it loads the fast BLAS.

import mlx.core as mx  # isort: skip

from LTX_2_MLX.bench.flashvsr import stand_in_transformer
from LTX_2_MLX.models.flashvsr import transformer
from LTX_2_MLX.models.flashvsr.block_attention import FORMS, Sparsity, attend, locality, pool, select, topk_ratio
from LTX_2_MLX.models.flashvsr.transformer import TransformerStream

# 480p, 720p and 1080p videos in whole windows: height and width.
SIZES = ((512, 896), (768, 1280), (1152, 1920))


def seconds() -> float:
    """The time by which things are measured on the default device."""
    return time.process_time() if mx.default_device() == mx.cpu else time.perf_counter()


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


def chunk_cost(dim: int, layers: int, height: int, width: int, sparse_ratio: float) -> tuple[float, float, int]:
    """Seconds of one later chunk in the transformer, and in its attention alone; pairs of windows that stay."""
    network = stand_in_transformer(dim, layers)
    pairs: list[int] = []
    sparsity = Sparsity("block", topk_ratio(sparse_ratio, height, width), 11)
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


def print_sizes(dim: int, layers: int, sparse_ratio: float) -> None:
    """What a later chunk costs in the transformer, and how that grows against the pairs of windows that stay."""
    smallest = None
    for height, width in SIZES:
        whole, attention, pairs = chunk_cost(dim, layers, height, width, sparse_ratio)
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
    what: Annotated[str, typer.Argument(help="forms or size")] = "forms",
    dim: Annotated[int, typer.Option(help="Width of the transformer; the published one has 1536.")] = 256,
    layers: Annotated[int, typer.Option(help="Its blocks; the published one has 30.")] = 4,
    sparse_ratio: Annotated[float, typer.Option(help="How much attention keeps.")] = 2.0,
) -> None:
    """Print seconds of each form of attention, or of a later chunk, by the size of the frames."""
    if what == "forms":
        print_forms(sparse_ratio)
    elif what == "size":
        print_sizes(dim, layers, sparse_ratio)
    else:
        raise typer.BadParameter(f"{what} is not forms or size")


if __name__ == "__main__":
    cli.run(main)
