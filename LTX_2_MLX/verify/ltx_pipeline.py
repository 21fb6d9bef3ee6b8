"""Whole denoising procedures: contexts, encoded images and noise are given, all else is the pipelines' own."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion import schedule
from LTX_2_MLX.diffusion.dfr_layout import even_slots
from LTX_2_MLX.diffusion.guidance import Guidance, both_streams
from LTX_2_MLX.diffusion.patchify import VideoGrid, patchify_audio, unpatchify_audio
from LTX_2_MLX.diffusion.state import State
from LTX_2_MLX.pipelines.generation.denoise import HIGH_QUALITY_SAMPLER, Denoise, ImageConditioning, high_quality_sigmas
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.model_defaults import ModelDefaults
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationState, SamplerName
from LTX_2_MLX.pipelines.generation.upscale import UpscaleLatent
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.shapes import Compression, StreamName, VideoShape
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.layout import channels_first, channels_last
from LTX_2_MLX.verify.ltx_positions import compression_of
from LTX_2_MLX.verify.ltx_sampling import guidance_from

# Channels of the published audio latent, for cases that give no other.
_AUDIO_CHANNELS = 8


def _kind(name: str) -> str:
    if ".lora_" in name:
        return "lora"
    return {"model": "transformer", "vae": "vae"}.get(name.partition(".")[0], "upscaler")


def pipeline(case: Case) -> Outputs:
    """One or two stages, as the case's kind says."""
    run = Run(case)
    return run.one_stage() if case.parameters["kind"] in ("one", "retake") else run.two_stages()


@dataclass(frozen=True)
class Run:
    """One case's run."""

    case: Case

    @property
    def kind(self) -> str:
        return self.case.parameter("kind")

    @property
    def compression(self) -> Compression:
        return compression_of(self.case)

    def one_stage(self) -> Outputs:
        """Denoise at the full size."""
        outputs: Outputs = {}
        stage = self.stage(1, self.shape(1), self.sigmas(1), self.guidance(), outputs)
        state = stage.run(StageRunner(), self.start())
        return outputs | self.outputs(1, stage, state.latents)

    def two_stages(self) -> Outputs:
        """Denoise at half the size, upscale the latent and refine it."""
        outputs: Outputs = {}
        first = self.stage(1, self.shape(2), self.sigmas(1), self.guidance(), outputs)
        second = self.stage(2, self.shape(1), schedule.REFINEMENT, both_streams(Guidance()), outputs)
        second = replace(second, noise_scale=float(schedule.REFINEMENT[0]))
        upscale = UpscaleLatent(
            name="latent_upscaler",
            upscaler=self.file("upscaler"),
            weights=self.file("vae"),
            shape=first.grid.shape,
            dtype=self.case.dtype,
        )
        runner = StageRunner()
        small = first.run(runner, self.start())
        upscaled = upscale.run(runner, small)
        refined = second.run(runner, upscaled)
        outputs |= {
            "upscaled": channels_first(upscaled.latents["video"]),
            "upscaled.1": channels_first(upscaled.latents["video"]),
            "final.video": channels_first(refined.latents["video"]),
            "final.frames": np.array([second.grid.shape.pixels(self.compression).num_frames]),
        }
        return outputs | self.outputs(1, first, small.latents) | self.outputs(2, second, refined.latents)

    def shape(self, smaller: int) -> VideoShape:
        height, width = self.case.parameter("hw")
        return VideoShape(self.case.parameter("frames"), height // smaller, width // smaller)

    def sigmas(self, stage: int) -> Sequence[float]:
        if self.kind == "distilled":
            return schedule.DISTILLED
        steps = self.case.parameter("steps")
        if self.kind != "hq":
            return [float(sigma) for sigma in schedule.ltx2_schedule(steps)]
        grid = VideoGrid(self.shape(2).latent(self.compression), self.compression, self.case.parameter("fps"))
        return high_quality_sigmas(grid, steps)

    def guidance(self) -> dict[StreamName, Guidance]:
        parameters = self.case.parameters
        return {
            "video": guidance_from(parameters.get("vg", {})),
            "audio": guidance_from(parameters.get("ag", {})),
        }

    def stage(
        self,
        number: int,
        shape: VideoShape,
        sigmas: Sequence[float],
        guidance: dict[StreamName, Guidance],
        outputs: Outputs,
    ) -> Denoise:
        """A denoising stage that writes its trace to ``outputs``."""
        p = self.case.parameters

        def trace(step: int, state: State) -> None:
            outputs[f"trace.stage{number}.step{step}.video"] = state["video"].latent

        return Denoise(
            name=f"stage_{number}",
            models=Models(self.file("transformer"), text_encoder=None, distilled=False, dtype=self.case.dtype),
            grid=VideoGrid(shape.latent(self.compression), self.compression, p["fps"]),
            sigmas=sigmas,
            context_size=(2, self.case.inputs()["positive.video_context"].shape[1]),
            loras=self.loras(number),
            guidance=guidance,
            sampler=self.sampler(number),
            slots=self.slots(number),
            images=tuple(ImageConditioning(frame, strength) for frame, strength in p.get("images", [])),
            region_seconds=tuple(p["region"]) if self.kind == "retake" else None,
            frozen_audio=self.kind == "a2v",
            noise=self.noise(),
            on_step=trace,
        )

    def sampler(self, stage: int) -> SamplerName:
        """The pipeline's sampler; that of a distilled checkpoint's first stage follows from its version."""
        if self.kind == "hq":
            return HIGH_QUALITY_SAMPLER
        if self.kind == "distilled" and stage == 1:
            return ModelDefaults.from_header(self.file("transformer").header).distilled_sampler
        return "euler"

    def slots(self, stage: int) -> tuple[int, ...]:
        """Pixel frames of the generated keyframes: given, or their number; only stage 1 has them."""
        keyframes = self.case.parameters.get("generated_keyframes", ())
        if stage != 1:
            return ()
        if isinstance(keyframes, int):
            return tuple(even_slots(keyframes, self.case.parameter("frames")))
        return tuple(keyframes)

    def start(self) -> GenerationState:
        """Contexts, encoded images and, for a retake or given audio, latents."""
        io = self.case.inputs()
        contexts: Arrays = {}
        for name in io:
            if name.endswith("_context"):
                contexts[name.removesuffix("_context")] = mx.array(io[name])
        images: Arrays = {}
        for number in (1, 2):
            shape = self.shape(3 - number)
            for index in range(len(self.case.parameters.get("images", []))):
                # Images are named by their stage, or by its size.
                for name in (f"image{index}.stage{number}", f"image{index}.{shape.height}x{shape.width}"):
                    if name in io:
                        images[f"stage_{number}.{index}"] = channels_last(io[name])
        latents: Arrays = {}
        if self.kind == "retake":
            latents["video"] = channels_last(io["video_latent"])
        if "audio_latent" in io and self.kind in ("retake", "a2v"):
            latents["audio"] = patchify_audio(channels_last(io["audio_latent"]))
        return GenerationState(contexts=contexts, images=images, latents=latents)

    def loras(self, stage: int) -> tuple[Lora, ...]:
        p = self.case.parameters
        strength = p.get(f"lora{stage}", p.get("lora", 0.0) if stage == 2 else 0.0)
        return (Lora(self.file("lora"), strength),) if strength else ()

    def file(self, kind: str) -> Checkpoint:
        """One of the published files whose tensors stand side by side in the case."""
        mine = {name: value for name, value in self.case.weights().items() if _kind(name) == kind}
        path = self.case.scratch / f"{kind}.safetensors"
        metadata = {"config": json.dumps(self.case.config)}
        if "model_version" in self.case.spec["metadata"]:
            metadata["model_version"] = self.case.spec["metadata"]["model_version"]
        save_file(mine, str(path), metadata=metadata)
        return Checkpoint(path)

    def noise(self) -> Callable[[str, tuple[int, ...]], mx.array]:
        """The case's noise, by the purposes that the stages name."""
        io = self.case.inputs()
        names = {}
        # The noise of stage 1's steps stands between the start noise of both stages.
        num_steps = len(self.sigmas(1)) - 2 if self.sampler(1) == "ancestral" else 0
        for number in (1, 2):
            for k, stream in enumerate(("video", "audio")):
                names[f"stage_{number}.{stream}"] = f"noise.{2 * (number - 1) * (1 + num_steps) + k}"
                for step in range(len(io)):
                    names[f"stage_{number}.middle_{step}.{stream}"] = f"sde.stage{number}.{4 * step + k}"
                    names[f"stage_{number}.step_{step}.{stream}"] = f"sde.stage{number}.{4 * step + 2 + k}"
        for step in range(num_steps):
            for k, stream in enumerate(("video", "audio")):
                names[f"stage_1.step_{step}.{stream}"] = f"noise.{2 + 2 * step + k}"
        return lambda purpose, shape: mx.array(io[names[purpose]]).astype(mx.float32).reshape(shape)

    def outputs(self, number: int, stage: Denoise, latents: Arrays) -> Outputs:
        audio_channels = self.case.parameters.get("audio_channels", _AUDIO_CHANNELS)
        outputs: Outputs = {}
        if "keyframes" in latents:
            outputs[f"stage{number}.keyframes"] = channels_first(latents["keyframes"])
        return outputs | {
            f"stage{number}.video": channels_first(latents["video"]),
            f"stage{number}.audio": channels_first(unpatchify_audio(latents["audio"], audio_channels)),
            f"stage{number}.sigmas": np.array(stage.sigmas, dtype=np.float32),
        }
