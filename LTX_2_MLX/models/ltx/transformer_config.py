"""What an LTX-2 checkpoint says of its transformer, and the sizes that follow from it."""

from dataclasses import dataclass

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.layers.rope import Pairing, Precision
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.config_section import ConfigSection

PREFIX = "model.diffusion_model."
# Published places inside an attention or feed-forward layer, by the attributes that hold them here.
_LAYER_PARTS = {".to_out.0.": ".to_out.", ".net.0.proj.": ".project_in.", ".net.2.": ".project_out."}

# Fields with one supported value; the network is built for it.
_FIXED = {
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_type": "default",
    "av_cross_ada_norm": True,
    "cross_attention_norm": True,
    "double_self_attention": False,
    "dropout": 0.0,
    "norm_elementwise_affine": False,
    "num_embeds_ada_norm": 1000,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "positional_embedding_type": "rope",
    "qk_norm": "rms_norm",
    "share_ff": False,
    "standardization_norm": "rms_norm",
    "upcast_attention": False,
    "use_audio_video_cross_attention": True,
    "use_embeddings_connector": True,
    "use_linear_projection": False,
    "use_middle_indices_grid": True,
}
_READ = {
    "apply_gated_attention", "attention_head_dim", "audio_attention_head_dim", "audio_cross_attention_dim",
    "audio_ff_bias", "audio_in_channels", "audio_num_attention_heads", "audio_out_channels",
    "audio_positional_embedding_max_pos", "av_ca_timestep_scale_multiplier", "caption_channels",
    "caption_proj_before_connector", "cross_attention_adaln", "cross_attention_dim", "ff_bias",
    "frequencies_precision", "in_channels", "norm_eps", "num_attention_heads", "num_layers", "out_channels",
    "positional_embedding_max_pos", "positional_embedding_theta", "rope_type", "timestep_scale_multiplier",
    "use_keyframes_abs_pos_embedding", "use_prompt_adaln_single",
}  # fmt: skip
# Read by the text features, which share the section.
_TEXT = {
    "audio_connector_attention_head_dim", "audio_connector_num_attention_heads", "audio_connector_num_layers",
    "caption_proj_input_norm", "caption_projection_first_linear", "caption_projection_second_linear",
    "connector_apply_gated_attention", "connector_attention_head_dim", "connector_ff_bias",
    "connector_num_attention_heads", "connector_num_layers", "connector_positional_embedding_max_pos",
}  # fmt: skip
# Published, and without any effect in the reference.
_UNREAD = {
    "_class_name", "_diffusers_version", "causal_temporal_positioning", "connector_learnable_registers_std",
    "connector_norm_output", "connector_num_learnable_registers", "norm_num_groups", "text_encoder_norm_type",
}  # fmt: skip


def transformer_section(header: Header) -> ConfigSection:
    """The config's section ``transformer``, its fields checked.

    Raises:
        CheckpointError: If it is missing, has unknown fields, or values that no network here computes.
    """
    section = ConfigSection("transformer", header.config.get("transformer"))
    section.check_fields(_READ | _TEXT | _UNREAD, _FIXED)
    return section


def rotary_settings(section: ConfigSection) -> tuple[Pairing, Precision]:
    """How rotary pairs lie and how exact the frequencies are; shared by transformer and connectors."""
    pairing = section.choice("rope_type", ("split", "interleaved"), "split")
    exact = section.choice("frequencies_precision", ("float64", "float32"), "float32")
    return pairing, exact


def layer_name(published: str) -> str:
    """A parameter's path in its attention or feed-forward layer: ``.net.0.proj.weight`` to ``.project_in.weight``."""
    for theirs, ours in _LAYER_PARTS.items():
        published = published.replace(theirs, ours)
    return published


@dataclass(frozen=True)
class StreamConfig:
    """Sizes of one stream, video or audio."""

    in_channels: int
    out_channels: int
    heads: int
    head_dim: int
    # What a coordinate of 1 stands for: seconds, then pixel rows and columns (positional_embedding_max_pos).
    max_positions: tuple[float, ...]
    ff_bias: bool

    @property
    def width(self) -> int:
        """Features of a token."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class TransformerConfig:
    """The published config, its fields named after what they do."""

    num_layers: int
    video: StreamConfig
    # None: a network for video alone.
    audio: StreamConfig | None
    # Width of the contexts that the network projects itself (caption_channels); None: they come projected.
    caption_channels: int | None
    norm_eps: float
    rotary_theta: float
    rotary_pairing: Pairing
    rotary_precision: Precision
    # Sigma times this is the timestep (timestep_scale_multiplier).
    timestep_scale: float
    # The same for the gates between the streams (av_ca_timestep_scale_multiplier).
    exchange_gate_scale: float
    gated_attention: bool
    # Text attention is modulated by sigma (cross_attention_adaln) ...
    text_modulation: bool
    # ... and its keys and values by a network of sigma as well, not by a table alone (use_prompt_adaln_single).
    prompt_modulation: bool
    # Tokens of single pixel frames get a learned mark (use_keyframes_abs_pos_embedding).
    keyframe_embedding: bool

    @classmethod
    def from_header(cls, header: Header) -> "TransformerConfig | None":
        """The config of the transformer in a checkpoint; None if there is none in it.

        Raises:
            CheckpointError: If the config is missing, does not fit the tensors, or asks for something unknown.
        """
        if f"{PREFIX}patchify_proj.weight" not in header.tensors:
            return None
        section = transformer_section(header)
        video, audio = _video(section), None
        if f"{PREFIX}audio_patchify_proj.weight" in header.tensors:
            audio = _audio(section, video)
        projected = section.flag("caption_proj_before_connector", False)
        caption_channels = None if projected else section.size("caption_channels")
        _check_layers(header, section)
        for start, stream in {"": video, "audio_": audio}.items():
            if stream is not None:
                _check_stream(header, section, start, stream, caption_channels)
        pairing, precision = rotary_settings(section)
        text_modulation = section.flag("cross_attention_adaln", False)
        return cls(
            num_layers=section.size("num_layers", 48),
            video=video,
            audio=audio,
            caption_channels=caption_channels,
            norm_eps=section.number("norm_eps", 1e-6),
            rotary_theta=section.number("positional_embedding_theta", 10000.0),
            rotary_pairing=pairing,
            rotary_precision=precision,
            timestep_scale=section.number("timestep_scale_multiplier", 1000),
            exchange_gate_scale=section.number("av_ca_timestep_scale_multiplier", 1),
            gated_attention=section.flag("apply_gated_attention", False),
            text_modulation=text_modulation,
            prompt_modulation=text_modulation and section.flag("use_prompt_adaln_single", True),
            keyframe_embedding=section.flag("use_keyframes_abs_pos_embedding", False),
        )


def _video(section: ConfigSection) -> StreamConfig:
    return StreamConfig(
        in_channels=section.size("in_channels", 128),
        out_channels=section.size("out_channels", 128),
        heads=section.size("num_attention_heads", 32),
        head_dim=section.size("attention_head_dim", 128),
        max_positions=section.numbers("positional_embedding_max_pos", (20, 2048, 2048), count=3),
        ff_bias=section.flag("ff_bias", True),
    )


def _audio(section: ConfigSection, video: StreamConfig) -> StreamConfig:
    audio = StreamConfig(
        in_channels=section.size("audio_in_channels", 128),
        out_channels=section.size("audio_out_channels", 128),
        heads=section.size("audio_num_attention_heads", 32),
        head_dim=section.size("audio_attention_head_dim", 64),
        max_positions=section.numbers("audio_positional_embedding_max_pos", (20,), count=1),
        ff_bias=section.flag("audio_ff_bias", True),
    )
    if audio.heads != video.heads:
        raise CheckpointError(
            f"config.transformer has {audio.heads} audio heads and {video.heads} video heads; the attention between "
            f"the streams needs as many of both."
        )
    return audio


def _check_layers(header: Header, section: ConfigSection) -> None:
    start = f"{PREFIX}transformer_blocks."
    blocks = {name.removeprefix(start).split(".")[0] for name in header.tensors if name.startswith(start)}
    if len(blocks) != (layers := section.size("num_layers", 48)):
        raise CheckpointError(
            f"config.transformer.num_layers is {layers}, but the file has {len(blocks)} transformer blocks. "
            f"Check that the file is complete."
        )


def _check_stream(
    header: Header, section: ConfigSection, start: str, stream: StreamConfig, caption_channels: int | None
) -> None:
    # A wrong size would otherwise show as hundreds of misshaped tensors, or build a network without end.
    expected = {
        "patchify_proj": (stream.width, stream.in_channels),
        "proj_out": (stream.out_channels, stream.width),
        "caption_projection.linear_1": (stream.width, caption_channels),
    }
    for layer, shape in expected.items():
        found = header.tensors.get(f"{PREFIX}{start}{layer}.weight")
        if found is not None and tuple(found.shape) != shape:
            raise CheckpointError(
                f"config.transformer gives {start}{layer} the shape {shape}, the file has {tuple(found.shape)}. "
                f"The config belongs to another file."
            )
    width = section.size(f"{start}cross_attention_dim", stream.width)
    if width != stream.width:
        raise CheckpointError(
            f"config.transformer.{start}cross_attention_dim is {width}; expected the stream's width {stream.width}."
        )
    if stream.head_dim % 2:
        raise CheckpointError(
            f"config.transformer.{start}attention_head_dim is {stream.head_dim}; rotary positions need an even one."
        )
