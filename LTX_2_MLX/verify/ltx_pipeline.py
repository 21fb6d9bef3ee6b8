"""Whole denoising procedures: contexts, encoded images and noise are given, all else is the pipelines' own."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion.dfr_layout import even_slots
from LTX_2_MLX.diffusion.sampler import DISTILLED
from LTX_2_MLX.diffusion.state import State, patchify_audio, unpatchify_audio
from LTX_2_MLX.media.encoder import Display
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.pipelines.generate import stages_for
from LTX_2_MLX.pipelines.generation.decode import UpscaleLatent
from LTX_2_MLX.pipelines.generation.denoise import Denoise
from LTX_2_MLX.pipelines.generation.embeddings import load_contexts, save_contexts
from LTX_2_MLX.pipelines.generation.encode import EncodeClip
from LTX_2_MLX.pipelines.generation.files import ModelDefaults, Models
from LTX_2_MLX.pipelines.generation.given import Given, GivenClip
from LTX_2_MLX.pipelines.generation.image_places import ImagePlace
from LTX_2_MLX.pipelines.generation.option_groups.memory import ParallelMode
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationState
from LTX_2_MLX.pipelines.two_stage import HIGH_QUALITY_STRENGTHS
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.shapes import Compression, VideoShape
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


def pipeline(case: Case, parallel: ParallelMode = "auto") -> Outputs:
    """The stages of the pipeline that the case's kind names; ``parallel`` shares them among the processes of a run."""
    return Run(case, parallel).outputs()


_CELL = Compression(8, 32, 32)


@dataclass(frozen=True)
class _CaseModels(Models):
    """A case's files: of the video autoencoder there are only the statistics of its latents.

    Attributes:
        cell: Pixels per latent step.
    """

    cell: Compression = _CELL

    @cached_property
    def compression(self) -> Compression:
        """Pixels per latent step."""
        return self.cell

    @cached_property
    def decodes_by_diffusion(self) -> bool:
        """No case decodes."""
        return False


@dataclass(frozen=True)
class Run:
    """One case's run, by the stages that a request of these parameters has."""

    case: Case
    parallel: ParallelMode = "auto"

    @property
    def kind(self) -> str:
        return self.case.parameter("kind")

    def outputs(self) -> Outputs:
        """What the denoising stages give, and the steps on the way."""
        request = self.request()
        outputs: Outputs = {}
        contexts = load_contexts(request)
        state = GenerationState(contexts=contexts, images=self.images(), latents=self.latents())
        number = 0
        runner = StageRunner()
        for stage in stages_for(request):
            if isinstance(stage, Denoise):
                number += 1
                stage = replace(stage, noise=self.noise(stage.name, number), on_step=_trace(number, outputs))
                state = stage.run(runner, state)
                outputs |= self.stage_outputs(number, stage, state.latents)
            elif isinstance(stage, UpscaleLatent):
                state = stage.run(runner, state)
                upscaled = channels_first(state.latents["video"])
                outputs |= {"upscaled": upscaled, "upscaled.1": upscaled}
        frames = np.array([request.output_shape.num_frames])
        return outputs | {"final.video": channels_first(state.latents["video"]), "final.frames": frames}

    def request(self) -> Request:
        """The request, with contexts from a file of embeddings."""
        p = self.case.parameters
        two_stages = self.kind not in ("one", "retake")
        height, width = p["hw"]
        request = Request(
            two_stages=two_stages,
            models=self.models(),
            prompt="A case",
            negative_prompt="Another",
            num_frames=p["frames"],
            frame_rate=Fraction(p["fps"]),
            height=height // 2 if two_stages else height,
            width=width // 2 if two_stages else width,
            slots=self.slots(),
            steps=p.get("steps"),
            guidance={"video": guidance_from(p.get("vg", {})), "audio": guidance_from(p.get("ag", {}))},
            images=tuple(ImagePlace(Path("image"), frame, strength) for frame, strength in p.get("images", [])),
            given=self.given(),
        )
        return self.with_contexts(request)

    def models(self) -> Models:
        """The case's files, and the adapter at the strength that the pipeline multiplies by its own shares."""
        p = self.case.parameters
        lora = None
        if self.kind in ("two", "a2v"):
            lora = Lora(self.file("lora"), p["lora"])
        if self.kind == "hq":
            lora = Lora(self.file("lora"), p["lora1"] / HIGH_QUALITY_STRENGTHS[0])
        two_stages = self.kind not in ("one", "retake")
        transformer = self.file("transformer")
        return _CaseModels(
            transformer,
            video_vae=self.file("vae") if two_stages else transformer,
            audio_vae=transformer,
            text_features=transformer,
            text_encoder=transformer.path,
            distilled=self.kind == "distilled",
            dtype=self.case.dtype,
            parallel=self.parallel,
            distilled_lora=lora,
            spatial_upscaler=self.file("upscaler") if two_stages else None,
            high_quality=self.kind == "hq",
            cell=compression_of(self.case),
        )

    def with_contexts(self, request: Request) -> Request:
        """The request with the case's contexts in the place of a text encoder."""
        contexts: Arrays = {}
        for name, value in self.case.inputs().items():
            if name.endswith("_context"):
                contexts[name.removesuffix("_context")] = mx.array(value)
        path = self.case.scratch / "embeddings.safetensors"
        save_contexts(replace(request, save_embeddings=path), contexts)
        return replace(request, embeddings=path, models=replace(request.models, text_encoder=None))

    def given(self) -> Given | None:
        """What a retake and audio-to-video have beside the prompt; their latents are the case's."""
        p = self.case.parameters
        if self.kind == "a2v":
            return Given(sound=None, frozen_audio=True, written=None)
        if self.kind != "retake":
            return None
        rate = Fraction(p["fps"])
        height, width = p["hw"]
        encode = EncodeClip(self.file("vae"), self.case.dtype, FrameStream((), height, width, rate, p["frames"]))
        clip = GivenClip(
            path=Path("clip"),
            encode=encode,
            num_kept=p["frames"],
            shape=VideoShape(p["frames"], height, width),
            region_seconds=tuple(p["region"]),
            times=None,
            display=Display(),
            decoding_bytes=0,
        )
        return Given(sound=None, frozen_audio=False, written=None, clip=clip)

    def slots(self) -> tuple[int, ...]:
        """Pixel frames of the generated keyframes: given, or their number."""
        keyframes = self.case.parameters.get("generated_keyframes", ())
        if isinstance(keyframes, int):
            return tuple(even_slots(keyframes, self.case.parameter("frames")))
        return tuple(keyframes)

    def latents(self) -> Arrays:
        """Given latents of a retake, or given audio."""
        io = self.case.inputs()
        latents: Arrays = {}
        if self.kind == "retake":
            latents["video"] = channels_last(io["video_latent"])
        if self.kind in ("retake", "a2v"):
            latents["audio"] = patchify_audio(channels_last(io["audio_latent"]))
        return latents

    def images(self) -> Arrays:
        """Encoded images by stage; the case names them by their stage, or by its size."""
        io = self.case.inputs()
        height, width = self.case.parameter("hw")
        images: Arrays = {}
        for number, (name, smaller) in enumerate((("stage_1", 2), ("stage_2", 1), ("denoise", 1))):
            size = f"{height // smaller}x{width // smaller}"
            for index in range(len(self.case.parameters.get("images", []))):
                for published in (f"image{index}.stage{number % 2 + 1}", f"image{index}.{size}"):
                    if published in io:
                        images[f"{name}.{index}"] = channels_last(io[published])
        return images

    def file(self, kind: str) -> Checkpoint:
        """One of the published files whose tensors stand side by side in the case."""
        mine = {name: value for name, value in self.case.weights().items() if _kind(name) == kind}
        path = self.case.scratch / f"{kind}.safetensors"
        metadata = {"config": json.dumps(self.case.config)}
        if "model_version" in self.case.spec["metadata"]:
            metadata["model_version"] = self.case.spec["metadata"]["model_version"]
        save_file(mine, str(path), metadata=metadata)
        return Checkpoint(path)

    def noise(self, stage: str, number: int) -> Callable[[str, tuple[int, ...]], mx.array]:
        """The case's noise of a stage, by the purposes that it names."""
        io = self.case.inputs()
        # The noise of stage 1's steps stands between the start noise of both stages.
        num_steps = self.ancestral_steps()
        names = {}
        for k, stream in enumerate(("video", "audio")):
            names[f"{stage}.{stream}"] = f"noise.{2 * (number - 1) * (1 + num_steps) + k}"
            for step in range(len(io)):
                names[f"{stage}.middle_{step}.{stream}"] = f"sde.stage{number}.{4 * step + k}"
                names[f"{stage}.step_{step}.{stream}"] = f"sde.stage{number}.{4 * step + 2 + k}"
            for step in range(num_steps):
                names[f"{stage}.step_{step}.{stream}"] = f"noise.{2 + 2 * step + k}"
        return lambda purpose, shape: mx.array(io[names[purpose]]).astype(mx.float32).reshape(shape)

    def ancestral_steps(self) -> int:
        """Steps of the first stage that draw noise, where its sampler is ancestral."""
        if self.kind != "distilled":
            return 0
        defaults = ModelDefaults.from_header(self.file("transformer").header)
        return len(DISTILLED) - 2 if defaults.distilled_sampler == "ancestral" else 0

    def stage_outputs(self, number: int, stage: Denoise, latents: Arrays) -> Outputs:
        audio_channels = self.case.parameters.get("audio_channels", _AUDIO_CHANNELS)
        outputs: Outputs = {}
        if "keyframes" in latents:
            outputs[f"stage{number}.keyframes"] = channels_first(latents["keyframes"])
        return outputs | {
            f"stage{number}.video": channels_first(latents["video"]),
            f"stage{number}.audio": channels_first(unpatchify_audio(latents["audio"], audio_channels)),
            f"stage{number}.sigmas": np.array(stage.sigmas, dtype=np.float32),
        }


def _trace(number: int, outputs: Outputs) -> Callable[[int, State], None]:
    """A callback of a stage that writes its steps to ``outputs``."""

    def trace(step: int, state: State) -> None:
        outputs[f"trace.stage{number}.step{step}.video"] = state["video"].latent

    return trace
