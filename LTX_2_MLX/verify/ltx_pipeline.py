"""Whole denoising procedures: contexts, encoded images and noise are given, all else is the pipelines' own."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion import schedule
from LTX_2_MLX.diffusion.guidance import Guidance
from LTX_2_MLX.diffusion.patchify import VideoGrid, patchify_audio, unpatchify_audio
from LTX_2_MLX.diffusion.state import State, StreamArrays
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.pipelines.stages import Contexts, Denoising, EncodedImage, denoise, upscale_latent
from LTX_2_MLX.pipelines.two_stage import denoise_in_two_stages
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
        stage = self.stage(1, self.shape(1), self.sigmas(1), self.guidance())
        outputs: Outputs = {}
        latents = denoise(
            StageRunner(), self.transformer(1), stage, self.contexts(), self.noise(), self.trace(outputs)(stage.name)
        )
        return outputs | self.outputs(1, stage, latents)

    def two_stages(self) -> Outputs:
        """Denoise at half the size, upscale the latent and refine it."""
        first = self.stage(1, self.shape(2), self.sigmas(1), self.guidance())
        second = self.stage(2, self.shape(1), schedule.REFINEMENT, {"video": Guidance(), "audio": Guidance()})
        runner = StageRunner()
        outputs: Outputs = {}
        result = denoise_in_two_stages(
            runner,
            (first, self.transformer(1)),
            (second, self.transformer(2)),
            partial(upscale_latent, runner, self.file("upscaler"), self.file("vae"), dtype=mx.float32),
            self.contexts(),
            self.noise(),
            self.trace(outputs),
        )
        outputs |= {"upscaled": channels_first(result.upscaled)}
        return outputs | self.outputs(1, first, result.stage_1) | self.outputs(2, second, result.stage_2)

    def shape(self, smaller: int) -> VideoShape:
        height, width = self.case.parameter("hw")
        return VideoShape(self.case.parameter("frames"), height // smaller, width // smaller)

    def sigmas(self, stage: int) -> Sequence[float]:
        if self.kind == "distilled":
            return schedule.DISTILLED
        steps = self.case.parameter("steps")
        if self.kind != "hq":
            return [float(sigma) for sigma in schedule.ltx2_schedule(steps)]
        num_tokens = self.shape(2).latent(self.compression).num_tokens
        return [float(sigma) for sigma in schedule.ltx2_schedule(steps, num_tokens=num_tokens)]

    def guidance(self) -> dict[StreamName, Guidance]:
        parameters = self.case.parameters
        return {
            "video": guidance_from(parameters.get("vg", {})),
            "audio": guidance_from(parameters.get("ag", {})),
        }

    def stage(
        self, number: int, shape: VideoShape, sigmas: Sequence[float], guidance: dict[StreamName, Guidance]
    ) -> Denoising:
        p = self.case.parameters
        io = self.case.inputs()
        grid = VideoGrid(shape.latent(self.compression), self.compression, p["fps"])
        images = [
            EncodedImage(channels_last(io[f"image{k}.stage{number}"]), frame, strength)
            for k, (frame, strength) in enumerate(p.get("images", []))
        ]
        stage = Denoising(f"stage_{number}", grid, sigmas, guidance, images=images)
        audio = patchify_audio(channels_last(io["audio_latent"])) if "audio_latent" in io else None
        if self.kind == "hq":
            stage = replace(stage, sampler="res-2s")
        if self.kind == "a2v":
            stage = replace(stage, frozen_audio=audio)
        if self.kind == "retake":
            start: StreamArrays = {"video": channels_last(io["video_latent"])}
            if audio is not None:
                start["audio"] = audio
            stage = replace(stage, start=start, region_seconds=tuple(p["region"]))
        return stage

    def contexts(self) -> Contexts:
        io = self.case.inputs()

        def contexts(prompt: str) -> StreamArrays:
            streams: tuple[StreamName, ...] = ("video", "audio")
            names = {stream: f"{prompt}.{stream}_context" for stream in streams}
            return {stream: mx.array(io[name]) for stream, name in names.items() if name in io}

        negative = contexts("negative")
        if self.kind == "a2v":
            # Frozen audio is not guided: it keeps its own context in the negative pass.
            negative.pop("audio", None)
        return Contexts(contexts("positive"), negative)

    def transformer(self, stage: int) -> Callable[[], Transformer]:
        p = self.case.parameters
        strength = p.get(f"lora{stage}", p.get("lora", 0.0) if stage == 2 else 0.0)
        loras = [Lora(self.file("lora"), strength)] if strength else []
        checkpoint = self.file("transformer")
        return lambda: load(Transformer, checkpoint, dtype=mx.float32, loras=loras)

    def file(self, kind: str) -> Checkpoint:
        """One of the published files whose tensors stand side by side in the case."""
        mine = {name: value for name, value in self.case.weights().items() if _kind(name) == kind}
        path = self.case.scratch / f"{kind}.safetensors"
        save_file(mine, str(path), metadata={"config": json.dumps(self.case.config)})
        return Checkpoint(path)

    def noise(self) -> Callable[[str, tuple[int, ...]], mx.array]:
        """The case's noise, by the purposes that the stages name."""
        io = self.case.inputs()
        names = {}
        for number in (1, 2):
            for k, stream in enumerate(("video", "audio")):
                names[f"stage_{number}.{stream}"] = f"noise.{2 * number - 2 + k}"
                for step in range(len(io)):
                    names[f"stage_{number}.middle_{step}.{stream}"] = f"sde.stage{number}.{4 * step + k}"
                    names[f"stage_{number}.step_{step}.{stream}"] = f"sde.stage{number}.{4 * step + 2 + k}"
        return lambda purpose, shape: mx.array(io[names[purpose]]).reshape(shape)

    def trace(self, outputs: Outputs) -> Callable[[str], Callable[[int, State], None]]:
        def listener(name: str) -> Callable[[int, State], None]:
            def keep(step: int, state: State) -> None:
                outputs[f"trace.{name.replace('_', '')}.step{step}.video"] = state["video"].latent

            return keep

        return listener

    def outputs(self, number: int, stage: Denoising, latents: StreamArrays) -> Outputs:
        audio_channels = self.case.parameters.get("audio_channels", _AUDIO_CHANNELS)
        return {
            f"stage{number}.video": channels_first(latents["video"]),
            f"stage{number}.audio": channels_first(unpatchify_audio(latents["audio"], audio_channels)),
            f"stage{number}.sigmas": np.array(stage.sigmas, dtype=np.float32),
        }
