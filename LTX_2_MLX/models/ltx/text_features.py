"""A language model's hidden states to the contexts that the transformer attends to.

Every layer's states are normed and projected together (feature extractor); two small transformers
(connectors) then turn them into one context for video and one for audio. Knows nothing of prompts or tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.layers.attention import Attention
from LTX_2_MLX.layers.feed_forward import FeedForward
from LTX_2_MLX.layers.norm import rms_norm
from LTX_2_MLX.layers.rope import Pairing, Precision, RotaryEmbedding
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.config_section import ConfigSection
from LTX_2_MLX.models.ltx.transformer_config import PREFIX, layer_name, rotary_settings, transformer_section

_PROJECTION = "text_embedding_projection."
_EPS = 1e-6

# How the published config says that states are normed token by token and projected for each stream apart.
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
    # Rows that stand in for padding, in turn.
    num_registers: int

    @property
    def width(self) -> int:
        """Features of a context token."""
        return self.heads * self.head_dim


@dataclass(frozen=True)
class TextFeaturesConfig:
    """The published config, its fields named after what they do."""

    # Features of all the language model's states together: 3840 * 49 with Gemma 3 12B.
    states_width: int
    video: ConnectorConfig
    # None: a network for video alone.
    audio: ConnectorConfig | None
    # True: root mean square of each token, a projection for each stream. False: mean and range over the
    # sample's tokens, one projection for both.
    per_token_norm: bool
    gated_attention: bool
    ff_bias: bool
    # What a coordinate of 1 stands for, in tokens (connector_positional_embedding_max_pos).
    max_position: float
    rotary_pairing: Pairing
    rotary_precision: Precision

    @classmethod
    def from_header(cls, header: Header) -> "TextFeaturesConfig | None":
        """The config of the text features in a checkpoint; None if there are none in it.

        Raises:
            CheckpointError: If the config is missing, does not fit the tensors, or asks for something unknown.
        """
        if f"{PREFIX}video_embeddings_connector.learnable_registers" not in header.tensors:
            return None
        section = transformer_section(header)
        per_token = _per_token_norm(section)
        video, audio = _connector(header, section, "video"), None
        if f"{PREFIX}audio_embeddings_connector.learnable_registers" in header.tensors:
            audio = _connector(header, section, "audio")
        pairing, precision = rotary_settings(section)
        projection = f"{_PROJECTION}{'video_' * per_token}aggregate_embed.weight"
        if projection not in header.tensors or len(header.tensors[projection].shape) != 2:
            raise CheckpointError(
                f"The file has text connectors, but lacks the matrix {projection}. Check that it is complete."
            )
        return cls(
            states_width=header.tensors[projection].shape[-1],
            video=video,
            audio=audio,
            per_token_norm=per_token,
            gated_attention=section.flag("connector_apply_gated_attention", False),
            ff_bias=section.flag("connector_ff_bias", True),
            max_position=section.numbers("connector_positional_embedding_max_pos", (1,), count=1)[0],
            rotary_pairing=pairing,
            rotary_precision=precision,
        )


def _per_token_norm(section: ConfigSection) -> bool:
    given = {field: section.values[field] for field in _PER_TOKEN if field in section}
    if given and given != _PER_TOKEN:
        raise CheckpointError(
            f"config.transformer describes a caption projection that this version does not know: {given}; "
            f"expected none of these fields, or {_PER_TOKEN}."
        )
    return bool(given)


def _connector(header: Header, section: ConfigSection, stream: str) -> ConnectorConfig:
    start = f"{PREFIX}{stream}_embeddings_connector."

    def size(field: str, default: int) -> int:
        # The audio connector is as the video connector where the config says nothing of its own.
        default = section.size(f"connector_{field}", default)
        return section.size(f"audio_connector_{field}", default) if stream == "audio" else default

    shape = tuple(header.tensors[f"{start}learnable_registers"].shape)
    config = ConnectorConfig(
        heads=size("num_attention_heads", 30),
        head_dim=size("attention_head_dim", 128),
        num_layers=size("num_layers", 2),
        num_registers=shape[0] if shape else 0,
    )
    blocks = {
        n.removeprefix(start).split(".")[1] for n in header.tensors if n.startswith(f"{start}transformer_1d_blocks.")
    }
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
    """Attention of the tokens to each other, then a feed-forward layer."""

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

    def __call__(self, tokens: mx.array, rotary) -> mx.array:
        tokens = tokens + self.attention(rms_norm(tokens, _EPS), rotary=rotary)
        return tokens + self.feed_forward(rms_norm(tokens, _EPS))


class Connector(nn.Module):
    """Features to a context in which nothing is padding.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/text_encoders/gemma/embeddings_connector.py
    at 400fd31.
    """

    def __init__(self, config: TextFeaturesConfig, connector: ConnectorConfig):
        super().__init__()
        self.learnable_registers = mx.zeros((connector.num_registers, connector.width))
        self.blocks = [ConnectorBlock(config, connector) for _ in range(connector.num_layers)]
        # The reference leaves theta at its default here, whatever the config says of the transformer's.
        self.rotary = RotaryEmbedding(
            width=connector.width,
            heads=connector.heads,
            max_positions=(config.max_position,),
            pairing=config.rotary_pairing,
            precision=config.rotary_precision,
        )

    def __call__(self, features: mx.array, counts: np.ndarray, length: int) -> mx.array:
        """Context of ``length`` tokens.

        Args:
            features: ``(B, up to length, width)``, each sample's valid tokens in front.
            counts: ``(B,)``, how many of them are valid; registers take the rest.
            length: Tokens of the context, a multiple of the number of registers.

        Returns:
            ``(B, length, width)``.
        """
        registers = self.learnable_registers.astype(features.dtype)
        places = np.arange(length)
        tokens = mx.pad(features, [(0, 0), (0, length - features.shape[1]), (0, 0)])
        valid = mx.array(places[None] < counts[:, None])[..., None]
        tokens = mx.where(valid, tokens, registers[mx.array(places % len(registers))])
        rotary = self.rotary(places[None, None].astype(np.float32), tokens.dtype)
        for block in self.blocks:
            tokens = block(tokens, rotary)
            # One graph of all blocks would hold the scores of every attention at once.
            mx.eval(tokens)
        return rms_norm(tokens, _EPS)


class TextFeatures(nn.Module):
    """A language model's states to a video and an audio context.

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

    def __call__(
        self, states: mx.array | Sequence[mx.array], mask: mx.array | np.ndarray
    ) -> tuple[mx.array, mx.array | None]:
        """Contexts of a batch of prompts.

        Args:
            states: Every state of the language model, the embedding first: ``(B, L, D, S)``, or S arrays
                ``(B, L, D)``. What stands at padding does not matter.
            mask: ``(B, L)``, nonzero for valid tokens, wherever they stand.

        Returns:
            Video and audio context, ``(B, L, width)`` each, in the projection's dtype; audio is None in a
            network for video alone. No token of them is padding, so the transformer needs no mask.

        Raises:
            CheckpointError: If the states are not those of the language model this was trained with.
            RequestError: If L is not a multiple of the number of registers.
        """
        valid = np.asarray(mask) != 0
        length, registers = valid.shape[1], self.config.video.num_registers
        if length % registers:
            raise RequestError(
                f"The prompt is padded to {length} tokens; expected a multiple of {registers}, such as 1024."
            )
        counts = valid.sum(axis=1)
        # Only valid tokens are projected: in front, in order, and as many as the longest prompt has.
        order = np.argsort(~valid, axis=1, kind="stable")[:, : max(int(counts.max()), 1)]
        index = mx.array(order.astype(np.int32))[..., None]
        states = [mx.take_along_axis(state, index, axis=1) for state in _separate(states)]
        video, audio = self.features(states, np.take_along_axis(valid, order, axis=1))
        return (
            self.video_connector(video, counts, length),
            self.audio_connector(audio, counts, length) if self.config.audio is not None else None,
        )

    def features(
        self, states: mx.array | Sequence[mx.array], mask: mx.array | np.ndarray
    ) -> tuple[mx.array, mx.array | None]:
        """What enters the connectors, in the order of the tokens: ``(B, L, width)`` for video and audio."""
        states, valid = _separate(states), mx.array(np.asarray(mask) != 0)[..., None]
        given = len(states) * states[0].shape[-1]
        if given != self.config.states_width:
            raise CheckpointError(
                f"The language model gives {len(states)} states of width {states[0].shape[-1]}, {given} features in "
                f"all; this checkpoint expects {self.config.states_width}. Use the text encoder it was trained with."
            )
        if not self.config.per_token_norm:
            features = _project(self.aggregate_embed, states, valid, _ranged)
            return features, features if self.config.audio is not None else None
        video = _project(self.video_aggregate_embed, states, valid, _token_normed)
        if self.config.audio is None:
            return video, None
        return video, _project(self.audio_aggregate_embed, states, valid, _token_normed)

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Name of the parameter that a published tensor holds; None for tensors of other networks."""
        if published.startswith(_PROJECTION):
            return published.removeprefix(_PROJECTION)
        stream, connector, rest = published.removeprefix(PREFIX).partition("_embeddings_connector.")
        if not published.startswith(PREFIX) or not connector:
            return None
        rest = layer_name(rest.replace("transformer_1d_", "", 1).replace(".attn1.", ".attention.", 1))
        return f"{stream}_connector.{rest.replace('.ff.', '.feed_forward.', 1)}"


def _separate(states: mx.array | Sequence[mx.array]) -> list[mx.array]:
    return [states[..., s] for s in range(states.shape[-1])] if isinstance(states, mx.array) else list(states)


def _project(projection: nn.Linear, states: list[mx.array], valid: mx.array, norm) -> mx.array:
    """All states normed and projected. Features of all layers, 188,160 for a token, never stand side by side."""
    weight, total = projection.weight, 0
    for number, state in enumerate(states):
        # The layer's number runs fastest in the projection's input.
        part = norm(state, valid).astype(weight.dtype) @ weight[:, number :: len(states)].T
        total = total + part.astype(mx.float32)
    if "bias" in projection:
        total = total * math.sqrt(weight.shape[0] / states[0].shape[-1]) + projection.bias
    return total.astype(weight.dtype)


def _ranged(state: mx.array, valid: mx.array) -> mx.array:
    """8 times the distance from the mean over the range, both over a sample's valid tokens; padding is 0."""
    state = state.astype(mx.float32)
    count = valid.sum(axis=(1, 2), keepdims=True) * state.shape[-1]
    mean = mx.where(valid, state, 0).sum(axis=(1, 2), keepdims=True) / (count + _EPS)
    highest = mx.where(valid, state, -mx.inf).max(axis=(1, 2), keepdims=True)
    lowest = mx.where(valid, state, mx.inf).min(axis=(1, 2), keepdims=True)
    return mx.where(valid, 8 * (state - mean) / (highest - lowest + _EPS), 0)


def _token_normed(state: mx.array, valid: mx.array) -> mx.array:
    """Each token over the root of its mean square; padding is 0."""
    return mx.where(valid, rms_norm(state.astype(mx.float32), _EPS), 0)
