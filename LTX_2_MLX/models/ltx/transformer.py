"""The LTX-2 transformer: tokens, sigma and text context to velocity."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.layers.transformer import (
    Attention,
    FeedForward,
    KeysValues,
    ModulationRows,
    RotaryEmbedding,
    RotaryTable,
    TimestepModulation,
    distinct_timesteps,
    gated_add,
    modulate,
)
from LTX_2_MLX.models.ltx.config import LAYER_PATHS, PREFIX, StreamConfig, TransformerConfig
from LTX_2_MLX.ops.activation import gelu_tanh
from LTX_2_MLX.ops.collective import TokenShare
from LTX_2_MLX.ops.device import queued_if_large
from LTX_2_MLX.shapes import StreamName

if TYPE_CHECKING:
    from LTX_2_MLX.models.ltx.step_cache import StepCache

# Rows of a block's table. Those of the text attention exist where the config has text modulation.
SHIFT_SELF, SCALE_SELF, GATE_SELF, SHIFT_FF, SCALE_FF, GATE_FF, SHIFT_TEXT, SCALE_TEXT, GATE_TEXT = range(9)
# Rows of a block's cross-modal table. Unlike in the other tables, the scale comes before the shift.
SCALE_AUDIO_TO_VIDEO, SHIFT_AUDIO_TO_VIDEO, SCALE_VIDEO_TO_AUDIO, SHIFT_VIDEO_TO_AUDIO, GATE_CROSS_MODAL = range(5)


@dataclass(frozen=True)
class StreamInput:
    """One stream, video or audio, of one call. The reference's ``Modality``.

    Attributes:
        latent: Tokens ``(B, N, C)``; cast to the network's dtype.
        sigma: Noise level of each sample, ``(B,)`` float32; 0 for a frozen stream.
        positions: ``(B, axes, N, 2)`` float32 bounds ``[start, end)``: seconds, then (video) pixel row and
            column. An array of MLX or NumPy.
        context: ``(B, L, D)`` as the text features deliver it.
        timesteps: Noise level of each token, ``(B, N, 1)`` float32 (``denoise_mask * sigma``); None: every
            token is at its sample's sigma.
        context_mask: ``(B, L)``, nonzero attends; None attends to all.
        attention_mask: Weights in [0, 1] of the stream's attention to itself, ``(B, N or 1, N)``; 0 excludes.
        keyframe_mask: ``(B, N, 1)``, above 0 for tokens that hold a single pixel frame. No effect in networks
            without a keyframe embedding.
        cross_modal_sigma: Noise level ``(B,)`` that modulates all tokens in the cross-modal attention; None: each
            token's own.
        enabled: False leaves the tokens as they enter the blocks; the other stream still attends to them.
        context_projected: Whether ``context`` comes from the stream's ``project_context``.
        text_keys_values: Keys and values of each block's text attention, filled by the first call with this context;
            not for networks that modulate their text. None: computed in every call.
        share: The tokens are a share of the stream's, and ``attention_mask`` has the rows of these; other processes
            have the rest. ``timesteps`` are those of all tokens.
    """

    latent: mx.array
    sigma: mx.array
    positions: mx.array | np.ndarray
    context: mx.array
    timesteps: mx.array | None = None
    context_mask: mx.array | None = None
    attention_mask: mx.array | None = None
    keyframe_mask: mx.array | None = None
    cross_modal_sigma: mx.array | None = None
    enabled: bool = True
    context_projected: bool = False
    text_keys_values: list[KeysValues] | None = None
    share: TokenShare | None = None


@dataclass(frozen=True)
class Perturbation:
    """Attentions that one sample skips, each as a set of block numbers.

    A skipped self-attention returns its values unchanged; a skipped cross-modal attention adds nothing.
    ``range(config.num_layers)`` means all blocks.
    """

    video_self: Collection[int] = ()
    audio_self: Collection[int] = ()
    audio_to_video: Collection[int] = ()
    video_to_audio: Collection[int] = ()


@dataclass(frozen=True)
class StreamArgs:
    """What the blocks and the output layer take of one stream beside its tokens.

    Attributes:
        context: Text features ``(B, L, D)``, projected to the stream's width.
        rotary: Rotary table of the self-attention.
        modulation: Shift, scale and gate rows of the tokens' timesteps; each block adds its own table.
        timestep_embedding: One row, the embedding of the tokens' timesteps; the output layer adds its table.
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


class CaptionProjection(nn.Module):
    """Text features ``(B, L, channels)`` to the stream's width."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(channels, width)
        self.linear_2 = nn.Linear(width, width)

    def __call__(self, context: mx.array) -> mx.array:
        return self.linear_2(gelu_tanh(self.linear_1(context)))


class StreamNetwork(nn.Module):
    """The layers of one stream before and after the blocks.

    Args:
        config: Config of the whole network.
        stream: Config of this stream.
        keyframe_embedding: Whether tokens can be marked as single pixel frames.
    """

    def __init__(self, config: TransformerConfig, stream: StreamConfig, *, keyframe_embedding: bool):
        super().__init__()
        width = stream.width
        self.config = config
        self.patchify_proj = nn.Linear(stream.in_channels, width)
        if keyframe_embedding:
            self.keyframe_embedding = mx.zeros((1, width))
        if config.caption_channels is not None:
            self.caption_projection = CaptionProjection(config.caption_channels, width)
        self.adaln = TimestepModulation(width, rows=9 if config.text_modulation else 6)
        if config.prompt_modulation:
            self.prompt_adaln = TimestepModulation(width, rows=2)
        self.rotary = _rotary(config, stream, stream.max_positions)
        if config.audio is not None:
            self.cross_modal_adaln = TimestepModulation(width, rows=4)
            self.cross_modal_gate_adaln = TimestepModulation(width, rows=1)
            longest = max(config.video.max_positions[0], config.audio.max_positions[0])
            self.cross_modal_rotary = _rotary(config, config.audio, (longest,))
        self.scale_shift_table = mx.zeros((2, width))
        self.proj_out = nn.Linear(width, stream.out_channels)

    @property
    def dtype(self) -> mx.Dtype:
        """Dtype of the stream's activations."""
        return self.patchify_proj.weight.dtype

    def embed(self, latent: mx.array, keyframe_mask: mx.array | None = None) -> mx.array:
        """Tokens ``(B, N, C)`` at the stream's width; those of single pixel frames get a learned embedding."""
        tokens = self.patchify_proj(latent.astype(self.dtype))
        if "keyframe_embedding" not in self or keyframe_mask is None:
            return tokens
        return tokens + (keyframe_mask > 0).astype(self.dtype) * self.keyframe_embedding.astype(self.dtype)

    def velocity(self, tokens: mx.array, args: StreamArgs) -> mx.array:
        """Velocity ``(B, N, out_channels)`` of the tokens after the last block: modulated layer norm, linear layer."""
        shift, scale = args.timestep_embedding.rows(0, 1, table=self.scale_shift_table)
        return self.proj_out(modulate(mx.fast.layer_norm(tokens, None, None, self.config.norm_eps), scale, shift))

    def stream_args(self, stream: StreamInput) -> StreamArgs:
        """What the blocks and the output layer take of the stream beside its tokens."""
        timesteps, index = _timesteps(stream)
        rows, embedding = self.adaln(timesteps * self.config.timestep_scale)
        prompt_modulation = None
        if self.config.prompt_modulation:
            sigma = stream.sigma.astype(mx.float32)
            prompt_rows, _ = self.prompt_adaln(sigma * self.config.timestep_scale)
            prompt_modulation = ModulationRows(prompt_rows, _sample_index(sigma))
        context_mask = None if stream.context_mask is None else stream.context_mask[:, None, None] != 0
        attention_mask = stream.attention_mask
        return StreamArgs(
            context=stream.context if stream.context_projected else self.project_context(stream.context),
            rotary=self.rotary(stream.positions, self.dtype),
            modulation=ModulationRows(rows, index),
            timestep_embedding=ModulationRows(embedding[:, None], index),
            enabled=stream.enabled,
            context_mask=context_mask,
            attention_mask=None if attention_mask is None else _log_weights(attention_mask, self.dtype),
            prompt_modulation=prompt_modulation,
            share=stream.share,
        )

    def cross_modal_args(self, stream: StreamInput, other: StreamInput) -> CrossModalArgs:
        """What the cross-modal attentions take of the stream beside its tokens."""
        timesteps, index = _timesteps(stream)
        if stream.cross_modal_sigma is not None:
            timesteps = stream.cross_modal_sigma.astype(mx.float32)
            index = _sample_index(timesteps)
        rows, _ = self.cross_modal_adaln(timesteps * self.config.timestep_scale)
        # The gate is modulated by the other stream's sigma.
        sigma = other.sigma.astype(mx.float32)
        gate, _ = self.cross_modal_gate_adaln(sigma * self.config.cross_modal_gate_scale)
        return CrossModalArgs(
            modulation=ModulationRows(rows, index),
            gate=ModulationRows(gate, _sample_index(sigma)),
            rotary=self.cross_modal_rotary(np.asarray(stream.positions)[:, :1], self.dtype),
            share=stream.share,
        )

    def project_context(self, context: mx.array) -> mx.array:
        """Context at the stream's width, ``(B, L, D)``; it comes at that width where there is no projection.

        Computed once, it serves many calls (``context_projected``).
        """
        context = context.astype(self.dtype)
        return self.caption_projection(context) if "caption_projection" in self else context


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


class Transformer(nn.Module):
    """The LTX-2 transformer of a video stream and, where the config has one, an audio stream.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/transformer/{model,transformer_args}.py
    at 400fd31 (golden cases ``ltx2/transformer_*``).
    """

    Config = TransformerConfig
    BLOCKS = "blocks"

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.video = StreamNetwork(config, config.video, keyframe_embedding=config.keyframe_embedding)
        if config.audio is not None:
            self.audio = StreamNetwork(config, config.audio, keyframe_embedding=False)
        self.blocks = []
        for _ in range(config.num_layers):
            self.blocks.append(TransformerBlock(config))

    def __call__(
        self,
        video: StreamInput | None,
        audio: StreamInput | None,
        perturbations: Sequence[Perturbation] | None = None,
        *,
        blocks: Iterable[TransformerBlock] | None = None,
        evaluate_blocks: bool = False,
        step_cache: "StepCache | None" = None,
    ) -> tuple[mx.array | None, mx.array | None]:
        """Velocity (noise minus clean) of each stream, in the network's dtype.

        Args:
            video: None where the stream is absent.
            audio: The same.
            perturbations: One entry for each sample; None skips nothing.
            blocks: The blocks in order, such as blocks that are read from disk ahead of use; the network's own
                unless given.
            evaluate_blocks: Start the evaluation of each block while the one before it still runs. At most two are in
                flight, which bounds memory and keeps command buffers short enough for the macOS watchdog.
            step_cache: Of this kind of pass: the blocks are skipped while their input changes little.

        Returns:
            ``(B, N, out_channels)`` for video and audio; None for a stream that is absent or not enabled.
        """
        streams: dict[StreamName, StreamInput] = {}
        if video is not None:
            streams["video"] = video
        if audio is not None:
            streams["audio"] = audio
        tokens: dict[StreamName, mx.array] = {}
        args: dict[StreamName, StreamArgs] = {}
        for name, stream in streams.items():
            tokens[name] = self[name].embed(stream.latent, stream.keyframe_mask)
            args[name] = self[name].stream_args(stream)
        cross_modal: dict[StreamName, CrossModalArgs] = {}
        if video is not None and audio is not None:
            cross_modal["video"] = self.video.cross_modal_args(video, audio)
            cross_modal["audio"] = self.audio.cross_modal_args(audio, video)
        through_blocks = partial(
            self.through_blocks,
            streams=streams,
            args=args,
            cross_modal=cross_modal,
            perturbations=perturbations,
            blocks=self.blocks if blocks is None else blocks,
            evaluate=evaluate_blocks,
        )
        tokens = through_blocks(tokens) if step_cache is None else step_cache(tokens, args["video"], through_blocks)
        velocity: dict[StreamName, mx.array] = {}
        for name in tokens:
            if args[name].enabled:
                velocity[name] = self[name].velocity(tokens[name], args[name])
        return velocity.get("video"), velocity.get("audio")

    def through_blocks(
        self,
        tokens: dict[StreamName, mx.array],
        *,
        streams: dict[StreamName, StreamInput],
        args: dict[StreamName, StreamArgs],
        cross_modal: dict[StreamName, CrossModalArgs],
        perturbations: Sequence[Perturbation] | None,
        blocks: Iterable[TransformerBlock],
        evaluate: bool,
    ) -> dict[StreamName, mx.array]:
        """Tokens of each stream after all blocks; the arguments are those of a call and what it makes of them."""
        args = dict(args)
        for number, block in enumerate(blocks):
            skipped = _skipped(perturbations, number) if perturbations else NOTHING_SKIPPED
            for name, stream in streams.items():
                kept = stream.text_keys_values
                if kept is None or not stream.enabled:
                    continue
                if len(kept) == number:
                    kept.append(block[name].text_attention.keys_values(args[name].context))
                args[name] = replace(args[name], text_keys_values=kept[number])
            before = tokens
            tokens = block(tokens, args, cross_modal, skipped)
            if evaluate:
                mx.async_eval(tokens)
                mx.eval(before)
        return tokens

    @staticmethod
    def quantizes(path: str, config: TransformerConfig) -> bool:
        """Whether to quantize a layer: the large layers of every block except the first and the last.

        Input and output layers, modulation and gates are small, and their errors reach every token.
        """
        match = re.match(r"blocks\.(\d+)\.", path)
        if match is None or path.endswith(".to_gate_logits"):
            return False
        return 0 < int(match[1]) < config.num_layers - 1

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Name of the parameter that a published tensor holds; None for tensors of other networks."""
        if not published.startswith(PREFIX) or "_embeddings_connector." in published:
            return None
        name = published.removeprefix(PREFIX)
        if match := re.fullmatch(r"transformer_blocks\.(\d+)\.(\w+)(.*)", name):
            number, module, layer = match.groups()
            modules, path = _BLOCK_MODULES, f"blocks.{number}."
            for published_path, own_path in LAYER_PATHS.items():
                layer = layer.replace(published_path, own_path)
        else:
            module, dot, layer = name.partition(".")
            modules, path, layer = _STREAM_MODULES, "", f"{dot}{layer.removeprefix('emb.timestep_embedder.')}"
        # Modules of the audio stream have the names of the video stream's with a prefix.
        video = module.removeprefix("audio_")
        if module in modules:
            module = modules[module]
        elif module != video and video in modules:
            module = modules[video].replace("video.", "audio.", 1)
        return f"{path}{module}{layer}"


def _log_weights(weights: mx.array, dtype: mx.Dtype) -> mx.array:
    # The lowest finite value excludes a token without making a row of nothing but infinities.
    lowest = mx.array(mx.finfo(dtype).min, dtype=dtype)
    logs = mx.log(mx.maximum(weights.astype(mx.float32), mx.finfo(mx.float32).smallest_normal)).astype(dtype)
    return mx.where(weights > 0, logs, lowest)[:, None]


def _timesteps(stream: StreamInput) -> tuple[mx.array, mx.array]:
    """The stream's distinct noise levels ``(K,)``, and which of them each token has, ``(B, N or 1)``."""
    if stream.timesteps is not None:
        values, index = distinct_timesteps(stream.timesteps)
        return values, index if stream.share is None or index.shape[1] == 1 else index[:, stream.share.tokens]
    return stream.sigma.astype(mx.float32), _sample_index(stream.sigma)


def _sample_index(sigma: mx.array) -> mx.array:
    """Index ``(B, 1)`` of rows that every sample has for itself."""
    return mx.arange(len(sigma))[:, None]


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


def _rotary(config: TransformerConfig, stream: StreamConfig, max_positions: tuple[float, ...]) -> RotaryEmbedding:
    return RotaryEmbedding(
        width=stream.width,
        heads=stream.heads,
        max_positions=max_positions,
        theta=config.rotary_theta,
        pairing=config.rotary_pairing,
        precision=config.rotary_precision,
    )


def _skipped(perturbations: Sequence[Perturbation], block: int) -> SkippedAttention:
    """Which samples skip which attention in block number ``block``."""
    return SkippedAttention(
        video_self=_samples([block in sample.video_self for sample in perturbations]),
        audio_self=_samples([block in sample.audio_self for sample in perturbations]),
        audio_to_video=_samples([block in sample.audio_to_video for sample in perturbations]),
        video_to_audio=_samples([block in sample.video_to_audio for sample in perturbations]),
    )


def _samples(skipped: list[bool]) -> np.ndarray | None:
    return np.array(skipped) if any(skipped) else None


# Published module of a block, and of the network outside the blocks -> module here.
_BLOCK_MODULES = {
    "attn1": "video.self_attention",
    "attn2": "video.text_attention",
    "ff": "video.feed_forward",
    "scale_shift_table": "video.scale_shift_table",
    "prompt_scale_shift_table": "video.prompt_scale_shift_table",
    "audio_to_video_attn": "audio_to_video_attention",
    "scale_shift_table_a2v_ca_video": "video.cross_modal_table",
    "video_to_audio_attn": "video_to_audio_attention",
    "scale_shift_table_a2v_ca_audio": "audio.cross_modal_table",
}
_STREAM_MODULES = {
    "patchify_proj": "video.patchify_proj",
    "caption_projection": "video.caption_projection",
    "adaln_single": "video.adaln",
    "prompt_adaln_single": "video.prompt_adaln",
    "keyframes_abs_pos_embedding": "video.keyframe_embedding",
    "scale_shift_table": "video.scale_shift_table",
    "proj_out": "video.proj_out",
    "av_ca_video_scale_shift_adaln_single": "video.cross_modal_adaln",
    "av_ca_a2v_gate_adaln_single": "video.cross_modal_gate_adaln",
    "av_ca_audio_scale_shift_adaln_single": "audio.cross_modal_adaln",
    "av_ca_v2a_gate_adaln_single": "audio.cross_modal_gate_adaln",
}
