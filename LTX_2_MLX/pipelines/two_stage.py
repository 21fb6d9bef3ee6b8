"""Two-stage pipeline: denoise at a low resolution, upscale the latent, and refine it at the larger size."""

from LTX_2_MLX.pipelines.generation.decode import frame_stages
from LTX_2_MLX.pipelines.generation.denoising_stages import first_stage, refinement_stage
from LTX_2_MLX.pipelines.generation.given import given_stages
from LTX_2_MLX.pipelines.generation.image import image_stage
from LTX_2_MLX.pipelines.generation.prompt import contexts_bytes, prompt_stages
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.generation.sound import sound_stage
from LTX_2_MLX.pipelines.generation.state import GenerationStage
from LTX_2_MLX.pipelines.generation.upscale import UpscaleLatent


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
