"""Denoising stages of detail-fidelity rendering, on one transformer each; their mathematics is in ``diffusion``."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import mlx.core as mx

from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.diffusion.dfr import (
    ROUND_SIGMAS,
    Keyframe,
    OnTile,
    StageTokens,
    TemporalRound,
    carried_keyframes,
    denoise_stage,
    ignore_tile,
)
from LTX_2_MLX.diffusion.dfr_layout import SPATIAL_OVERLAP, RoundTile
from LTX_2_MLX.diffusion.dfr_rendering import Rendering
from LTX_2_MLX.diffusion.dfr_spatial import TokenTile, denoise_in_tiles, token_tiles
from LTX_2_MLX.diffusion.sampler import DISTILLED, REFINEMENT, UNGUIDED, Denoise, OnStep, guided, ignore
from LTX_2_MLX.diffusion.state import AudioClock, LatentState, Noise, State, VideoGrid, seeded_noise, start_state
from LTX_2_MLX.models.ltx.config import (
    TransformerConfig,
    transformer_array_bytes,
    transformer_bytes,
    transformer_operations,
)
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.pipelines.generation.denoise import predictor, stored_transformer, transformer_facts
from LTX_2_MLX.pipelines.generation.files import Models, load_options
from LTX_2_MLX.pipelines.generation.image_places import ImagePlace
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationState, Result
from LTX_2_MLX.planning.plan import Estimate, network_weights_bytes, seconds_of
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.runner import StageRunner, check_moving, check_result
from LTX_2_MLX.shapes import LatentShape

if TYPE_CHECKING:
    from LTX_2_MLX.pipelines.generation.fastest_way import StepWork
    from LTX_2_MLX.pipelines.generation.preview import StagePreview, Watch


class Call(NamedTuple):
    """Tokens of one call of the transformer."""

    video: int
    audio: int


@dataclass(frozen=True)
class RenderingStage(ABC):
    """Transformer: one denoising stage, with keyframes beside the video.

    Latents that are handed on: ``video``, its generated ``keyframes`` ``(1, K, H, W, C)``, the ``audio`` tokens of
    stage 1 where the network has an audio stream, and ``reference``, the smaller video.

    Attributes:
        name: The stage's name, for progress, reports and the noise's purposes.
        models: The files with the transformer.
        rendering: What all stages share.
        text_tokens: Tokens of the prompt's context.
        loras: Adapters of this stage.
        images: Conditioning images at pixel frames of this stage.
        images_of: Name under which they were encoded, that of a stage of the same size.
        kept_latents: Latent frames of the result that are handed on; None: all.
        reference_downscale: Height and width of the video over those of ``reference``, which the detailing adapter
            reads; None without one.
        seed: Of the noise.
        noise: Noise by purpose instead of the seed's.
        on_step: Callback after each step.
        preview: Shows the clean estimate after steps, in a stage that denoises the whole video at once.
    """

    name: str
    models: Models
    rendering: Rendering
    text_tokens: int
    sigmas: Sequence[float]
    loras: tuple[Lora, ...] = ()
    images: tuple[ImagePlace, ...] = ()
    images_of: str = ""
    kept_latents: int | None = None
    reference_downscale: int | None = None
    seed: int = 0
    noise: Noise | None = field(default=None, repr=False)
    on_step: OnStep = ignore
    preview: "StagePreview | None" = None
    needs: ClassVar[tuple[Result, ...]] = ("contexts", "images", "latents")
    gives: ClassVar[Result] = "latents"
    shows_previews: ClassVar[bool] = False

    @property
    def saved_as(self) -> str:
        """The stage's name."""
        return self.name

    @property
    @abstractmethod
    def grid(self) -> VideoGrid:
        """Latent grid of the whole video."""

    @abstractmethod
    def calls(self, config: TransformerConfig) -> list[Call]:
        """The calls of the transformer in one step, of all tiles."""

    @abstractmethod
    def sample(self, config: TransformerConfig, denoise: Denoise, state: GenerationState, on_step: OnStep) -> Arrays:
        """The latents that are handed on."""

    def estimate(self) -> Estimate:
        """The largest call of the transformer."""
        models = self.models
        config = config_of(Transformer, models.weights)
        calls = self.calls(config)
        operations = 0.0
        for call in calls:
            operations += transformer_operations(config, **self._size(call))
        options = load_options(models, Transformer, models.weights)
        estimate = Estimate(
            name=self.name,
            work=self._work(len(calls)),
            dtype=models.dtype,
            file=models.weights.path,
            weights_bytes=network_weights_bytes([Transformer], models.weights, loras=self.loras, **options),
            activation_bytes=transformer_bytes(config, **self._size(max(calls)), prompts=1, dtype=models.dtype),
            array_bytes=transformer_array_bytes(
                config, tokens=max(calls).video, text_tokens=self.text_tokens, dtype=models.dtype
            ),
            seconds=seconds_of(operations * (len(self.sigmas) - 1)),
            stored=stored_transformer(models, self.loras),
        )
        return estimate if self.preview is None else self.preview.added_to(estimate)

    def step_works(self) -> "list[StepWork]":
        """The largest call of a step."""
        from LTX_2_MLX.pipelines.generation.fastest_way import StepWork

        config = config_of(Transformer, self.models.weights)
        return [StepWork(config, **self._size(max(self.calls(config))), dtype=self.models.dtype, num_passes=1)]

    def run(self, runner: StageRunner, state: GenerationState) -> GenerationState:
        """Denoise.

        Raises:
            OutputError: If the result is not finite, all one value, or one frame over and over.
        """
        if launch.RANK is not None:
            from LTX_2_MLX.pipelines.generation.sharing import state_of_first

            state = state_of_first(state)
        total = (len(self.sigmas) - 1) * self._runs
        done = itertools.count(1)

        def report(step: int, streams: State) -> None:
            self.on_step(step, streams)
            runner.progress.advance(self.name, next(done), total)

        def work(transformer: Transformer, watch: "Watch | None" = None) -> Arrays:
            runner.progress.advance(self.name, 0, total)
            predict = predictor(transformer, state.contexts, UNGUIDED, shared_cross_modal_sigma=self.rendering.newer)
            if launch.RANK is not None:
                from LTX_2_MLX.pipelines.generation.sharing import shared

                parallel, speed = self.models.parallel, self.models.speed
                predict = shared(predict, parallel, transformer, state.contexts, speed=speed)
            denoise = guided(predict, UNGUIDED)
            denoise, on_step = (denoise, report) if watch is None else watch(denoise, report)
            return self.sample(transformer.config, denoise, state, on_step)

        models = self.models
        options = load_options(models, Transformer, models.weights)
        load_transformer = partial(
            load, Transformer, models.weights, loras=self.loras, note=runner.progress.note, **options
        )
        if self.preview is None:
            latents = runner.run(self.name, load_transformer, work)
        else:
            latents = self.preview.run_beside(runner, load_transformer, work, total)
        check_result(self.name, latents)
        check_moving(self.name, latents["video"])
        latents["video"] = latents["video"][:, : self.kept_latents]
        return replace(state, latents=latents)

    def facts(self) -> dict[str, Any]:
        """The settings of the run, the checkpoint and its adapters."""
        return {
            "rendering": asdict(self.rendering),
            "sigmas": [float(sigma) for sigma in self.sigmas],
            "images": [{"frame": image.frame, "strength": image.strength} for image in self.images],
            "seed": self.seed,
            "kept_latents": self.kept_latents,
            "reference_downscale": self.reference_downscale,
            **transformer_facts(self.models, self.loras),
        }

    @property
    def _runs(self) -> int:
        """Runs over the schedule."""
        return 1

    @property
    def _noise(self) -> Noise:
        return self.noise or partial(seeded_noise, self.seed)

    @property
    def _cells(self) -> int:
        """Tokens of one latent frame."""
        return self.grid.shape.height * self.grid.shape.width

    @property
    def _appended_images(self) -> int:
        return sum(image.frame != 0 for image in self.images)

    def _size(self, call: Call) -> dict[str, int]:
        return {"tokens": call.video, "audio_tokens": call.audio, "text_tokens": self.text_tokens}

    def _work(self, num_calls: int) -> str:
        shape = self.grid.shape.pixels(self.grid.compression)
        steps = len(self.sigmas) - 1
        tiles = "" if num_calls == 1 else f", {num_calls} tiles"
        return f"{shape.height}×{shape.width}, {steps} steps{tiles}"

    def _given_images(self, state: GenerationState) -> list[Keyframe]:
        given = []
        for number, image in enumerate(self.images):
            given.append(Keyframe(state.images[f"{self.images_of}.{number}"], image.frame, image.strength))
        return given

    def _audio_tokens(self, config: TransformerConfig) -> int:
        return 0 if config.audio is None else self.rendering.audio_tokens


@dataclass(frozen=True)
class FirstStage(RenderingStage):
    """Video, sound and keyframes at half the size, from noise."""

    sigmas: Sequence[float] = DISTILLED
    shows_previews: ClassVar[bool] = True
    needs: ClassVar[tuple[Result, ...]] = ("contexts", "images")

    @property
    def grid(self) -> VideoGrid:
        """The canvas at half the size."""
        return self.rendering.grid(smaller=2)

    def calls(self, config: TransformerConfig) -> list[Call]:
        """One, with all keyframes."""
        appended = len(self.rendering.keyframes()) + self._appended_images
        return [Call(self.grid.shape.num_tokens + appended * self._cells, self._audio_tokens(config))]

    def sample(self, config: TransformerConfig, denoise: Denoise, state: GenerationState, on_step: OnStep) -> Arrays:
        """``video``, ``keyframes`` and ``audio``."""
        shape = self.grid.shape
        zeros = mx.zeros((1, shape.num_frames, shape.height, shape.width, config.video.in_channels))
        slots = tuple(self.rendering.keyframes())
        tokens = StageTokens(self.grid, zeros, images=self._given_images(state), slots=slots)
        streams: State = {"video": tokens.state()}
        if config.audio is not None:
            length = self.rendering.audio_tokens
            audio = mx.zeros((1, length, config.audio.in_channels))
            streams["audio"] = start_state(audio, AudioClock().positions(length))
        result = denoise_stage(self.name, denoise, streams, self.sigmas, self._noise, on_step=on_step)
        denoised = result["video"].latent
        latents = {"video": tokens.video(denoised), "keyframes": tokens.generated_keyframes(denoised)}
        if "audio" in result:
            latents["audio"] = result["audio"].latent
        return latents


@dataclass(frozen=True)
class SecondStage(RenderingStage):
    """Video and keyframes at the full size, from upscaled ones; the sound is denoised along and dropped."""

    sigmas: Sequence[float] = REFINEMENT
    shows_previews: ClassVar[bool] = True

    @property
    def grid(self) -> VideoGrid:
        """The canvas at the full size."""
        return self.rendering.grid()

    def calls(self, config: TransformerConfig) -> list[Call]:
        """One, with all keyframes and the reference."""
        appended = len(self.rendering.keyframes()) + self._appended_images
        reference = self.rendering.grid(smaller=2).shape.num_tokens if self.reference_downscale else 0
        tokens = self.grid.shape.num_tokens + appended * self._cells + reference
        return [Call(tokens, self._audio_tokens(config))]

    def sample(self, config: TransformerConfig, denoise: Denoise, state: GenerationState, on_step: OnStep) -> Arrays:
        """``video`` and ``keyframes``, with the given ``audio``."""
        latents = state.latents
        tokens = StageTokens(
            self.grid,
            latents["video"],
            images=self._given_images(state),
            slots=tuple(self.rendering.keyframes()),
            slot_latents=latents["keyframes"],
            reference=latents["reference"] if self.reference_downscale else None,
            reference_downscale=self.reference_downscale or 1,
        )
        streams: State = {"video": tokens.state()}
        if "audio" in latents:
            streams["audio"] = start_state(latents["audio"], AudioClock().positions(latents["audio"].shape[1]))
        result = denoise_stage(self.name, denoise, streams, self.sigmas, self._noise, on_step=on_step)
        denoised = result["video"].latent
        return {
            "video": tokens.video(denoised),
            "keyframes": tokens.generated_keyframes(denoised),
            **_audio_of(latents),
        }


@dataclass(frozen=True)
class RoundStage(RenderingStage):
    """One temporal round over a video of twice the frame rate, tile by tile, with the sound frozen.

    Attributes:
        number: 1 for the first round.
        on_tile: Callback after each tile.
    """

    sigmas: Sequence[float] = ROUND_SIGMAS
    number: int = 1
    on_tile: OnTile = ignore_tile

    @property
    def grid(self) -> VideoGrid:
        """The canvas of the round."""
        return self.rendering.grid(self.number)

    def calls(self, config: TransformerConfig) -> list[Call]:
        """One for each tile, with its keyframes."""
        calls = []
        for tile in self.rendering.tiles(self.number):
            latents = tile.stop_latent - tile.first_latent + len(tile.keyframes) + len(tile.slots)
            images = sum(tile.first_frame < image.frame <= tile.last_frame for image in self.images)
            calls.append(Call((latents + images) * self._cells, self._tile_audio_tokens(config, tile)))
        return calls

    def sample(self, config: TransformerConfig, denoise: Denoise, state: GenerationState, on_step: OnStep) -> Arrays:
        """``video`` and ``keyframes``, those carried on and those generated, with the given ``audio``."""
        rendering, latents = self.rendering, state.latents
        seams = rendering.seams(self.number)
        temporal = TemporalRound(
            self.number,
            self.grid,
            carried_keyframes(latents["keyframes"], seams, rendering.keyframe_strength),
            self._given_images(state),
            audio=partial(self._tile_audio, latents["audio"]) if self._reads_audio(config) else None,
            all_images_in_first=not rendering.newer,
            hold_result=rendering.newer,
            sigmas=self.sigmas,
            eta=rendering.eta,
            keyframe_strength=rendering.keyframe_strength,
        )
        video, keyframes = temporal.run(denoise, latents["video"], self._noise, on_tile=self.on_tile, on_step=on_step)
        joined = mx.concatenate([keyframe.latent for keyframe in keyframes], axis=1)
        return {"video": video, "keyframes": joined, **_audio_of(latents)}

    def facts(self) -> dict[str, Any]:
        """With the round's number."""
        return super().facts() | {"number": self.number}

    @property
    def _runs(self) -> int:
        return len(self.rendering.tiles(self.number))

    def _reads_audio(self, config: TransformerConfig) -> bool:
        return self.rendering.newer and config.audio is not None

    def _tile_audio_tokens(self, config: TransformerConfig, tile: RoundTile) -> int:
        return self.rendering.audio_window(self.number, tile).num_tokens if self._reads_audio(config) else 0

    def _tile_audio(self, audio: mx.array, tile: RoundTile) -> LatentState:
        tokens = self.rendering.audio_window(self.number, tile).resample(audio)
        return start_state(tokens, AudioClock().positions(tokens.shape[1]), frozen=True)


@dataclass(frozen=True)
class SpatialStage(RenderingStage):
    """The video at twice the size after the last round, every step tile by tile, with the sound frozen.

    The given ``keyframes`` are those of the last round at this size.

    Attributes:
        overlap: Latent rows and columns that tiles share.
    """

    sigmas: Sequence[float] = REFINEMENT
    overlap: int = SPATIAL_OVERLAP

    @property
    def grid(self) -> VideoGrid:
        """The canvas of the last round at twice the size."""
        return self.rendering.grid(self.rendering.rounds, larger=2)

    def calls(self, config: TransformerConfig) -> list[Call]:
        """One for each tile, with the appended tokens that it overlaps."""
        shape = self.grid.shape
        small = self.rendering.grid(self.rendering.rounds).shape
        images = [Keyframe(_blank(1, shape), image.frame) for image in self.images]
        reference = _blank(small.num_frames, small) if self.reference_downscale else None
        tokens = self._tokens(_blank(shape.num_frames, shape), images, _blank(len(self._frames), shape), reference)
        audio = self._audio_tokens(config)
        return [Call(len(tile.indices), audio) for tile in self.token_tiles(tokens.state())]

    def sample(self, config: TransformerConfig, denoise: Denoise, state: GenerationState, on_step: OnStep) -> Arrays:
        """``video``, with the given ``audio``."""
        tokens = self.tokens(state)
        latents = state.latents
        video = tokens.state()
        streams: State = {"video": video}
        if "audio" in latents:
            audio = latents["audio"]
            streams["audio"] = start_state(audio, AudioClock().positions(audio.shape[1]), frozen=True)
        tiled = denoise_in_tiles(denoise, self.token_tiles(video))
        result = denoise_stage(self.name, tiled, streams, self.sigmas, self._noise, on_step=on_step)
        return {"video": tokens.video(result["video"].latent), **_audio_of(latents)}

    def facts(self) -> dict[str, Any]:
        """With the tiles' overlap."""
        return super().facts() | {"overlap": self.overlap}

    def tokens(self, state: GenerationState) -> StageTokens:
        """The video with the carried keyframes and the reference."""
        latents = state.latents
        reference = latents["reference"] if self.reference_downscale else None
        return self._tokens(latents["video"], self._given_images(state), latents["keyframes"], reference)

    def token_tiles(self, video: LatentState) -> list[TokenTile]:
        """The tokens of every tile."""
        return token_tiles(video, self.grid.shape, self.rendering.spatial_tiles(self.overlap))

    @property
    def _frames(self) -> list[int]:
        return self.rendering.keyframes(self.rendering.rounds)

    def _tokens(
        self, video: mx.array, images: list[Keyframe], keyframes: mx.array, reference: mx.array | None
    ) -> StageTokens:
        return StageTokens(
            self.grid,
            video,
            images=images,
            keyframes=carried_keyframes(keyframes, self._frames, strength=1.0),
            reference=reference,
            reference_downscale=self.reference_downscale or 1,
        )


def _blank(num_frames: int, shape: LatentShape) -> mx.array:
    """A latent of one channel, for positions alone."""
    return mx.zeros((1, num_frames, shape.height, shape.width, 1))


def _audio_of(latents: Arrays) -> Arrays:
    return {"audio": latents["audio"]} if "audio" in latents else {}
