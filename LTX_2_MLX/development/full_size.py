"""A published checkpoint's names and shapes without its values, to see what full size takes."""

import gzip
import json
import math
import re
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx

from LTX_2_MLX.checkpoints.load import config_of, weights_bytes
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion.state import VideoGrid
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.pipelines.generate import generate_video, prepare
from LTX_2_MLX.pipelines.generation.denoise import Denoise
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.runtime.this_machine import memory_limits, peak_process_bytes
from LTX_2_MLX.shapes import Compression, VideoShape

_ITEM_BYTES = {"U8": 1, "F8_E4M3": 1, "F16": 2, "BF16": 2, "F32": 4}
# What torch calls the types in the manifests of its own files.
_SAFETENSORS_NAMES = {"float32": "F32", "bfloat16": "BF16"}
_COMPRESSION = Compression(8, 32, 32)
_TEXT_TOKENS = 8


def write_hollow(
    path: Path, *manifests: Path, with_config: bool = True, contents: Mapping[str, bytes] | None = None
) -> Checkpoint:
    """A file with every tensor that manifests list. Its values are holes: they read as 0 and take no disk.

    Args:
        path: Where to; the disk's file system must know sparse files.
        *manifests: ``.json.gz`` with ``tensors`` (name: shape and dtype) and ``metadata``.
        with_config: Whether the published file has the manifest's config in it.
        contents: Bytes of the tensors that have some, such as a tokenizer's, instead of those listed.
    """
    filled = contents or {}
    header: dict[str, Any] = {}
    config: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    end = 0
    for manifest in manifests:
        spec = json.loads(gzip.decompress(manifest.read_bytes()))
        given = spec["metadata"].pop("config", {})
        for name, value in spec["metadata"].items():
            metadata[name] = value if isinstance(value, str) else json.dumps(value)
        config |= json.loads(given) if isinstance(given, str) else given
        for name, (shape, given_dtype) in spec["tensors"].items():
            dtype = _SAFETENSORS_NAMES.get(given_dtype, given_dtype)
            shape = [len(filled[name])] if name in filled else shape
            start, end = end, end + math.prod(shape) * _ITEM_BYTES[dtype]
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    config = config if with_config else {}
    text = json.dumps({"__metadata__": metadata | {"config": json.dumps(config)}, **header}).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, data in filled.items():
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write(data)
        file.truncate(8 + len(text) + end)
    return Checkpoint(path)


def write_hollow_model(manifests: Path, tokenizer: Path, folder: Path) -> dict[str, str]:
    """The files of LTX-2 19B distilled at full size, hollow; the options of a run that name them.

    Args:
        manifests: Folder with the manifests of the published files.
        tokenizer: ``tokenizer.json`` that stands in for the text encoder's own.
        folder: Where to.
    """
    gemma = folder / "gemma"
    gemma.mkdir()
    spec = manifests / "gemma-3-12b-it.json.gz"
    write_hollow(gemma / "model.safetensors", spec)
    config = json.loads(gzip.decompress(spec.read_bytes()))["metadata"]["config"]
    (gemma / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (gemma / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    name = "ltx-2-19b-distilled.safetensors"
    parts = (manifests / f"{name}.{part}.json.gz" for part in ("transformer", "vae"))
    files = {"gemma": gemma, "weights": write_hollow(folder / name, *parts).path}
    for option, kind in (("spatial_upscaler_weights", "spatial"), ("temporal_weights", "temporal")):
        name = f"ltx-2-{kind}-upscaler-x2-1.0.safetensors"
        files[option] = write_hollow(folder / name, manifests / f"{name}.json.gz").path
    return {option: str(path) for option, path in files.items()}


# The options of LTX-2.5 distilled and the published files that they name.
_SPLIT_FILES = {
    "weights": "ltx-2.5-22b-distilled-transformer-bf16",
    "gemma": "gemma4-12b-with-proj-ltx-2.5-bf16",
    "video_vae": "ltx-2.5-video-vae-conv-bf16",
    "audio_vae": "ltx-2.5-audio-vae-bf16",
    "spatial_upscaler_weights": "ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0",
    "temporal_weights": "ltx-2.5-latent-temporal-upscaler-x2-bf16-1.0",
}


def write_hollow_split_model(manifests: Path, tokenizer: Path, folder: Path) -> dict[str, str]:
    """The files of LTX-2.5 distilled at full size, hollow; arguments and result as of ``write_hollow_model``."""
    files = {}
    for option, name in _SPLIT_FILES.items():
        contents = {"tokenizer_json": tokenizer.read_bytes()} if option == "gemma" else None
        if contents is not None:
            contents["hf_asset__tokenizer_config.json"] = b"{}"
        path = folder / f"{name}.safetensors"
        files[option] = str(write_hollow(path, manifests / f"{path.name}.json.gz", contents=contents).path)
    return files


@dataclass(frozen=True)
class StreamedStep:
    """What one streamed denoising step took.

    Attributes:
        resident_bytes: Weights of the transformer, were it held whole.
        peak_bytes: Peak of MLX's memory in the stage.
        process_bytes: Peak of the process.
        seconds: Of the stage.
    """

    resident_bytes: int
    peak_bytes: int
    process_bytes: int
    seconds: float

    def lines(self) -> list[str]:
        """What to print of it."""
        gib = 2**30
        share = self.resident_bytes / self.peak_bytes
        return [
            f"weights if resident  {self.resident_bytes / gib:6.2f} GiB",
            f"peak of the stage    {self.peak_bytes / gib:6.2f} GiB, 1/{share:.1f} of them",
            f"peak of the process  {self.process_bytes / gib:6.2f} GiB",
            f"seconds              {self.seconds:6.1f}",
        ]


def streamed_step(checkpoint: Checkpoint, shape: VideoShape, dtype: mx.Dtype = mx.bfloat16) -> StreamedStep:
    """Denoise one step with the transformer's blocks left on disk, by the stage that pipelines use."""
    start = time.perf_counter()
    peak_bytes = denoised_step(checkpoint, shape, dtype, low_ram=True)
    return StreamedStep(
        resident_bytes=weights_bytes(Transformer, checkpoint, dtype=dtype),
        peak_bytes=peak_bytes,
        process_bytes=peak_process_bytes(),
        seconds=time.perf_counter() - start,
    )


def models_of_file(checkpoint: Checkpoint, **settings: Any) -> Models:
    """A run's models, all in one file, without a text encoder."""
    return Models(
        checkpoint,
        video_vae=checkpoint,
        audio_vae=checkpoint,
        text_features=checkpoint,
        text_encoder=None,
        **settings,
    )


def denoised_step(checkpoint: Checkpoint, shape: VideoShape, dtype: mx.Dtype, **settings: Any) -> int:
    """Peak of MLX's memory in one step of the stage that pipelines use; ``settings`` are those of its ``Models``."""
    runner = StageRunner()
    config = config_of(Transformer, checkpoint)
    contexts = {"positive.video": mx.zeros((1, _TEXT_TOKENS, config.caption_channels or config.video.width))}
    if config.audio is not None:
        contexts["positive.audio"] = mx.zeros((1, _TEXT_TOKENS, config.caption_channels or config.audio.width))
    models = models_of_file(checkpoint, distilled=True, dtype=dtype, **settings)
    grid = VideoGrid(shape.latent(_COMPRESSION), _COMPRESSION, 24.0)
    stage = Denoise("denoise", models, grid, sigmas=(1.0, 0.0), context_size=(1, _TEXT_TOKENS))
    stage.run(runner, GenerationState(contexts=contexts))
    return runner.reports[0].peak_bytes


def predicted_and_measured(options: Options) -> list[tuple[str, int, int]]:
    """Each stage's name, planned peak and measured peak in bytes."""
    prepared, runner = prepare(replace(options, cache=False)), StageRunner()
    with memory_limits():
        for _ in generate_video(prepared.request, runner, prepared.options):
            pass
    measured = {report.name: report.peak_bytes for report in runner.reports}
    return [(stage.name, stage.peak_bytes, measured[stage.name]) for stage in prepared.plan.stages]


def five_sizes(smallest: VideoShape) -> list[VideoShape]:
    """The smallest video and four that grow from it in height, width and length."""
    sizes = []
    for half_heights, half_widths, lengths in ((2, 2, 1), (3, 2, 3), (3, 4, 2), (4, 3, 4), (5, 4, 3)):
        num_frames = (smallest.num_frames - 1) * lengths + 1
        sizes.append(VideoShape(num_frames, smallest.height * half_heights // 2, smallest.width * half_widths // 2))
    return sizes


def prediction_lines(options: Options, sizes: Iterable[VideoShape]) -> Iterator[str]:
    """A Markdown table of each stage's planned and measured peak, for videos of these sizes in stage 1."""
    yield "| stage 1 | stage | predicted, MiB | measured, MiB | ratio |"
    yield "|---|---|---|---|---|"
    for size in sizes:
        sized = replace(options, height=size.height, width=size.width, frames=size.num_frames)
        for name, expected, measured in predicted_and_measured(sized):
            yield (
                f"| {size.height}×{size.width}×{size.num_frames} | {name} | {expected / 2**20:.1f} | "
                f"{measured / 2**20:.1f} | {expected / measured:.3f} |"
            )


def first_blocks(manifest: Path, blocks: int) -> dict[str, Any]:
    """The manifest of a published transformer with its first blocks alone."""
    spec = json.loads(gzip.decompress(manifest.read_bytes()))
    tensors = {}
    for name, tensor in spec["tensors"].items():
        number = re.search(r"transformer_blocks\.(\d+)\.", name)
        if number is None or int(number[1]) < blocks:
            tensors[name] = tensor
    config = spec["metadata"]["config"]
    config = json.loads(config) if isinstance(config, str) else config
    config["transformer"]["num_layers"] = blocks
    return {"tensors": tensors, "metadata": {"config": config}}
