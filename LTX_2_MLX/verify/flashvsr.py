"""FlashVSR's golden cases: decoders, projector, transformer, pre- and post-processing."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.layers.streaming import StreamState
from LTX_2_MLX.models.flashvsr.block_attention import WINDOW, Sparsity, pool
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection
from LTX_2_MLX.models.flashvsr.transformer import TransformerStream
from LTX_2_MLX.models.tae import ConditionalDecoder, LightTinyAutoencoder, TinyAutoencoder
from LTX_2_MLX.models.wan.tiled_decoder import TiledDecoder, tile_places
from LTX_2_MLX.models.wan.transformer import WanTransformer, join_heads, rotary_tables, rotate, split_heads
from LTX_2_MLX.models.wan.vae import WanDecoder, WanEncoder
from LTX_2_MLX.ops.color import adain_transfer, wavelet_transfer
from LTX_2_MLX.pipelines.super_resolve.lq_frames import Fit, padded_length
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.layout import channels_first, channels_last, signed_frames

COLOR_TRANSFERS = {"wavelet": wavelet_transfer, "adain": adain_transfer}


def wan_vae(case: Case) -> Outputs:
    """Encode and decode with a Wan autoencoder."""
    checkpoint = case.checkpoint()
    io = case.inputs()
    encoded = load(WanEncoder, checkpoint, dtype=case.dtype).encode(signed_frames(io["video_u8"]))
    decoded = load(WanDecoder, checkpoint, dtype=case.dtype).decode(channels_last(io["latents"]))
    return {"encoded": channels_first(encoded), "decoded": channels_first(decoded)}


def taehv(case: Case) -> Outputs:
    """Encode and decode with a tiny autoencoder."""
    light = case.config["kw"].get("model_type") == "hy15"
    network = load(LightTinyAutoencoder if light else TinyAutoencoder, case.checkpoint(), dtype=case.dtype)
    io = case.inputs()
    encoded = network.encode(signed_frames(io["video_u8"]))
    decoded = network.decode(channels_last(io["latents"]))
    # The references leave the output where the network has it: [0, 1] but for the light one.
    if not light:
        decoded = (decoded + 1) / 2
    return {"encoded": channels_first(encoded), "decoded": channels_first(decoded)}


def tcdecoder(case: Case) -> Outputs:
    """Decode a stream with the conditional decoder."""
    decoder = load(ConditionalDecoder, case.checkpoint(), dtype=case.dtype)
    io = case.inputs()
    state = StreamState()
    outputs = {}
    for k in range(_num_chunks(io)):
        condition = signed_frames(io[f"cond_u8_{k}"])
        frames = decoder(channels_last(io[f"latents_{k}"]), condition, state)
        outputs[f"frames_{k}"] = channels_first((frames + 1) / 2)
    return outputs


def _num_chunks(io: dict[str, np.ndarray]) -> int:
    return sum(name.startswith("latents_") for name in io)


def lq_projection(case: Case) -> Outputs:
    """Project a stream of low-quality frames."""
    projection = load(LQProjection, case.checkpoint(), dtype=case.dtype)
    frames = signed_frames(case.inputs()["video_u8"])
    causal = case.parameter("version") != "1"
    state = StreamState()
    projection(frames[:, :1], causal, state)
    calls = [projection(frames[:, i : i + 4], causal, state) for i in range(1, frames.shape[1] - 3, 4)]
    outputs = {}
    for i in range(projection.config.num_layers):
        tokens = [call[i].flatten(1, 3) for call in calls]
        outputs[f"layer_{i}"] = mx.concatenate(tokens, axis=1)
    return outputs


def dit(case: Case) -> Outputs:
    """Stream chunks through the transformer, or rotate by the tables where the case has no weights."""
    io = case.inputs()
    if "x" in io:
        return _rope(case.parameters, io)
    sparsity = Sparsity(
        case.parameter("attention"), case.parameter("topk_ratio"), case.parameter("local_range"), drop_least=True
    )
    masks: list[np.ndarray] = []
    transformer = load(WanTransformer, case.checkpoint(), dtype=case.dtype)
    context = mx.array(io["context"][0])
    stream = TransformerStream(transformer, context, sparsity, case.parameter("kv_ratio"), masks.append)
    outputs: Outputs = {"t": stream.time, "t_mod": stream.modulation[None]}
    for k in range(_num_chunks(io)):
        latent = io[f"latents_{k}"]
        tokens = _from_rows(mx.array(io[f"lq_{k}"].astype(np.float32)), latent.shape, transformer)
        outputs[f"noise_pred_{k}"] = channels_first(stream.predict(channels_last(latent), [tokens]))
        outputs[f"block_mask_{k}"] = np.stack(masks).astype(np.uint8)
        outputs |= _caches(stream, k)
        masks.clear()
    return outputs


def _caches(stream: TransformerStream, chunk: int) -> Outputs:
    """What the transformer's memories hold after a chunk."""
    first = stream.memories[0].keys
    last = stream.memories[-1].values
    windows = [sum(keys.shape[1] for keys in memory.keys) // WINDOW for memory in stream.memories]
    return {
        f"cache_windows_{chunk}": np.array(windows, np.int32),
        f"cache_k0_pooled_{chunk}": _pooled(first),
        f"cache_v_last_pooled_{chunk}": _pooled(last),
    }


def _from_rows(rows: mx.array, latent_shape: tuple[int, ...], transformer: WanTransformer) -> mx.array:
    """Tokens ``(1, N, D)`` of a latent ``(1, C, T, H, W)`` as ``(1, T, H / 2, W / 2, D)``."""
    grid = [size // patch for size, patch in zip(latent_shape[2:], transformer.config.patch_size, strict=True)]
    return rows.reshape(1, *grid, -1)


def _pooled(slices: list[mx.array]) -> mx.array:
    """What a memory holds, meaned over each window: ``(windows, dim)``."""
    return join_heads(pool(mx.concatenate(slices, axis=1), WINDOW))


def _rope(parameters: dict, io: dict[str, np.ndarray]) -> Outputs:
    frames = np.arange(parameters["f"]) + parameters["start"]
    rows = np.arange(parameters["h"])
    columns = np.arange(parameters["w"])
    positions = np.stack(np.meshgrid(frames, rows, columns, indexing="ij"), axis=-1).reshape(-1, 3)
    head_dim = parameters["head_dim"]
    tables = rotary_tables(head_dim, positions.astype(np.float64))
    x = split_heads(mx.array(io["x"][0].astype(np.float32)), parameters["heads"])
    third = head_dim // 3 // 2
    return {
        "rotated": join_heads(rotate(x, tables)[0])[None],
        "sizes": np.array([head_dim // 2 - 2 * third, third, third], np.int32),
    }


def color_fix(case: Case) -> Outputs:
    """Both colour transfers, as they are and clipped."""
    frames = channels_last(case.inputs()["hq"])
    reference = channels_last(case.inputs()["lq"])
    outputs = {}
    for name, transfer in COLOR_TRANSFERS.items():
        fixed = transfer(frames, reference)
        outputs[f"{name}_unclipped"] = channels_first(fixed)
        outputs[name] = channels_first(mx.clip(fixed, -1, 1))
    return outputs


def tiled_vae(case: Case) -> Outputs:
    """Decode with a Wan decoder in tiles, and whole."""
    latents = channels_last(case.inputs()["latents"])
    decoder = load(WanDecoder, case.checkpoint(), dtype=case.dtype)
    tiled = TiledDecoder(decoder, tuple(case.parameter("tile_size")), tuple(case.parameter("tile_stride")))
    rows, columns = latents.shape[2:4]
    height, width = tiled.size
    inner_tile = (height, 2 * height, width, 2 * width)
    return {
        "tiled": channels_first(tiled.decode(latents)),
        "untiled": channels_first(mx.clip(decoder.decode(latents), -1, 1)),
        "tiles": np.array(tile_places(rows, columns, tiled.size, tiled.stride), np.int32),
        "mask_inner": tiled.mask(inner_tile, 3 * height, 3 * width)[..., 0],
    }


def preprocess(case: Case) -> Outputs:
    """Low-quality frames by both rules, and the lengths of padded clips."""
    source = case.inputs()["frames_u8"]
    # A frame beyond the clip's end is its last one.
    frames = source[[min(frame, len(source) - 1) for frame in case.parameter("frames")]]
    height, width = source.shape[1:3]
    plugin = Fit(height, width, case.parameter("scale"), borders="crop")
    official = Fit(height, width, case.parameter("official_scale"), borders="crop", resizing="8bit")
    levels = mx.round((official.lq(frames) + 1) / 2 * 255).astype(mx.uint8)
    lengths = case.outputs()["frame_rules"][:, 0]
    return {
        "plugin_lq": channels_first(plugin.lq(frames))[0],
        "plugin_dims": np.array([*plugin.target, padded_length(len(source)) + 4], np.int32),
        "official_lq_u8": np.moveaxis(np.array(levels[0]), -1, 0),
        "official_dims": np.array([*official.target, _official_length(len(source))], np.int32),
        "frame_rules": np.array([_frame_rule(length) for length in lengths], np.int32),
    }


def _official_length(num_frames: int) -> int:
    """Largest 8k + 1 up to four frames more."""
    return (num_frames + 3) // 8 * 8 + 1


def _frame_rule(num_frames: int) -> tuple[int, ...]:
    """A clip's length and what both rules make of it."""
    padded = padded_length(num_frames)
    return num_frames, padded, _official_length(num_frames), padded + 4
