"""Two-stage pipeline: denoise at a low resolution, upscale the latent, and refine it at the larger size."""

from dataclasses import replace
from typing import Any

from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.diffusion.sampler import DISTILLED, Guidance, ltx2_schedule, stretched
from LTX_2_MLX.pipelines.generation.decode import UpscaleLatent, frame_stages
from LTX_2_MLX.pipelines.generation.denoise import Denoise
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.given import given_stages
from LTX_2_MLX.pipelines.generation.prompt import context_size, contexts_bytes, prompt_stages
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.generation.sound import sound_stage
from LTX_2_MLX.pipelines.generation.state import GenerationStage, SamplerName
from LTX_2_MLX.runtime.this_machine import budget_bytes

# The high-quality pipeline's sampler, and the strengths of the distillation adapter in its stages (Lightricks/LTX-2,
# packages/ltx-pipelines/src/ltx_pipelines/ti2vid_two_stages_hq.py at 400fd31).
HIGH_QUALITY_SAMPLER: SamplerName = "res-2s"
HIGH_QUALITY_STRENGTHS = (0.25, 0.5)


def two_stage(request: Request) -> list[GenerationStage]:
    """The stages of a two-stage video, in order. Stage 2 is not guided."""
    models = request.models
    assert models.spatial_upscaler is not None
    stage_1 = first_stage(request, "stage_1")
    stage_2 = refinement_stage(request, "stage_2")
    upscale = UpscaleLatent(
        name="latent_upscaler",
        upscaler=models.spatial_upscaler,
        weights=models.video_vae,
        shape=stage_1.grid.shape,
        dtype=models.dtype,
        work="latent to the larger size",
        waiting_bytes=contexts_bytes(request),
    )
    stages: list[GenerationStage] = [*prompt_stages(request)]
    if request.given is not None:
        stages += given_stages(request.given, request.models, request.num_frames, request.frame_rate)
    if request.images:
        from LTX_2_MLX.pipelines.generation.image import image_stage

        stages.append(image_stage(request, [stage_1, stage_2]))
    if request.control is not None:
        # Few runs have a reference video.
        from LTX_2_MLX.pipelines.generation.control import control_stage

        stages.append(control_stage(request))
    stages += [stage_1, upscale, stage_2]
    if request.audio:
        # As the reference: the guided stage's sound where the stages differ in their adapter.
        final = stage_2 if models.distilled else stage_1
        stages.insert(stages.index(final) + 1, sound_stage(request))
    return [*stages, *frame_stages(request)]


def first_stage(request: Request, name: str) -> Denoise:
    """The guided stage at the request's own size."""
    models = request.models
    defaults = models.defaults
    steps = request.steps or (defaults.steps_stage1 if request.two_stages else defaults.steps)
    loras = models.loras
    sampler: SamplerName = "euler"
    if models.high_quality:
        sampler = HIGH_QUALITY_SAMPLER
        # Its schedule follows from the size of the latent.
        sigmas = tuple(ltx2_schedule(steps, num_tokens=request.grid.shape.num_tokens).tolist())
        loras = (*loras, *_distillation(models, HIGH_QUALITY_STRENGTHS[0]))
    elif models.distilled and set(request.guidance.values()) == {Guidance()}:
        # Without guidance the list that the checkpoint was made for, stretched where it is not its 8 steps.
        sigmas = stretched(DISTILLED, request.steps or len(DISTILLED) - 1)
        if request.control is None:
            # The reference's IC-LoRA pipeline takes plain Euler steps with every generation.
            sampler = defaults.distilled_sampler
    else:
        sigmas = tuple(ltx2_schedule(steps).tolist())
    return Denoise(
        name=name,
        grid=request.grid,
        sigmas=sigmas,
        loras=loras,
        guidance=request.guidance,
        guided_share=request.guided_share,
        step_cache=request.step_cache,
        sampler=request.sampler or sampler,
        slots=request.slots,
        control=request.control,
        **_both_stages(request),
    )


def refinement_stage(request: Request, name: str) -> Denoise:
    """The second stage: not guided, at the larger size, from a lower noise level; with the adapter of a dev model."""
    models = request.models
    defaults = models.defaults
    sigmas = stretched(defaults.refinement, request.steps_stage2 or defaults.steps_stage2)
    loras = models.loras
    if request.control is not None:
        # An IC-LoRA is at work where its reference video is.
        loras = tuple(lora for lora in loras if not lora.has_reference)
    if not models.distilled:
        loras = (*loras, *_distillation(models, HIGH_QUALITY_STRENGTHS[1] if models.high_quality else 1.0))
    return Denoise(
        name=name,
        grid=request.output_grid,
        sigmas=sigmas,
        loras=loras,
        sampler=(request.sampler or HIGH_QUALITY_SAMPLER) if models.high_quality else "euler",
        noise_scale=float(sigmas[0]),
        **_both_stages(request),
    )


def _both_stages(request: Request) -> dict[str, Any]:
    """What a request says of every denoising stage."""
    return {
        "models": request.models,
        "context_size": context_size(request),
        "images": request.images,
        "motion_speed": request.motion_speed,
        "region_seconds": None if request.given is None else request.given.region_seconds,
        "frozen_audio": request.given is not None and request.given.frozen_audio,
        "budget": budget_bytes(request.memory_limit_gb),
        "seed": request.seed,
    }


def _distillation(models: Models, share: float) -> tuple[Lora, ...]:
    """The distillation adapter at a share of its strength."""
    lora = models.distilled_lora
    return () if lora is None else (replace(lora, strength=share * lora.strength),)
