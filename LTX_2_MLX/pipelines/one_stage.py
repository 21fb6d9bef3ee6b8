"""A film denoised at its full size in one go: guided from a dev checkpoint, in eight steps from a distilled one."""

from dataclasses import dataclass

from LTX_2_MLX.diffusion.guidance import passes
from LTX_2_MLX.diffusion.noise import seeded_noise
from LTX_2_MLX.diffusion.state import StreamArrays
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.pipelines.defaults import stage_sigmas
from LTX_2_MLX.pipelines.film import (
    Film,
    Models,
    contexts_of,
    finished,
    images_of,
    kept_streams,
    planned_denoising,
    planned_frames,
    planned_text,
)
from LTX_2_MLX.pipelines.stages import Denoising, EncodedImage, denoise
from LTX_2_MLX.planning.plan import Plan
from LTX_2_MLX.runtime.job import NOTHING_KEPT, Job
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.shapes import VideoShape

LAST_STAGE = "denoise"


@dataclass(frozen=True)
class Request:
    """A film in one stage.

    Attributes:
        film: What is to be seen.
        models: The files.
        height: Pixels of the film.
        width: Pixels of the film.
        steps: Of the schedule; None takes the checkpoint's usual number.
    """

    film: Film
    models: Models
    height: int
    width: int
    steps: int | None = None

    @property
    def shape(self) -> VideoShape:
        """Size of the film as it is denoised."""
        return VideoShape(self.film.num_frames, self.height, self.width)

    @property
    def output_shape(self) -> VideoShape:
        """Size of the film as it is decoded: the same."""
        return self.shape

    def stage(self, images: list[EncodedImage]) -> Denoising:
        """The denoising stage."""
        film, models = self.film, self.models
        return Denoising(
            name=LAST_STAGE,
            grid=film.grid(models, self.height, self.width),
            sigmas=stage_sigmas(self.steps, film.guidance, distilled=models.distilled, usual=models.defaults.steps),
            guidance=film.both_streams,
            sampler=models.first_sampler(film.guidance),
            images=images,
        )


def plan(request: Request) -> Plan:
    """What the request takes, from headers alone; every file is checked as loading will check it."""
    film, models, stage = request.film, request.models, request.stage([])
    lines, frames = planned_frames(film, models, request.shape)
    denoising = planned_denoising(
        stage.name, request.shape, len(stage.sigmas) - 1, len(passes(stage.guidance)), film, models, models.loras
    )
    return Plan(tuple(lines), (*planned_text(film, models, request.shape), denoising, *frames))


def one_stage(request: Request, runner: StageRunner, job: Job = NOTHING_KEPT) -> FrameStream:
    """The film: everything up to its latent is done when this returns, frames are decoded as they are read.

    ``job`` keeps the stages' results, and has those of an earlier run.
    """
    film, models = request.film, request.models

    def denoised() -> StreamArrays:
        contexts = contexts_of(film, models, runner, job)
        (images,) = images_of(film, models, runner, [request.shape], job)
        return denoise(
            runner,
            lambda: models.load_transformer(models.loras, runner.progress.note),
            request.stage(images),
            contexts,
            seeded_noise(film.seed),
        )

    return finished(film, models, runner, kept_streams(job, LAST_STAGE, denoised)["video"], job)
