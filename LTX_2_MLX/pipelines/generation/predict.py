"""The transformer as guidance calls it: a state and passes to clean estimates."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import mlx.core as mx

from LTX_2_MLX.diffusion.guidance import Guidance, Pass, Predict
from LTX_2_MLX.diffusion.state import LatentState, State, StreamArrays, to_denoised
from LTX_2_MLX.layers.transformer import KeysValues
from LTX_2_MLX.models.ltx.transformer import Perturbation, StreamInput, Transformer, evaluate_each
from LTX_2_MLX.pipelines.generation.state import Arrays
from LTX_2_MLX.shapes import StreamName

if TYPE_CHECKING:
    from LTX_2_MLX.models.ltx.step_cache import StepCaches
    from LTX_2_MLX.pipelines.generation.fastest_way import Speed


def predictor(
    transformer: Transformer,
    contexts: Arrays,
    guidance: Mapping[StreamName, Guidance],
    *,
    shared_cross_modal_sigma: bool = False,
    keep_text: bool = False,
    step_caches: "StepCaches | None" = None,
) -> Predict:
    """The transformer as guidance calls it: a state and passes to clean estimates.

    Passes run one after another, so that activations take the memory of one pass, whatever the guidance.

    Args:
        transformer: The network.
        contexts: Contexts of the prompts.
        guidance: Of each stream.
        shared_cross_modal_sigma: Whether the other stream's noise level modulates the cross-modal attention of all
            tokens, held ones included, as diffusers has it; otherwise each token's own level does, as in 400fd31.
        keep_text: Keep keys and values of the text attention; not for networks that modulate their text.
        step_caches: Block outputs that close steps reuse.
    """
    positive = _projected(transformer, contexts, "positive")
    # A stream without a negative context keeps its positive one in the negative pass.
    negative = {**positive, **_projected(transformer, contexts, "negative")}
    kept: dict[tuple[bool, StreamName], list[KeysValues]] = {}

    def predict(
        state: State, sigma: float, passes: Sequence[Pass], computed: Collection[StreamName]
    ) -> dict[Pass, StreamArrays]:
        estimates: dict[Pass, StreamArrays] = {}
        for kind in passes:
            context = negative if kind == "negative" else positive
            inputs: dict[StreamName, StreamInput] = {}
            for name, stream in state.items():
                text = kept.setdefault((kind == "negative", name), []) if keep_text else None
                inputs[name] = _stream_input(stream, context[name], text, enabled=name in computed, sigma=sigma)
            if shared_cross_modal_sigma:
                inputs = _with_shared_sigma(inputs)
            perturbations = None
            if kind in ("perturbed", "isolated"):
                perturbation = _perturbation(kind, guidance, transformer.config.num_layers)
                perturbations = [perturbation] * len(state["video"].latent)
            velocities = transformer(
                inputs["video"],
                inputs.get("audio"),
                perturbations,
                on_block=evaluate_each(),
                step_cache=None if step_caches is None else step_caches.of(kind, sigma),
            )
            estimates[kind] = {}
            for (name, stream), velocity in zip(state.items(), velocities, strict=False):
                if velocity is not None:
                    estimates[kind][name] = to_denoised(stream.latent, velocity, stream.denoise_mask * sigma)
            mx.eval(estimates[kind])
        return estimates

    return predict


def shared(
    predict: Predict,
    parallel: str,
    transformer: Transformer,
    contexts: Arrays,
    *,
    speed: "Speed | None" = None,
) -> Predict:
    """``predict`` shared among the processes of a run.

    Args:
        predict: The transformer as guidance calls it.
        parallel: Name of the way to share it.
        transformer: The network.
        contexts: Contexts of the prompts.
        speed: Of the machines, by which ``auto`` chooses a way for each step; None: by the number of passes alone.
    """
    # Most runs are alone on one machine.
    from LTX_2_MLX.diffusion.sharing import TokenWidths, shared_by, unguided
    from LTX_2_MLX.runtime.machines import machines

    config = transformer.config
    text_tokens = {context.shape[1] for context in contexts.values()}
    group = machines().group

    def by_tokens(state: State, passes: int) -> bool:
        if speed is None:
            return unguided(state, passes)
        from LTX_2_MLX.pipelines.generation.fastest_way import StepWork

        audio_tokens = state["audio"].num_tokens if "audio" in state else 0
        dtype = next(iter(contexts.values())).dtype
        work = StepWork(config, state["video"].num_tokens, audio_tokens, max(text_tokens), dtype, passes)
        return work.fastest(group.size, speed) == "sequence"

    widths = TokenWidths(config.token_widths | text_tokens, {config.activation_width})
    return shared_by(parallel, predict, group, widths, by_tokens)


def _with_shared_sigma(inputs: dict[StreamName, StreamInput]) -> dict[StreamName, StreamInput]:
    """Each stream with the other one's noise level for its cross-modal attention."""
    if len(inputs) == 1:
        return inputs
    video, audio = inputs["video"], inputs["audio"]
    return {
        "video": replace(video, cross_modal_sigma=audio.sigma),
        "audio": replace(audio, cross_modal_sigma=video.sigma),
    }


def _perturbation(kind: Pass, guidance: Mapping[StreamName, Guidance], num_layers: int) -> Perturbation:
    if kind == "isolated":
        return Perturbation(audio_to_video=range(num_layers), video_to_audio=range(num_layers))
    blocks = {name: rule.stg_blocks if rule.stg_scale else () for name, rule in guidance.items()}
    return Perturbation(video_self=blocks["video"], audio_self=blocks.get("audio", ()))


def _projected(transformer: Transformer, contexts: Arrays, prompt: str) -> StreamArrays:
    streams: tuple[StreamName, ...] = ("video", "audio")
    projected: StreamArrays = {}
    for name in streams:
        context = contexts.get(f"{prompt}.{name}")
        if context is not None:
            projected[name] = transformer[name].project_context(context)
    mx.eval(projected)
    return projected


def _stream_input(
    state: LatentState, context: mx.array, text: list[KeysValues] | None, *, enabled: bool, sigma: float
) -> StreamInput:
    batch = state.latent.shape[0]
    return StreamInput(
        latent=state.latent,
        sigma=mx.full((batch,), 0.0 if state.frozen else sigma),
        positions=state.positions,
        context=mx.broadcast_to(context, (batch, *context.shape[1:])),
        timesteps=sigma * (state.denoise_mask if state.mask_of_all is None else state.mask_of_all),
        attention_mask=state.attention_mask,
        keyframe_mask=state.keyframe_mask,
        enabled=enabled,
        context_projected=True,
        text_keys_values=text,
        share=state.share,
    )
