"""Duration stage: the prompt's contexts to the length of the video, by LTX-2.5's duration head.

A run is planned for the longest video that the head may answer. Its record holds the answer, so that a run that
repeats it does not ask again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import mlx.core as mx

from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.models.ltx.duration_head import DurationHead, DurationHeadConfig, frames_of_duration
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.prompt import context_size, contexts_bytes, prompt_stages, remaining
from LTX_2_MLX.pipelines.generation.request import DurationLimits, Request, request_for
from LTX_2_MLX.pipelines.generation.run import chained_facts, run_saved
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationStage, GenerationState, Result, contents
from LTX_2_MLX.pipelines.options import AUTO
from LTX_2_MLX.planning.plan import Estimate, dtype_for, network_weights_bytes
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.job import Job
from LTX_2_MLX.runtime.runner import StageRunner, check_result, run_stages

# It is small, and seconds depend on the exponential of its output.
_DTYPE = dtype_for("duration head")
# Arrays of all tokens, of the head's width, that live at once: the projected streams, tokens, keys, values.
_TOKEN_ARRAYS = 7


@dataclass(frozen=True)
class PredictDuration:
    """Duration head: contexts to seconds.

    Attributes:
        head: The checkpoint with the head.
        request: Of the longest video.
    """

    head: Checkpoint
    request: Request
    name = "duration_head"
    needs: ClassVar[tuple[Result, ...]] = ("contexts",)
    gives: ClassVar[Result] = "duration"
    saved_as = "duration"

    def estimate(self) -> Estimate:
        """The tokens of both contexts."""
        limits = self.request.duration
        assert limits is not None
        config = config_of(DurationHead, self.head)
        _, length = context_size(self.request)
        tokens = 2 * length * config.width * _DTYPE.size
        return Estimate(
            name=self.name,
            work=f"length of the video, {limits.min_seconds:g} to {limits.max_seconds:g} s",
            dtype=_DTYPE,
            file=self.head.path,
            weights_bytes=network_weights_bytes([DurationHead], self.head, dtype=_DTYPE),
            activation_bytes=contexts_bytes(self.request) + _TOKEN_ARRAYS * tokens,
            array_bytes=array_bytes(config, length),
        )

    def run(self, runner: StageRunner, state: GenerationState) -> GenerationState:
        """Ask the head. Raises OutputError where its answer is no number, RequestError for another model's contexts."""
        self._check_contexts(state)

        def work(head: DurationHead) -> Arrays:
            contexts: dict[Any, mx.array] = {}
            for stream in ("video", "audio"):
                if f"positive.{stream}" in state.contexts:
                    contexts[stream] = state.contexts[f"positive.{stream}"].astype(_DTYPE)
            return {"seconds": head(contexts)}

        duration = runner.run(self.name, partial(load, DurationHead, self.head, dtype=_DTYPE), work)
        check_result(self.name, duration)
        return replace(state, duration=duration)

    def _check_contexts(self, state: GenerationState) -> None:
        """Saved embeddings may be of another model."""
        config = config_of(DurationHead, self.head)
        for stream, width in (("video", config.video_width), ("audio", config.audio_width)):
            context = state.contexts.get(f"positive.{stream}")
            if context is not None and context.shape[-1] != width:
                raise RequestError(
                    f"{self.head.path} reads contexts of width {width}, the {stream} embeddings have "
                    f"{context.shape[-1]}. Give --duration-head the file of the same model, or pass --frames."
                )

    def facts(self) -> dict[str, Any]:
        """The head's file; limits are applied to its answer."""
        return {"weights": contents(self.head.path)}


def with_duration_stage(request: Request, stages: Sequence[GenerationStage]) -> list[GenerationStage]:
    """The stages with the duration head after those of the prompt."""
    assert request.models.duration_head is not None
    prompt = [stage for stage in stages if stage.gives in ("text", "contexts")]
    return [*prompt, PredictDuration(request.models.duration_head, request), *stages[len(prompt) :]]


def with_settled_length(
    options: Options,
    request: Request,
    runner: StageRunner,
    job: Job | None,
    state: GenerationState,
    record: Mapping[str, Any],
) -> tuple[Options, Request, GenerationState]:
    """Options and request with the number of frames that the head answers, and the state with the contexts.

    Args:
        options: Without a length.
        request: Of the longest video.
        runner: Runs the stages.
        job: Saves the results, and holds those of an earlier run; None where they are not saved.
        state: Results that no stage makes.
        record: The record of the run as far as it is settled, for the job.
    """
    stages = with_duration_stage(request, prompt_stages(request))
    if job is None:
        state = run_stages(remaining(stages, state), runner, state)
    else:
        job.remember(record)
        state = run_saved(stages, runner, job, chained_facts(stages), state, {"contexts", "duration"})
    return *settled(options, request, state, runner.progress.note), state


def settled(
    options: Options, request: Request, state: GenerationState, note: Callable[[str], None]
) -> tuple[Options, Request]:
    """Options and request with the number of frames that the head answered; ``note`` gets a line on it."""
    seconds = float(state.duration["seconds"][0])
    if launch.RANK is not None:
        from LTX_2_MLX.pipelines.generation.sharing import number_of_first

        seconds = number_of_first(seconds)
    num_frames = settled_frames(request, seconds)
    note(
        f"Length: {num_frames} frames, {float(num_frames / request.frame_rate):.2f} s. The duration head says "
        f"{seconds:.2f} s."
    )
    options = settled_options(options, num_frames)
    return options, request_for(options)


def settled_frames(request: Request, seconds: float) -> int:
    """Frames of a duration within the request's limits."""
    limits = request.duration
    assert isinstance(limits, DurationLimits)
    return frames_of_duration(seconds, request.frame_rate, limits.min_seconds, limits.max_seconds)


def settled_options(options: Options, num_frames: int) -> Options:
    """The options with a length in the place of the head and its limits."""
    return replace(options, frames=num_frames, min_duration=None, max_duration=None, duration_head=AUTO)


def array_bytes(config: DurationHeadConfig, length: int) -> int:
    """Bytes of the largest array: a context of so many tokens, or both in the head's width."""
    return length * max(config.video_width, config.audio_width, 2 * config.width) * _DTYPE.size
