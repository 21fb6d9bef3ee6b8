"""FlashVSR's golden cases: decoders, projector, transformer, pre- and post-processing, whole pipelines."""

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.media.frames import signed_to_uint8
from LTX_2_MLX.models.flashvsr.block_attention import WINDOW, Sparsity, pool, topk_ratio
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection
from LTX_2_MLX.models.flashvsr.stream import Decoder, FrameDecoder, LatentStream
from LTX_2_MLX.models.flashvsr.transformer import TransformerStream
from LTX_2_MLX.models.tae import ConditionalDecoder, LightTinyAutoencoder, TinyAutoencoder
from LTX_2_MLX.models.wan.tiled_decoder import TiledDecoder, tile_places
from LTX_2_MLX.models.wan.transformer import WanTransformer, join_heads, rotary_tables, rotate, split_heads
from LTX_2_MLX.models.wan.vae import WanDecoder, WanEncoder
from LTX_2_MLX.ops.color import adain_transfer, wavelet_transfer
from LTX_2_MLX.pipelines.super_resolve.lq_frames import Fit, in_groups, lq_chunks, padded_length
from LTX_2_MLX.pipelines.super_resolve.tiles import Tile, join_picture, picture_tiles, published_feather
from LTX_2_MLX.verify import Outputs, component
from LTX_2_MLX.verify.case import Case

COLOR_TRANSFERS = {"wavelet": wavelet_transfer, "adain": adain_transfer}


def _last(array: np.ndarray) -> mx.array:
    """Channels from axis 1 to the end, float32."""
    return mx.array(np.moveaxis(array, 1, -1).astype(np.float32))


def _first(array: mx.array) -> np.ndarray:
    """Channels from the end to axis 1, as the references store them."""
    return np.moveaxis(np.array(array.astype(mx.float32)), -1, 1)


def _signed(u8: np.ndarray) -> mx.array:
    """Stored uint8 ``(B, C, T, H, W)`` to [-1, 1], channels last."""
    return _last(u8) / 255 * 2 - 1


@component("flashvsr/wan_vae")
def wan_vae(case: Case) -> Outputs:
    """Encode and decode with a Wan autoencoder."""
    checkpoint, io = case.checkpoint(), case.inputs()
    encoded = load(WanEncoder, checkpoint).encode(_signed(io["video_u8"]))
    return {"encoded": _first(encoded), "decoded": _first(load(WanDecoder, checkpoint).decode(_last(io["latents"])))}


@component("flashvsr/taehv")
def taehv(case: Case) -> Outputs:
    """Encode and decode with a tiny autoencoder."""
    light = case.config["kw"].get("model_type") == "hy15"
    network = load(LightTinyAutoencoder if light else TinyAutoencoder, case.checkpoint())
    io = case.inputs()
    decoded = network.decode(_last(io["latents"]))
    # The references leave the output where the network has it: [0, 1] but for the light one.
    decoded = decoded if light else (decoded + 1) / 2
    return {"encoded": _first(network.encode(_signed(io["video_u8"]))), "decoded": _first(decoded)}


@component("flashvsr/tcdecoder")
def tcdecoder(case: Case) -> Outputs:
    """Decode a stream with the conditional decoder."""
    decoder, io, past = load(ConditionalDecoder, case.checkpoint()), case.inputs(), {}
    outputs = {}
    for k in range(sum(name.startswith("latents_") for name in io)):
        frames = decoder.step(_last(io[f"latents_{k}"]), _signed(io[f"cond_u8_{k}"]), past)
        outputs[f"frames_{k}"] = _first((frames + 1) / 2)
    return outputs


@component("flashvsr/lq_proj")
def lq_projection(case: Case) -> Outputs:
    """Project a stream of low-quality frames."""
    projection = load(LQProjection, case.checkpoint())
    frames, causal = _signed(case.inputs()["video_u8"]), case.spec["call"]["version"] != "1"
    past = projection.start(frames[:, :1], causal)
    calls = [projection.step(frames[:, i : i + 4], past, causal) for i in range(1, frames.shape[1] - 3, 4)]
    return {
        f"layer_{i}": mx.concatenate([tokens[i].flatten(1, 3) for tokens in calls], axis=1)
        for i in range(projection.config.num_layers)
    }


@component("flashvsr/dit")
def dit(case: Case) -> Outputs:
    """Stream chunks through the transformer, or turn pairs by the rotary tables where the case has no weights."""
    call, io = case.spec["call"], case.inputs()
    if "x" in io:
        return _rope(call, io)
    sparsity = Sparsity(call["attention"], call["topk_ratio"], call["local_range"], drop_least=True)
    masks: list[np.ndarray] = []
    transformer = load(WanTransformer, case.checkpoint())
    stream = TransformerStream(transformer, mx.array(io["context"][0]), sparsity, call["kv_ratio"], masks.append)
    outputs = {"t": stream.time, "t_mod": stream.modulation[None]}
    for k in range(sum(name.startswith("latents_") for name in io)):
        tokens = _from_rows(mx.array(io[f"lq_{k}"].astype(np.float32)), io[f"latents_{k}"].shape, transformer)
        outputs[f"noise_pred_{k}"] = _first(stream.predict(_last(io[f"latents_{k}"]), [tokens]))
        outputs[f"block_mask_{k}"] = np.stack(masks).astype(np.uint8)
        masks.clear()
        held = [memory.keys for memory in stream.memories]
        windows = [sum(part.shape[1] for part in keys) // WINDOW for keys in held]
        outputs[f"cache_windows_{k}"] = np.array(windows, np.int32)
        outputs[f"cache_k0_pooled_{k}"] = _pooled(held[0])
        outputs[f"cache_v_last_pooled_{k}"] = _pooled(stream.memories[-1].values)
    return outputs


def _from_rows(rows: mx.array, latent_shape: tuple[int, ...], transformer: WanTransformer) -> mx.array:
    """Tokens ``(1, N, D)`` of a latent ``(1, C, T, H, W)`` as ``(1, T, H / 2, W / 2, D)``."""
    grid = [size // patch for size, patch in zip(latent_shape[2:], transformer.config.patch_size, strict=True)]
    return rows.reshape(1, *grid, -1)


def _pooled(slices: list[mx.array]) -> mx.array:
    """What a memory holds, meaned over each window: ``(windows, dim)``."""
    return join_heads(pool(mx.concatenate(slices, axis=1), WINDOW))


def _rope(call: dict, io: dict[str, np.ndarray]) -> Outputs:
    frames, rows, columns = (np.arange(call[axis]) for axis in "fhw")
    positions = np.stack(np.meshgrid(frames + call["start"], rows, columns, indexing="ij"), axis=-1).reshape(-1, 3)
    head_dim, heads = call["head_dim"], call["heads"]
    tables = rotary_tables(head_dim, positions.astype(np.float64))
    x = split_heads(mx.array(io["x"][0].astype(np.float32)), heads)
    third = head_dim // 3 // 2
    return {
        "rotated": join_heads(rotate(x, tables)[0])[None],
        "sizes": np.array([head_dim // 2 - 2 * third, third, third], np.int32),
    }


@component("flashvsr/color_fix")
def color_fix(case: Case) -> Outputs:
    """Both colour transfers, as they are and clipped."""
    frames, reference = (_last(case.inputs()[name]) for name in ("hq", "lq"))
    outputs = {}
    for name, transfer in COLOR_TRANSFERS.items():
        fixed = transfer(frames, reference)
        outputs |= {f"{name}_unclipped": _first(fixed), name: _first(mx.clip(fixed, -1, 1))}
    return outputs


@component("flashvsr/tiled_vae")
def tiled_vae(case: Case) -> Outputs:
    """Decode with a Wan decoder in tiles, and whole."""
    call, latents = case.spec["call"], _last(case.inputs()["latents"])
    decoder = load(WanDecoder, case.checkpoint())
    tiled = TiledDecoder(decoder, tuple(call["tile_size"]), tuple(call["tile_stride"]))
    rows, columns = (3 * size for size in tiled.size)
    inner = (tiled.size[0], 2 * tiled.size[0], tiled.size[1], 2 * tiled.size[1])
    return {
        "tiled": _first(tiled.decode(latents)),
        "untiled": _first(mx.clip(decoder.decode(latents), -1, 1)),
        "tiles": np.array(tile_places(*latents.shape[2:4], tiled.size, tiled.stride), np.int32),
        "mask_inner": tiled.mask(inner, rows, columns)[..., 0],
    }


@component("flashvsr/preprocess")
def preprocess(case: Case) -> Outputs:
    """Low-quality frames by both rules, and the lengths of padded clips."""
    call, source = case.spec["call"], case.inputs()["frames_u8"]
    plugin = Fit(*source.shape[1:3], call["scale"], borders="crop")
    official = Fit(*source.shape[1:3], call["official_scale"], borders="crop", resizing="8bit")
    padded, cut = padded_length(len(source)), (len(source) + 4 - 1) // 8 * 8 + 1
    levels = mx.round((official.lq(source[_held(call["frames"], source)]) + 1) / 2 * 255).astype(mx.uint8)
    return {
        "plugin_lq": np.moveaxis(np.array(plugin.lq(source[_held(call["frames"], source)])[0]), -1, 0),
        "plugin_dims": np.array([*plugin.target, padded + 4], np.int32),
        "official_lq_u8": np.moveaxis(np.array(levels[0]), -1, 0),
        "official_dims": np.array([*official.target, cut], np.int32),
        "frame_rules": np.array(
            [
                (n, padded_length(n), (n + 3) // 8 * 8 + 1, padded_length(n) + 4)
                for n in case.outputs()["frame_rules"][:, 0]
            ],
            np.int32,
        ),
    }


def _held(frames: list[int], source: np.ndarray) -> list[int]:
    """Places of LQ frames in the source, whose last frame follows its end."""
    return [min(frame, len(source) - 1) for frame in frames]


@component("flashvsr/pipeline")
def pipeline(case: Case) -> Outputs:
    """Super-resolve a clip as the published pipelines do."""
    networks = _networks(case)
    io = case.inputs()
    fit = Fit(*io["frames_u8"].shape[1:3], case.spec["call"]["scale"], borders="crop")
    masks: list[np.ndarray] = []
    run = _run(case, networks, fit, io["frames_u8"], fit.target, masks)
    raw, lq, shown = run["raw"], run["lq"], run["shown"]
    fixed = {name: mx.clip(transfer(raw, shown), -1, 1) for name, transfer in COLOR_TRANSFERS.items()}
    levels = signed_to_uint8(fixed["adain"][0, : len(io["frames_u8"])])
    outputs = {
        "lq_sampled": _sampled(lq),
        "latents": _first(run["latents"]),
        "raw_sampled": _sampled(raw),
        "raw_frame_7": _first(raw)[0, :, 7, ::2, ::2],
        "frames_u8_sampled": levels[:, ::9, 3::11],
    }
    outputs |= {f"{name}_sampled": _sampled(frames) for name, frames in fixed.items()}
    layers = networks.transformer.config.num_layers
    for k in range(len(masks) // layers):
        outputs[f"block_mask_{k}"] = np.stack(masks[k * layers : (k + 1) * layers]).astype(np.uint8)
    return outputs


def _sampled(frames: mx.array) -> np.ndarray:
    return _first(frames)[0, ..., ::9, 3::11]


@dataclass
class _Networks:
    projection: LQProjection
    transformer: WanTransformer
    decoder: Decoder


def _networks(case: Case) -> _Networks:
    """The networks of a pipeline case; its tensors are named ``file/name``."""

    def network(folder: str, *classes: type) -> Any:
        metadata = {"metadata": {"config": case.config[folder]}} if folder == "dit" else {"metadata": {}}
        names = {name.removeprefix(f"{folder}/"): name for name in case.spec["tensors"] if name.startswith(folder)}
        values = case.weights()
        target = case.scratch / f"{folder}.safetensors"
        metadata = {key: json.dumps(value) for key, value in metadata["metadata"].items()}
        save_file({short: values[name] for short, name in names.items()}, str(target), metadata=metadata or None)
        return load(classes, Checkpoint(target))

    present = {name.split("/")[0] for name in case.spec["tensors"]}
    tiny = "tcdecoder" in present
    decoder = network("tcdecoder", ConditionalDecoder) if tiny else network("vae", WanDecoder)
    if not tiny:
        # The wrapper that clips to [-1, 1] is the one that makes tiles.
        decoder = TiledDecoder(decoder) if case.spec["call"].get("tiled") else TiledDecoder(decoder, (10**6, 10**6))
    return _Networks(network("lq_proj_in", LQProjection), network("dit", WanTransformer), decoder)


def _run(
    case: Case,
    networks: _Networks,
    fit: Fit,
    source: np.ndarray,
    ratio_size: tuple[int, int],
    masks: list | None = None,
) -> dict[str, mx.array]:
    """One clip through the networks: low-quality frames, latents and raw frames, in full."""
    call, io = case.spec["call"], case.inputs()
    sparsity = Sparsity(
        call["attention"], topk_ratio(call["sparse_ratio"], *ratio_size), call["local_range"], drop_least=True
    )
    on_mask = None if masks is None else masks.append
    prompt = mx.array(io["context"][0])
    stream = TransformerStream(networks.transformer, prompt, sparsity, call["kv_ratio"], on_mask)
    latents = LatentStream(networks.projection, stream, case.config["version"] != "1")
    frames, noise, first = FrameDecoder(networks.decoder), _last(io["noise"]), 0
    parts = defaultdict(list)
    for chunk in lq_chunks(source):
        count = 2 if first else 6
        latent = latents.step(in_groups(chunk.seen, fit.lq), noise[:, first : first + count])
        first += count
        parts["latents"].append(latent)
        parts["lq"].append(fit.lq(chunk.seen))
        for i, lq_frames in enumerate(in_groups(chunk.shown, fit.lq)):
            parts["shown"].append(lq_frames)
            parts["raw"].append(frames.step(latent[:, i : i + 1], lq_frames))
    return {name: mx.concatenate(arrays, axis=1) for name, arrays in parts.items()}


@component("flashvsr/tiled_dit")
def tiled_dit(case: Case) -> Outputs:
    """Super-resolve a clip in tiles as the two published tools do, dark edges included."""
    pro = "FlashVSR-Pro" in case.spec["reference"]["repository"]
    coordinates = {
        name: _coordinates(name, multiple=32 if pro else 1) for name in case.outputs() if name.startswith("coords_")
    }
    return coordinates | (_tiled_output(case) if pro else _tiled_source(case))


def _coordinates(name: str, multiple: int) -> np.ndarray:
    size, tile, overlap = name.removeprefix("coords_").split("_")
    height, width = map(int, size.split("x"))
    return _corners(picture_tiles(height, width, int(tile), int(overlap), multiple))


def _corners(tiles: list[Tile]) -> np.ndarray:
    return np.array([(tile.left, tile.top, tile.right, tile.bottom) for tile in tiles], np.int32)


def _tiled_source(case: Case) -> Outputs:
    """The plugin's: tiles of the source, each enlarged, coloured and cropped on its own."""
    call, source, networks = case.spec["call"], case.inputs()["frames_u8"], _networks(case)
    height, width = source.shape[1:3]
    tiles = picture_tiles(height, width, call["tile_size"], call["overlap"])
    scale, parts = call["scale"], []
    for tile in tiles:
        fit = Fit(tile.bottom - tile.top, tile.right - tile.left, scale, borders="crop")
        run = _run(case, networks, fit, tile.cut(source), fit.target)
        fixed = mx.clip(adain_transfer(run["raw"], run["shown"]), -1, 1)
        parts.append((np.array(fixed[0, : len(source)]) + 1) / 2)
    weights = [published_feather(tile.scaled(scale), call["overlap"] * scale) for tile in tiles]
    joined = join_picture(parts, [tile.scaled(scale) for tile in tiles], weights, height * scale, width * scale)
    return {
        "frames_sampled": joined[:, ::9, 3::11],
        "frame_4": joined[4, ::2, ::2],
        "tiles_frame_3_sampled": np.stack([part[3, ::9, 3::11] for part in parts]),
        "mask": weights[0],
    }


def _tiled_output(case: Case) -> Outputs:
    """FlashVSR-Pro's: tiles of the enlarged frames, without colour fix, sparsity for the whole picture."""
    call, source, networks = case.spec["call"], case.inputs()["frames_u8"], _networks(case)
    whole = Fit(*source.shape[1:3], call["scale"], borders="crop")
    tiles = picture_tiles(*whole.target, call["tile_size"], call["overlap"], multiple=32)
    parts = []
    for tile in tiles:
        run = _run(case, networks, _Part(whole, tile), source, whole.target)
        parts.append(np.array(run["raw"][0]))
    weights = [published_feather(tile, call["overlap"]) for tile in tiles]
    joined = join_picture(parts, tiles, weights, *whole.target)
    return {"frames_sampled": np.moveaxis(joined, -1, 0)[..., ::9, 3::11], "mask": weights[0]}


@dataclass(frozen=True)
class _Part:
    """One tile of enlarged frames, in place of a ``Fit``."""

    whole: Fit
    tile: Tile

    def lq(self, frames: np.ndarray) -> mx.array:
        """The tile of the enlarged frames."""
        return self.tile.cut(self.whole.lq(frames))
