"""One block of the LTX-2 transformer: video and audio each attend to themselves and their text, then to each other."""

from dataclasses import dataclass, replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.layers.attention import Attention
from LTX_2_MLX.layers.embedding import ModulationRows
from LTX_2_MLX.layers.feed_forward import FeedForward
from LTX_2_MLX.layers.norm import gated_add, modulate, rms_norm
from LTX_2_MLX.layers.rope import RotaryTable
from LTX_2_MLX.models.ltx.transformer_config import StreamConfig, TransformerConfig

# Rows of a block's table. Those of the text attention exist where the config has text modulation.
_SHIFT_SELF, _SCALE_SELF, _GATE_SELF, _SHIFT_FF, _SCALE_FF, _GATE_FF, _SHIFT_TEXT, _SCALE_TEXT, _GATE_TEXT = range(9)
# The exchange table has the scale first: two rows to each direction, then the gate of what the stream receives.
_TO_VIDEO, _TO_AUDIO, _GATE_EXCHANGE = 0, 2, 4


@dataclass(frozen=True)
class Stream:
    """What a block sees of one stream. All but ``tokens`` stays the same from block to block.

    Attributes:
        tokens: ``(B, N, D)``.
        context: ``(B, L, D)``, projected to the stream's width.
        rotary: Positions for the stream's attention to itself.
        modulation: Rows of the tokens' timesteps, to be added to each block's table.
        enabled: False leaves the tokens as they are; the other stream still attends to them.
        context_mask: ``(B, 1, 1, L)`` boolean, True attends.
        attention_mask: ``(B, 1, N or 1, N)``, added to the logits of the attention to itself.
        prompt: Rows that modulate the context, where the config has prompt modulation.
        exchange, exchange_gate, exchange_rotary: The same for the attention between the streams; None where
            the other stream is absent.
    """

    tokens: mx.array
    context: mx.array
    rotary: RotaryTable
    modulation: ModulationRows
    enabled: bool = True
    context_mask: mx.array | None = None
    attention_mask: mx.array | None = None
    prompt: ModulationRows | None = None
    exchange: ModulationRows | None = None
    exchange_gate: ModulationRows | None = None
    exchange_rotary: RotaryTable | None = None


@dataclass(frozen=True)
class Skips:
    """Which samples go without which attention in one block: ``(B,)`` booleans, None where all have it."""

    video_self: np.ndarray | None = None
    audio_self: np.ndarray | None = None
    audio_to_video: np.ndarray | None = None
    video_to_audio: np.ndarray | None = None


class StreamLayers(nn.Module):
    """One stream's layers of a block.

    Args:
        config: Of the whole network.
        stream: Of this stream.
        other: Of the stream it hears of, None where there is none.
    """

    def __init__(self, config: TransformerConfig, stream: StreamConfig, other: StreamConfig | None):
        super().__init__()
        common = {"norm_eps": config.norm_eps, "gated": config.gated_attention}
        heads = {"heads": stream.heads, "head_dim": stream.head_dim}
        self.norm_eps = config.norm_eps
        self.self_attention = Attention(stream.width, **heads, **common)
        self.text_attention = Attention(stream.width, **heads, **common)
        self.feed_forward = FeedForward(stream.width, bias=stream.ff_bias)
        self.scale_shift_table = mx.zeros((9 if config.text_modulation else 6, stream.width))
        if config.text_modulation:
            self.prompt_scale_shift_table = mx.zeros((2, stream.width))
        if other is not None:
            self.exchange_attention = Attention(
                stream.width,
                context_width=other.width,
                heads=config.audio.heads,
                head_dim=config.audio.head_dim,
                **common,
            )
            self.exchange_table = mx.zeros((5, stream.width))

    def attend(self, stream: Stream, bypass: np.ndarray | None) -> Stream:
        """Attention of the stream to itself, then to its text."""
        rows = stream.modulation.plus(self.scale_shift_table)
        tokens = stream.tokens
        update = self.self_attention(
            modulate(self._norm(tokens), rows.row(_SCALE_SELF), rows.row(_SHIFT_SELF)),
            rotary=stream.rotary,
            mask=stream.attention_mask,
            bypass=bypass,
        )
        tokens = gated_add(tokens, update, rows.row(_GATE_SELF))
        queries = self._norm(tokens)
        if "prompt_scale_shift_table" not in self:
            update = self.text_attention(queries, stream.context, mask=stream.context_mask)
            return replace(stream, tokens=tokens + update)
        update = self.text_attention(
            modulate(queries, rows.row(_SCALE_TEXT), rows.row(_SHIFT_TEXT)),
            self._modulated_context(stream),
            mask=stream.context_mask,
        )
        return replace(stream, tokens=gated_add(tokens, update, rows.row(_GATE_TEXT)))

    def _modulated_context(self, stream: Stream) -> mx.array:
        if stream.prompt is None:
            shift, scale = self.prompt_scale_shift_table.astype(stream.context.dtype)
        else:
            rows = stream.prompt.plus(self.prompt_scale_shift_table)
            shift, scale = rows.row(0), rows.row(1)
        return modulate(stream.context, scale, shift)

    def offer(self, stream: Stream, direction: int) -> mx.array:
        """The tokens as they enter the attention between the streams, for one direction."""
        rows = stream.exchange.plus(self.exchange_table[:_GATE_EXCHANGE])
        return modulate(self._norm(stream.tokens), rows.row(direction), rows.row(direction + 1))

    def receive(
        self, stream: Stream, own: mx.array, heard: mx.array, rotary: RotaryTable, skip: np.ndarray | None
    ) -> Stream:
        """Attention of the stream to what the other one offers at positions ``rotary``."""
        update = self.exchange_attention(own, heard, rotary=stream.exchange_rotary, context_rotary=rotary)
        gate = stream.exchange_gate.plus(self.exchange_table[_GATE_EXCHANGE:]).row(0)
        if skip is not None:
            gate = mx.where(mx.array(skip)[:, None, None], mx.zeros_like(gate), gate)
        return replace(stream, tokens=gated_add(stream.tokens, update, gate))

    def feed(self, stream: Stream) -> Stream:
        """The feed-forward layer."""
        rows = stream.modulation.plus(self.scale_shift_table)
        update = self.feed_forward(modulate(self._norm(stream.tokens), rows.row(_SCALE_FF), rows.row(_SHIFT_FF)))
        return replace(stream, tokens=gated_add(stream.tokens, update, rows.row(_GATE_FF)))

    def _norm(self, x: mx.array) -> mx.array:
        return rms_norm(x, self.norm_eps)


class TransformerBlock(nn.Module):
    """Video and audio tokens to video and audio tokens. Either stream may be absent or disabled.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/transformer/transformer.py at 400fd31
    (golden cases ``ltx2/transformer_*``).
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.video = StreamLayers(config, config.video, config.audio)
        if config.audio is not None:
            self.audio = StreamLayers(config, config.audio, config.video)

    def __call__(
        self, video: Stream | None, audio: Stream | None, skips: Skips | None = None
    ) -> tuple[Stream | None, Stream | None]:
        skips = skips or Skips()
        video_runs = video is not None and video.enabled
        audio_runs = audio is not None and audio.enabled
        if video_runs:
            video = self.video.attend(video, skips.video_self)
        if audio_runs:
            audio = self.audio.attend(audio, skips.audio_self)
        if video is not None and audio is not None:
            video, audio = self._exchange(video, audio, skips)
        if video_runs:
            video = self.video.feed(video)
        if audio_runs:
            audio = self.audio.feed(audio)
        return video, audio

    def _exchange(self, video: Stream, audio: Stream, skips: Skips) -> tuple[Stream, Stream]:
        # Both directions see the streams as they were before either heard of the other.
        heard_video, heard_audio = video, audio
        if video.enabled and not _all(skips.audio_to_video):
            own = self.video.offer(heard_video, _TO_VIDEO)
            heard = self.audio.offer(heard_audio, _TO_VIDEO)
            video = self.video.receive(video, own, heard, audio.exchange_rotary, skips.audio_to_video)
        if audio.enabled and not _all(skips.video_to_audio):
            own = self.audio.offer(heard_audio, _TO_AUDIO)
            heard = self.video.offer(heard_video, _TO_AUDIO)
            audio = self.audio.receive(audio, own, heard, video.exchange_rotary, skips.video_to_audio)
        return video, audio


def _all(skip: np.ndarray | None) -> bool:
    return skip is not None and bool(skip.all())
