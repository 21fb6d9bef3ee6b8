"""Detail-fidelity rendering, in both forms: the pipeline's stages on given contexts, encoded images and noise."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion.dfr import KEYFRAME_STRENGTH, ROUND_ETA, ROUND_SIGMAS, StageTokens
from LTX_2_MLX.diffusion.dfr_rendering import Rendering
from LTX_2_MLX.diffusion.state import Noise, State, unpatchify_audio
from LTX_2_MLX.pipelines.dfr import LatentStage, LatentStages
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.image_places import ImagePlace
from LTX_2_MLX.pipelines.generation.option_groups.memory import ParallelMode
from LTX_2_MLX.pipelines.generation.rendering_stages import RenderingStage, RoundStage
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationState
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.shapes import VideoShape
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.layout import channels_first, channels_last
from LTX_2_MLX.verify.ltx_positions import compression_of

# Channels of the published audio latent.
_AUDIO_CHANNELS = 8
_PREFIXES = {"temporal_upscaler": "temporal_upscaler.", "detailing_lora": "detailing_lora."}
_MODEL = "model.diffusion_model."
_LORA_MARKS = (".lora_A.", ".lora_B.")


@dataclass(frozen=True)
class Files:
    """The published files whose tensors stand side by side in a case.

    Attributes:
        case: The case.
        parallel: How the processes of a run share the transformer's work.
    """

    case: Case
    parallel: ParallelMode = "auto"

    def models(self, distilled: float = 0.0, detailing: float = 0.0, *, downscale: int = 2) -> Models:
        """The files, with the adapters of the given strengths."""
        has_rounds = "temporal_upscaler" in self.case.config
        weights = self.checkpoint("transformer")
        return Models(
            weights,
            video_vae=self.checkpoint("vae"),
            audio_vae=weights,
            text_features=weights,
            text_encoder=None,
            distilled=True,
            dtype=self.case.dtype,
            parallel=self.parallel,
            loras=(Lora(self.checkpoint("lora"), distilled),) if distilled else (),
            spatial_upscaler=self.checkpoint("upscaler"),
            temporal_upscaler=self.checkpoint("temporal_upscaler") if has_rounds else None,
            detailing_lora=Lora(self.checkpoint("detailing_lora", downscale), detailing) if detailing else None,
        )

    def checkpoint(self, kind: str, downscale: int | None = None) -> Checkpoint:
        """One file with its own config."""
        config = self.case.config
        prefix = _PREFIXES.get(kind, "")
        tensors = {name.removeprefix(prefix): value for name, value in self._tensors.items() if _kind(name) == kind}
        if kind == "temporal_upscaler":
            config = config["temporal_upscaler"]
        elif kind == "upscaler":
            config = {name: value for name, value in config.items() if not isinstance(value, dict)}
        elif "temporal_upscaler" in config:
            config = {name: value for name, value in config.items() if name != "temporal_upscaler"}
        path = self.case.scratch / f"{kind}.safetensors"
        metadata = {"config": json.dumps(config), "model_version": self.case.spec["metadata"]["model_version"]}
        if downscale is not None:
            metadata["reference_downscale_factor"] = str(downscale)
        save_file(tensors, str(path), metadata=metadata)
        return Checkpoint(path)

    @cached_property
    def _tensors(self) -> dict[str, np.ndarray]:
        return self.case.weights()

    def contexts(self) -> Arrays:
        """What the text side delivers."""
        contexts = {}
        for name, value in self.case.inputs().items():
            if name.endswith("_context"):
                contexts[name.removesuffix("_context")] = mx.array(value)
        return contexts


def _kind(name: str) -> str:
    """The file that a tensor of a case belongs to."""
    for kind, prefix in _PREFIXES.items():
        if name.startswith(prefix):
            return kind
    if any(mark in name for mark in _LORA_MARKS):
        return "lora"
    if name.startswith(_MODEL):
        return "transformer"
    return "vae" if name.startswith("vae.") else "upscaler"


def dfr(case: Case, parallel: ParallelMode = "auto") -> Outputs:
    """The form of 400fd31; ``parallel`` shares it among the processes of a run."""
    p = case.parameters
    height, width = p["hw"]
    models = Files(case, parallel).models(
        p.get("lora", 0.0), p.get("detailing", 0.0), downscale=p.get("reference_downscale_factor", 2)
    )
    images = [ImagePlace(Path("image"), frame, strength) for frame, strength in p.get("images", [])]
    outputs = _Run(case, models, VideoShape(p["frames"], height, width), images, newer=False).run()
    # In the order in which this form uses the upscaler.
    names = {"upscaled.keyframes": "upscaled.1", "upscaled.video": "upscaled.2"}
    return {names.get(name, name): value for name, value in outputs.items()}


def dfr_new(case: Case, parallel: ParallelMode = "auto") -> Outputs:
    """The newer form; ``parallel`` shares it among the processes of a run."""
    p = case.parameters
    lora = p.get("detailing_lora") or {}
    models = Files(case, parallel).models(
        (p.get("distilled_lora") or {}).get("strength", 0.0),
        lora.get("strength", 0.0),
        downscale=lora.get("reference_downscale_factor", 2),
    )
    images = [ImagePlace(Path("image"), image["frame"], image["strength"]) for image in p.get("images", [])]
    return _Run(case, models, VideoShape(p["frames"], p["height"], p["width"]), images, newer=True).run()


@dataclass
class _Run:
    """The latent part of one rendering, stage by stage."""

    case: Case
    models: Models
    shape: VideoShape
    images: Sequence[ImagePlace]
    newer: bool
    outputs: Outputs = field(default_factory=dict)

    @cached_property
    def rendering(self) -> Rendering:
        """The rendering as the pipeline describes it."""
        p = self.case.parameters
        compression = compression_of(self.case)
        return Rendering(
            num_frames=self.shape.num_frames,
            frame_rate=p["fps"],
            height=self.shape.height // compression.height,
            width=self.shape.width // compression.width,
            compression=compression,
            rounds=p["rounds"],
            newer=self.newer,
            keyframe_strength=p.get("anchor_strength", KEYFRAME_STRENGTH),
            eta=p.get("eta", ROUND_ETA),
        )

    def run(self) -> Outputs:
        """Every stage, and the finished clip's length."""
        self._check_audio_rate()
        runner = StageRunner()
        stages = LatentStages(self.models, self.rendering, tuple(self.images)).in_order()
        state = GenerationState(contexts=Files(self.case).contexts(), images=self.encoded_images())
        for stage in stages:
            state = self.prepared(stage).run(runner, state)
            self.write(stage, state.latents)
        *_, last = stages
        assert isinstance(last, RenderingStage)
        rendering = self.rendering
        playback = float(rendering.playback_rate(rendering.rounds))
        return self.outputs | {
            "final.video": channels_first(state.latents["video"][:, : last.kept_latents]),
            "final.frames": np.array([rendering.final_frames]),
            "final.playback_fps": np.array([playback]),
            "final.seconds": np.array([rendering.final_frames / playback]),
        }

    def _check_audio_rate(self) -> None:
        assert self.case.parameters.get("audio_latents_per_second", 25.0) == 25.0

    def prepared(self, stage: LatentStage) -> LatentStage:
        """The stage with the case's noise and schedule; it writes what it does inside."""
        if not isinstance(stage, RenderingStage):
            return stage
        name = _short(stage.name)
        schedules = self.case.parameters.get("sigmas", {})
        kind = "round" if isinstance(stage, RoundStage) else name
        if kind in schedules:
            # Stored without the last 0.
            stage = replace(stage, sigmas=(*schedules[kind], 0.0))

        def on_step(step: int, state: State) -> None:
            self.outputs[f"trace.{name}.step{step}.video"] = state["video"].latent
            if "audio" in state and not state["audio"].frozen:
                # Stage 2 drops its sound.
                self.write_audio(name, state["audio"].latent)

        # The video is compared before it is cut.
        stage = replace(stage, noise=self.noise, on_step=on_step, kept_latents=None)
        return self.with_tiles(stage) if isinstance(stage, RoundStage) else stage

    def with_tiles(self, stage: RoundStage) -> RoundStage:
        """A round that writes its tiles."""

        def on_tile(number: int, tokens: StageTokens, streams: State) -> None:
            name = f"{_short(stage.name)}.tile{number}"
            denoised = streams["video"].latent
            self.outputs |= {
                f"{name}.video": channels_first(tokens.video(denoised)),
                f"{name}.keyframes": channels_first(tokens.generated_keyframes(denoised)),
                f"{name}.sigmas": np.array(stage.sigmas, dtype=np.float32),
            }
            if "audio" in streams:
                self.outputs[f"{name}.audio"] = streams["audio"].latent

        return replace(stage, on_tile=on_tile)

    def write_audio(self, name: str, tokens: mx.array) -> None:
        latent = channels_first(unpatchify_audio(tokens, _AUDIO_CHANNELS))
        self.outputs |= {f"{name}.audio": latent, f"trace.{name}.audio": latent}

    def write(self, stage: LatentStage, latents: Arrays) -> None:
        """The results of a stage."""
        name = _short(stage.name)
        video = channels_first(latents["video"])
        if name.startswith("temporal."):
            self.outputs[name] = video
            return
        self.outputs |= {f"{name}.video": video, f"{name}.keyframes": channels_first(latents["keyframes"])}
        if isinstance(stage, RenderingStage):
            self.outputs[f"{name}.sigmas"] = np.array(stage.sigmas, dtype=np.float32)

    def encoded_images(self) -> Arrays:
        """The case's images of both sizes, by their stage."""
        io = self.case.inputs()
        images = {}
        for stage, smaller in (("stage_1", 2), ("stage_2", 1)):
            size = f"{self.shape.height // smaller}x{self.shape.width // smaller}"
            for number in range(len(self.images)):
                images[f"{stage}.{number}"] = channels_last(io[f"image{number}.{size}"])
        return images

    @cached_property
    def noise(self) -> Noise:
        """The case's draws, which stand in the order of their use."""
        names = ["stage_1.video", "stage_1.audio", "stage_2.video", "stage_2.audio"]
        # No step takes noise to the last noise level, 0.
        num_steps = len(self.case.parameters.get("sigmas", {}).get("round", ROUND_SIGMAS[:-1])) - 1
        for number in range(1, self.rendering.rounds + 1):
            for tile in range(len(self.rendering.tiles(number))):
                name = f"round_{number}.tile_{tile}"
                names.append(f"{name}.video")
                names += [f"{name}.step_{step}.video" for step in range(num_steps)]
        draws = {name: mx.array(self.case.io[f"input.noise.{i}"]) for i, name in enumerate(names)}
        return lambda purpose, shape: draws[purpose].astype(mx.float32).reshape(shape)


def _short(name: str) -> str:
    """A stage's name as cases have it: ``stage1``, ``upscaled``, ``temporal.1``, ``round1``."""
    if name == "latent_upscaler":
        return "upscaled"
    return name.replace("temporal_upscaler_", "temporal.").replace("_", "")
