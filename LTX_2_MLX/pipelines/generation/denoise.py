"""Denoising stage: contexts, images and noise to video and audio latents; the transformer as guidance calls it."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import mlx.core as mx

from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.checkpoints.read_ahead import StoredNetwork
from LTX_2_MLX.diffusion import sampler as samplers
from LTX_2_MLX.diffusion.conditioning import append_keyframe, append_slots, fix_latent_frames, regenerate_region
from LTX_2_MLX.diffusion.sampler import UNGUIDED, Guidance, Pass, Predict, guided, passes, steps_within
from LTX_2_MLX.diffusion.state import (
    AudioClock,
    LatentState,
    Noise,
    State,
    StreamArrays,
    VideoGrid,
    add_noise,
    patchify_video,
    seeded_noise,
    start_state,
    to_denoised,
    unpatchify_video,
)
from LTX_2_MLX.layers.transformer import KeysValues
from LTX_2_MLX.models.ltx.config import (
    TransformerConfig,
    transformer_array_bytes,
    transformer_bytes,
    transformer_operations,
)
from LTX_2_MLX.models.ltx.transformer import Perturbation, StreamInput, Transformer
from LTX_2_MLX.pipelines.generation.files import Models, load_options
from LTX_2_MLX.pipelines.generation.image_places import ImagePlace
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationState, Result, SamplerName, contents
from LTX_2_MLX.planning.plan import Estimate, network_weights_bytes, seconds_of
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.progress import Progress
from LTX_2_MLX.runtime.runner import StageRunner, check_moving, check_result
from LTX_2_MLX.shapes import StreamName

if TYPE_CHECKING:
    from LTX_2_MLX.models.ltx.step_cache import StepCaches
    from LTX_2_MLX.pipelines.generation.control import Control
    from LTX_2_MLX.pipelines.generation.fastest_way import StepWork
    from LTX_2_MLX.pipelines.generation.preview import StagePreview, Watch


@dataclass(frozen=True)
class Denoise:
    """Transformer: one run over a schedule of noise levels.

    A network with an audio stream runs it whether sound is wanted or not: the video attends to it.

    Attributes:
        name: The stage's name, for progress, reports and the noise's purposes.
        models: The files with the transformer.
        grid: Latent grid of the video.
        sigmas: The schedule.
        context_size: Number of prompts, and tokens of each context.
        loras: Adapters of this stage.
        guidance: Of each stream.
        guided_share: From where to where in the steps it is guided, in [0, 1]; the others have one pass.
        step_cache: Summed change of the input below which steps reuse block outputs; None: none does.
        sampler: The loop over the schedule.
        images: Conditioning images; one at frame 0 is held in place, others are appended as keyframes.
        slots: Pixel frames of keyframes that are generated with the video; their latents are handed on as
            ``keyframes``.
        control: Reference video of an IC-LoRA, whose latent the state has.
        noise_scale: Noise level that latents of an earlier stage are taken to.
        motion_speed: Times of the video's positions are multiplied by it; those of the audio stay.
        region_seconds: Denoise only this span of time, and hold the rest of the latents of the stage before; a stream
            without such latents is denoised as a whole.
        frozen_audio: The audio latents are given and only attended to.
        budget: Bytes that the stage may take, by which it keeps keys and values of the text; None: it keeps none.
        seed: Of the noise.
        noise: Noise by purpose instead of the seed's.
        on_step: Callback after each step; None: none.
        preview: Shows the clean estimate after steps; None: nothing does.
    """

    name: str
    models: Models
    grid: VideoGrid
    sigmas: Sequence[float]
    context_size: tuple[int, int]
    loras: tuple[Lora, ...] = ()
    guidance: Mapping[StreamName, Guidance] = field(default_factory=UNGUIDED.copy)
    guided_share: tuple[float, float] = (0.0, 1.0)
    step_cache: float | None = None
    sampler: SamplerName = "euler"
    images: tuple[ImagePlace, ...] = ()
    slots: tuple[int, ...] = ()
    control: "Control | None" = None
    noise_scale: float = 1.0
    motion_speed: float = 1.0
    region_seconds: tuple[float, float] | None = None
    frozen_audio: bool = False
    budget: int | None = None
    seed: int = 0
    noise: Noise | None = None
    on_step: samplers.OnStep | None = None
    preview: "StagePreview | None" = None
    needs: ClassVar[tuple[Result, ...]] = ("contexts", "images", "control", "latents")
    gives: ClassVar[Result] = "latents"
    shows_previews: ClassVar[bool] = True

    @property
    def saved_as(self) -> str:
        """The stage's name."""
        return self.name

    def estimate(self) -> Estimate:
        """One pass of the transformer with the contexts of all prompts."""
        models = self.models
        config = config_of(Transformer, models.weights)
        size = self.size()
        weights, activations, kept = self._memory()
        steps = len(self.sigmas) - 1
        num_passes = len(passes(self.guidance))
        shape = self.grid.shape.pixels(self.grid.compression)
        work = f"{shape.height}×{shape.width}, {steps} steps"
        estimate = Estimate(
            name=self.name,
            work=work if num_passes == 1 else f"{work} of {num_passes} passes",
            dtype=models.dtype,
            file=models.weights.path,
            weights_bytes=weights,
            activation_bytes=activations + kept,
            array_bytes=transformer_array_bytes(
                config, tokens=size["tokens"], text_tokens=size["text_tokens"], dtype=models.dtype
            ),
            seconds=seconds_of(transformer_operations(config, **size) * self.num_calls),
            stored=stored_transformer(models, self.loras),
        )
        return estimate if self.preview is None else self.preview.added_to(estimate)

    def size(self) -> dict[str, int]:
        """Tokens of one call."""
        cells = self.grid.shape.height * self.grid.shape.width
        tokens = self.grid.shape.num_tokens + len(self.slots) * cells
        for image in self.images:
            tokens += cells if image.frame else 0
        if self.control is not None:
            tokens += self.control.latent.num_tokens
        has_audio = config_of(Transformer, self.models.weights).audio is not None
        audio_tokens = self._audio_tokens() if has_audio else 0
        return {"tokens": tokens, "audio_tokens": audio_tokens, "text_tokens": self.context_size[1]}

    def step_works(self) -> "list[StepWork]":
        """The kinds of steps: guided ones first."""
        from LTX_2_MLX.pipelines.generation.fastest_way import StepWork

        config = config_of(Transformer, self.models.weights)
        steps = len(self.sigmas) - 1
        guided_steps = steps_within(self.guided_share, steps)
        found = {len(passes(self.guidance)) if step in guided_steps else 1 for step in range(steps)}
        return [StepWork(config, **self.size(), dtype=self.models.dtype, num_passes=n) for n in sorted(found)[::-1]]

    def _memory(self) -> tuple[int, int, int]:
        """Bytes of the weights, of one pass, and of kept keys and values of the text: none where they do not fit."""
        models = self.models
        config = config_of(Transformer, models.weights)
        prompts, length = self.context_size
        options = load_options(models, Transformer, models.weights)
        weights = network_weights_bytes([Transformer], models.weights, loras=self.loras, **options)
        activations = transformer_bytes(config, **self.size(), prompts=prompts, dtype=models.dtype)
        if self.control is not None:
            activations += self.control.attention_bytes(self.size()["tokens"])
        if self.step_cache is not None:
            # Of each kind of pass the video's input, and what the blocks have added to both streams.
            tokens = 2 * self.size()["tokens"] * config.video.width
            tokens += 0 if config.audio is None else self._audio_tokens() * config.audio.width
            activations += len(passes(self.guidance)) * tokens * models.dtype.size
        if config.text_modulation or self.budget is None or self.num_calls <= prompts:
            return weights, activations, 0
        width = config.video.width + (0 if config.audio is None else config.audio.width)
        kept = config.num_layers * 2 * prompts * length * width * models.dtype.size
        return weights, activations, kept if weights + activations + kept <= self.budget else 0

    @property
    def num_calls(self) -> int:
        """Passes through the network in all steps."""
        steps = len(self.sigmas) - 1
        evaluated = [*range(steps)]
        if self.sampler == "res-2s":
            # Twice in a step, and once more after the last.
            evaluated += [*range(steps), steps]
        guided_steps = steps_within(self.guided_share, steps)
        calls = 0
        for step in evaluated:
            calls += len(passes(self.guidance)) if step in guided_steps else 1
        return calls

    def run(self, runner: StageRunner, state: GenerationState) -> GenerationState:
        """Denoise noise, or the latents of the stage before.

        Raises:
            OutputError: If the result is not finite, all one value, or one frame over and over.
        """
        models = self.models
        if launch.RANK is not None:
            from LTX_2_MLX.pipelines.generation.sharing import state_of_first

            state = state_of_first(state)
        caches = None if self.step_cache is None else self._step_caches(self.step_cache)
        options = load_options(models, Transformer, models.weights)
        load_transformer = partial(
            load, Transformer, models.weights, loras=self.loras, note=runner.progress.note, **options
        )
        work = partial(self.sample, state=state, progress=runner.progress, step_caches=caches)
        if self.preview is None:
            latents = runner.run(self.name, load_transformer, work)
        else:
            latents = self.preview.run_beside(runner, load_transformer, work, len(self.sigmas) - 1)
        if caches is not None:
            reused, calls = self._reused_passes(caches)
            runner.progress.note(f"{self.name}: {reused} of {calls} passes reused block outputs")
        check_result(self.name, latents)
        check_moving(self.name, latents["video"])
        return replace(state, latents=latents)

    def sample(
        self,
        transformer: Transformer,
        watch: "Watch | None" = None,
        *,
        state: GenerationState,
        progress: Progress,
        step_caches: "StepCaches | None" = None,
    ) -> Arrays:
        """The latents that a loaded transformer denoises to, without appended tokens; ``watch`` sees all estimates."""
        steps = len(self.sigmas) - 1
        progress.advance(self.name, 0, steps)

        def on_step(step: int, streams: State) -> None:
            if self.on_step is not None:
                self.on_step(step, streams)
            progress.advance(self.name, step + 1, steps)

        noise = self.noise or partial(seeded_noise, self.seed)
        start = self.first_state(transformer.config, state, noise)
        predict = predictor(
            transformer,
            state.contexts,
            self.guidance,
            # Blocks of other machines have none.
            keep_text=self.models.parallel != "blocks" and self._memory()[2] > 0,
            step_caches=step_caches,
        )
        if launch.RANK is not None:
            from LTX_2_MLX.pipelines.generation.sharing import shared

            predict = shared(predict, self._parallel, transformer, state.contexts, speed=self.models.speed)
        denoise = guided(predict, self.guidance, steps_within(self.guided_share, steps))
        denoise, report = (denoise, on_step) if watch is None else watch(denoise, on_step)
        result = self._sampler(noise, start)(denoise, start, self.sigmas, report)
        latents = {"video": unpatchify_video(result["video"].latent, self.grid.shape)}
        if self.slots:
            shape = replace(self.grid.shape, num_frames=len(self.slots))
            # Slots stand after the images, and before a reference video.
            appended = sum(image.frame != 0 for image in self.images)
            first = self.grid.shape.num_tokens + appended * shape.height * shape.width
            latents["keyframes"] = unpatchify_video(result["video"].latent[:, first:], shape)
        if "audio" in result:
            latents["audio"] = result["audio"].latent
        return latents

    @property
    def _parallel(self) -> str:
        """How several machines share the steps."""
        if self.step_cache is None:
            return self.models.parallel
        from LTX_2_MLX.pipelines.generation.sharing import settled_way

        return settled_way(self.models, self.step_works()[0])

    def _step_caches(self, limit: float) -> "StepCaches":
        # Most runs compute every step.
        from LTX_2_MLX.models.ltx.step_cache import StepCaches

        last_sigma = float(self.sigmas[-2])
        if launch.RANK is None:
            return StepCaches(limit, last_sigma)
        from LTX_2_MLX.pipelines.generation.sharing import shared_caches

        return shared_caches(limit, last_sigma, self._parallel)

    def _reused_passes(self, caches: "StepCaches") -> tuple[int, int]:
        """Passes that skipped the blocks, and all passes."""
        if launch.RANK is None:
            return caches.num_reused, caches.num_calls
        from LTX_2_MLX.pipelines.generation.sharing import reused_passes

        return reused_passes(caches, self._parallel)

    def facts(self) -> dict[str, Any]:
        """The settings of the run, the checkpoint and its adapters."""
        return {
            "shape": asdict(self.grid.shape),
            "frame_rate": str(self.grid.frame_rate),
            "sigmas": [float(sigma) for sigma in self.sigmas],
            "guidance": {name: asdict(guidance) for name, guidance in self.guidance.items()},
            "guided_share": list(self.guided_share),
            "sampler": self.sampler,
            "step_cache": self.step_cache,
            "images": [{"frame": image.frame, "strength": image.strength} for image in self.images],
            "seed": self.seed,
            "slots": list(self.slots),
            "noise_scale": self.noise_scale,
            "motion_speed": self.motion_speed,
            "region_seconds": self.region_seconds,
            "frozen_audio": self.frozen_audio,
            **({} if self.control is None else {"control": self.control.facts()}),
            **transformer_facts(self.models, self.loras),
        }

    def first_state(self, config: TransformerConfig, state: GenerationState, noise: Noise) -> State:
        """Both streams at the first noise level. A network for video alone has no audio stream."""
        streams: State = {"video": self._first_video(config, state)}
        if config.audio is not None:
            streams["audio"] = self._first_audio(config.audio.in_channels, state)
        for name, stream in streams.items():
            if stream.frozen:
                continue
            if self.region_seconds is not None and name in state.latents:
                stream = regenerate_region(stream, *self.region_seconds)
            fresh = noise(f"{self.name}.{name}", stream.latent.shape)
            streams[name] = add_noise(stream, fresh, self.noise_scale)
        return streams

    def _first_video(self, config: TransformerConfig, state: GenerationState) -> LatentState:
        grid = self.grid
        if self.motion_speed != 1:
            grid = replace(grid, frame_rate=float(grid.frame_rate) / self.motion_speed)
        if "video" in state.latents:
            tokens = patchify_video(state.latents["video"])
        else:
            tokens = mx.zeros((1, grid.shape.num_tokens, config.video.in_channels))
        video = start_state(tokens, grid.positions())
        if config.keyframe_embedding:
            first = mx.arange(grid.shape.num_tokens) < grid.shape.height * grid.shape.width
            video = replace(video, keyframe_mask=first[None, :, None].astype(mx.float32))
        for number, image in enumerate(self.images):
            latent = state.images[f"{self.name}.{number}"]
            if image.frame == 0:
                video = fix_latent_frames(video, latent, grid, strength=image.strength)
            else:
                video = append_keyframe(video, latent, grid, frame=image.frame, strength=image.strength)
        if self.slots:
            video = append_slots(video, grid, self.slots)
        return video if self.control is None else self.control.append(video, state.control["reference"], grid)

    def _first_audio(self, channels: int, state: GenerationState) -> LatentState:
        length = self._audio_tokens()
        positions = AudioClock().positions(length)
        if self.frozen_audio:
            return start_state(state.latents["audio"][:, :length], positions, frozen=True)
        if "audio" in state.latents:
            return start_state(state.latents["audio"], positions)
        return start_state(mx.zeros((1, length, channels)), positions)

    def _audio_tokens(self) -> int:
        num_frames = self.grid.shape.pixels(self.grid.compression).num_frames
        # A single frame at a high rate is shorter than half a latent, but attention to nothing is not a number.
        return max(AudioClock().num_latents(num_frames, self.grid.frame_rate), 1)

    def _sampler(self, noise: Noise, start: State) -> Callable[..., State]:
        def draw(purpose: str, step: int) -> StreamArrays:
            fresh: StreamArrays = {}
            for name, stream in start.items():
                fresh[name] = noise(f"{self.name}.{purpose}_{step}.{name}", stream.latent.shape)
            return fresh

        def draw_normalised(purpose: str, step: int) -> StreamArrays:
            return {name: samplers.normalised_noise(fresh) for name, fresh in draw(purpose, step).items()}

        if self.sampler == "ancestral":
            return partial(samplers.ancestral, noise=partial(draw, "step"))
        if self.sampler == "res-2s":
            step_noise = partial(draw_normalised, "step")
            middle_noise = partial(draw_normalised, "middle")
            return partial(samplers.res_2s, noise=step_noise, middle_noise=middle_noise)
        return {"euler": samplers.euler, "gradient-estimation": samplers.gradient_estimation}[self.sampler]


def predictor(
    transformer: Transformer,
    contexts: Arrays,
    guidance: Mapping[StreamName, Guidance],
    *,
    shared_cross_modal_sigma: bool = False,
    keep_text: bool = False,
    step_caches: "StepCaches | None" = None,
) -> Predict:
    """The transformer as guidance calls it: a state and passes to clean estimates.

    Passes run one after another, so that activations take the memory of one pass, whatever the guidance.

    Args:
        transformer: The network.
        contexts: Contexts of the prompts, ``positive.video`` and its like; a stream without a negative one keeps its
            positive one in the negative pass.
        guidance: Of each stream.
        shared_cross_modal_sigma: Whether the other stream's noise level modulates the cross-modal attention of all
            tokens, held ones included, as diffusers has it; otherwise each token's own level does, as in 400fd31.
        keep_text: Keep keys and values of the text attention; not for networks that modulate their text.
        step_caches: Block outputs that close steps reuse.
    """
    projected: Arrays = {}
    for prompt, context in contexts.items():
        projected[prompt] = transformer[prompt.partition(".")[2]].project_context(context)
    mx.eval(projected)
    kept: dict[str, list[KeysValues]] = {}

    def predict(
        state: State, sigma: float, passes: Sequence[Pass], computed: Collection[StreamName]
    ) -> dict[Pass, StreamArrays]:
        estimates: dict[Pass, StreamArrays] = {}
        for kind in passes:
            inputs: dict[StreamName, StreamInput] = {}
            for name, stream in state.items():
                prompt = f"negative.{name}"
                # A stream that is only attended to is not guided, and keeps its own context in the negative pass.
                if kind != "negative" or stream.frozen or prompt not in projected:
                    prompt = f"positive.{name}"
                text = kept.setdefault(prompt, []) if keep_text else None
                inputs[name] = _stream_input(stream, projected[prompt], text, enabled=name in computed, sigma=sigma)
            if shared_cross_modal_sigma:
                inputs = _with_shared_sigma(inputs)
            perturbations = None
            if kind in ("perturbed", "isolated"):
                perturbation = _perturbation(kind, guidance, transformer.config.num_layers)
                perturbations = [perturbation] * len(state["video"].latent)
            velocities = transformer(
                inputs["video"],
                inputs.get("audio"),
                perturbations,
                evaluate_blocks=True,
                step_cache=None if step_caches is None else step_caches.of(kind, sigma),
            )
            estimates[kind] = {}
            for (name, stream), velocity in zip(state.items(), velocities, strict=False):
                if velocity is not None:
                    estimates[kind][name] = to_denoised(stream.latent, velocity, stream.denoise_mask * sigma)
            mx.eval(estimates[kind])
        return estimates

    return predict


def _with_shared_sigma(inputs: dict[StreamName, StreamInput]) -> dict[StreamName, StreamInput]:
    """Each stream with the other one's noise level for its cross-modal attention."""
    if len(inputs) == 1:
        return inputs
    video, audio = inputs["video"], inputs["audio"]
    return {
        "video": replace(video, cross_modal_sigma=audio.sigma),
        "audio": replace(audio, cross_modal_sigma=video.sigma),
    }


def _perturbation(kind: Pass, guidance: Mapping[StreamName, Guidance], num_layers: int) -> Perturbation:
    if kind == "isolated":
        return Perturbation(audio_to_video=range(num_layers), video_to_audio=range(num_layers))
    blocks = {name: rule.stg_blocks if rule.stg_scale else () for name, rule in guidance.items()}
    return Perturbation(video_self=blocks["video"], audio_self=blocks.get("audio", ()))


def _stream_input(
    state: LatentState, context: mx.array, text: list[KeysValues] | None, *, enabled: bool, sigma: float
) -> StreamInput:
    batch = state.latent.shape[0]
    return StreamInput(
        latent=state.latent,
        sigma=mx.full((batch,), 0.0 if state.frozen else sigma),
        positions=state.positions,
        context=mx.broadcast_to(context, (batch, *context.shape[1:])),
        timesteps=sigma * (state.denoise_mask if state.mask_of_all is None else state.mask_of_all),
        attention_mask=state.attention_mask,
        keyframe_mask=state.keyframe_mask,
        enabled=enabled,
        context_projected=True,
        text_keys_values=text,
        share=state.share,
    )


def stored_transformer(models: Models, loras: Sequence[Lora]) -> tuple[StoredNetwork, ...]:
    """The transformer and its adapters on disk; nothing where the blocks stay there, or other machines have some."""
    if models.low_ram or models.parallel == "blocks":
        return ()
    stored = [StoredNetwork(models.weights, Transformer)]
    for lora in loras:
        stored.append(StoredNetwork(lora.checkpoint))
    return tuple(stored)


def transformer_facts(models: Models, loras: Sequence[Lora]) -> dict[str, Any]:
    """What the result of a stage of the transformer follows from in its files and their precision."""
    return {
        "weights": contents(*models.weights.paths),
        "loras": contents(*(lora.checkpoint.path for lora in loras)),
        "strengths": [lora.strength for lora in loras],
        "dtype": str(models.dtype),
        "quantize": models.quantize,
    }
