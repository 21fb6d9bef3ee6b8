"""A film denoised small, its latent upscaled, and refined at the larger size."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import mlx.core as mx

from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.diffusion import sampler
from LTX_2_MLX.diffusion.guidance import passes
from LTX_2_MLX.diffusion.noise import Noise, seeded_noise
from LTX_2_MLX.diffusion.patchify import VideoGrid
from LTX_2_MLX.diffusion.state import StreamArrays
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.pipelines.defaults import refinement_sigmas, stage_sigmas
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
    planned_upscaler,
    upscaler_config,
)
from LTX_2_MLX.pipelines.stages import Contexts, Denoising, EncodedImage, denoise, upscale_latent
from LTX_2_MLX.planning.plan import Plan
from LTX_2_MLX.runtime.job import NOTHING_KEPT, Job
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.shapes import VideoShape

LAST_STAGE = "stage_2"


@dataclass(frozen=True)
class Request:
    """A film in two stages.

    Stage 2 is not guided. With a dev checkpoint it runs with ``models.distilled_lora``, with a distilled one as it is.

    Attributes:
        film: What is to be seen.
        models: The files, the spatial upscaler among them.
        height: Pixels of stage 1; the film is as much larger as the upscaler makes it.
        width: Pixels of stage 1.
        steps_stage1: Of the first schedule; None takes the checkpoint's usual number.
        steps_stage2: Of the refinement; likewise.
    """

    film: Film
    models: Models
    height: int
    width: int
    steps_stage1: int | None = None
    steps_stage2: int | None = None

    def __post_init__(self) -> None:
        """Raise ``RequestError`` for what two stages cannot do without."""
        if self.models.spatial_upscaler is None:
            raise RequestError("Two-stage pipeline requires --spatial-upscaler-weights")
        if not self.models.distilled and self.models.distilled_lora is None:
            raise RequestError(
                f"Stage 2 with the dev checkpoint {self.models.weights.path.name} needs --distilled-lora "
                f"(ltx-2-19b-distilled-lora-384.safetensors for LTX-2 19B). If the checkpoint is a distilled one, "
                f"pass --model-variant distilled."
            )

    @property
    def shape(self) -> VideoShape:
        """Size of stage 1."""
        return VideoShape(self.film.num_frames, self.height, self.width)

    @property
    def output_shape(self) -> VideoShape:
        """Size of stage 2 and of the film."""
        return self.output_grid.shape.pixels(self.models.compression)

    @property
    def output_grid(self) -> VideoGrid:
        """The latent's cells in stage 2."""
        grid = self.film.grid(self.models, self.height, self.width)
        config = upscaler_config(self.models.spatial_upscaler, temporal=False, flag="--spatial-upscaler-weights")
        return replace(grid, shape=config.output_shape(grid.shape))

    @property
    def loras_stage2(self) -> tuple[Lora, ...]:
        """Adapters of stage 2."""
        models = self.models
        return models.loras if models.distilled else (*models.loras, models.distilled_lora)

    def stages(self, images: list[list[EncodedImage]]) -> tuple[Denoising, Denoising]:
        """Both denoising stages, each with its own encoding of the picture."""
        film, models = self.film, self.models
        first = Denoising(
            name="stage_1",
            grid=film.grid(models, self.height, self.width),
            sigmas=stage_sigmas(
                self.steps_stage1, film.guidance, distilled=models.distilled, usual=models.defaults.steps_stage1
            ),
            guidance=film.both_streams,
            sampler=models.first_sampler(film.guidance),
            images=images[0],
        )
        steps = self.steps_stage2 or models.defaults.steps_stage2
        sigmas = refinement_sigmas(models.defaults.refinement, steps)
        second = Denoising(name=LAST_STAGE, grid=self.output_grid, sigmas=sigmas, images=images[1])
        return first, second


@dataclass(frozen=True)
class TwoStageLatents:
    """What each step leaves: video latents ``(B, T, H, W, C)``, audio tokens ``(B, N, D)``."""

    stage_1: StreamArrays
    upscaled: mx.array
    stage_2: StreamArrays


def plan(request: Request) -> Plan:
    """What the request takes, from headers alone; every file is checked as loading will check it."""
    film, models = request.film, request.models
    first, second = request.stages([[], []])
    lines, frames = planned_frames(film, models, request.output_shape)
    calls, latent = len(passes(first.guidance)), first.grid.shape
    denoising = (
        planned_denoising("stage_1", request.shape, len(first.sigmas) - 1, calls, film, models, models.loras),
        planned_upscaler("latent_upscaler", "latent to the larger size", models.spatial_upscaler, film, models, latent),
        planned_denoising(
            "stage_2", request.output_shape, len(second.sigmas) - 1, 1, film, models, request.loras_stage2
        ),
    )
    sizes = (f"Stage 1: {request.height}×{request.width}", *lines)
    return Plan(sizes, (*planned_text(film, models, request.output_shape), *denoising, *frames))


def two_stage(request: Request, runner: StageRunner, job: Job = NOTHING_KEPT) -> FrameStream:
    """The film: everything up to its latent is done when this returns, frames are decoded as they are read.

    ``job`` keeps the stages' results, and has those of an earlier run.
    """
    film, models = request.film, request.models

    def transformer(loras: tuple[Lora, ...]) -> Callable[[], Transformer]:
        return lambda: models.load_transformer(loras, runner.progress.note)

    def denoised() -> StreamArrays:
        contexts = contexts_of(film, models, runner, job)
        sizes = [request.shape, request.output_shape]
        first, second = request.stages(images_of(film, models, runner, sizes, job))
        return denoise_in_two_stages(
            runner,
            (first, transformer(models.loras)),
            (second, transformer(request.loras_stage2)),
            partial(upscale_latent, runner, models.spatial_upscaler, models.weights, dtype=models.dtype),
            contexts,
            seeded_noise(film.seed),
            keep=partial(kept_streams, job),
        ).stage_2

    return finished(film, models, runner, kept_streams(job, LAST_STAGE, denoised)["video"], job)


def denoise_in_two_stages(
    runner: StageRunner,
    first: tuple[Denoising, Callable[[], Transformer]],
    second: tuple[Denoising, Callable[[], Transformer]],
    upscale: Callable[[mx.array], mx.array],
    contexts: Contexts,
    noise: Noise,
    on_step: Callable[[str], sampler.OnStep] = lambda name: sampler.ignore,
    keep: Callable[[str, Callable[[], StreamArrays]], StreamArrays] = lambda name, compute: compute(),
) -> TwoStageLatents:
    """Both stages with the latent upscaler between them.

    Args:
        runner: Runs the stages.
        first: Stage 1 and what loads its transformer.
        second: Stage 2 and what loads its transformer. It starts from stage 1's latents at its own first noise level.
        upscale: A normalised video latent to a larger one.
        contexts: Of both stages.
        noise: Of both stages.
        on_step: For a stage's name, what hears of its steps.
        keep: Gives the result of what comes before stage 2, from a name and what computes it.
    """
    stage, load_first = first
    small = keep(stage.name, lambda: denoise(runner, load_first, first[0], contexts, noise, on_step(first[0].name)))
    upscaled = keep("latent_upscaler", lambda: {"video": upscale(small["video"])})["video"]
    stage, load_second = second
    start: StreamArrays = {"video": upscaled}
    if "audio" in small and stage.frozen_audio is None:
        start["audio"] = small["audio"]
    stage = replace(stage, start=start, noise_scale=float(stage.sigmas[0]))
    refined = denoise(runner, load_second, stage, contexts, noise, on_step(stage.name))
    return TwoStageLatents(small, upscaled, refined)
