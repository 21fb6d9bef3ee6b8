"""FlashVSR's golden cases: decoders, projector, transformer, pre- and post-processing, whole pipelines."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.models.flashvsr.block_attention import WINDOW, Sparsity, pool
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection
from LTX_2_MLX.models.flashvsr.transformer import TransformerStream
from LTX_2_MLX.models.tae import ConditionalDecoder, LightTinyAutoencoder, TinyAutoencoder
from LTX_2_MLX.models.wan.transformer import WanTransformer, join_heads, rotary_tables, rotate, split_heads
from LTX_2_MLX.models.wan.vae import WanDecoder, WanEncoder
from LTX_2_MLX.ops.color import adain_transfer, wavelet_transfer
from LTX_2_MLX.verify import Outputs, component
from LTX_2_MLX.verify.case import Case


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
    for name, transfer in (("wavelet", wavelet_transfer), ("adain", adain_transfer)):
        fixed = transfer(frames, reference)
        outputs |= {f"{name}_unclipped": _first(fixed), name: _first(mx.clip(fixed, -1, 1))}
    return outputs
