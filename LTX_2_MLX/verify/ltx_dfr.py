"""Detail-fidelity rendering, in both forms: contexts, encoded images and noise are given."""

import json
from dataclasses import dataclass, field
from functools import cached_property

import mlx.core as mx
import numpy as np
from safetensors.numpy import save_file

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion import schedule
from LTX_2_MLX.diffusion.dfr import (
    KEYFRAME_STRENGTH,
    ROUND_ETA,
    ROUND_SIGMAS,
    Keyframe,
    StageTokens,
    TemporalRound,
    carried_keyframes,
    denoise_stage,
    doubled,
    kept_latents,
)
from LTX_2_MLX.diffusion.dfr_layout import (
    AudioWindow,
    Canvas,
    RoundTile,
    conditioning_rate,
    next_keyframes,
    round_tiles,
)
from LTX_2_MLX.diffusion.guidance import Denoise, Guidance, guided
from LTX_2_MLX.diffusion.noise import Noise
from LTX_2_MLX.diffusion.patchify import AudioClock, VideoGrid, unpatchify_audio
from LTX_2_MLX.diffusion.sampler import OnStep
from LTX_2_MLX.diffusion.state import LatentState, State, start_state
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics
from LTX_2_MLX.pipelines.generation.denoise import both_streams, predictor
from LTX_2_MLX.shapes import LatentShape, VideoShape
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
    """The published files whose tensors stand side by side in a case."""

    case: Case

    def checkpoint(self, kind: str) -> Checkpoint:
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
        save_file(tensors, str(path), metadata=metadata)
        return Checkpoint(path)

    @cached_property
    def _tensors(self) -> dict[str, np.ndarray]:
        return self.case.weights()

    @cached_property
    def statistics(self) -> LatentStatistics:
        return load(LatentStatistics, self.checkpoint("vae"), dtype=mx.float32)

    def upscale(self, kind: str, latent: mx.array) -> mx.array:
        """A normalised latent through one of the upscalers."""
        return load(LatentUpscaler, self.checkpoint(kind), dtype=mx.float32).upscale(latent, self.statistics)

    def denoiser(self, distilled: float = 0.0, detailing: float = 0.0, *, newer: bool = True) -> Denoise:
        """The transformer with the case's contexts and the adapters of the given strengths."""
        strengths = {"lora": distilled, "detailing_lora": detailing}
        loras = [Lora(self.checkpoint(kind), strength) for kind, strength in strengths.items() if strength]
        transformer = load(Transformer, self.checkpoint("transformer"), dtype=mx.float32, loras=loras)
        contexts = {}
        for name, value in self.case.inputs().items():
            if name.endswith("_context"):
                contexts[name.removesuffix("_context")] = mx.array(value)
        guidance = both_streams(Guidance())
        return guided(predictor(transformer, contexts, guidance, shared_cross_modal_sigma=newer), guidance)


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


def dfr(case: Case) -> Outputs:
    """The form of 400fd31."""
    p = case.parameters
    height, width = p["hw"]
    images = [(frame, strength) for frame, strength in p.get("images", [])]
    run = Rendering(
        case,
        height=height,
        width=width,
        images=images,
        distilled=p.get("lora", 0.0),
        detailing=p.get("detailing", 0.0),
        downscale=p.get("reference_downscale_factor", 2),
        newer=False,
    )
    outputs = run.run()
    # In the order in which this form uses the upscaler.
    names = {"upscaled.keyframes": "upscaled.1", "upscaled.video": "upscaled.2"}
    return {names.get(name, name): value for name, value in outputs.items()}


def dfr_new(case: Case) -> Outputs:
    """The newer form."""
    p = case.parameters
    lora = p.get("detailing_lora") or {}
    run = Rendering(
        case,
        height=p["height"],
        width=p["width"],
        images=[(image["frame"], image["strength"]) for image in p.get("images", [])],
        distilled=(p.get("distilled_lora") or {}).get("strength", 0.0),
        detailing=lora.get("strength", 0.0),
        downscale=lora.get("reference_downscale_factor", 2),
        newer=True,
    )
    return run.run()


@dataclass
class Rendering:
    """The latent part of one rendering."""

    case: Case
    height: int
    width: int
    images: list[tuple[int, float]]
    distilled: float
    detailing: float
    downscale: int
    newer: bool
    outputs: Outputs = field(default_factory=dict)

    def __post_init__(self) -> None:
        p = self.case.parameters
        self.files = Files(self.case)
        self.frames: int = p["frames"]
        self.rate: float = p["fps"]
        self.rounds: int = p["rounds"]
        self.canvas = Canvas.for_frames(self.frames)
        self.compression = compression_of(self.case)

    def run(self) -> Outputs:
        """Both stages, the rounds and the cut to the requested length."""
        base = self.files.denoiser(self.distilled, newer=self.newer)
        video, audio, slots = self.first_stage(base)
        upscaled = {"video": video, "keyframes": slots}
        larger = {name: self.files.upscale("upscaler", latent) for name, latent in upscaled.items()}
        self.outputs |= {f"upscaled.{name}": channels_first(latent) for name, latent in larger.items()}
        detailed = self.files.denoiser(self.distilled, self.detailing, newer=self.newer) if self.detailing else base
        reference = video if self.detailing else None
        video, keyframes = self.second_stage(detailed, larger, audio, reference)
        for number in range(1, self.rounds + 1):
            video, keyframes = self.round(base, number, video, keyframes, audio)
        final_frames = (self.frames - 1) * 2**self.rounds + 1
        playback = self.rate * 2**self.rounds
        cut = video[:, : kept_latents(self.frames, self.rounds, self.compression.time)]
        return self.outputs | {
            "final.video": channels_first(cut),
            "final.frames": np.array([final_frames]),
            "final.playback_fps": np.array([playback]),
            "final.seconds": np.array([final_frames / playback]),
        }

    def first_stage(self, denoise: Denoise) -> tuple[mx.array, mx.array, mx.array]:
        """Video, audio tokens and keyframes at half the size."""
        grid = self.grid(2)
        length = AudioClock().num_latents(self.canvas.num_frames, self.rate)
        audio = start_state(mx.zeros((1, length, self.channels("audio_in_channels"))), AudioClock().positions(length))
        latent = mx.zeros((1, *_sizes(grid.shape), self.channels("in_channels")))
        tokens = StageTokens(grid, latent, images=self.given_images(2), slots=self.canvas.positions)
        return self.stage(1, denoise, tokens, audio, self.sigmas("stage1", schedule.DISTILLED))

    def second_stage(
        self, denoise: Denoise, start: dict[str, mx.array], audio: mx.array, reference: mx.array | None
    ) -> tuple[mx.array, list[Keyframe]]:
        """Video and keyframes at the full size; the audio is denoised along and dropped."""
        tokens = StageTokens(
            self.grid(1),
            start["video"],
            images=self.given_images(1),
            slots=self.canvas.positions,
            slot_latents=start["keyframes"],
            reference=reference,
            reference_downscale=self.downscale,
        )
        stream = start_state(audio, AudioClock().positions(audio.shape[1]))
        video, _, slots = self.stage(2, denoise, tokens, stream, self.sigmas("stage2", schedule.REFINEMENT))
        return video, carried_keyframes(slots, self.canvas.positions, self.keyframe_strength)

    @property
    def keyframe_strength(self) -> float:
        strength: float = self.case.parameters.get("anchor_strength", KEYFRAME_STRENGTH)
        return strength

    def sigmas(self, stage: str, default: tuple[float, ...]) -> tuple[float, ...]:
        """The case's schedule of a stage, stored without the last 0; the pipeline's unless given."""
        given = self.case.parameters.get("sigmas", {}).get(stage)
        return default if given is None else (*given, 0.0)

    def stage(
        self, number: int, denoise: Denoise, tokens: StageTokens, audio: LatentState, sigmas: tuple[float, ...]
    ) -> tuple[mx.array, mx.array, mx.array]:
        streams: State = {"video": tokens.state(), "audio": audio}
        name = f"stage{number}"
        result = denoise_stage(name, denoise, streams, sigmas, self.noise, on_step=self.trace(name))
        denoised = result["video"].latent
        sound = result["audio"].latent
        video = tokens.video(denoised)
        slots = tokens.generated_keyframes(denoised)
        audio_latent = channels_first(unpatchify_audio(sound, _AUDIO_CHANNELS))
        self.outputs |= {
            f"{name}.video": channels_first(video),
            f"{name}.keyframes": channels_first(slots),
            f"{name}.audio": audio_latent,
            f"trace.{name}.audio": audio_latent,
            f"{name}.sigmas": np.array(sigmas, dtype=np.float32),
        }
        return video, sound, slots

    def round(
        self, denoise: Denoise, number: int, video: mx.array, keyframes: list[Keyframe], audio: mx.array
    ) -> tuple[mx.array, list[Keyframe]]:
        """One temporal round."""
        video = self.files.upscale("temporal_upscaler", video)
        self.outputs[f"temporal.{number}"] = channels_first(video)
        playback = self.rate * 2**number
        rate = conditioning_rate(playback, snap=self.newer)
        images = self.given_images(1)
        if self.newer:
            images = [image._replace(frame=image.frame * 2**number) for image in images]
        temporal = TemporalRound(
            number,
            VideoGrid(LatentShape(*video.shape[1:4]), self.compression, rate),
            doubled(keyframes),
            images,
            audio=TileSound(audio, self, number, playback, rate) if self.newer else None,
            all_images_in_first=not self.newer,
            hold_result=self.newer,
            sigmas=self.sigmas("round", ROUND_SIGMAS),
            eta=self.case.parameters.get("eta", ROUND_ETA),
            keyframe_strength=self.keyframe_strength,
        )

        def on_tile(tile: int, tokens: StageTokens, denoised: mx.array) -> None:
            self.outputs |= {
                f"round{number}.tile{tile}.video": channels_first(tokens.video(denoised)),
                f"round{number}.tile{tile}.keyframes": channels_first(tokens.generated_keyframes(denoised)),
                f"round{number}.tile{tile}.sigmas": np.array(temporal.sigmas, dtype=np.float32),
            }

        video, keyframes = temporal.run(denoise, video, self.noise, on_tile=on_tile)
        self.outputs |= {
            f"round{number}.video": channels_first(video),
            f"round{number}.keyframes": channels_first(mx.concatenate([row.latent for row in keyframes], axis=1)),
        }
        return video, keyframes

    def grid(self, smaller: int) -> VideoGrid:
        """The canvas at a fraction of the size."""
        shape = VideoShape(self.canvas.num_frames, self.height // smaller, self.width // smaller)
        # 400fd31 limits the rate of coordinates in rounds alone.
        rate = conditioning_rate(self.rate) if self.newer else self.rate
        return VideoGrid(shape.latent(self.compression), self.compression, rate)

    def given_images(self, smaller: int) -> list[Keyframe]:
        """The encoded images of one size."""
        size = f"{self.height // smaller}x{self.width // smaller}"
        io = self.case.inputs()
        images = []
        for number, (frame, strength) in enumerate(self.images):
            images.append(Keyframe(channels_last(io[f"image{number}.{size}"]), frame, strength))
        return images

    def channels(self, field_name: str) -> int:
        channels: int = self.case.config["transformer"][field_name]
        return channels

    @cached_property
    def noise(self) -> Noise:
        """The case's draws, which stand in the order of their use."""
        names = ["stage1.video", "stage1.audio", "stage2.video", "stage2.audio"]
        positions = list(self.canvas.positions)
        for number in range(1, self.rounds + 1):
            seams = [2 * frame for frame in positions]
            tiles = round_tiles(seams, 2**number, self.compression.time)
            positions = next_keyframes(seams, tiles)
            for tile in range(len(tiles)):
                names.append(f"round_{number}.tile_{tile}.video")
                # No step takes noise to the last noise level, 0.
                for step in range(len(self.sigmas("round", ROUND_SIGMAS)) - 2):
                    names.append(f"round_{number}.tile_{tile}.step_{step}.video")
        draws = {name: mx.array(self.case.io[f"input.noise.{i}"]) for i, name in enumerate(names)}
        return lambda purpose, shape: draws[purpose].astype(mx.float32).reshape(shape)

    def trace(self, name: str) -> OnStep:
        """Write the video tokens of every step under the stage's name."""

        def on_step(step: int, state: State) -> None:
            self.outputs[f"trace.{name}.step{step}.video"] = state["video"].latent

        return on_step


@dataclass(frozen=True)
class TileSound:
    """The frozen audio of a round's tiles."""

    audio: mx.array
    rendering: Rendering
    number: int
    playback: float
    rate: float

    def __call__(self, tile: RoundTile) -> LatentState:
        rendering = self.rendering
        window = AudioWindow(
            first_frame=tile.first_frame,
            num_frames=tile.num_frames,
            playback_rate=self.playback,
            conditioning_rate=self.rate,
            source_seconds=rendering.canvas.num_frames / rendering.rate,
            latents_per_second=rendering.case.parameter("audio_latents_per_second"),
        )
        tokens = window.resample(self.audio)
        prefix = f"round{self.number}.tile"
        index = sum(name.startswith(prefix) and name.endswith(".audio") for name in rendering.outputs)
        rendering.outputs[f"{prefix}{index}.audio"] = tokens
        return start_state(tokens, AudioClock().positions(tokens.shape[1]), frozen=True)


def _sizes(shape: LatentShape) -> tuple[int, int, int]:
    return shape.num_frames, shape.height, shape.width
