"""Guidance: several passes through the transformer combined into one clean estimate.

All formulas work on clean estimates ``(B, N, D)`` in float32. The transformer comes in as ``predict``.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/components/guiders.py and
packages/ltx-pipelines/src/ltx_pipelines/utils/denoisers.py at 400fd31.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from LTX_2_MLX.diffusion.state import State, StreamArrays
from LTX_2_MLX.shapes import StreamName

# Ways to call the transformer: with the prompt; with the negative prompt; with self-attention bypassed in the
# guidance's ``stg_blocks``; without cross-modal attention.
Pass = Literal["conditional", "negative", "perturbed", "isolated"]


@dataclass(frozen=True)
class Guidance:
    """Guidance of one stream. The defaults guide nothing and cost one pass.

    Attributes:
        guidance_scale: Classifier-free guidance away from the negative prompt; 1 is off.
        stg_scale: Spatio-temporal guidance away from the perturbed pass; 0 is off.
        stg_blocks: Blocks whose self-attention the perturbed pass bypasses.
        modality_scale: Cross-modal guidance away from the isolated pass; 1 is off.
        guidance_rescale: Share by which the result's standard deviation is scaled back to the conditional one's.
        skip_step: After each computed step, reuse the stream's estimate for this many steps.
    """

    guidance_scale: float = 1.0
    stg_scale: float = 0.0
    stg_blocks: tuple[int, ...] = ()
    modality_scale: float = 1.0
    guidance_rescale: float = 0.0
    skip_step: int = 0

    def skips(self, step: int) -> bool:
        """Whether the stream reuses its last estimate at ``step``."""
        return step % (self.skip_step + 1) != 0


def both_streams(guidance: Guidance) -> dict[StreamName, Guidance]:
    """The same guidance of video and audio."""
    return {"video": guidance, "audio": guidance}


UNGUIDED = both_streams(Guidance())

# (state, sigma, passes, streams to compute) -> clean estimates of these streams for each pass.
Predict = Callable[[State, float, Sequence[Pass], Collection[StreamName]], Mapping[Pass, StreamArrays]]
# (state, sigma, step) -> one guided clean estimate of each stream.
Denoise = Callable[[State, float, int], StreamArrays]


def passes(guidance: Mapping[StreamName, Guidance]) -> list[Pass]:
    """The passes that any of the streams needs, the conditional one first."""
    negative = perturbed = isolated = False
    for stream in guidance.values():
        negative = negative or stream.guidance_scale != 1
        perturbed = perturbed or bool(stream.stg_scale and stream.stg_blocks)
        isolated = isolated or stream.modality_scale != 1
    needed: list[Pass] = ["conditional"]
    if negative:
        needed.append("negative")
    if perturbed:
        needed.append("perturbed")
    if isolated:
        needed.append("isolated")
    return needed


def steps_within(share: tuple[float, float], num_steps: int) -> range:
    """Numbers of the steps that lie in a share of a schedule, its bounds rounded to whole steps.

    A share up to 1 has no last step: some samplers evaluate once more after it.
    """
    start, end = share
    return range(round(start * num_steps), num_steps + 1 if end == 1 else round(end * num_steps))


def guided(predict: Predict, guidance: Mapping[StreamName, Guidance], steps: Collection[int] | None = None) -> Denoise:
    """``denoise`` for a sampler: the passes that ``guidance`` needs, combined for each stream.

    It remembers the last estimates, for streams that skip steps: make a new one for each run.

    Args:
        predict: The transformer.
        guidance: Of each stream.
        steps: Numbers of the steps that are guided, others have the conditional pass alone; None: all.
    """
    last: StreamArrays = {}
    unguided = Guidance()

    def denoise(state: State, sigma: float, step: int) -> StreamArrays:
        computed: dict[StreamName, Guidance] = {}
        for name in state:
            if steps is not None and step not in steps:
                computed[name] = unguided
            elif not guidance[name].skips(step):
                computed[name] = guidance[name]
        if computed:
            estimates = predict(state, sigma, passes(computed), computed.keys())
            for name in computed:
                of_stream: dict[Pass, mx.array] = {}
                for kind, streams in estimates.items():
                    of_stream[kind] = streams[name]
                last[name] = guide(computed[name], of_stream)
        return dict(last)

    return denoise


def guide(guidance: Guidance, estimates: Mapping[Pass, mx.array]) -> mx.array:
    """Combine one stream's estimates. A pass that is missing counts as equal to the conditional one.

    The standard deviations of ``guidance_rescale`` are taken over the whole array, batch included.
    """
    conditional = estimates["conditional"]
    result = conditional
    if guidance.guidance_scale != 1 and "negative" in estimates:
        result = result + (guidance.guidance_scale - 1) * (conditional - estimates["negative"])
    if guidance.stg_scale and "perturbed" in estimates:
        result = result + guidance.stg_scale * (conditional - estimates["perturbed"])
    if guidance.modality_scale != 1 and "isolated" in estimates:
        result = result + (guidance.modality_scale - 1) * (conditional - estimates["isolated"])
    if guidance.guidance_rescale:
        factor = _standard_deviation(conditional) / _standard_deviation(result)
        result = result * (guidance.guidance_rescale * factor + (1 - guidance.guidance_rescale))
    return result


def _standard_deviation(value: mx.array) -> mx.array:
    # In two passes: the variance of millions of float32 values in one pass loses digits.
    centred = value - mx.mean(value)
    return mx.sqrt(mx.sum(centred * centred) / (value.size - 1))
