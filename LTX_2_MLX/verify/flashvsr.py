"""FlashVSR's golden cases: decoders, projector, transformer, pre- and post-processing, whole pipelines."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection
from LTX_2_MLX.models.tae import ConditionalDecoder, LightTinyAutoencoder, TinyAutoencoder
from LTX_2_MLX.models.wan.vae import WanDecoder, WanEncoder
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
