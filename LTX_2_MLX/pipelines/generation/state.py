"""Results that the stages of a generation hand on, and what a stage says of its own."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import mlx.core as mx

from LTX_2_MLX.files import content_digest
from LTX_2_MLX.pipelines.generation.option_groups.guidance import SamplerName
from LTX_2_MLX.pipelines.stage import Stage

__all__ = ["Arrays", "GenerationStage", "GenerationState", "Result", "SamplerName", "contents"]

Arrays = dict[str, mx.array]
Result = Literal["text", "contexts", "duration", "images", "control", "latents", "sound", "frames"]


@dataclass(frozen=True)
class GenerationState:
    """Results of the stages so far.

    Attributes:
        text: Every layer's states of the text encoder, each ``(B, L, D)``, and the mask ``(B, L)`` of valid tokens.
        contexts: ``positive.video``, ``positive.audio`` and, with guidance, ``negative.video`` and ``negative.audio``,
            each ``(1, L, D)``; a stream without a negative context uses its positive one.
        duration: ``seconds`` ``(1,)`` by the duration head; empty where the length was given.
        images: Latents ``(1, 1, H, W, C)`` of conditioning images, as ``STAGE.NUMBER``.
        control: ``reference`` ``(1, T, H, W, C)``, the latent of the video that an IC-LoRA reads.
        latents: ``video`` ``(B, T, H, W, C)`` and ``audio`` tokens ``(B, N, D)``, float32.
        sound: ``waveform`` ``(S, 2)`` float32 in [-1, 1] and ``sample_rate``; empty for a silent video.
    """

    text: tuple[list[mx.array], mx.array] | None = None
    contexts: Arrays = field(default_factory=dict)
    duration: Arrays = field(default_factory=dict)
    images: Arrays = field(default_factory=dict)
    control: Arrays = field(default_factory=dict)
    latents: Arrays = field(default_factory=dict)
    sound: Arrays = field(default_factory=dict)


class GenerationStage(Stage, Protocol):
    """A stage from one ``GenerationState`` to the next.

    Attributes:
        needs: Results of earlier stages that it reads.
        gives: The result that it writes.
        saved_as: Name under which a job saves that result; None: not saved.
    """

    @property
    def needs(self) -> tuple[Result, ...]:
        """Results of earlier stages that it reads."""

    @property
    def gives(self) -> Result:
        """The result that it writes."""

    @property
    def saved_as(self) -> str | None:
        """Name under which a job saves the result; None: not saved."""

    def facts(self) -> dict[str, Any]:
        """Settings and files that the result follows from, apart from the results that it needs."""


def contents(*paths: Path) -> list[str]:
    """What files hold, for the facts of a stage; their names and folders do not matter."""
    return [content_digest(path) for path in paths]
