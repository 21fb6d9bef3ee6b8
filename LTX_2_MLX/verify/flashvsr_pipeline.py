"""FlashVSR's golden cases of whole pipelines, in tiles and whole."""

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.media.frames import signed_to_levels
from LTX_2_MLX.models.flashvsr.block_attention import Sparsity, topk_ratio
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection
from LTX_2_MLX.models.flashvsr.stream import Decoder, FrameDecoder, LatentStream
from LTX_2_MLX.models.flashvsr.transformer import TransformerStream
from LTX_2_MLX.models.tae import ConditionalDecoder
from LTX_2_MLX.models.wan.tiled_decoder import TiledDecoder
from LTX_2_MLX.models.wan.transformer import WanTransformer
from LTX_2_MLX.models.wan.vae import WanDecoder
from LTX_2_MLX.ops.color import adain_transfer
from LTX_2_MLX.pipelines.super_resolve.lq_frames import Fit, in_groups, lq_chunks
from LTX_2_MLX.pipelines.super_resolve.tiles import Tile, frame_tiles, join_tiles, published_feather
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.flashvsr import COLOR_TRANSFERS
from LTX_2_MLX.verify.layout import channels_first, channels_last, readable


def pipeline(case: Case) -> Outputs:
    """Super-resolve a clip as the published pipelines do."""
    networks = _networks(case)
    source = case.inputs()["frames_u8"]
    fit = _fit(case, *source.shape[1:3])
    masks: list[np.ndarray] = []
    run = _run(case, networks, fit, source, fit.target, masks)
    raw = run["raw"]
    fixed = {name: mx.clip(transfer(raw, run["shown"]), -1, 1) for name, transfer in COLOR_TRANSFERS.items()}
    levels = signed_to_levels(fixed["adain"][0, : len(source)])
    outputs: Outputs = {
        "lq_sampled": _sampled(run["lq"]),
        "latents": channels_first(run["latents"]),
        "raw_sampled": _sampled(raw),
        "raw_frame_7": channels_first(raw)[0, :, 7, ::2, ::2],
        "frames_u8_sampled": levels[:, ::9, 3::11],
    }
    for name, frames in fixed.items():
        outputs[f"{name}_sampled"] = _sampled(frames)
    layers = networks.transformer.config.num_layers
    for k in range(len(masks) // layers):
        outputs[f"block_mask_{k}"] = np.stack(masks[k * layers : (k + 1) * layers]).astype(np.uint8)
    return outputs


def _fit(case: Case, height: int, width: int) -> Fit:
    return Fit(height, width, case.parameter("scale"), borders="crop")


def _sampled(frames: mx.array) -> np.ndarray:
    """Every ninth row and eleventh column of ``(B, T, H, W, C)``, channels first, of the first batch item."""
    return channels_first(frames)[0, ..., ::9, 3::11]


# A tile larger than any case's latent.
WHOLE_LATENT = (10**6, 10**6)


@dataclass
class _Networks:
    projection: LQProjection
    transformer: WanTransformer
    decoder: Decoder


def _networks(case: Case) -> _Networks:
    """The networks of a pipeline case; its tensors are named ``file/name``."""
    decoder = _network(case, "tcdecoder", ConditionalDecoder) if _holds(case, "tcdecoder") else _tiled_decoder(case)
    return _Networks(_network(case, "lq_proj_in", LQProjection), _network(case, "dit", WanTransformer), decoder)


def _holds(case: Case, folder: str) -> bool:
    return any(name.startswith(f"{folder}/") for name in case.spec["tensors"])


def _network(case: Case, folder: str, kind: type) -> Any:
    """One of the published files whose tensors stand side by side in the case, loaded."""
    prefix = f"{folder}/"
    weights = {name.removeprefix(prefix): value for name, value in case.weights().items() if name.startswith(prefix)}
    metadata = {"config": json.dumps(case.config["dit"])} if folder == "dit" else None
    path = case.scratch / f"{folder}.safetensors"
    save_file(weights, str(path), metadata=metadata)
    return load(kind, Checkpoint(path), dtype=case.dtype)


def _tiled_decoder(case: Case) -> TiledDecoder:
    """The Wan decoder in the wrapper that clips to [-1, 1]; one tile covers the latent where nothing is tiled."""
    decoder = _network(case, "vae", WanDecoder)
    if not case.parameters.get("tiled"):
        return TiledDecoder(decoder, WHOLE_LATENT)
    sizes = [tuple(case.parameters[name]) for name in ("tile_size", "tile_stride") if name in case.parameters]
    return TiledDecoder(decoder, *sizes)


def _run(
    case: Case,
    networks: _Networks,
    fit: "Fit | _TileFit",
    source: np.ndarray,
    ratio_size: tuple[int, int],
    masks: list | None = None,
) -> dict[str, mx.array]:
    """One clip through the networks: low-quality frames, latents and raw frames, in full."""
    latents = _latent_stream(case, networks, ratio_size, masks)
    frames = FrameDecoder(networks.decoder)
    noise = channels_last(case.inputs()["noise"])
    first = 0
    chunks = defaultdict(list)
    for chunk in lq_chunks(source):
        latent_frames = 2 if first else 6
        latent = latents.step(in_groups(chunk.projected, fit.lq), noise[:, first : first + latent_frames])
        first += latent_frames
        chunks["latents"].append(latent)
        chunks["lq"].append(fit.lq(chunk.projected))
        for i, lq_frames in enumerate(in_groups(chunk.decoded, fit.lq)):
            chunks["shown"].append(lq_frames)
            chunks["raw"].append(frames.step(latent[:, i : i + 1], lq_frames))
    return {name: mx.concatenate(arrays, axis=1) for name, arrays in chunks.items()}


def _latent_stream(case: Case, networks: _Networks, ratio_size: tuple[int, int], masks: list | None) -> LatentStream:
    """Projector and transformer; the share of kept blocks follows from ``ratio_size`` in pixels."""
    ratio = topk_ratio(case.parameter("sparse_ratio"), *ratio_size)
    sparsity = Sparsity(case.parameter("attention"), ratio, case.parameter("local_range"), drop_least=True)
    prompt = mx.array(case.inputs()["context"][0])
    on_mask = None if masks is None else masks.append
    stream = TransformerStream(networks.transformer, prompt, sparsity, case.parameter("kv_ratio"), on_mask)
    return LatentStream(networks.projection, stream, case.config["version"] != "1")


def tiled_dit(case: Case) -> Outputs:
    """Super-resolve a clip in tiles as the two published tools do, dark edges included."""
    of_output = tiles_are_of_output(case)
    outputs: Outputs = _tiled_output(case) if of_output else _tiled_source(case)
    for name in case.outputs():
        if name.startswith("coords_"):
            outputs[name] = _coordinates(name, multiple=_OUTPUT_MULTIPLE if of_output else 1)
    return outputs


# Pixels to which FlashVSR-Pro rounds the coordinates of its tiles.
_OUTPUT_MULTIPLE = 32


def tiles_are_of_output(case: Case) -> bool:
    """Whether tiles are cut from the enlarged frames, as FlashVSR-Pro does, or from the source.

    A case says so in ``tiles_of``; one that does not is recognised by the repository that was run.
    """
    default = "output" if "FlashVSR-Pro" in case.spec["reference"]["repository"] else "source"
    return case.parameters.get("tiles_of", default) == "output"


def _coordinates(name: str, multiple: int) -> np.ndarray:
    """Corners of the tiles that an output's name asks for: coords_HxW_tile_overlap."""
    size, tile, overlap = name.removeprefix("coords_").split("_")
    height, width = map(int, size.split("x"))
    tiles = frame_tiles(height, width, int(tile), int(overlap), multiple)
    return np.array([(tile.left, tile.top, tile.right, tile.bottom) for tile in tiles], np.int32)


def _tiled_source(case: Case) -> Outputs:
    """The plugin's: tiles of the source, each enlarged, coloured and cropped on its own."""
    source = case.inputs()["frames_u8"]
    networks = _networks(case)
    scale = case.parameter("scale")
    overlap = case.parameter("overlap")
    height, width = source.shape[1:3]
    tiles = frame_tiles(height, width, case.parameter("tile_size"), overlap)
    enlarged = [_enlarged_tile(case, networks, tile, source) for tile in tiles]
    targets = [tile.scaled(scale) for tile in tiles]
    weights = [published_feather(target, overlap * scale) for target in targets]
    joined = join_tiles(enlarged, targets, weights, height * scale, width * scale)
    return {
        "frames_sampled": joined[:, ::9, 3::11],
        "frame_4": joined[4, ::2, ::2],
        "tiles_frame_3_sampled": np.stack([frames[3, ::9, 3::11] for frames in enlarged]),
        "mask": weights[0],
    }


def _enlarged_tile(case: Case, networks: _Networks, tile: Tile, source: np.ndarray) -> np.ndarray:
    """One tile of the source, super-resolved and coloured; ``(T, H, W, 3)`` in [0, 1]."""
    fit = _fit(case, tile.bottom - tile.top, tile.right - tile.left)
    run = _run(case, networks, fit, tile.cut(source), fit.target)
    fixed = mx.clip(adain_transfer(run["raw"], run["shown"]), -1, 1)
    return (readable(fixed[0, : len(source)]) + 1) / 2


def _tiled_output(case: Case) -> Outputs:
    """FlashVSR-Pro's: tiles of the enlarged frames, without colour fix, sparsity for the whole frame."""
    source = case.inputs()["frames_u8"]
    networks = _networks(case)
    overlap = case.parameter("overlap")
    whole = _fit(case, *source.shape[1:3])
    tiles = frame_tiles(*whole.target, case.parameter("tile_size"), overlap, multiple=_OUTPUT_MULTIPLE)
    enlarged = []
    for tile in tiles:
        run = _run(case, networks, _TileFit(whole, tile), source, whole.target)
        enlarged.append(readable(run["raw"][0]))
    weights = [published_feather(tile, overlap) for tile in tiles]
    joined = join_tiles(enlarged, tiles, weights, *whole.target)
    return {"frames_sampled": np.moveaxis(joined, -1, 0)[..., ::9, 3::11], "mask": weights[0]}


@dataclass(frozen=True)
class _TileFit:
    """One tile of enlarged frames, in place of a ``Fit``."""

    whole: Fit
    tile: Tile

    def lq(self, frames: np.ndarray) -> mx.array:
        """The tile of the enlarged frames."""
        return mx.array(self.tile.cut(np.array(self.whole.lq(frames))))
