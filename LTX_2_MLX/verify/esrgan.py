"""Real-ESRGAN's golden cases: both networks, mixed checkpoints, procedures, pickled files."""

import dataclasses
import re

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.convert import convert
from LTX_2_MLX.checkpoints.load import load, network_weights
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.media.frames import to_unit
from LTX_2_MLX.models.srvgg import SRVGG
from LTX_2_MLX.ops.context_tiles import pad_reflected
from LTX_2_MLX.ops.sampling import Kernel, resize
from LTX_2_MLX.pipelines.upscale import NETWORKS, Network, Tiles, enlarge, load_mixed, luma, upscale_pixels
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.layout import channels_first, channels_last

# An output's name begins with its scale, x4 or x2_5, and says whether it was computed in tiles.
RUN_NAME = re.compile(r"x(?P<scale>\d+(_\d+)?)(?P<tiled>_tiled)?(?=[._]|$)")
# Where a case does not say otherwise, the weak checkpoint's seed is this much above the general one's.
WEAK_SEED_STEP = 1000


def network(case: Case) -> Outputs:
    """The bare network, recognised from the file."""
    upscaler = load(NETWORKS, case.checkpoint(), dtype=case.dtype)
    return {"y": channels_first(upscaler(channels_last(case.io["input.x"]).astype(upscaler.dtype)))}


def denoise_strength(case: Case) -> Outputs:
    """Two checkpoints with the same names and seeds of their own, mixed at several strengths."""
    seed = case.spec["seed"]
    weak_seed = case.parameters.get("weak_seed", seed + WEAK_SEED_STEP)
    weak_case = dataclasses.replace(case, spec={**case.spec, "seed": weak_seed})
    general = Checkpoint(case.write_checkpoint("general.safetensors"))
    weak = Checkpoint(weak_case.write_checkpoint("weak.safetensors"))
    outputs = {}
    for name in case.outputs():
        strength = int(name.removeprefix("strength_")) / 100
        mixed = load_mixed(general, weak, strength, case.dtype)
        outputs[name] = channels_first(mixed(channels_last(case.io["input.x"]).astype(case.dtype)))
    return outputs


def procedure(case: Case) -> Outputs:
    """Frames at several scales, whole and in tiles."""
    return _upscaled(load(NETWORKS, case.checkpoint(), dtype=case.dtype), case.io["input.frames"], case)


def animevideov3_real(case: Case) -> Outputs:
    """Trained weights, which are no part of this project: the case names the file beside itself."""
    file = case.path / case.spec["weights_file"]
    if not file.is_file():
        raise CheckpointError(f"{file} does not exist. This case needs those trained weights (realesr-animevideov3).")
    return _upscaled(load(NETWORKS, Checkpoint(file), dtype=case.dtype), case.io["input.frame"][None], case)


def _upscaled(upscaler: Network, frames: np.ndarray, case: Case) -> Outputs:
    """The outputs of every run that an output's name begins with. The reference truncates, it does not round."""
    runs = {match[0]: match for name in case.outputs() if (match := RUN_NAME.match(name))}
    outputs: Outputs = {}
    for name, match in runs.items():
        scale = float(match["scale"].replace("_", "."))
        pixels = np.array(upscale_pixels(upscaler, to_unit(frames), scale, _tiles(case, match["tiled"])))
        levels = np.floor(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        first = pixels[:1].transpose(0, 3, 1, 2)
        sampled = first[:, :, 1::3, 2::3]
        outputs |= {f"{name}.frames": levels, f"{name}.frame0": levels[0], name: levels[0]}
        outputs |= {f"{name}.float0": first, f"{name}.float0_sub": sampled, f"{name}_float_sub": sampled}
    return outputs


def _tiles(case: Case, tiled: str | None) -> Tiles:
    if not tiled:
        return Tiles()
    return Tiles(tile=case.parameter("tile"), context=case.parameter("tile_context"))


def procedure_author(case: Case) -> Outputs:
    """The author's wrapper: odd sizes, alpha, grey, 16 bit, Lanczos."""
    wrapper = _AuthorsWrapper(load(NETWORKS, case.checkpoint(), dtype=case.dtype))
    scale = wrapper.network.scale
    io = case.inputs()
    whole = wrapper.upscale(io["rgb"])
    colors = wrapper.upscale(io["rgba"][..., :3])
    alpha = io["rgba"][..., 3]
    outputs = {
        "whole_nopad": whole,
        "whole_prepad": wrapper.upscale(io["rgb"], pre_pad=case.parameter("pre_pad")),
        "tiled": wrapper.upscale(io["rgb"], tiles=_tiles(case, "tiled")),
        "grey": wrapper.upscale_grey(io["grey"]),
        "rgba": np.dstack([colors, wrapper.upscale_grey(alpha)]),
        "rgba_bilinear": np.dstack([colors, _resized(alpha[..., None], scale, "linear")]),
        "rgb16": wrapper.upscale(io["rgb16"]),
    }
    for name in case.outputs():
        if name.startswith("outscale_"):
            outscale = float(name.removeprefix("outscale_").replace("_", "."))
            outputs[name] = _resized(whole, outscale / scale, "lanczos4")
    return outputs


class _AuthorsWrapper:
    """xinntao/Real-ESRGAN, realesrgan/utils.py (``RealESRGANer.enhance``) at a4abfb2979, in RGB; rounds."""

    def __init__(self, network: Network):
        self.network = network

    def upscale(self, levels: np.ndarray, *, pre_pad: int = 0, tiles: Tiles = Tiles()) -> np.ndarray:
        largest = 65535 if levels.max() > 256 else 255
        return _rounded(self._upscaled(levels / largest, pre_pad, tiles), largest)

    def upscale_grey(self, levels: np.ndarray) -> np.ndarray:
        pixels = np.repeat(levels[..., None] / 255, 3, axis=-1)
        return _rounded(luma(mx.clip(self._upscaled(pixels, 0, Tiles()), 0, 1)), 255)

    def _upscaled(self, pixels: np.ndarray, pre_pad: int, tiles: Tiles) -> mx.array:
        height = pixels.shape[0] * self.network.scale
        width = pixels.shape[1] * self.network.scale
        padded = pad_reflected(mx.array(pixels[None].astype(np.float32)), pre_pad, pre_pad)
        larger = enlarge(self.network, padded.astype(self.network.dtype), tiles)[0, :height, :width]
        return larger.astype(mx.float32)


def _resized(levels: np.ndarray, factor: float, kernel: Kernel) -> np.ndarray:
    """OpenCV's resize of integers, ``(H, W, C)``."""
    height = int(levels.shape[0] * factor)
    width = int(levels.shape[1] * factor)
    pixels = mx.array(levels[None].astype(np.float32) / 255)
    return _rounded(resize(pixels, height, width, kernel)[0], 255)


def _rounded(pixels: mx.array, largest: int) -> np.ndarray:
    levels = np.array(mx.round(mx.clip(pixels, 0, 1) * largest))
    return levels.astype(np.uint8 if largest == 255 else np.uint16)


def checkpoint_files(case: Case) -> Outputs:
    """Pickled files in every form met. Each must hold the case's tensors, no more and no others."""
    weights = case.weights()
    x = channels_last(case.io["input.x"]).astype(case.dtype)
    outputs = {}
    for name in case.spec["files"]:
        converted = Checkpoint(convert(case.path / name, case.scratch / f"{name}.safetensors"))
        _check_tensors(name, network_weights(SRVGG, converted), weights)
        stem = name.split(".")[0]
        outputs[stem] = channels_first(load(SRVGG, converted, dtype=case.dtype)(x))
    # With equal tensors every file in float32 gives the same result.
    return outputs | {"y": outputs["params"]}


def _check_tensors(name: str, tensors: dict[str, mx.array], expected: dict[str, np.ndarray]) -> None:
    if tensors.keys() != expected.keys():
        raise CheckpointError(f"{name} was read as {sorted(tensors)}, it holds {sorted(expected)}.")
    for tensor, value in expected.items():
        stored = value.astype(np.float16) if name.startswith("half") else value
        if not np.array_equal(np.array(tensors[tensor]), stored):
            raise CheckpointError(f"{name}: {tensor} was read with other values than it holds.")
