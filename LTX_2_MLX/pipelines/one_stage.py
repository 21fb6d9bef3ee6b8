"""One-stage pipeline: denoise at full size, guided with a dev checkpoint, in eight steps with a distilled one."""

from LTX_2_MLX.pipelines.generation.decode import frame_stages
from LTX_2_MLX.pipelines.generation.given import given_stages
from LTX_2_MLX.pipelines.generation.prompt import prompt_stages
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.generation.sound import sound_stage
from LTX_2_MLX.pipelines.generation.state import GenerationStage
from LTX_2_MLX.pipelines.two_stage import first_stage


def one_stage(request: Request) -> list[GenerationStage]:
    """The stages of a one-stage video, in order."""
    denoise = first_stage(request, "denoise")
    stages: list[GenerationStage] = [*prompt_stages(request)]
    if request.given is not None:
        stages += given_stages(request.given, request.models, request.num_frames, request.frame_rate)
    if request.images:
        from LTX_2_MLX.pipelines.generation.image import image_stage

        stages.append(image_stage(request, [denoise]))
    if request.control is not None:
        # Few runs have a reference video.
        from LTX_2_MLX.pipelines.generation.control import control_stage

        stages.append(control_stage(request))
    stages.append(denoise)
    if request.audio:
        stages.append(sound_stage(request))
    return [*stages, *frame_stages(request)]
