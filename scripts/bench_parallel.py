"""Time and memory of a denoising step on several processes beside one: ``mlx.launch -n 2 -- python scripts/…``."""

import gzip
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import LTX_2_MLX  # noqa: F401  (loads BLAS before MLX)
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.machines import joined, machines

MANIFEST = Path(__file__).parents[1] / "tests" / "manifests" / "ltx-2-19b-dev.safetensors.transformer.json.gz"
TEXT_TOKENS = 128
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def speed(
    mode: Annotated[str, typer.Argument(help="guidance, sequence or blocks.")],
    heads: Annotated[int, typer.Option(help="Heads of 128 features.")] = 12,
    layers: Annotated[int, typer.Option(help="Blocks.")] = 1,
    height: Annotated[int, typer.Option(help="Of the video.")] = 480,
    width: Annotated[int, typer.Option(help="Of the video.")] = 704,
    frames: Annotated[int, typer.Option(help="Of the video.")] = 97,
    cfg: Annotated[float, typer.Option(help="Guidance scale; above 1 a step has two passes.")] = 1.0,
    rounds: Annotated[int, typer.Option(help="Steps by one process and by all, in turns.")] = 3,
) -> None:
    """Time a step by the first process alone and by all together, in turns, and print the ratio of the medians."""
    with joined(sys.exit):
        step = Step(heads, layers, (frames, height, width), cfg)
        alone: list[float] = []
        together: list[float] = []
        step.run(mode)
        for _ in range(rounds):
            alone.append(timed(lambda: step.run(None) if launch.RANK == 0 else None))
            together.append(timed(lambda: step.run(mode)))
        if launch.RANK == 0:
            ratio = statistics.median(together) / statistics.median(alone)
            typer.echo(f"one process   {' '.join(f'{seconds:.2f}' for seconds in alone)} s")
            typer.echo(f"{machines().group.size} processes   {' '.join(f'{seconds:.2f}' for seconds in together)} s")
            typer.echo(f"{mode}, {step.num_tokens} tokens: ratio of the medians {ratio:.2f}")


@app.command()
def memory(blocks: Annotated[int, typer.Option(help="Of the published file's 48.")] = 4) -> None:
    """Print the peak of each process in one step of the published network at full width, with a few of its blocks.

    Without mlx.launch that of one process. The file has the published names and shapes, with holes for values.
    """
    if launch.RANK is None:
        typer.echo(f"one process: {peak(blocks, None) / 2**30:.2f} GiB")
        return
    with joined(sys.exit):
        peaks = machines().exchange(peak(blocks, "blocks"))
        for name, value in peaks if launch.RANK == 0 else ():
            typer.echo(f"{name}: {value / 2**30:.2f} GiB")


class Step:
    """A denoising step with stand-in weights.

    Attributes:
        num_tokens: Of the video.
    """

    def __init__(self, heads: int, layers: int, size: tuple[int, int, int], cfg: float):
        import mlx.core as mx

        from LTX_2_MLX.bench.workloads import Widths, workloads
        from LTX_2_MLX.diffusion.guidance import Guidance, both_streams, guided
        from LTX_2_MLX.diffusion.patchify import AudioClock, VideoGrid
        from LTX_2_MLX.diffusion.state import start_state
        from LTX_2_MLX.pipelines.generation.predict import predictor, shared
        from LTX_2_MLX.shapes import Compression, VideoShape

        shape = VideoShape(*size)
        widths = Widths(heads=heads, layers=layers)
        network = workloads(shape, TEXT_TOKENS, widths, mx.float32)["transformer"].build()
        mx.eval(network.parameters())
        config = network.config
        grid = VideoGrid(shape.latent(Compression(8, 32, 32)), Compression(8, 32, 32), 24)
        self.num_tokens = grid.shape.num_tokens
        tokens = mx.random.normal((1, self.num_tokens, config.video.in_channels), key=mx.random.key(0))
        length = AudioClock().num_latents(size[0], 24)
        audio = mx.random.normal((1, length, config.audio.in_channels), key=mx.random.key(1))
        self.state = {
            "video": start_state(tokens, grid.positions()),
            "audio": start_state(audio, AudioClock().positions(length)),
        }
        contexts = random_contexts(config)
        guidance = both_streams(Guidance(guidance_scale=cfg))
        self.denoise = {}
        for mode in (None, "guidance", "sequence"):
            predict = predictor(network, contexts, guidance)
            self.denoise[mode] = guided(predict if mode is None else shared(predict, mode), guidance)

    def run(self, mode: str | None) -> None:
        """One step in a mode; None: by this process alone."""
        import mlx.core as mx

        mx.eval(self.denoise[mode](self.state, 0.7, 0))


def random_contexts(config: Any) -> dict[str, Any]:
    """Contexts of two prompts for both streams."""
    import mlx.core as mx

    contexts = {}
    for prompt in ("positive", "negative"):
        for name, stream in (("video", config.video), ("audio", config.audio)):
            channels = config.caption_channels or stream.width
            contexts[f"{prompt}.{name}"] = mx.random.normal((1, TEXT_TOKENS, channels), key=mx.random.key(2))
    return contexts


def timed(work: Callable[[], object]) -> float:
    """Seconds until all processes have done their work."""
    machines().exchange(None)
    start = time.perf_counter()
    work()
    machines().exchange(None)
    return time.perf_counter() - start


def peak(blocks: int, mode: str | None) -> int:
    """Peak of MLX's memory in a step of the published network with its first blocks."""
    import mlx.core as mx

    from LTX_2_MLX.development.full_size import denoised_step, write_hollow
    from LTX_2_MLX.shapes import VideoShape

    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "few_blocks.json.gz"
        manifest.write_bytes(gzip.compress(json.dumps(first_blocks(blocks)).encode()))
        checkpoint = write_hollow(Path(folder) / "few_blocks.safetensors", manifest)
        return denoised_step(checkpoint, VideoShape(9, 64, 96), mx.bfloat16, parallel=mode or "auto")


def first_blocks(blocks: int) -> dict:
    """The published manifest with the first blocks alone."""
    spec = json.loads(gzip.decompress(MANIFEST.read_bytes()))
    tensors = {}
    for name, tensor in spec["tensors"].items():
        number = re.search(r"transformer_blocks\.(\d+)\.", name)
        if number is None or int(number[1]) < blocks:
            tensors[name] = tensor
    config = spec["metadata"]["config"]
    config = json.loads(config) if isinstance(config, str) else config
    config["transformer"]["num_layers"] = blocks
    return {"tensors": tensors, "metadata": {"config": config}}


if __name__ == "__main__":
    app()
