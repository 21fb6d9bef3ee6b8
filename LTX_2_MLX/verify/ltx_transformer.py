"""Golden cases of the LTX-2 transformer and of the text features."""

from typing import Any

import mlx.core as mx

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Perturbation, StreamInput, Transformer
from LTX_2_MLX.verify.case import Case, Outputs

_STREAMS = ("video", "audio")


def transformer(case: Case) -> Outputs:
    """The golden cases of the network as users load it."""
    return velocities(case, load(Transformer, case.checkpoint(), dtype=case.dtype))


def velocities(case: Case, network: Transformer) -> Outputs:
    """Every run that the case's outputs name: masks, perturbations, a stream alone."""
    outputs: Outputs = {}
    for run in sorted({name.rpartition(".")[0] for name in case.outputs() if not name.startswith("trace.")}):
        outputs |= _run(case, network, run)
    return outputs


def _run(case: Case, network: Transformer, run: str) -> Outputs:
    """Velocity and clean estimate of each stream, under the run's name."""
    tensors = {name: mx.array(value) for name, value in case.inputs().items()}
    streams = {name: _stream(tensors, name, run) for name in _STREAMS if f"{name}.latent" in tensors}
    if run in ("videoalone", "audioalone"):
        streams = {name: stream for name, stream in streams.items() if run.startswith(name)}
    perturbations = _perturbations(case, run, network)
    prefix = f"{run}." if run else ""
    outputs: Outputs = {}
    computed = network(streams.get("video"), streams.get("audio"), perturbations)
    for name, velocity in zip(_STREAMS, computed, strict=True):
        if velocity is not None:
            outputs[f"{prefix}{name}_velocity"] = velocity
            timesteps = streams[name].timesteps
            assert timesteps is not None
            outputs[f"{prefix}{name}_x0"] = streams[name].latent - velocity * timesteps
    return outputs


def _stream(tensors: dict[str, mx.array], name: str, run: str) -> StreamInput:
    fields: dict[str, Any] = {
        key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")
    }
    attention_mask = fields.pop("attention_mask", None)
    keyframe_mask = fields.pop("keyframes_mask", None)
    return StreamInput(
        **fields,
        keyframe_mask=keyframe_mask,
        attention_mask=attention_mask if run == "attnmask" else None,
        context_mask=tensors["context_mask"] if run == "" else None,
    )


def _perturbations(case: Case, run: str, network: Transformer) -> list[Perturbation] | None:
    """What each of the two samples leaves out: self-attention of some blocks, or the cross-modal attention."""
    every = range(network.config.num_layers)
    # The blocks of cases that name none.
    blocks = case.parameters.get("bypass_blocks", {"video": [1], "audio": [every[0], every[-1]]})
    bypassed = Perturbation(video_self=set(blocks.get("video", ())), audio_self=set(blocks.get("audio", ())))
    isolated = Perturbation(audio_to_video=every, video_to_audio=every)
    second = isolated if network.config.audio else Perturbation()
    perturbations = {"stg": [bypassed, bypassed], "modality": [isolated, isolated], "mixed": [bypassed, second]}
    return perturbations.get(run)


def text_connector(case: Case) -> Outputs:
    """Hidden states to features and contexts."""
    network = load(TextFeatures, case.checkpoint(), dtype=case.text_dtype)
    stacked = mx.array(case.inputs()["hidden_states"])
    states = [stacked[..., number] for number in range(stacked.shape[-1])]
    mask = mx.array(case.inputs()["attention_mask"])
    features = network.features(states, mask)
    contexts = network(states, mask)
    outputs: Outputs = {"context_mask": mx.ones_like(mask)}
    for name, feature, context in zip(_STREAMS, features, contexts, strict=True):
        if context is not None:
            outputs |= {f"{name}_features": feature, f"{name}_context": context}
    return outputs
