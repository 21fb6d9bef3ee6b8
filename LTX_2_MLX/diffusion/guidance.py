"""Several calls of the network combined into one clean estimate.

All formulas work on clean estimates ``(B, N, D)`` in float32. The network comes in as ``predict``.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/components/guiders.py and
packages/ltx-pipelines/src/ltx_pipelines/utils/denoisers.py at 400fd31.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from LTX_2_MLX.diffusion.state import State, Streams

TextDelta = Callable[[mx.array, mx.array], mx.array]


@dataclass(frozen=True)
class Guidance:
    """How one stream is guided. The defaults guide nothing and cost one call.

    Attributes:
        guidance_scale: Classifier-free guidance away from the negative prompt; 1 is none.
        stg_scale: Away from what the network says with self-attention bypassed in ``stg_blocks``; 0 is none.
        stg_blocks: Indices of those blocks.
        modality_scale: Away from what the network says with the two streams deaf to each other; 1 is none.
        guidance_rescale: How far the result's spread is brought back to the unguided one's, 0 to 1.
        skip_step: After each computed step the stream keeps its estimate for so many steps.
        text_delta: Another rule for the step away from the negative prompt, instead of ``cfg_delta``.
    """

    guidance_scale: float = 1.0
    stg_scale: float = 0.0
    stg_blocks: tuple[int, ...] = ()
    modality_scale: float = 1.0
    guidance_rescale: float = 0.0
    skip_step: int = 0
    text_delta: TextDelta | None = None

    @property
    def uses_negative(self) -> bool:
        """Whether the negative prompt has any part in it."""
        return self.guidance_scale != 1 or self.text_delta is not None

    def skips(self, step: int) -> bool:
        """Whether the stream keeps its last estimate at ``step``."""
        return step % (self.skip_step + 1) != 0


@dataclass(frozen=True)
class Pass:
    """One way to call the network.

    Attributes:
        negative: With the negative contexts.
        skip_self_attention: Blocks in which each stream's self-attention gives its values unmixed.
        isolated: Without attention between the streams.
    """

    negative: bool = False
    skip_self_attention: Streams[tuple[int, ...]] = field(default_factory=lambda: Streams((), ()))
    isolated: bool = False


# (state, sigma, passes, which streams are computed) -> clean estimates, one pair for each pass.
Predict = Callable[[State, float, Sequence[Pass], Streams[bool]], Sequence[Streams[mx.array]]]
# (state, sigma, step) -> one guided clean estimate of each stream.
Denoise = Callable[[State, float, int], Streams[mx.array]]

_CONDITIONAL, _NEGATIVE, _ISOLATED = Pass(), Pass(negative=True), Pass(isolated=True)


def passes(guidance: Streams[Guidance]) -> list[Pass]:
    """The passes that any of the given streams needs, the conditional one first."""
    present = [stream for stream in guidance if stream is not None]
    blocks = Streams(*(stream.stg_blocks if stream and stream.stg_scale else () for stream in guidance))
    needed = [_CONDITIONAL]
    if any(stream.uses_negative for stream in present):
        needed.append(_NEGATIVE)
    if any(blocks):
        needed.append(Pass(skip_self_attention=blocks))
    if any(stream.modality_scale != 1 for stream in present):
        needed.append(_ISOLATED)
    return needed


def guided(predict: Predict, guidance: Streams[Guidance]) -> Denoise:
    """``denoise`` for a sampler: as many calls of ``predict`` as ``guidance`` needs, combined.

    A stream that skips a step keeps its last estimate. One run, one ``denoise``: it remembers the last estimates.
    """
    last: Streams[mx.array] = Streams(None, None)

    def denoise(state: State, sigma: float, step: int) -> Streams[mx.array]:
        nonlocal last
        computed = state.map(lambda _, g: not g.skips(step), guidance)
        if any(computed):
            needed = passes(computed.map(lambda on, g: g if on else None, guidance))
            estimates = dict(zip(needed, predict(state, sigma, needed, computed), strict=True))
            last = computed.map(
                lambda on, g, kept, *rows: _combine(g, dict(zip(estimates, rows, strict=True))) if on else kept,
                guidance,
                last,
                *estimates.values(),
            )
        return last

    return denoise


def guided_and_unconditional(predict: Predict, guidance: Streams[Guidance]):
    """``(guided, unconditional)`` estimates for each step, for the CFG++ sampler."""

    def denoise(state: State, sigma: float, step: int) -> tuple[Streams[mx.array], Streams[mx.array]]:
        unconditional: list[Streams[mx.array]] = []

        def listen(state, sigma, needed, computed):
            with_negative = [*needed] if _NEGATIVE in needed else [*needed, _NEGATIVE]
            estimates = predict(state, sigma, with_negative, computed)
            unconditional.append(estimates[with_negative.index(_NEGATIVE)])
            return estimates[: len(needed)]

        return guided(listen, guidance)(state, sigma, 0), unconditional[0]

    return denoise


def _combine(guidance: Guidance, estimates: dict[Pass, mx.array]) -> mx.array:
    conditional = estimates[_CONDITIONAL]
    # Where no block is bypassed, the perturbed pass would be the conditional one.
    perturbed = next((value for key, value in estimates.items() if any(key.skip_self_attention)), conditional)
    return guide(
        guidance,
        conditional,
        negative=estimates.get(_NEGATIVE),
        perturbed=perturbed,
        isolated=estimates.get(_ISOLATED),
    )


def guide(
    guidance: Guidance,
    conditional: mx.array,
    *,
    negative: mx.array | None = None,
    perturbed: mx.array | None = None,
    isolated: mx.array | None = None,
) -> mx.array:
    """One stream's estimates combined. A pass whose scale is neutral has no part in it and may be None.

    The spread for ``guidance_rescale`` is taken over the whole array, batch included.
    """
    result = conditional
    if guidance.uses_negative:
        delta = guidance.text_delta or (lambda c, n: cfg_delta(c, n, guidance.guidance_scale))
        result = result + delta(conditional, negative)
    if guidance.stg_scale:
        result = result + guidance.stg_scale * (conditional - perturbed)
    if guidance.modality_scale != 1:
        result = result + (guidance.modality_scale - 1) * (conditional - isolated)
    if guidance.guidance_rescale:
        factor = _spread(conditional) / _spread(result)
        result = result * (guidance.guidance_rescale * factor + (1 - guidance.guidance_rescale))
    return result


def _spread(value: mx.array) -> mx.array:
    # In two passes: the variance of millions of float32 values in one pass loses digits.
    centred = value - mx.mean(value)
    return mx.sqrt(mx.sum(centred * centred) / (value.size - 1))


def cfg_delta(conditional: mx.array, negative: mx.array, scale: float) -> mx.array:
    """Classifier-free guidance: the step from ``negative`` to ``conditional``, prolonged."""
    return (scale - 1) * (conditional - negative)


def cfg_star_delta(conditional: mx.array, negative: mx.array, scale: float) -> mx.array:
    """Classifier-free guidance against the part of ``negative`` that lies along ``conditional``."""
    return (scale - 1) * (conditional - _projection(conditional, negative) * negative)


def apg_delta(
    conditional: mx.array, negative: mx.array, scale: float, *, eta: float = 1.0, norm_threshold: float = 0.0
) -> mx.array:
    """Adaptive projected guidance: the part along ``conditional`` damped by ``eta``, its length limited.

    Norms and projections are taken for each sample. The reference's broadcast over the batch and work for one only.
    """
    return (scale - 1) * _project_guidance(conditional - negative, conditional, eta, norm_threshold)


class MomentumGuidance:
    """Adaptive projected guidance of a running sum of the steps away from the negative prompt.

    It remembers: one for each stream and run.
    """

    def __init__(self, scale: float, *, eta: float, norm_threshold: float = 5.0, momentum: float = 0.0):
        """``scale`` multiplies the whole; ``momentum`` is what stays of the sum from step to step."""
        self.scale, self.eta, self.norm_threshold, self.momentum = scale, eta, norm_threshold, momentum
        self.running: mx.array | None = None

    def __call__(self, conditional: mx.array, negative: mx.array) -> mx.array:
        """The next step's delta, ``(B, N, D)``."""
        step = conditional - negative
        self.running = step if self.running is None else self.momentum * self.running + step
        return self.scale * _project_guidance(self.running, conditional, self.eta, self.norm_threshold)


def _project_guidance(step: mx.array, conditional: mx.array, eta: float, norm_threshold: float) -> mx.array:
    if norm_threshold > 0:
        norm = mx.sqrt(mx.sum(step * step, axis=(1, 2), keepdims=True))
        step = step * mx.minimum(1.0, norm_threshold / norm)
    parallel = _projection(step, conditional) * conditional
    return eta * parallel + (step - parallel)


def _projection(value: mx.array, onto: mx.array) -> mx.array:
    """How many times ``onto`` lies in ``value``, for each sample: ``(B, 1, 1)``."""
    dot = mx.sum(value * onto, axis=(1, 2), keepdims=True)
    return dot / (mx.sum(onto * onto, axis=(1, 2), keepdims=True) + 1e-8)
