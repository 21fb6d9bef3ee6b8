"""Sections of the config in a checkpoint's metadata, and the transformer's with what it says of memory and time."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import mlx.core as mx

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.layers.transformer import PAIRINGS, PRECISIONS, Pairing, Precision
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.ops.attention import scores_bytes
from LTX_2_MLX.ops.device import FEWEST_ROWS, LARGE_BYTES_ON_CPU, RUN_BYTES, on_cpu

# Far beyond any published value, and still a float32.
_LARGEST = 1e30

Choice = TypeVar("Choice", bound=str)
PREFIX = "model.diffusion_model."
# Published path inside an attention or feed-forward layer -> path here.
LAYER_PATHS = {".to_out.0.": ".to_out.", ".net.0.proj.": ".project_in.", ".net.2.": ".project_out."}

# Arrays of a block and the one behind it that live at once: token arrays ``(N, D)``, and those of the text, keys,
# values and what they are made from. Measured on the CPU; counted from the block's arrays for a GPU. The scores of
# attention, where they are stored, come on top.
_GPU_TOKEN_ARRAYS = 18.0
# On a CPU of large arrays, which are evaluated one by one: in the attentions, and in the feed-forward beside what a run
# of tokens takes there, which is more where the other stream waits; and of small arrays, or in 16 bit.
_CPU_TOKEN_ARRAYS = 11.0
_CPU_FEED_FORWARD_ARRAYS = 6.5
_CPU_WAITING_ARRAYS = 2.5
_CPU_SMALL_TOKEN_ARRAYS = 17.0
_CPU_TEXT_ARRAYS = 3.0
_GPU_TEXT_ARRAYS = 6.0
# More of the text's where each block modulates it anew.
_CPU_MODULATED_TEXT_ARRAYS = 1.5
_GPU_MODULATED_TEXT_ARRAYS = 2.0
_FEED_FORWARD = 4

# Fields with one supported value.
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
# Published fields that the reference does not read, or that have no effect.
_UNREAD = {
    "_class_name", "_diffusers_version", "causal_temporal_positioning", "connector_learnable_registers_std",
    "connector_norm_output", "connector_num_learnable_registers", "norm_num_groups", "text_encoder_norm_type",
}  # fmt: skip


class ConfigSection:
    """A section such as ``transformer``. Every reader raises ``CheckpointError`` for a value of the wrong type.

    Args:
        name: Of the section, for messages.
        values: The section as it is in the file.
        known: Its fields; None leaves them unchecked, as those of a section that is read in part.
        fixed: Further fields, each with the one value that is supported.

    Raises:
        CheckpointError: If the section is missing, has unknown fields, or a field of ``fixed`` has another value.
    """

    def __init__(
        self, name: str, values: Any, known: Collection[str] | None = None, fixed: Mapping[str, Any] | None = None
    ):
        if not isinstance(values, Mapping):
            raise CheckpointError(f"The checkpoint's config has no section {name!r}. Use the file as published.")
        self.name = name
        self.values = values
        fixed = fixed or {}
        unknown = [] if known is None else sorted(values.keys() - set(known) - fixed.keys())
        if unknown:
            raise CheckpointError(
                f"config.{name} has fields that this version does not know: {', '.join(unknown)}. "
                f"The checkpoint is newer than this library; update it."
            )
        for field, expected in fixed.items():
            if field in values and values[field] != expected:
                raise self._wrong(field, f"only {expected!r} is supported")

    def __contains__(self, field: str) -> bool:
        return field in self.values

    def size(self, field: str, default: int | None = None, *, most: int | None = None) -> int:
        """A positive whole number, up to ``most``: a damaged config must not ask for endless layers."""
        if field not in self.values and default is None:
            raise CheckpointError(f"config.{self.name} lacks {field}. Use the file as published.")
        value = self.values.get(field, default)
        if type(value) is not int or value < 1:
            raise self._wrong(field, "expected a positive whole number")
        if most is not None and value > most:
            raise self._wrong(field, f"at most {most} is supported")
        return value

    def sizes(self, field: str, default: Sequence[int]) -> tuple[int, ...]:
        """One or more positive whole numbers."""
        value: Any = self.values.get(field, default)
        is_list = isinstance(value, list | tuple) and len(value) > 0
        if not is_list or not all(type(number) is int and number > 0 for number in value):
            raise self._wrong(field, "expected a list of positive whole numbers")
        return tuple(value)

    def number(self, field: str, default: float) -> float:
        """A positive number."""
        value: Any = self.values.get(field, default)
        if not _is_positive(value):
            raise self._wrong(field, "expected a positive number")
        return float(value)

    def numbers(self, field: str, default: Collection[float], count: int) -> tuple[float, ...]:
        """``count`` positive numbers."""
        value: Any = self.values.get(field, default)
        has_length = isinstance(value, list | tuple) and len(value) == count
        if not has_length or not all(map(_is_positive, value)):
            raise self._wrong(field, f"expected a list of {count} positive number{'s' * (count > 1)}")
        return tuple(map(float, value))

    def flag(self, field: str, default: bool) -> bool:
        """True or false."""
        value: Any = self.values.get(field, default)
        if not isinstance(value, bool):
            raise self._wrong(field, "expected true or false")
        return value

    def choice(self, field: str, choices: Collection[Choice], default: Choice) -> Choice:
        """One of a few strings."""
        value: Any = self.values.get(field, default)
        for choice in choices:
            if value == choice:
                return choice
        raise self._wrong(field, f"expected {' or '.join(repr(choice) for choice in choices)}")

    def _wrong(self, field: str, expected: str) -> CheckpointError:
        shown = f"{self.values.get(field)!r}"[:60]
        return CheckpointError(f"config.{self.name}.{field} is {shown}; {expected}.")


def _is_positive(value: Any) -> bool:
    # JSON allows integers that no float can hold, and Python's reader allows NaN.
    return type(value) in (int, float) and 0 < value < _LARGEST


def transformer_section(header: Header) -> ConfigSection:
    """The section ``transformer`` of the config, its field names checked.

    Raises:
        CheckpointError: If the section is missing, has unknown fields, or unsupported values.
    """
    return ConfigSection("transformer", header.config.get("transformer"), _READ | _TEXT | _UNREAD, _FIXED)


@dataclass(frozen=True)
class StreamConfig:
    """Sizes of one stream, video or audio."""

    in_channels: int
    out_channels: int
    heads: int
    head_dim: int
    # Positions are divided by these: seconds, then pixel rows and columns (positional_embedding_max_pos).
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
    # None: a video-only network.
    audio: StreamConfig | None
    # Width of contexts before the network's own projection; None: contexts come projected (caption_channels).
    caption_channels: int | None
    norm_eps: float
    rotary_theta: float
    rotary_pairing: Pairing
    rotary_precision: Precision
    # Sigma times this is the timestep (timestep_scale_multiplier).
    timestep_scale: float
    # The same for the gates of the cross-modal attention (av_ca_timestep_scale_multiplier).
    cross_modal_gate_scale: float
    gated_attention: bool
    # Text attention is modulated by sigma (cross_attention_adaln).
    text_modulation: bool
    # Its context is modulated by a network of sigma, not by a table alone (use_prompt_adaln_single).
    prompt_modulation: bool
    # Tokens of single pixel frames get a learned embedding (use_keyframes_abs_pos_embedding).
    keyframe_embedding: bool

    @property
    def token_widths(self) -> set[int]:
        """Values of a video token in each linear layer that it goes through, the activations' excepted."""
        widths = {self.video.width, self.video.out_channels}
        for stream in (self.video, self.audio):
            if stream is not None:
                widths |= {stream.width, *([stream.heads] if self.gated_attention else [])}
        return widths

    @property
    def activation_width(self) -> int:
        """Values of a video token inside the feed-forward."""
        return 4 * self.video.width

    @classmethod
    def from_header(cls, header: Header) -> "TransformerConfig | None":
        """The config of the transformer in a checkpoint; None without a transformer.

        Raises:
            CheckpointError: If the config is missing, does not match the tensors, or has unsupported values.
        """
        if f"{PREFIX}patchify_proj.weight" not in header.tensors:
            return None
        section = transformer_section(header)
        prefix = f"{PREFIX}transformer_blocks."
        blocks = set()
        for name in header.tensors:
            if name.startswith(prefix):
                blocks.add(name.removeprefix(prefix).split(".")[0])
        num_layers = section.size("num_layers", 48)
        if len(blocks) != num_layers:
            raise CheckpointError(
                f"config.transformer.num_layers is {num_layers}, but the file has {len(blocks)} transformer blocks. "
                f"Check that the file is complete."
            )
        contexts_projected = section.flag("caption_proj_before_connector", False)
        caption_channels = None if contexts_projected else section.size("caption_channels")
        video = _stream(header, section, "", 128, (20, 2048, 2048), caption_channels)
        audio = None
        if f"{PREFIX}audio_patchify_proj.weight" in header.tensors:
            audio = _stream(header, section, "audio_", 64, (20,), caption_channels)
            if audio.heads != video.heads:
                raise CheckpointError(
                    f"config.transformer has {audio.heads} audio heads and {video.heads} video heads; the cross-modal "
                    f"attention needs equal numbers."
                )
        text_modulation = section.flag("cross_attention_adaln", False)
        return cls(
            num_layers=num_layers,
            video=video,
            audio=audio,
            caption_channels=caption_channels,
            norm_eps=section.number("norm_eps", 1e-6),
            rotary_theta=section.number("positional_embedding_theta", 10000.0),
            rotary_pairing=section.choice("rope_type", PAIRINGS, "split"),
            rotary_precision=section.choice("frequencies_precision", PRECISIONS, "float32"),
            timestep_scale=section.number("timestep_scale_multiplier", 1000),
            cross_modal_gate_scale=section.number("av_ca_timestep_scale_multiplier", 1),
            gated_attention=section.flag("apply_gated_attention", False),
            text_modulation=text_modulation,
            prompt_modulation=text_modulation and section.flag("use_prompt_adaln_single", True),
            keyframe_embedding=section.flag("use_keyframes_abs_pos_embedding", False),
        )


def _stream(
    header: Header,
    section: ConfigSection,
    prefix: str,
    head_dim: int,
    max_positions: tuple[float, ...],
    caption_channels: int | None,
) -> StreamConfig:
    """The sizes of a stream, whose fields and tensors begin with ``prefix``; numbers are the published defaults."""
    stream = StreamConfig(
        in_channels=section.size(f"{prefix}in_channels", 128),
        out_channels=section.size(f"{prefix}out_channels", 128),
        heads=section.size(f"{prefix}num_attention_heads", 32),
        head_dim=section.size(f"{prefix}attention_head_dim", head_dim),
        max_positions=section.numbers(f"{prefix}positional_embedding_max_pos", max_positions, count=len(max_positions)),
        ff_bias=section.flag(f"{prefix}ff_bias", True),
    )
    # A wrong size would otherwise show as hundreds of misshaped tensors, or build a network of absurd size.
    expected = {
        "patchify_proj": (stream.width, stream.in_channels),
        "proj_out": (stream.out_channels, stream.width),
        "caption_projection.linear_1": (stream.width, caption_channels),
    }
    for layer, shape in expected.items():
        tensor = header.tensors.get(f"{PREFIX}{prefix}{layer}.weight")
        if tensor is not None and tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"config.transformer gives {prefix}{layer} the shape {shape}, the file has {tuple(tensor.shape)}. "
                f"The config belongs to another file."
            )
    width = section.size(f"{prefix}cross_attention_dim", stream.width)
    if width != stream.width:
        raise CheckpointError(
            f"config.transformer.{prefix}cross_attention_dim is {width}; expected the stream's width {stream.width}."
        )
    if stream.head_dim % 2:
        raise CheckpointError(
            f"config.transformer.{prefix}attention_head_dim is {stream.head_dim}; rotary positions need an even one."
        )
    return stream


def transformer_bytes(
    config: TransformerConfig, *, tokens: int, audio_tokens: int, text_tokens: int, prompts: int, dtype: mx.Dtype
) -> int:
    """Memory of one pass of the transformer beside its weights, with the contexts of all prompts.

    ``audio_tokens`` have no effect where the network has no audio stream.
    """
    text_arrays = _CPU_TEXT_ARRAYS if on_cpu() else _GPU_TEXT_ARRAYS
    if config.text_modulation:
        text_arrays += _CPU_MODULATED_TEXT_ARRAYS if on_cpu() else _GPU_MODULATED_TEXT_ARRAYS
    width = config.video.width
    streams = tokens * width
    waiting = 0.0
    if config.audio is not None:
        width += config.audio.width
        streams += audio_tokens * config.audio.width
        waiting = _CPU_WAITING_ARRAYS
    # Values of a stream's arrays; more tokens never make them fewer.
    values = (_CPU_SMALL_TOKEN_ARRAYS if on_cpu() else _GPU_TOKEN_ARRAYS) * streams
    if on_cpu() and dtype == mx.float32:
        features = config.video.width
        run = min(tokens, max(FEWEST_ROWS, RUN_BYTES // (features * dtype.size)))
        # Before and after the activation.
        feed_forward = (_CPU_FEED_FORWARD_ARRAYS + waiting) * streams + 2 * _FEED_FORWARD * features * run
        small = _CPU_SMALL_TOKEN_ARRAYS * min(streams, LARGE_BYTES_ON_CPU // dtype.size)
        values = max(_CPU_TOKEN_ARRAYS * streams, feed_forward, small)
    contexts = 0
    if config.caption_channels is not None:
        contexts = prompts * text_tokens * 2 * config.caption_channels * mx.float32.size
    text = (prompts + text_arrays) * text_tokens * width
    # Self-attention and attention to the text come one after the other.
    keys = max(tokens, text_tokens)
    scores = scores_bytes(config.video.heads, tokens, keys, head_dim=config.video.head_dim, dtype=dtype)
    return int(contexts + (text + values) * dtype.size + scores)


def transformer_array_bytes(config: TransformerConfig, *, tokens: int, text_tokens: int, dtype: mx.Dtype) -> int:
    """Bytes of the largest array of one pass: inside the feed-forward, or a group's scores where they are stored."""
    keys = max(tokens, text_tokens)
    scores = scores_bytes(config.video.heads, tokens, keys, head_dim=config.video.head_dim, dtype=dtype, groups=1)
    return max(4 * config.video.width * tokens * dtype.size, scores)


def transformer_operations(config: TransformerConfig, *, tokens: int, audio_tokens: int, text_tokens: int) -> float:
    """Floating-point operations of one pass: the matrix products, which are nearly all of the work."""
    streams = [(config.video.width, tokens)]
    block = 0
    if config.audio is not None:
        width = config.audio.width
        streams.append((width, audio_tokens))
        # Attention between the two has the width of the audio stream: projections on either side, and the scores.
        block += 2 * (4 * tokens * config.video.width * width + 4 * audio_tokens * width**2)
        block += 2 * 4 * tokens * audio_tokens * width
    for width, count in streams:
        # Attention to itself and to the text, feed-forward.
        block += 8 * count * width**2 + 4 * count * width**2 + 4 * text_tokens * width**2
        block += 4 * count**2 * width + 4 * count * text_tokens * width
        block += 4 * _FEED_FORWARD * count * width**2
    return config.num_layers * float(block)
