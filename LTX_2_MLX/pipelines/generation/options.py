"""Options of ``generate``: one frozen dataclass under the names of the flags."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.postprocess import Request as Finishing

PipelineName = Literal["one-stage", "text-to-video", "distilled", "two-stage"]
Precision = Literal["fp16", "bf16", "fp32"]
_RANGES = {
    "cfg": (0, 100),
    "cfg_stage1": (0, 100),
    "stg_scale": (0, 100),
    "guidance_rescale": (0, 1),
    "image_strength": (0, 1),
    "steps": (1, 1000),
    "steps_stage1": (1, 1000),
    "steps_stage2": (1, 1000),
    "memory_limit_gb": (0.01, 100_000),
}
_CHOICES = {
    "pipeline": get_args(PipelineName),
    "model_variant": (None, "dev", "distilled"),
    "precision": (None, *get_args(Precision)),
}


@dataclass(frozen=True)
class Options:
    """Everything that can be asked for, under the command's names. None: the model or the pipeline decides.

    Attributes:
        prompt: What is to be seen.
        pipeline: ``one-stage`` (also called ``text-to-video``), ``distilled`` or ``two-stage``.
        height, width: Pixels of stage 1 in ``two-stage``, where the film is larger; of the film otherwise.
        output_height, output_width: Pixels of the film instead.
        frames: Pixel frames, 8k + 1.
        duration: Seconds instead of frames; rounded up to 8k + 1 frames.
        fps: Frames per second.
        steps: Of ``one-stage`` (30) and ``distilled`` (8).
        steps_stage1, steps_stage2: Of ``two-stage`` (15, or 8 with a distilled checkpoint and no guidance; 3).
        cfg: Guidance scale, 1 for none; 5 for dev checkpoints, 1 for distilled ones.
        cfg_stage1: The same for stage 1 of ``two-stage``, instead of ``cfg``. Stage 2 is never guided.
        guidance_rescale: 0 to 1; 0.7 against colours that are too strong.
        stg_scale: Spatio-temporal guidance; 0 for none.
        negative_prompt: What guidance leads away from.
        image: A picture for the first frame.
        image_strength: How firmly it is held, 0 to 1.
        lora: Adapters of the transformer, ``path`` or ``path:strength``.
        model_variant: ``dev`` or ``distilled``: picks the file, or says what the given one is.
        weights, spatial_upscaler_weights, temporal_weights, distilled_lora, gemma: Files: a path, a catalogue name,
            a repository or ``repository:file``; ``auto`` finds what is on this machine.
        precision: ``fp16``, ``bf16`` or ``fp32``; bfloat16 on a GPU and float32 on a CPU unless given.
        quantize: 8 or 4: bits of the transformer's and the text encoder's large layers; None keeps the precision.
        low_ram: Read the blocks of both from disk while they run, instead of holding them.
        temporal_upscale: Double the frame rate in latent space before decoding.
        tile_size: Side of the decoder's tiles in pixels; whole frames wherever memory allows unless given.
        memory_limit_gb: GiB that the run may use, instead of what the machine lends.
        fit: Change what does not fit into that to the nearest that does, and say so.
        seed: The same seed gives the same film.
        embeddings: A file with the prompt's embeddings, instead of the text encoder.
        save_embeddings: Where to write them.
        save_latents: Folder in which every stage's result is kept.
        resume: The same folder again, to go on from the last complete stage.
        enable_frame_interpolation, frame_interpolation_exp, frame_interpolation_scale,
        frame_interpolation_model_path: Make the film smoother by RIFE; see ``pipelines.postprocess``.
        enable_upscaling, upscaling_scale, upscaling_model_path: Make it larger by Real-ESRGAN after that.
    """

    prompt: str
    pipeline: PipelineName = "two-stage"
    height: int | None = None
    width: int | None = None
    output_height: int | None = None
    output_width: int | None = None
    frames: int | None = None
    duration: float | None = None
    fps: Fraction | float | str | None = None
    steps: int | None = None
    steps_stage1: int | None = None
    steps_stage2: int | None = None
    cfg: float | None = None
    cfg_stage1: float | None = None
    guidance_rescale: float = 0.0
    stg_scale: float = 0.0
    negative_prompt: str | None = None
    image: str | Path | None = None
    image_strength: float = 1.0
    lora: Sequence[str] = ()
    model_variant: Literal["dev", "distilled"] | None = None
    weights: str = "auto"
    spatial_upscaler_weights: str = "auto"
    temporal_weights: str = "auto"
    distilled_lora: str = "auto"
    gemma: str = "auto"
    precision: Precision | None = None
    quantize: int | None = None
    low_ram: bool = False
    temporal_upscale: bool = False
    tile_size: int | None = None
    memory_limit_gb: float | None = None
    fit: bool = False
    seed: int = 0
    embeddings: str | Path | None = None
    save_embeddings: str | Path | None = None
    save_latents: str | Path | None = None
    resume: str | Path | None = None
    enable_frame_interpolation: bool = Finishing.enable_frame_interpolation
    frame_interpolation_exp: int = Finishing.frame_interpolation_exp
    frame_interpolation_scale: float = Finishing.frame_interpolation_scale
    frame_interpolation_model_path: str = Finishing.frame_interpolation_model_path
    enable_upscaling: bool = Finishing.enable_upscaling
    upscaling_scale: float = Finishing.upscaling_scale
    upscaling_model_path: str = Finishing.upscaling_model_path

    @property
    def finishing(self) -> Finishing:
        """What is done to the film's frames: interpolation, then upscaling."""
        names = {field.name for field in fields(Finishing)} & {field.name for field in fields(self)}
        return Finishing(**{name: getattr(self, name) for name in names})

    @property
    def two_stages(self) -> bool:
        """Whether the film is made in two stages."""
        return self.pipeline == "two-stage"

    def __post_init__(self) -> None:
        """Raise ``RequestError`` for options that contradict each other or cannot be."""
        self._refuse_unused()
        # Checks its own values.
        _ = self.finishing
        _refuse_both("--save-latents", self.save_latents, "--resume", self.resume)
        _refuse_both("--frames", self.frames, "--duration", self.duration)
        _refuse_both("--height", self.height, "--output-height", self.output_height)
        _refuse_both("--width", self.width, "--output-width", self.output_width)
        _refuse_both("--embeddings", self.embeddings, "--save-embeddings", self.save_embeddings)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                known = ", ".join(choice for choice in choices if choice)
                raise RequestError(f"--{_flag(name)} is {getattr(self, name)!r}, it can be {known}.")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise RequestError(f"--{_flag(name)} is {value:g}, it can be from {low} to {high}.")

    def _refuse_unused(self) -> None:
        """An option that another pipeline has would be ignored, so it is refused."""
        foreign = (
            {"steps": "one-stage and distilled"}
            if self.two_stages
            else dict.fromkeys(("steps_stage1", "cfg_stage1"), "two-stage")
        )
        for name, where in foreign.items():
            if getattr(self, name) is not None:
                raise RequestError(
                    f"--{_flag(name)} belongs to {where}, but --pipeline is {self.pipeline}. Leave it out."
                )


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _refuse_both(first: str, one: Any, second: str, other: Any) -> None:
    if one is not None and other is not None:
        raise RequestError(f"{first} and {second} say the same in two ways. Leave one out.")
