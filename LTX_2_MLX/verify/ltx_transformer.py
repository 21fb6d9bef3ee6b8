"""Golden cases of the LTX-2 transformer and of the text features."""

import re

import mlx.core as mx

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Perturbation, StreamInput, Transformer
from LTX_2_MLX.verify import Outputs, component
from LTX_2_MLX.verify.case import Case

_STREAMS = ("video", "audio")


@component("ltx2/transformer")
def transformer(case: Case) -> Outputs:
    """The golden cases of the network as users load it."""
    return velocities(case, load(Transformer, case.checkpoint(), dtype=mx.float32))


def velocities(case: Case, network: Transformer) -> Outputs:
    """Every run that the case's outputs name: masks, perturbations, a stream alone."""
    tensors = {name: mx.array(value) for name, value in case.inputs().items()}
    outputs: Outputs = {}
    for run in sorted({name.rpartition(".")[0] for name in case.outputs() if not name.startswith("trace.")}):
        streams = {name: _stream(tensors, name, run) for name in _STREAMS if f"{name}.latent" in tensors}
        if run in ("videoalone", "audioalone"):
            streams = {name: value for name, value in streams.items() if run.startswith(name)}
        found = network(streams.get("video"), streams.get("audio"), _perturbations(case, run, network))
        for name, velocity in zip(_STREAMS, found, strict=True):
            if velocity is not None:
                start = f"{run}." if run else ""
                outputs[f"{start}{name}_velocity"] = velocity
                outputs[f"{start}{name}_x0"] = streams[name].latent - velocity * streams[name].timesteps
    return outputs


def _stream(tensors: dict[str, mx.array], name: str, run: str) -> StreamInput:
    given = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    weights, mark = given.pop("attention_mask", None), given.pop("keyframes_mask", None)
    return StreamInput(
        **given,
        keyframe_mask=mark,
        attention_mask=weights if run == "attnmask" else None,
        context_mask=tensors["context_mask"] if run == "" else None,
    )


def _perturbations(case: Case, run: str, network: Transformer) -> list[Perturbation] | None:
    every = range(network.config.num_layers)
    bypassed = Perturbation(video_self=_bypassed(case, "video"), audio_self=_bypassed(case, "audio"))
    isolated = Perturbation(audio_to_video=every, video_to_audio=every)
    second = isolated if network.config.audio else Perturbation()
    return {"stg": [bypassed] * 2, "modality": [isolated] * 2, "mixed": [bypassed, second]}.get(run)


def _bypassed(case: Case, stream: str) -> set[int]:
    # The blocks stand in the notes alone: "video self-attention bypassed in block 1".
    named = re.search(
        rf"{stream} self-attention (?:bypassed )?in blocks? (\d+(?:(?:, | and )\d+)*)", case.spec["notes"]
    )
    return {int(number) for number in re.findall(r"\d+", named.group(1))} if named else set()


@component("ltx2/text_connector")
def text_connector(case: Case) -> Outputs:
    """Hidden states to features and contexts."""
    network = load(TextFeatures, case.checkpoint(), dtype=mx.float32)
    states, mask = mx.array(case.inputs()["hidden_states"]), mx.array(case.inputs()["attention_mask"])
    features, contexts = network.features(states, mask), network(states, mask)
    outputs: Outputs = {"context_mask": mx.ones_like(mask)}
    for name, feature, context in zip(_STREAMS, features, contexts, strict=True):
        if context is not None:
            outputs |= {f"{name}_features": feature, f"{name}_context": context}
    return outputs
