"""Real-ESRGAN's golden cases: both networks, mixed checkpoints, procedures, pickled files."""

import dataclasses
import re

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.convert import convert
from LTX_2_MLX.checkpoints.load import load, network_weights, recognise
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.media.frames import to_unit
from LTX_2_MLX.models.srvgg import SRVGG
from LTX_2_MLX.ops.context_tiles import pad_reflected
from LTX_2_MLX.ops.resize import Kernel, resize
from LTX_2_MLX.pipelines.upscale import NETWORKS, Network, Tiles, enlarge, load_mixed, luma, upscale_pixels
from LTX_2_MLX.verify import Outputs, component
from LTX_2_MLX.verify.case import Case


def _last(array: np.ndarray) -> mx.array:
    return mx.array(array.transpose(0, 2, 3, 1))


def _first(array: mx.array) -> np.ndarray:
    return np.array(array.transpose(0, 3, 1, 2))


@component("esrgan/srvgg")
@component("esrgan/rrdbnet")
def network(case: Case) -> Outputs:
    """The bare network, recognised from the file."""
    return {"y": _first(load(NETWORKS, case.checkpoint())(_last(case.io["input.x"])))}


@component("esrgan/denoise_strength")
def denoise_strength(case: Case) -> Outputs:
    """Two checkpoints mixed; the weak one has the general one's seed and 1000 more."""
    weak = dataclasses.replace(case, spec={**case.spec, "seed": case.spec["seed"] + 1000})
    files = [Checkpoint(c.write_checkpoint(f"{c.spec['seed']}.safetensors")) for c in (case, weak)]
    kind, _ = recognise(NETWORKS, files[0])
    outputs = {}
    for name in case.outputs():
        mixed = load_mixed(kind, *files, int(name.removeprefix("strength_")) / 100, mx.float32)
        outputs[name] = _first(mixed(_last(case.io["input.x"])))
    return outputs


@component("esrgan/procedure")
def procedure(case: Case) -> Outputs:
    """Frames at several scales, whole and in tiles of 16 with a context of 3."""
    return _procedure(load(NETWORKS, case.checkpoint()), case.io["input.frames"], case)


@component("esrgan/animevideov3_real")
def animevideov3_real(case: Case) -> Outputs:
    """Trained weights, which are no part of this project: the case names the file beside itself."""
    file = case.path / case.spec["weights_file"]
    if not file.is_file():
        raise CheckpointError(f"{file} does not exist. This case needs those trained weights (realesr-animevideov3).")
    outputs = _procedure(load(NETWORKS, Checkpoint(file), dtype=mx.float32), case.io["input.frame"][None], case)
    return outputs | {"x4_float_sub": outputs["x4.float0"][:, :, 1::3, 2::3]}


def _procedure(network: Network, frames: np.ndarray, case: Case) -> Outputs:
    """Every run that an output's name begins with: x3_tiled is scale 3 in tiles. The reference truncates."""
    outputs = {}
    for run in sorted({re.match(r"x\d+(_tiled)?", name)[0] for name in case.outputs()}):
        tiles = Tiles(tile=16, context=3) if run.endswith("_tiled") else Tiles()
        scale = float(re.match(r"x(\d+)", run)[1])
        pixels = np.array(upscale_pixels(network, to_unit(frames), scale, tiles))
        levels = np.floor(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        first = pixels[:1].transpose(0, 3, 1, 2)
        outputs |= {f"{run}.frames": levels, f"{run}.frame0": levels[0], run: levels[0]}
        outputs |= {f"{run}.float0": first, f"{run}.float0_sub": first[:, :, 1::3, 2::3]}
    return outputs


@component("esrgan/procedure_author")
def procedure_author(case: Case) -> Outputs:
    """The author's wrapper around an x2 network: odd sizes, alpha, grey, 16 bit, Lanczos."""
    wrapper, io = _AuthorsWrapper(load(NETWORKS, case.checkpoint())), case.inputs()
    whole = wrapper.upscale(io["rgb"])
    colours, alpha = io["rgba"][..., :3], io["rgba"][..., 3]
    outputs = {
        "whole_nopad": whole,
        "whole_prepad": wrapper.upscale(io["rgb"], pre_pad=6),
        "tiled": wrapper.upscale(io["rgb"], tiles=Tiles(tile=16, context=4)),
        "grey": wrapper.upscale_grey(io["grey"]),
        "rgba": np.dstack([wrapper.upscale(colours), wrapper.upscale_grey(alpha)]),
        "rgba_bilinear": np.dstack([wrapper.upscale(colours), _resized(alpha[..., None], 2, "linear")]),
        "rgb16": wrapper.upscale(io["rgb16"]),
    }
    for name in case.outputs():
        if name.startswith("outscale_"):
            outputs[name] = _resized(whole, float(name.removeprefix("outscale_").replace("_", ".")) / 2, "lanczos4")
    return outputs


class _AuthorsWrapper:
    """xinntao/Real-ESRGAN, realesrgan/utils.py (``RealESRGANer.enhance``) at a4abfb2979, in RGB; rounds."""

    def __init__(self, network: Network):
        self.network = network

    def upscale(self, levels: np.ndarray, *, pre_pad: int = 0, tiles: Tiles = Tiles()) -> np.ndarray:
        largest = 65535 if levels.max() > 256 else 255
        return _rounded(self._larger(levels / largest, pre_pad, tiles), largest)

    def upscale_grey(self, levels: np.ndarray) -> np.ndarray:
        pixels = np.repeat(levels[..., None] / 255, 3, axis=-1)
        return _rounded(luma(mx.clip(self._larger(pixels, 0, Tiles()), 0, 1)), 255)

    def _larger(self, pixels: np.ndarray, pre_pad: int, tiles: Tiles) -> mx.array:
        height, width = (side * self.network.scale for side in pixels.shape[:2])
        padded = pad_reflected(mx.array(pixels[None].astype(np.float32)), pre_pad, pre_pad)
        return enlarge(self.network, padded, tiles)[0, :height, :width]


def _resized(levels: np.ndarray, factor: float, kernel: Kernel) -> np.ndarray:
    """OpenCV's resize of integers, ``(H, W, C)``."""
    height, width = (int(side * factor) for side in levels.shape[:2])
    return _rounded(resize(mx.array(levels[None].astype(np.float32) / 255), height, width, kernel)[0], 255)


def _rounded(pixels: mx.array, largest: int) -> np.ndarray:
    return np.array(mx.round(mx.clip(pixels, 0, 1) * largest)).astype(np.uint8 if largest == 255 else np.uint16)


@component("esrgan/checkpoint_files")
def checkpoint_files(case: Case) -> Outputs:
    """Pickled files in every form met. Each must hold the case's tensors, no more and no others."""
    weights, outputs = case.weights(), {}
    for name in case.spec["files"]:
        converted = Checkpoint(convert(case.path / name, case.scratch / f"{name}.safetensors"))
        _check_tensors(name, network_weights(SRVGG, converted), weights)
        stem = name.split(".")[0]
        outputs[stem] = _first(load(SRVGG, converted, dtype=mx.float32)(_last(case.io["input.x"])))
    # With equal tensors every file in float32 gives the same result.
    return outputs | {"y": outputs["params"]}


def _check_tensors(name: str, got: dict[str, mx.array], wanted: dict[str, np.ndarray]) -> None:
    if got.keys() != wanted.keys():
        raise CheckpointError(f"{name} was read as {sorted(got)}, it holds {sorted(wanted)}.")
    for tensor, value in wanted.items():
        if not np.array_equal(np.array(got[tensor]), value.astype(np.float16) if name.startswith("half") else value):
            raise CheckpointError(f"{name}: {tensor} was read with other values than it holds.")
