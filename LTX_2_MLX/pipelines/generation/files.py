"""Model files of a generation, opened: those named, those on this machine, or the demo model; and their defaults."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from LTX_2_MLX.checkpoints.catalog import Entry, Family, Role, Variant
from LTX_2_MLX.checkpoints.gemma3 import Gemma, GemmaConfig
from LTX_2_MLX.checkpoints.gemma_tokenizer import encoder_folder, files_outside
from LTX_2_MLX.checkpoints.load import config_of, quantization_for
from LTX_2_MLX.checkpoints.lora import Lora, split_strength
from LTX_2_MLX.checkpoints.quantization import Quantization
from LTX_2_MLX.checkpoints.reader import Checkpoint, holds_language_model
from LTX_2_MLX.checkpoints.resolve import (
    AUTO,
    DEMO_NOTE,
    DOWNLOAD,
    ResolvedFile,
    entries_for_role,
    generation_of,
    installed_path,
    newest_set,
    open_upscaler,
    resolve,
)
from LTX_2_MLX.diffusion.sampler import REFINEMENT
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.files import content_digest, fraction, parse_object
from LTX_2_MLX.models.interfaces import Header, PublishedNetwork
from LTX_2_MLX.models.ltx.audio_vae import AudioDecoder
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.models.ltx.vocoder import VOCODERS
from LTX_2_MLX.pipelines.generation.companion_files import (
    VARIANTS,
    checked_autoencoder,
    open_audio_vae,
    open_autoencoder,
    open_duration_head,
)
from LTX_2_MLX.pipelines.generation.option_groups.guidance import TWO_STAGES, SamplerName
from LTX_2_MLX.pipelines.generation.option_groups.memory import ParallelMode
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.planning.plan import PRECISIONS, dtype_for
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.shapes import Compression

if TYPE_CHECKING:
    from LTX_2_MLX.checkpoints.block_run import BlockRun
    from LTX_2_MLX.pipelines.generation.fastest_way import Speed

# Users search for the first sentence.
_NO_UPSCALER = (
    "Two-stage pipeline requires --spatial-upscaler-weights. "
    f"Give a path, or get the published file: {DOWNLOAD} ltx-2-spatial-upscaler-x2-1.0 "
    "(ltx-2.3-spatial-upscaler-x2-1.1 for LTX-2.3)."
)
# Pipelines that a dev checkpoint needs a distillation LoRA for.
_REFINED = (*TWO_STAGES, "distilled", "dfr")
# Below this a model in float32 is a few hundred megabytes at most, and 16 bit would save nothing worth its errors.
_SMALL_MODEL_BYTES = 100 * 2**20
NEGATIVE_PROMPT = (
    "subtitles, blurred picture, out of focus, too bright, too dark, low contrast, washed out colours, noise, grain, "
    "flicker, smeared motion, wrong proportions, deformed face, extra limbs, deformed hands, garbled lettering, "
    "inconsistent perspective, shaking camera, cluttered background, harsh shadows, colour banding, cartoon look, "
    "computer-generated look, unnatural skin, jerky movement, sudden cuts, muffled sound, distorted voice, echo, "
    "background noise, sound out of step with the picture"
)
# Since which model_version, what differs from 2.0: the CRF of image conditioning, the block that spatio-temporal
# guidance bypasses in a network of 48, the sampler of distilled stage 1, steps and guidance (Lightricks/LTX-2,
# packages/ltx-pipelines/src/ltx_pipelines/utils/constants.py and distilled.py at 400fd31).
_SINCE_2_3: dict[str, Any] = {
    "stg_block": 28,
    "steps_stage1": 30,
    "cfg": 3.0,
    "audio_cfg": 7.0,
    "stg_scale": 1.0,
    "modality_scale": 3.0,
    "guidance_rescale": 0.7,
}
_GENERATIONS: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 5), _SINCE_2_3 | {"image_crf": 18, "distilled_sampler": "ancestral"}),
    ((2, 4), _SINCE_2_3 | {"image_crf": 18}),
    ((2, 3), _SINCE_2_3),
    ((), {}),
)
# The high-quality pipeline, for every generation (utils/constants.py, ti2vid_two_stages_hq.py).
HIGH_QUALITY: dict[str, Any] = {
    "steps_stage1": 15,
    "cfg": 3.0,
    "audio_cfg": 7.0,
    "stg_scale": 0.0,
    "modality_scale": 3.0,
    "guidance_rescale": 0.45,
    "audio_rescale": 1.0,
}
_PUBLISHED_BLOCKS = 48


@dataclass(frozen=True)
class ModelDefaults:
    """Default settings of one checkpoint.

    Attributes:
        image_crf: Compression that image conditioning goes through.
        stg_block: The block of 48 that spatio-temporal guidance bypasses.
        distilled_sampler: Sampler of a distilled checkpoint's first stage.
        height, width: Pixels of a one-stage video, and of stage 1 in two stages.
        num_frames: Length of a video.
        frame_rate: Frames per second.
        steps: Of one stage; stage 1 of two has ``steps_stage1``, its refinement ``steps_stage2``.
        refinement: Noise levels of stage 2, from the one that stage 1's latent is taken to, to 0.
        cfg: Guidance scale of a dev checkpoint; likewise all the following.
        audio_cfg: That of the audio stream; None: as the video's.
        stg_scale: Spatio-temporal guidance of both streams.
        modality_scale: Guidance between the streams.
        guidance_rescale: Rescale after guidance.
        audio_rescale: That of the audio stream; None: as the video's.
        negative_prompt: Negative prompt for classifier-free guidance.
        notice: A line for users of this model.
    """

    image_crf: int = 33
    stg_block: int = 29
    distilled_sampler: SamplerName = "euler"
    height: int = 480
    width: int = 704
    num_frames: int = 97
    frame_rate: Fraction = Fraction(24)
    steps: int = 30
    steps_stage1: int = 15
    steps_stage2: int = 3
    refinement: tuple[float, ...] = REFINEMENT
    cfg: float = 5.0
    audio_cfg: float | None = None
    stg_scale: float = 0.0
    modality_scale: float = 1.0
    guidance_rescale: float = 0.0
    audio_rescale: float | None = None
    negative_prompt: str = NEGATIVE_PROMPT
    notice: str = ""

    @classmethod
    def from_header(cls, header: Header) -> "ModelDefaults":
        """By ``model_version`` in the file's metadata, and by ``defaults`` there, a JSON object of our own.

        ``defaults`` may hold sizes, steps, ``refinement``, ``cfg``, ``audio_cfg`` and texts; ``frame_rate`` may be text
        such as "24000/1001".

        Raises:
            CheckpointError: If ``defaults`` is not such an object.
        """
        version = version_of(header)
        for generation in _GENERATIONS:
            if version >= generation[0]:
                break
        text = header.metadata.get("defaults", "{}")
        own: dict[str, Any] = {}
        try:
            settings = parse_object(text)
            for name in settings.keys() & _READERS.keys():
                own[name] = _READERS[name](settings[name])
        except (ValueError, TypeError, ArithmeticError) as error:
            raise CheckpointError(f"The checkpoint's own defaults cannot be read: {text:.60} ({error}).") from error
        for value in own.values():
            if not isinstance(value, str | tuple) and value <= 0:
                raise CheckpointError(f"The checkpoint's own defaults are out of range: {text:.60}.")
        return cls(**generation[1] | own)

    def stg_blocks(self, num_layers: int) -> tuple[int, ...]:
        """The bypassed block in a network of ``num_layers``: at the same share of its depth."""
        return (self.stg_block * num_layers // _PUBLISHED_BLOCKS,)


def version_of(header: Header) -> tuple[int, ...]:
    """``model_version`` as numbers, (2, 4) for "2.4-rc2"; () where it is missing or unreadable, before all others."""
    match = re.match(r"\d+(\.\d+)*", header.metadata.get("model_version", ""))
    return tuple(map(int, match.group().split("."))) if match else ()


def _read_sigmas(values: list[float]) -> tuple[float, ...]:
    """Noise levels that fall from at most 1 to 0."""
    sigmas = tuple(map(float, values))
    falls = list(sigmas) == sorted(set(sigmas), reverse=True)
    if len(sigmas) < 2 or sigmas[0] > 1 or sigmas[-1] != 0 or not falls:
        raise ValueError("noise levels that do not fall from at most 1 to 0")
    return sigmas


_READERS: dict[str, Callable[[Any], Any]] = {
    "height": int,
    "width": int,
    "num_frames": int,
    "frame_rate": fraction,
    "steps": int,
    "steps_stage1": int,
    "steps_stage2": int,
    "refinement": _read_sigmas,
    "cfg": float,
    "audio_cfg": float,
    "negative_prompt": str,
    "notice": str,
}


@dataclass(frozen=True)
class Models:
    """The files of one run, opened: their headers have been read, no weights.

    Attributes:
        weights: The transformer; in combined files all other networks but the text encoder too.
        video_vae: The files with the video autoencoder; like the two that follow, often ``weights`` itself.
        audio_vae: The files with the audio autoencoder and the vocoder.
        text_features: The files with the connectors and their projections.
        text_encoder: Folder or file of the text encoder; None where saved embeddings replace it.
        distilled: Whether ``weights`` is a distilled checkpoint, made for few steps without guidance.
        dtype: Precision of the networks.
        loras: Adapters of the transformer in every stage.
        distilled_lora: Adapter that makes a dev checkpoint a distilled one, for stage 2.
        spatial_upscaler: Doubles height and width between two stages.
        temporal_upscaler: Doubles the frame rate.
        quantize: Bits that the large layers of transformer and text encoder are quantized to while they load.
        low_ram: Leave the blocks of both on disk and read each ahead of its use.
        parallel: How the processes of a run share the transformer's work, where there are several.
        speed: Of these processes, where it was measured.
        embeddings_encoder: Folder of the text encoder that saved embeddings are compared with, where there is one.
        high_quality: Whether the high-quality pipeline sets steps, guidance, sampler and strengths of the adapter.
        duration_head: Decides the length of a video that the user gave none; None: not asked for, or not there.
        detailing_lora: Adapter of detail-fidelity rendering, which reads a smaller version of the video.
    """

    weights: Checkpoint
    video_vae: Checkpoint
    audio_vae: Checkpoint
    text_features: Checkpoint
    text_encoder: Path | None
    distilled: bool
    dtype: mx.Dtype = mx.bfloat16
    loras: tuple[Lora, ...] = ()
    distilled_lora: Lora | None = None
    spatial_upscaler: Checkpoint | None = None
    temporal_upscaler: Checkpoint | None = None
    quantize: int | None = None
    low_ram: bool = False
    parallel: ParallelMode = "auto"
    speed: "Speed | None" = None
    embeddings_encoder: Path | None = None
    high_quality: bool = False
    duration_head: Checkpoint | None = None
    detailing_lora: Lora | None = None

    @cached_property
    def decodes_by_diffusion(self) -> bool:
        """Whether the video autoencoder's decoder is LTX-2.5's diffusion decoder."""
        return VideoDecoder.Config.from_header(self.video_vae.header) is None

    @cached_property
    def compression(self) -> Compression:
        """Pixels per latent step of the decoder."""
        if self.decodes_by_diffusion:
            from LTX_2_MLX.models.ltx.diffusion_decoder import DiffusionVideoDecoder

            return config_of(DiffusionVideoDecoder, self.video_vae).compression
        return config_of(VideoDecoder, self.video_vae).decoder_compression

    @cached_property
    def has_sound(self) -> bool:
        """Whether the checkpoint makes sound: it has an audio stream, an audio VAE's decoder and a vocoder."""
        header = self.audio_vae.header
        if config_of(Transformer, self.weights).audio is None or AudioDecoder.Config.from_header(header) is None:
            return False
        return any(network.Config.from_header(header) is not None for network in VOCODERS)

    @cached_property
    def defaults(self) -> ModelDefaults:
        """Default settings of the checkpoint."""
        defaults = ModelDefaults.from_header(self.weights.header)
        if self.high_quality:
            defaults = replace(defaults, **HIGH_QUALITY)
        if self.video_vae is self.weights:
            return defaults
        return replace(defaults, image_crf=ModelDefaults.from_header(self.video_vae.header).image_crf)

    @cached_property
    def block_run(self) -> "BlockRun":
        """The blocks of the large networks that this process computes."""
        from LTX_2_MLX.checkpoints.block_run import BlockRun
        from LTX_2_MLX.runtime.machines import machines

        return BlockRun(machines().group)

    @property
    def is_first_machine(self) -> bool:
        """Whether this machine, or the one that a run is planned for, does what one of several does for all."""
        return not launch.FOLLOWS and (self.parallel != "blocks" or self.block_run.group.rank == 0)

    @property
    def text_encoder_files(self) -> Path:
        """``text_encoder``, in stages that exist only with one."""
        assert self.text_encoder is not None
        return self.text_encoder

    @property
    def text_dtype(self) -> mx.Dtype:
        """Precision of the text encoder and the connectors. Gemma's states exceed float16's range."""
        return dtype_for("text encoder", asked=PRECISIONS[self.dtype])


def open_models(options: Options, note: Callable[[str], None]) -> Models:
    """The files that the options name, opened. ``note`` gets a line on each automatic choice.

    Raises:
        CheckpointError: If a file is missing or cannot be read; the message says how to get it.
        RequestError: If two stages lack an upscaler, or the checkpoint is of the other variant.
    """
    if isinstance(options.weights, tuple) or Path(options.weights).is_dir():
        # Most runs have one file.
        from LTX_2_MLX.pipelines.generation.split_files import split_options

        options = split_options(options, note)
    specs = (options.weights,) if isinstance(options.weights, str) else options.weights
    model = automatic_model(options, note) if specs[0] == AUTO else resolve(specs[0], "model")
    weights = Checkpoint([model.path, *specs[1:]])
    if model.entry is None:
        model = replace(model, family=generation_of(weights))
    config_of(Transformer, weights)
    if options.pipeline == "dfr":
        from LTX_2_MLX.pipelines.generation.rendering_files import check_generates_keyframes

        check_generates_keyframes(weights)
    precision = options.precision
    loras = []
    for spec in options.lora:
        loras.append(_open_lora(model, spec))
    models = Models(
        weights=weights,
        video_vae=weights,
        audio_vae=weights,
        text_features=weights,
        distilled=_is_distilled(model, options.model_variant, options.pipeline, note),
        text_encoder=None if options.embeddings else _text_encoder(options.gemma, model, weights, note),
        dtype=usual_dtype(weights) if precision is None else dtype_for("transformer", asked=precision),
        loras=tuple(loras),
        quantize=options.quantize,
        low_ram=options.low_ram,
        high_quality=options.pipeline == "hq",
        embeddings_encoder=_embeddings_encoder(options.gemma, model, weights) if options.embeddings else None,
    )
    models = _with_companions(models, options, model, note)
    if models.distilled or options.pipeline not in _REFINED:
        return models
    lora = _open_lora(model, options.distilled_lora, "distilled-lora")
    if options.pipeline in TWO_STAGES:
        return replace(models, distilled_lora=lora)
    return replace(models, loras=(*models.loras, lora), distilled=True)


def automatic_model(options: Options, note: Callable[[str], None]) -> ResolvedFile:
    """The newest complete model on this machine, else the demo's.

    Args:
        options: They say which variant and files are needed, and which of them the user has named.
        note: Callback for the lines on what was taken.

    Raises:
        CheckpointError: If not even the demo is there.
    """
    variant = options.model_variant or VARIANTS.get(options.pipeline)
    # Detail-fidelity rendering generates keyframes, which LTX-2.5 alone does.
    family: Family | None = "LTX-2.5" if options.pipeline == "dfr" else None
    models = entries_for_role("model", family=family, variant=variant)
    model = newest_set(models, partial(companion_roles, options), note)
    if model is not None:
        return model
    note(DEMO_NOTE)
    # The demo's dev checkpoint shows guidance.
    return resolve(AUTO, "model", variant=variant or "dev")


def companion_roles(options: Options, model: Entry) -> list[Role]:
    """Roles of the published files that a model needs beside it where the options name none."""
    roles: list[Role] = []
    if options.embeddings is None and options.gemma == AUTO:
        roles.append("text-encoder")
    if "video VAE" not in model.networks and options.video_vae == AUTO:
        roles.append("video-vae")
    if options.pipeline in (*TWO_STAGES, "dfr") and options.spatial_upscaler_weights == AUTO:
        roles.append("spatial-upscaler")
    if model.variant == "dev" and options.pipeline in _REFINED and options.distilled_lora == AUTO:
        roles.append("distilled-lora")
    doubles = options.temporal_upscale or (options.pipeline == "dfr" and options.rounds)
    if doubles and options.temporal_weights == AUTO:
        roles.append("temporal-upscaler")
    return roles


def usual_dtype(checkpoint: Checkpoint) -> mx.Dtype:
    """Precision that a checkpoint's networks run in unless the user asks for another.

    On a GPU it is the 16-bit type that most of the file is stored in; small models, and all models on MLX's CPU
    backend, where 16-bit matrix products are slow, run in float32.
    """
    stored = Counter[str]()
    for tensor in checkpoint.header.tensors.values():
        stored[tensor.dtype] += tensor.num_bytes
    largest = mx.float16 if stored["F16"] > stored["BF16"] else mx.bfloat16
    return dtype_for("transformer", stored=mx.float32 if stored.total() < _SMALL_MODEL_BYTES else largest)


def _with_companions(models: Models, options: Options, model: ResolvedFile, note: Callable[[str], None]) -> Models:
    """Add the networks of other files: autoencoder and text projections of split models, upscalers."""
    weights = models.weights
    if options.video_vae != AUTO or VideoEncoder.Config.from_header(weights.header) is None:
        autoencoder = open_autoencoder(options.video_vae, options.video_decoder, weights, model)
        models = replace(models, video_vae=autoencoder)
    elif options.video_decoder != AUTO:
        checked_autoencoder(weights, options.video_decoder)
    models = replace(models, parallel=options.parallel)
    # Models of most families have no audio autoencoder in a file of its own.
    if options.audio_vae != AUTO or (model.family is not None and entries_for_role("audio-vae", model.family)):
        models = replace(models, audio_vae=open_audio_vae(options.audio_vae, weights, model) or weights)
    encoder = models.text_encoder
    if encoder is not None and (encoder.is_file() or "gemma_source_checkpoint" in weights.header.metadata):
        from LTX_2_MLX.pipelines.generation.split_files import checked_text_features

        models = replace(models, text_features=checked_text_features(weights, encoder, note))
    if asks_duration_head(options, weights):
        # Saved embeddings are contexts already; the text encoder's file, with the projections, may be elsewhere.
        features = None if options.embeddings is not None else models.text_features
        models = replace(models, duration_head=open_duration_head(options.duration_head, features, model))
    if options.control is not None:
        # Few runs have a reference video.
        from LTX_2_MLX.pipelines.generation.control import with_reference

        models = replace(models, loras=with_reference(models.loras))
    if options.pipeline == "dfr":
        from LTX_2_MLX.pipelines.generation.rendering_files import with_detailing

        return with_detailing(models, options, partial(open_upscaler, model=model, note=note))
    if options.temporal_upscale:
        models = replace(
            models, temporal_upscaler=open_upscaler(options.temporal_weights, "temporal-upscaler", model, note)
        )
    if options.pipeline in TWO_STAGES:
        try:
            upscaler = open_upscaler(options.spatial_upscaler_weights, "spatial-upscaler", model, note)
        except CheckpointError as error:
            if options.spatial_upscaler_weights != AUTO:
                raise
            raise RequestError(_NO_UPSCALER) from error
        models = replace(models, spatial_upscaler=upscaler)
    return models


def asks_duration_head(options: Options, weights: Checkpoint) -> bool:
    """Whether a duration head decides how long a video without a given length is, if there is one.

    It does from LTX-2.5 on, or where the user named one; a given sound or clip says it itself.
    """
    lengths = {options.frames, options.duration, options.audio_input, options.retake, options.extend}
    if lengths != {None}:
        return False
    return options.duration_head != AUTO or version_of(weights.header) >= (2, 5)


def text_encoder_fits(encoder: Checkpoint, weights: Checkpoint) -> bool:
    """Whether the checkpoint takes as many features for each token as the text encoder gives.

    Raises:
        CheckpointError: If ``encoder`` is no Gemma, or ``weights`` have no text features.
    """
    config = config_of(language_model(encoder), encoder)
    features = config.hidden_size * (config.num_hidden_layers + 1)
    return features == config_of(TextFeatures, weights).states_width


def text_encoder_digest(encoder: Path) -> str:
    """The digest of a text encoder's file or folder, with the tokenizer and config that lie outside of it."""
    own = content_digest(encoder)
    outside = list(map(content_digest, files_outside(encoder)))
    return hashlib.sha256(" ".join([own, *outside]).encode()).hexdigest() if outside else own


def language_model(encoder: Checkpoint) -> type[PublishedNetwork[Any]]:
    """The network of a text encoder.

    Raises:
        CheckpointError: If it is neither Gemma 3 nor Gemma 4.
    """
    if GemmaConfig.from_header(encoder.header) is not None:
        return Gemma
    from LTX_2_MLX.checkpoints.gemma4 import Gemma4, Gemma4Config

    if Gemma4Config.from_header(encoder.header) is None:
        raise CheckpointError(
            f"{encoder.path} is no Gemma 3, nor a Gemma 4. Give --gemma the folder or the file of the text encoder"
            f"{', with its config.json beside it' * holds_language_model(encoder.header.tensors.keys())}."
        )
    return Gemma4


def load_options(models: Models, network: type[PublishedNetwork[Any]], checkpoint: Checkpoint) -> dict[str, Any]:
    """How the transformer or the text encoder is loaded: precision, bits, and whether its blocks stay on disk."""
    is_transformer = network is Transformer
    quantize = None
    if models.quantize is not None:
        quantize = quantization_for(network, checkpoint, models.quantize)
        if quantize is None and is_transformer:
            # Loading refuses what does not suit its layers; the text encoder keeps its precision then.
            quantize = Quantization(models.quantize)
    options: dict[str, Any] = {"dtype": models.dtype if is_transformer else models.text_dtype, "quantize": quantize}
    options["stream_blocks"] = models.low_ram
    if models.parallel == "blocks":
        options["run"] = models.block_run
    return options


def _is_distilled(model: ResolvedFile, asked: Variant | None, pipeline: str, note: Callable[[str], None]) -> bool:
    """Whether a model is distilled, by the catalogue, the user or the file's name; nothing inside a file tells it."""
    known = model.entry.variant if model.entry else None
    name = model.path.name
    if known is not None and asked is not None and known != asked:
        raise RequestError(
            f"{name} is the {known} checkpoint, but --model-variant is {asked}. Leave out one of the two."
        )
    variant = asked or known
    if variant is None and "distilled" in name.lower():
        note(f"{name} counts as distilled, by its name. If it is not: --model-variant dev")
        variant = "distilled"
    elif variant is None:
        note(f"{name} counts as a dev checkpoint. If it is distilled: --model-variant distilled")
    if variant == "distilled" and pipeline == "hq":
        raise RequestError(
            f"--pipeline hq needs a dev checkpoint, but {name} is a distilled one. Use --pipeline two-stage."
        )
    return variant == "distilled"


def _text_encoder(spec: str, model: ResolvedFile, weights: Checkpoint, note: Callable[[str], None]) -> Path:
    if spec != AUTO:
        return encoder_folder(resolve(spec, "text-encoder", model=model).path)
    # A folder next to the checkpoint comes first.
    beside = model.path.parent
    folders = [encoder_folder(beside)]
    for tokenizer in sorted(beside.glob("*/tokenizer.json")):
        folders.append(tokenizer.parent)
    for folder in folders:
        if folder == beside:
            continue
        with suppress(CheckpointError):
            if GemmaConfig.from_header(Checkpoint(folder).header) is not None:
                return folder
    try:
        return resolve(AUTO, "text-encoder", model=model).path
    except CheckpointError:
        demo = installed_path(entries_for_role("text-encoder", family="demo")[0])
        if demo is None or not text_encoder_fits(Checkpoint(demo), weights):
            raise
        note(f"The text encoder is that of the demo model, {demo}: this checkpoint was made for it.")
        return demo


def _embeddings_encoder(spec: str, model: ResolvedFile, weights: Checkpoint) -> Path | None:
    """The text encoder on this machine, which saved embeddings do without; None where there is none."""
    try:
        return _text_encoder(spec, model, weights, lambda text: None)
    except CheckpointError:
        return None


def _open_lora(model: ResolvedFile, spec: str, role: Role = "lora") -> Lora:
    path, strength = split_strength(spec)
    if path == AUTO and role == "lora":
        raise CheckpointError("--lora takes no auto: an adapter is a choice of yours. Give a path.")
    return Lora(Checkpoint(resolve(path, role, model=model).path), strength)
