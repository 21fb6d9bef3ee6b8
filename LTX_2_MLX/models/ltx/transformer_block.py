"""One block of the LTX-2 transformer: self-attention, text attention, cross-modal attention, feed-forward."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.layers.transformer import (
    Attention,
    FeedForward,
    KeysValues,
    ModulationRows,
    RotaryTable,
    gated_add,
    modulate,
)
from LTX_2_MLX.models.ltx.config import StreamConfig, TransformerConfig
from LTX_2_MLX.ops.collective import TokenShare
from LTX_2_MLX.ops.device import queued_if_large
from LTX_2_MLX.shapes import StreamName

# Rows of a block's table. Those of the text attention exist where the config has text modulation.
SHIFT_SELF, SCALE_SELF, GATE_SELF, SHIFT_FF, SCALE_FF, GATE_FF, SHIFT_TEXT, SCALE_TEXT, GATE_TEXT = range(9)
# Rows of a block's cross-modal table. Unlike in the other tables, the scale comes before the shift.
SCALE_AUDIO_TO_VIDEO, SHIFT_AUDIO_TO_VIDEO, SCALE_VIDEO_TO_AUDIO, SHIFT_VIDEO_TO_AUDIO, GATE_CROSS_MODAL = range(5)


@dataclass(frozen=True)
class StreamArgs:
    """What the blocks and the output head take of one stream beside its tokens.

    Attributes:
        context: Text features ``(B, L, D)``, projected to the stream's width.
        rotary: Rotary table of the self-attention.
        modulation: Shift, scale and gate rows of the tokens' timesteps; each block adds its own table.
        timestep_embedding: One row, the embedding of the tokens' timesteps; the output head adds its table.
        enabled: False leaves the tokens unchanged; the other stream still attends to them.
        context_mask: ``(B, 1, 1, L)`` boolean, True attends.
        attention_mask: ``(B, 1, N or 1, N)``, added to the logits of the self-attention.
        prompt_modulation: Rows that modulate the context, where the config has prompt modulation.
        text_keys_values: Keys and values of this block's text attention, where they were kept.
        share: The tokens are a share of the stream's; other processes have the rest.
    """

    context: mx.array
    rotary: RotaryTable
    modulation: ModulationRows
    timestep_embedding: ModulationRows
    enabled: bool = True
    context_mask: mx.array | None = None
    attention_mask: mx.array | None = None
    prompt_modulation: ModulationRows | None = None
    text_keys_values: KeysValues | None = None
    share: TokenShare | None = None


@dataclass(frozen=True)
class CrossModalArgs:
    """What the cross-modal attentions take of one stream beside its tokens.

    Attributes:
        modulation: Scale and shift rows for both directions, of the tokens' timesteps.
        gate: Gate row of the attention that updates this stream, of the other stream's sigma.
        rotary: Rotary table by time alone, the one coordinate that both streams have.
        share: The tokens are a share of the stream's; other processes have the rest.
    """

    modulation: ModulationRows
    gate: ModulationRows
    rotary: RotaryTable
    share: TokenShare | None = None


@dataclass(frozen=True)
class SkippedAttention:
    """Samples that skip an attention in one block: ``(B,)`` booleans, None where no sample skips it."""

    video_self: np.ndarray | None = None
    audio_self: np.ndarray | None = None
    audio_to_video: np.ndarray | None = None
    video_to_audio: np.ndarray | None = None


NOTHING_SKIPPED = SkippedAttention()


class StreamLayers(nn.Module):
    """The layers of a block that belong to one stream."""

    def __init__(self, config: TransformerConfig, stream: StreamConfig):
        super().__init__()
        self.norm_eps = config.norm_eps
        self.self_attention = _attention(config, stream, stream, heads=stream)
        self.text_attention = _attention(config, stream, stream, heads=stream)
        self.feed_forward = FeedForward(stream.width, bias=stream.ff_bias)
        self.scale_shift_table = mx.zeros((9 if config.text_modulation else 6, stream.width))
        if config.text_modulation:
            self.prompt_scale_shift_table = mx.zeros((2, stream.width))
        if config.audio is not None:
            self.cross_modal_table = mx.zeros((5, stream.width))

    def add_self_attention(self, tokens: mx.array, args: StreamArgs, bypass: np.ndarray | None) -> mx.array:
        """``x + gate * self_attention(norm(x) * (1 + scale) + shift)``."""
        table = self.scale_shift_table
        shift, scale, gate = args.modulation.rows(SHIFT_SELF, SCALE_SELF, GATE_SELF, table=table)
        update = self.self_attention(
            modulate(mx.fast.rms_norm(tokens, None, self.norm_eps), scale, shift),
            rotary=args.rotary,
            mask=args.attention_mask,
            bypass=bypass,
            share=args.share,
        )
        return gated_add(tokens, update, gate)

    def add_text_attention(self, tokens: mx.array, args: StreamArgs) -> mx.array:
        """``x + text_attention(norm(x), context)``; queries, context and result modulated where the config says so."""
        if "prompt_scale_shift_table" not in self:
            return tokens + self.text_attention(
                mx.fast.rms_norm(tokens, None, self.norm_eps),
                args.context,
                mask=args.context_mask,
                keys_values=args.text_keys_values,
            )
        table = self.scale_shift_table
        shift, scale, gate = args.modulation.rows(SHIFT_TEXT, SCALE_TEXT, GATE_TEXT, table=table)
        update = self.text_attention(
            modulate(mx.fast.rms_norm(tokens, None, self.norm_eps), scale, shift),
            self._modulated_context(args),
            mask=args.context_mask,
        )
        return gated_add(tokens, update, gate)

    def _modulated_context(self, args: StreamArgs) -> mx.array:
        if args.prompt_modulation is None:
            shift, scale = self.prompt_scale_shift_table.astype(args.context.dtype)
        else:
            shift, scale = args.prompt_modulation.rows(0, 1, table=self.prompt_scale_shift_table)
        return modulate(args.context, scale, shift)

    def add_feed_forward(self, tokens: mx.array, args: StreamArgs) -> mx.array:
        """``x + gate * feed_forward(norm(x) * (1 + scale) + shift)``."""
        shift, scale, gate = args.modulation.rows(SHIFT_FF, SCALE_FF, GATE_FF, table=self.scale_shift_table)
        update = self.feed_forward(modulate(mx.fast.rms_norm(tokens, None, self.norm_eps), scale, shift))
        return gated_add(tokens, update, gate)

    def cross_modal_input(self, tokens: mx.array, args: CrossModalArgs, scale: int, shift: int) -> mx.array:
        """Queries or context of a cross-modal attention: ``norm(x) * (1 + scale) + shift``, rows by their numbers."""
        rows = args.modulation.rows(scale, shift, table=self.cross_modal_table[:GATE_CROSS_MODAL])
        return modulate(mx.fast.rms_norm(tokens, None, self.norm_eps), *rows)

    def cross_modal_gate(self, args: CrossModalArgs, skipped: np.ndarray | None) -> mx.array:
        """Gate of the stream's cross-modal attention, 0 for samples that skip it."""
        (gate,) = args.gate.rows(0, table=self.cross_modal_table[GATE_CROSS_MODAL:])
        if skipped is None:
            return gate
        return mx.where(mx.array(skipped)[:, None, None], mx.zeros_like(gate), gate)


class TransformerBlock(nn.Module):
    """Tokens to tokens of the streams that are present.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/transformer/transformer.py at 400fd31
    (golden cases ``ltx2/transformer_*``).
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.video = StreamLayers(config, config.video)
        if config.audio is not None:
            self.audio = StreamLayers(config, config.audio)
            self.audio_to_video_attention = _attention(config, config.video, config.audio, heads=config.audio)
            self.video_to_audio_attention = _attention(config, config.audio, config.video, heads=config.audio)

    def __call__(
        self,
        tokens: dict[StreamName, mx.array],
        args: dict[StreamName, StreamArgs],
        cross_modal: dict[StreamName, CrossModalArgs],
        skipped: SkippedAttention = NOTHING_SKIPPED,
    ) -> dict[StreamName, mx.array]:
        """Tokens ``(B, N, D)`` of each stream after the block; ``cross_modal`` is empty for a single stream."""
        tokens = dict(tokens)
        enabled: list[StreamName] = []
        for name in tokens:
            if args[name].enabled:
                enabled.append(name)
        for name in enabled:
            bypass = skipped.video_self if name == "video" else skipped.audio_self
            tokens[name] = self[name].add_self_attention(tokens[name], args[name], bypass)
            tokens[name] = self[name].add_text_attention(tokens[name], args[name])
        if cross_modal:
            # Both directions read both streams as they are here.
            before = dict(tokens)
            if "video" in enabled and not _all(skipped.audio_to_video):
                update = self._audio_to_video(before, cross_modal)
                gate = self.video.cross_modal_gate(cross_modal["video"], skipped.audio_to_video)
                tokens["video"] = gated_add(tokens["video"], update, gate)
            if "audio" in enabled and not _all(skipped.video_to_audio):
                update = self._video_to_audio(before, cross_modal)
                gate = self.audio.cross_modal_gate(cross_modal["audio"], skipped.video_to_audio)
                tokens["audio"] = gated_add(tokens["audio"], update, gate)
        for name in enabled:
            tokens[name] = self[name].add_feed_forward(queued_if_large(tokens[name]), args[name])
        return tokens

    def _audio_to_video(self, tokens: dict[StreamName, mx.array], args: dict[StreamName, CrossModalArgs]) -> mx.array:
        scale = SCALE_AUDIO_TO_VIDEO
        shift = SHIFT_AUDIO_TO_VIDEO
        return self.audio_to_video_attention(
            self.video.cross_modal_input(tokens["video"], args["video"], scale, shift),
            self.audio.cross_modal_input(tokens["audio"], args["audio"], scale, shift),
            rotary=args["video"].rotary,
            context_rotary=args["audio"].rotary,
        )

    def _video_to_audio(self, tokens: dict[StreamName, mx.array], args: dict[StreamName, CrossModalArgs]) -> mx.array:
        scale = SCALE_VIDEO_TO_AUDIO
        shift = SHIFT_VIDEO_TO_AUDIO
        return self.video_to_audio_attention(
            self.audio.cross_modal_input(tokens["audio"], args["audio"], scale, shift),
            self.video.cross_modal_input(tokens["video"], args["video"], scale, shift),
            rotary=args["audio"].rotary,
            context_rotary=args["video"].rotary,
            share=args["video"].share,
        )


def _attention(
    config: TransformerConfig, queries: StreamConfig, context: StreamConfig, *, heads: StreamConfig
) -> Attention:
    return Attention(
        queries.width,
        context_width=context.width,
        heads=heads.heads,
        head_dim=heads.head_dim,
        norm_eps=config.norm_eps,
        gated=config.gated_attention,
    )


def _all(skipped: np.ndarray | None) -> bool:
    return skipped is not None and bool(skipped.all())
