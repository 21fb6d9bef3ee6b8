"""Text features: hidden states of a language model to the contexts that the transformer attends to.

The feature extractor norms and projects the states of all layers together; two small transformers (connectors) turn
the result into one context for video and one for audio.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.layers.transformer import (
    PAIRINGS,
    PRECISIONS,
    Attention,
    FeedForward,
    Pairing,
    Precision,
    RotaryEmbedding,
    RotaryTable,
)
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.config import LAYER_PATHS, PREFIX, ConfigSection, transformer_section
from LTX_2_MLX.shapes import StreamName

_PROJECTION = "text_embedding_projection."
# Published path inside a connector -> path here.
_CONNECTOR_PATHS = {
    "transformer_1d_blocks.": "blocks.",
    ".attn1.": ".attention.",
    ".ff.": ".feed_forward.",
    **LAYER_PATHS,
}
_EPS = 1e-6

# Published fields of a feature extractor that norms each token and projects for each stream.
_PER_TOKEN = {
    "caption_proj_before_connector": True,
    "caption_proj_input_norm": False,
    "caption_projection_first_linear": False,
    "caption_projection_second_linear": False,
}


@dataclass(frozen=True)
class ConnectorConfig:
    """Sizes of one connector."""

    heads: int
    head_dim: int
    num_layers: int
    # Learned rows that replace padding, repeated in order.
    num_registers: int

    @property
    def width(self) -> int:
        """Features of a context token."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class TextFeaturesConfig:
    """The published config, its fields named after what they do."""

    # Features of all hidden states together: 3840 * 49 with Gemma 3 12B.
    states_width: int
    video: ConnectorConfig
    # None: a video-only network.
    audio: ConnectorConfig | None
    # True: norm each token by its root mean square, one projection for each stream. False: norm by mean and range
    # over the sample's tokens, one projection for both streams.
    per_token_norm: bool
    gated_attention: bool
    ff_bias: bool
    # Positions are divided by this number of tokens (connector_positional_embedding_max_pos).
    max_position: float
    rotary_pairing: Pairing
    rotary_precision: Precision

    @classmethod
    def from_header(cls, header: Header) -> "TextFeaturesConfig | None":
        """The config of the text features in a checkpoint; None without text features.

        Raises:
            CheckpointError: If the config is missing, does not match the tensors, or has unsupported values.
        """
        if f"{PREFIX}video_embeddings_connector.learnable_registers" not in header.tensors:
            return None
        section = transformer_section(header)
        stated = {}
        for field in _PER_TOKEN:
            if field in section.values:
                stated[field] = section.values[field]
        if stated and stated != _PER_TOKEN:
            raise CheckpointError(
                f"config.transformer describes an unsupported caption projection: {stated}; "
                f"expected none of these fields, or {_PER_TOKEN}."
            )
        per_token = bool(stated)
        video = _connector(header, section, "video")
        audio = None
        if f"{PREFIX}audio_embeddings_connector.learnable_registers" in header.tensors:
            audio = _connector(header, section, "audio")
        projection = f"{_PROJECTION}{'video_' * per_token}aggregate_embed.weight"
        matrix = header.tensors.get(projection)
        if matrix is None and lacks_projection(header):
            raise CheckpointError(
                f"The file has text connectors, but lacks the matrix {projection}. LTX-2.5 has it in the file of its "
                f"text encoder: give both, the text encoder with --gemma. Otherwise check that the file is complete."
            )
        if matrix is None or len(matrix.shape) != 2:
            raise CheckpointError(f"{projection} is missing or no matrix. Check that the file is complete.")
        return cls(
            states_width=matrix.shape[-1],
            video=video,
            audio=audio,
            per_token_norm=per_token,
            gated_attention=section.flag("connector_apply_gated_attention", False),
            ff_bias=section.flag("connector_ff_bias", True),
            max_position=section.numbers("connector_positional_embedding_max_pos", (1,), count=1)[0],
            rotary_pairing=section.choice("rope_type", PAIRINGS, "split"),
            rotary_precision=section.choice("frequencies_precision", PRECISIONS, "float32"),
        )


def lacks_projection(header: Header) -> bool:
    """Whether a file has connectors without the projections before them, as the transformer's file of 2.5."""
    return not any(name.startswith(_PROJECTION) for name in header.tensors)


def _connector(header: Header, section: ConfigSection, stream: StreamName) -> ConnectorConfig:
    prefix = f"{PREFIX}{stream}_embeddings_connector."
    sizes = {"num_attention_heads": 30, "attention_head_dim": 128, "num_layers": 2}
    for field in sizes:
        sizes[field] = section.size(f"connector_{field}", sizes[field])
        # The audio connector's sizes default to the video connector's.
        if stream == "audio":
            sizes[field] = section.size(f"audio_connector_{field}", sizes[field])
    shape = tuple(header.tensors[f"{prefix}learnable_registers"].shape)
    config = ConnectorConfig(
        heads=sizes["num_attention_heads"],
        head_dim=sizes["attention_head_dim"],
        num_layers=sizes["num_layers"],
        num_registers=shape[0] if shape else 0,
    )
    blocks = set()
    for name in header.tensors:
        if name.startswith(f"{prefix}transformer_1d_blocks."):
            blocks.add(name.removeprefix(prefix).split(".")[1])
    if shape[1:] != (config.width,) or not shape[0] or len(blocks) != config.num_layers:
        raise CheckpointError(
            f"config.transformer gives the {stream} connector {config.num_layers} layers of width {config.width}, the "
            f"file has {len(blocks)} and registers of shape {shape}. The config belongs to another file."
        )
    if config.head_dim % 2:
        raise CheckpointError(
            f"config.transformer gives the {stream} connector heads of {config.head_dim} features; rotary positions "
            f"need an even number."
        )
    return config


class ConnectorBlock(nn.Module):
    """Self-attention and feed-forward layer, each with a residual connection."""

    def __init__(self, config: TextFeaturesConfig, connector: ConnectorConfig):
        super().__init__()
        self.attention = Attention(
            connector.width,
            heads=connector.heads,
            head_dim=connector.head_dim,
            norm_eps=_EPS,
            gated=config.gated_attention,
        )
        self.feed_forward = FeedForward(connector.width, bias=config.ff_bias)

    def __call__(self, tokens: mx.array, rotary: RotaryTable) -> mx.array:
        tokens = tokens + self.attention(mx.fast.rms_norm(tokens, None, _EPS), rotary=rotary)
        return tokens + self.feed_forward(mx.fast.rms_norm(tokens, None, _EPS))


class Connector(nn.Module):
    """Features to a context in which learned registers replace the padding.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/text_encoders/gemma/embeddings_connector.py
    at 400fd31.
    """

    def __init__(self, config: TextFeaturesConfig, connector: ConnectorConfig):
        super().__init__()
        self.learnable_registers = mx.zeros((connector.num_registers, connector.width))
        self.blocks = []
        for _ in range(connector.num_layers):
            self.blocks.append(ConnectorBlock(config, connector))
        # The reference uses theta's default here, whatever the transformer's theta is.
        self.rotary = RotaryEmbedding(
            width=connector.width,
            heads=connector.heads,
            max_positions=(config.max_position,),
            pairing=config.rotary_pairing,
            precision=config.rotary_precision,
        )

    def __call__(self, features: mx.array, num_valid: np.ndarray, length: int) -> mx.array:
        """A context of ``length`` tokens.

        Args:
            features: ``(B, up to length, width)``, each sample's valid tokens first.
            num_valid: ``(B,)``, the number of valid tokens; registers follow them.
            length: Tokens of the context, a multiple of the number of registers.

        Returns:
            ``(B, length, width)``.
        """
        registers = self.learnable_registers.astype(features.dtype)
        positions = np.arange(length)
        tokens = mx.pad(features, [(0, 0), (0, length - features.shape[1]), (0, 0)])
        valid = mx.array(positions[None] < num_valid[:, None])[..., None]
        tokens = mx.where(valid, tokens, registers[mx.array(positions % len(registers))])
        rotary = self.rotary(positions[None, None].astype(np.float32), tokens.dtype)
        for block in self.blocks:
            tokens = block(tokens, rotary)
            # One graph of all blocks would hold the scores of all attentions at once.
            mx.eval(tokens)
        return mx.fast.rms_norm(tokens, None, _EPS)


class TextFeatures(nn.Module):
    """Hidden states of a language model to a video and an audio context.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/text_encoders/gemma/{feature_extractor,
    embeddings_processor}.py at 400fd31 (golden cases ``ltx2/text_connector_*``).
    """

    Config = TextFeaturesConfig

    def __init__(self, config: TextFeaturesConfig):
        super().__init__()
        self.config = config
        if config.per_token_norm:
            self.video_aggregate_embed = nn.Linear(config.states_width, config.video.width)
            if config.audio is not None:
                self.audio_aggregate_embed = nn.Linear(config.states_width, config.audio.width)
        else:
            self.aggregate_embed = nn.Linear(config.states_width, config.video.width, bias=False)
        self.video_connector = Connector(config, config.video)
        if config.audio is not None:
            self.audio_connector = Connector(config, config.audio)

    def __call__(self, states: Sequence[mx.array], mask: mx.array | np.ndarray) -> tuple[mx.array, mx.array | None]:
        """Contexts of a batch of prompts.

        Args:
            states: All hidden states of the language model, the embedding first, ``(B, L, D)`` each. Values at padding
                have no effect.
            mask: ``(B, L)``, nonzero for valid tokens, at any positions.

        Returns:
            Video and audio context, ``(B, L, width)`` each, in the projection's dtype; audio is None in a
            video-only network. The contexts contain no padding, so the transformer needs no mask.

        Raises:
            CheckpointError: If the states come from another language model than the checkpoint's.
            RequestError: If L is not a multiple of the number of registers.
        """
        valid = np.asarray(mask) != 0
        length = valid.shape[1]
        registers = self.config.video.num_registers
        if length % registers:
            raise RequestError(
                f"The prompt is padded to {length} tokens; expected a multiple of {registers}, such as 1024."
            )
        num_valid = valid.sum(axis=1)
        # Only valid tokens are projected: moved to the front in order, as many as the longest prompt has.
        order = np.argsort(~valid, axis=1, kind="stable")[:, : max(int(num_valid.max()), 1)]
        index = mx.array(order.astype(np.int32))[..., None]
        valid_states = []
        for state in states:
            valid_states.append(mx.take_along_axis(state, index, axis=1))
        video, audio = self.features(valid_states, np.take_along_axis(valid, order, axis=1))
        video_context = self.video_connector(video, num_valid, length)
        if audio is None:
            return video_context, None
        return video_context, self.audio_connector(audio, num_valid, length)

    def features(self, states: Sequence[mx.array], mask: mx.array | np.ndarray) -> tuple[mx.array, mx.array | None]:
        """Input of the connectors, in the order of the tokens: ``(B, L, width)`` for video and audio."""
        valid = mx.array(np.asarray(mask) != 0)[..., None]
        states_width = len(states) * states[0].shape[-1]
        if states_width != self.config.states_width:
            raise CheckpointError(
                f"The language model gives {len(states)} states of width {states[0].shape[-1]}, {states_width} "
                f"features in all; this checkpoint expects {self.config.states_width}. Use the text encoder it was "
                f"trained with."
            )
        if not self.config.per_token_norm:
            features = _project(self.aggregate_embed, states, valid, _norm_by_range)
            return features, features if self.config.audio is not None else None
        video = _project(self.video_aggregate_embed, states, valid, _norm_by_token)
        if self.config.audio is None:
            return video, None
        return video, _project(self.audio_aggregate_embed, states, valid, _norm_by_token)

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Name of the parameter that a published tensor holds; None for tensors of other networks."""
        if published.startswith(_PROJECTION):
            return published.removeprefix(_PROJECTION)
        stream, connector, name = published.removeprefix(PREFIX).partition("_embeddings_connector.")
        if not published.startswith(PREFIX) or not connector:
            return None
        for published_path, path in _CONNECTOR_PATHS.items():
            name = name.replace(published_path, path)
        return f"{stream}_connector.{name}"


def _project(
    projection: nn.Linear,
    states: Sequence[mx.array],
    valid: mx.array,
    norm: Callable[[mx.array, mx.array], mx.array],
) -> mx.array:
    """All states normed and projected, layer by layer: features of all layers would be 188,160 for each token."""
    weight = projection.weight
    total = mx.zeros((), dtype=mx.float32)
    for number, state in enumerate(states):
        # The layer's number runs fastest in the projection's input.
        normed = norm(state, valid).astype(weight.dtype)
        total = total + (normed @ weight[:, number :: len(states)].T).astype(mx.float32)
    if "bias" in projection:
        total = total * math.sqrt(weight.shape[0] / states[0].shape[-1]) + projection.bias
    return total.astype(weight.dtype)


def _norm_by_range(state: mx.array, valid: mx.array) -> mx.array:
    """``8 * (x - mean) / range``, mean and range over a sample's valid tokens; padding is 0."""
    state = state.astype(mx.float32)
    count = valid.sum(axis=(1, 2), keepdims=True) * state.shape[-1]
    mean = mx.where(valid, state, 0).sum(axis=(1, 2), keepdims=True) / (count + _EPS)
    highest = mx.where(valid, state, -mx.inf).max(axis=(1, 2), keepdims=True)
    lowest = mx.where(valid, state, mx.inf).min(axis=(1, 2), keepdims=True)
    return mx.where(valid, 8 * (state - mean) / (highest - lowest + _EPS), 0)


def _norm_by_token(state: mx.array, valid: mx.array) -> mx.array:
    """Each token over its root mean square; padding is 0."""
    return mx.where(valid, mx.fast.rms_norm(state.astype(mx.float32), None, _EPS), 0)
