"""Detail-fidelity rendering: keyframes beside the video, a detailing adapter, and rounds that double the frame rate.

Stage 1 makes video, sound and keyframes at half the size; stage 2 refines video and keyframes at the full size with
the smaller video as reference; each round doubles the frame rate between the keyframes. The spatial doubling refines
the result once more at twice the size.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from LTX_2_MLX.checkpoints.lora import reference_downscale
from LTX_2_MLX.diffusion.dfr_rendering import Rendering
from LTX_2_MLX.pipelines.generation.decode import UpscaleLatent, frame_stages
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.image import image_stage
from LTX_2_MLX.pipelines.generation.image_places import ImagePlace
from LTX_2_MLX.pipelines.generation.keyframes import EnlargeKeyframes
from LTX_2_MLX.pipelines.generation.prompt import context_size, contexts_bytes, prompt_stages
from LTX_2_MLX.pipelines.generation.rendering_stages import (
    FirstStage,
    RenderingStage,
    RoundStage,
    SecondStage,
    SpatialStage,
)
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.generation.sound import sound_stage
from LTX_2_MLX.pipelines.generation.state import GenerationStage
from LTX_2_MLX.shapes import LatentShape

LatentStage = RenderingStage | UpscaleLatent | EnlargeKeyframes


def dfr(request: Request) -> list[GenerationStage]:
    """The stages of a rendering, in order."""
    rendering = request.rendering
    assert rendering is not None
    latent_stages = LatentStages(
        models=request.models,
        rendering=rendering,
        images=request.images,
        spatial_doubling=request.spatial_doubling,
        text_tokens=context_size(request)[1],
        seed=request.seed,
        waiting_bytes=contexts_bytes(request),
    ).in_order()
    stages: list[GenerationStage] = [*prompt_stages(request)]
    if request.images:
        stages.append(image_stage(request, _sized(latent_stages)))
    stages += latent_stages
    if request.audio:
        # No later stage changes the sound of stage 1.
        stages.insert(stages.index(latent_stages[0]) + 1, sound_stage(request))
    return [*stages, *frame_stages(request)]


def _sized(stages: Sequence[LatentStage]) -> list[RenderingStage]:
    """The stages for which images are encoded: the first one of each size."""
    return [stage for stage in stages if isinstance(stage, RenderingStage) and stage.images_of == stage.name]


@dataclass(frozen=True)
class LatentStages:
    """The stages from contexts and encoded images to the finished latent.

    Attributes:
        models: The files.
        rendering: The rendering.
        images: Conditioning images at pixel frames before the rounds.
        spatial_doubling: Refine the result at twice the size.
        text_tokens: Tokens of the prompt's context.
        seed: Of the noise.
        waiting_bytes: Memory of the contexts, which wait while latents are upscaled.
    """

    models: Models
    rendering: Rendering
    images: tuple[ImagePlace, ...] = ()
    spatial_doubling: bool = False
    text_tokens: int = 1024
    seed: int = 0
    waiting_bytes: int = 0

    def in_order(self) -> list[LatentStage]:
        """All of them; the last one cuts the video to its length."""
        rounds = self.rendering.rounds
        stages = self.base()
        for number in range(1, rounds + 1):
            stages += self.round(number)
        if self.spatial_doubling:
            stages += self.spatial()
        *earlier, last = stages
        assert isinstance(last, RenderingStage)
        return [*earlier, replace(last, kept_latents=self.rendering.final_latents)]

    def base(self) -> list[LatentStage]:
        """Half the size, then the size itself."""
        first = FirstStage("stage_1", **self._plain, images=self.images, images_of="stage_1")
        second = SecondStage("stage_2", **self._detailed, images=self.images, images_of="stage_2")
        upscale = self._spatial_upscaler("latent_upscaler", first.grid.shape)
        return [first, replace(upscale, latents=("video", "keyframes")), second]

    def round(self, number: int) -> list[LatentStage]:
        """Twice the frame rate."""
        models = self.models
        assert models.temporal_upscaler is not None
        upscale = UpscaleLatent(
            name=f"temporal_upscaler_{number}",
            upscaler=models.temporal_upscaler,
            weights=models.video_vae,
            shape=self.rendering.grid(number - 1).shape,
            dtype=models.dtype,
            work="latent to twice the frame rate",
            waiting_bytes=self.waiting_bytes,
        )
        name = f"round_{number}"
        refine = RoundStage(name, **self._plain, images=self._moved(number), images_of="stage_2", number=number)
        return [upscale, refine]

    def spatial(self) -> list[LatentStage]:
        """Twice the size."""
        rounds = self.rendering.rounds
        shape = self.rendering.grid(rounds).shape
        keyframes = replace(shape, num_frames=len(self.rendering.keyframes(rounds)))
        return [
            EnlargeKeyframes(self.models, keyframes, self.waiting_bytes),
            self._spatial_upscaler("latent_upscaler_2", shape),
            SpatialStage("spatial", **self._detailed, images=self._moved(rounds), images_of="spatial"),
        ]

    @property
    def _plain(self) -> dict[str, Any]:
        return {
            "models": self.models,
            "rendering": self.rendering,
            "text_tokens": self.text_tokens,
            "loras": self.models.loras,
            "seed": self.seed,
        }

    @property
    def _detailed(self) -> dict[str, Any]:
        """With the detailing adapter, if there is one."""
        detailing = self.models.detailing_lora
        if detailing is None:
            return self._plain
        return self._plain | {
            "loras": (*self.models.loras, detailing),
            "reference_downscale": reference_downscale(detailing.checkpoint),
        }

    def _spatial_upscaler(self, name: str, shape: LatentShape) -> UpscaleLatent:
        models = self.models
        assert models.spatial_upscaler is not None
        return UpscaleLatent(
            name=name,
            upscaler=models.spatial_upscaler,
            weights=models.video_vae,
            shape=shape,
            dtype=models.dtype,
            work="latent to the larger size",
            waiting_bytes=self.waiting_bytes,
            small_as="reference" if models.detailing_lora else None,
        )

    def _moved(self, number: int) -> tuple[ImagePlace, ...]:
        """The images at the pixel frames where they stand after ``number`` rounds."""
        frames = [self.rendering.image_frame(image.frame, number) for image in self.images]
        return tuple(replace(image, frame=frame) for image, frame in zip(self.images, frames, strict=True))
