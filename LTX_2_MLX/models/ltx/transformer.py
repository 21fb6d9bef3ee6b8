"""Tokens, sigma and text context to velocity. Knows nothing of guidance, schedules or files."""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from LTX_2_MLX.layers.embedding import ModulationRows, TimestepModulation, distinct_timesteps
from LTX_2_MLX.layers.feed_forward import gelu
from LTX_2_MLX.layers.norm import layer_norm, modulate
from LTX_2_MLX.layers.rope import RotaryEmbedding
from LTX_2_MLX.models.ltx.transformer_block import Skips, Stream, TransformerBlock
from LTX_2_MLX.models.ltx.transformer_config import PREFIX, StreamConfig, TransformerConfig, layer_name


@dataclass(frozen=True)
class StreamInput:
    """One stream, video or audio, of one call.

    Attributes:
        latent: Tokens ``(B, N, C)``; cast to the network's dtype.
        sigma: Noise level of each sample, ``(B,)`` float32; 0 for a stream that is held fixed.
        positions: ``(B, axes, N, 2)`` float32 bounds ``[start, end)``: seconds, then (video) pixel row and
            column. An array of MLX or NumPy.
        context: ``(B, L, D)`` as the text features deliver it.
        timesteps: Noise level of each token, ``(B, N, 1)`` float32 (``denoise_mask * sigma``); None: every
            token is at its sample's sigma.
        context_mask: ``(B, L)``, nonzero attends; None attends to all.
        attention_mask: Weights in [0, 1] of the stream's attention to itself, ``(B, N or 1, N)``; 0 excludes.
        keyframe_mask: ``(B, N, 1)``, above 0 for tokens that hold a single pixel frame. Without effect in
            networks that have no keyframe embedding.
        enabled: False: tokens stay as they enter the blocks, while the other stream attends to them.
        context_projected: ``context`` comes from ``Transformer.project_context``.
    """

    latent: mx.array
    sigma: mx.array
    positions: mx.array | np.ndarray
    context: mx.array
    timesteps: mx.array | None = None
    context_mask: mx.array | None = None
    attention_mask: mx.array | None = None
    keyframe_mask: mx.array | None = None
    enabled: bool = True
    context_projected: bool = False


@dataclass(frozen=True)
class Perturbation:
    """Attentions that one sample goes without, each as the numbers of the blocks that skip it.

    A skipped self-attention passes its values on in place of its result; a skipped attention between the
    streams adds nothing. ``range(config.num_layers)`` names all blocks.
    """

    video_self: Collection[int] = ()
    audio_self: Collection[int] = ()
    audio_to_video: Collection[int] = ()
    video_to_audio: Collection[int] = ()


class StreamEnds(nn.Module):
    """One stream's way into the blocks and out of them.

    Args:
        config: Of the whole network.
        stream: Of this stream.
        keyframe_embedding: Whether tokens can be marked as single pixel frames.
    """

    def __init__(self, config: TransformerConfig, stream: StreamConfig, *, keyframe_embedding: bool):
        super().__init__()
        width, between = stream.width, config.audio is not None
        self.project_in = nn.Linear(stream.in_channels, width)
        if config.caption_channels is not None:
            self.caption_projection = CaptionProjection(config.caption_channels, width)
        self.adaln = TimestepModulation(width, rows=9 if config.text_modulation else 6)
        if config.prompt_modulation:
            self.prompt_adaln = TimestepModulation(width, rows=2)
        if keyframe_embedding:
            self.keyframe_embedding = mx.zeros((1, width))
        if between:
            self.exchange_adaln = TimestepModulation(width, rows=4)
            self.exchange_gate_adaln = TimestepModulation(width, rows=1)
        self.scale_shift_table = mx.zeros((2, width))
        self.project_out = nn.Linear(width, stream.out_channels)
        self.config = config
        rotary = {
            "heads": stream.heads,
            "theta": config.rotary_theta,
            "pairing": config.rotary_pairing,
            "precision": config.rotary_precision,
        }
        self.rotary = RotaryEmbedding(width=width, max_positions=stream.max_positions, **rotary)
        if between:
            # The streams meet in time alone, at the audio stream's width.
            longest = max(config.video.max_positions[0], config.audio.max_positions[0])
            self.exchange_rotary = RotaryEmbedding(width=config.audio.width, max_positions=(longest,), **rotary)

    @property
    def dtype(self) -> mx.Dtype:
        """What the stream computes in."""
        return self.project_in.weight.dtype

    def enter(self, given: StreamInput, other: StreamInput | None) -> tuple[Stream, mx.array]:
        """The stream as the blocks take it, and the embedding of its timesteps ``(K, D)``."""
        sigma = given.sigma.astype(mx.float32)
        each = mx.arange(len(sigma))[:, None]
        values, index = (sigma, each) if given.timesteps is None else distinct_timesteps(given.timesteps)
        timesteps = values * self.config.timestep_scale
        rows, embedded = self.adaln(timesteps)
        prompt = exchange = exchange_gate = exchange_rotary = None
        if self.config.prompt_modulation:
            prompt = ModulationRows(self.prompt_adaln(sigma * self.config.timestep_scale)[0], each)
        if other is not None:
            exchange = ModulationRows(self.exchange_adaln(timesteps)[0], index)
            # What a stream lets in depends on how noisy the other one is.
            heard = other.sigma.astype(mx.float32) * self.config.exchange_gate_scale
            exchange_gate = ModulationRows(self.exchange_gate_adaln(heard)[0], each)
            exchange_rotary = self.exchange_rotary(np.asarray(given.positions)[:, :1], self.dtype)
        stream = Stream(
            tokens=self._tokens(given),
            context=self.project_context(given.context) if not given.context_projected else given.context,
            rotary=self.rotary(given.positions, self.dtype),
            modulation=ModulationRows(rows, index),
            enabled=given.enabled,
            context_mask=None if given.context_mask is None else given.context_mask[:, None, None] != 0,
            attention_mask=None if given.attention_mask is None else _log_weights(given.attention_mask, self.dtype),
            prompt=prompt,
            exchange=exchange,
            exchange_gate=exchange_gate,
            exchange_rotary=exchange_rotary,
        )
        return stream, embedded

    def _tokens(self, given: StreamInput) -> mx.array:
        tokens = self.project_in(given.latent.astype(self.dtype))
        if "keyframe_embedding" not in self or given.keyframe_mask is None:
            return tokens
        return tokens + (given.keyframe_mask > 0).astype(self.dtype) * self.keyframe_embedding.astype(self.dtype)

    def project_context(self, context: mx.array) -> mx.array:
        """Context at the stream's width, ``(B, L, D)``; already so where the network has no projection."""
        context = context.astype(self.dtype)
        return self.caption_projection(context) if "caption_projection" in self else context

    def leave(self, stream: Stream, embedded: mx.array) -> mx.array:
        """Tokens after the last block to velocity, ``(B, N, out_channels)``."""
        rows = ModulationRows(embedded[:, None], stream.modulation.index).plus(self.scale_shift_table)
        normed = layer_norm(stream.tokens, self.config.norm_eps)
        return self.project_out(modulate(normed, scale=rows.row(1), shift=rows.row(0)))


class CaptionProjection(nn.Module):
    """Text features ``(B, L, channels)`` to the stream's width."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.linear_1 = nn.Linear(channels, width)
        self.linear_2 = nn.Linear(width, width)

    def __call__(self, context: mx.array) -> mx.array:
        return self.linear_2(gelu(self.linear_1(context)))


class Transformer(nn.Module):
    """The LTX-2 transformer of one or two streams.

    Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/model/transformer/{model,transformer_args}.py
    at 400fd31 (golden cases ``ltx2/transformer_*``).
    """

    Config = TransformerConfig
    BLOCKS = "blocks"

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.video = StreamEnds(config, config.video, keyframe_embedding=config.keyframe_embedding)
        if config.audio is not None:
            self.audio = StreamEnds(config, config.audio, keyframe_embedding=False)
        self.blocks = [TransformerBlock(config) for _ in range(config.num_layers)]

    def __call__(
        self,
        video: StreamInput | None,
        audio: StreamInput | None,
        perturbations: Sequence[Perturbation] | None = None,
        *,
        blocks: Iterable[TransformerBlock] | None = None,
        on_block: Callable[[int, tuple[mx.array, ...]], None] | None = None,
    ) -> tuple[mx.array | None, mx.array | None]:
        """Velocity (noise minus clean) of each stream, in the network's dtype.

        Args:
            video: None where the stream is absent.
            audio: The same.
            perturbations: One entry for each sample; None skips nothing.
            blocks: The blocks in order, where they come from elsewhere than the network itself.
            on_block: Called after each block with its number and the tokens of the streams; evaluating them
                there bounds memory and the length of a command buffer.

        Returns:
            ``(B, N, out_channels)`` for video and audio; None for a stream that is absent or not enabled.
        """
        video_stream, video_embedded = (None, None) if video is None else self.video.enter(video, audio)
        audio_stream, audio_embedded = (None, None) if audio is None else self.audio.enter(audio, video)
        for number, block in enumerate(self.blocks if blocks is None else blocks):
            video_stream, audio_stream = block(video_stream, audio_stream, _skips(perturbations, number))
            if on_block is not None:
                on_block(number, tuple(s.tokens for s in (video_stream, audio_stream) if s is not None))
        return (
            self.video.leave(video_stream, video_embedded) if video is not None and video.enabled else None,
            self.audio.leave(audio_stream, audio_embedded) if audio is not None and audio.enabled else None,
        )

    def project_context(
        self, video: mx.array | None, audio: mx.array | None = None
    ) -> tuple[mx.array | None, mx.array | None]:
        """Contexts as the blocks take them, to be computed once for many calls (``context_projected``)."""
        return (
            None if video is None else self.video.project_context(video),
            None if audio is None else self.audio.project_context(audio),
        )

    @staticmethod
    def quantizes(path: str, config: TransformerConfig) -> bool:
        """Whether a layer may hold few bits: the large ones of every block but the first and the last.

        What enters and leaves the blocks, modulation and gates are small, and errors there reach every token.
        """
        match = re.match(r"blocks\.(\d+)\.", path)
        return bool(match) and 0 < int(match[1]) < config.num_layers - 1 and not path.endswith(".to_gate_logits")

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Name of the parameter that a published tensor holds; None for tensors of other networks."""
        if not published.startswith(PREFIX) or "_embeddings_connector." in published:
            return None
        name = published.removeprefix(PREFIX)
        if match := re.fullmatch(r"transformer_blocks\.(\d+)\.(\w+)(.*)", name):
            number, part, rest = match.groups()
            return f"blocks.{number}.{_renamed(part, _BLOCK_PARTS)}{layer_name(rest)}"
        part, dot, rest = name.partition(".")
        return f"{_renamed(part, _END_PARTS)}{dot}{rest.removeprefix('emb.timestep_embedder.')}"


def evaluate_each(blocks: int = 1) -> Callable[[int, tuple[mx.array, ...]], None]:
    """An ``on_block`` that starts evaluation after every ``blocks`` blocks, while the one before still runs.

    At most two such groups are in flight, which bounds memory and keeps command buffers short enough for
    the watchdog of macOS.
    """
    running: list[tuple[mx.array, ...]] = []

    def on_block(number: int, tokens: tuple[mx.array, ...]) -> None:
        if (number + 1) % blocks:
            return
        mx.async_eval(*tokens)
        running.append(tokens)
        if len(running) > 1:
            mx.eval(*running.pop(0))

    return on_block


def _log_weights(weights: mx.array, dtype: mx.Dtype) -> mx.array:
    # The lowest finite value excludes a token without making a row of nothing but infinities.
    lowest = mx.array(mx.finfo(dtype).min, dtype=dtype)
    logs = mx.log(mx.maximum(weights.astype(mx.float32), mx.finfo(mx.float32).smallest_normal)).astype(dtype)
    return mx.where(weights > 0, logs, lowest)[:, None]


def _skips(perturbations: Sequence[Perturbation] | None, number: int) -> Skips:
    def skipped(kind: str) -> np.ndarray | None:
        samples = np.array([number in getattr(sample, kind) for sample in perturbations])
        return samples if samples.any() else None

    return Skips(**{kind: skipped(kind) for kind in Skips.__dataclass_fields__}) if perturbations else Skips()


# Published parts of a block, and of the network around the blocks, by where they are here.
_BLOCK_PARTS = {
    "attn1": "video.self_attention",
    "attn2": "video.text_attention",
    "ff": "video.feed_forward",
    "scale_shift_table": "video.scale_shift_table",
    "prompt_scale_shift_table": "video.prompt_scale_shift_table",
    "audio_to_video_attn": "video.exchange_attention",
    "scale_shift_table_a2v_ca_video": "video.exchange_table",
    "video_to_audio_attn": "audio.exchange_attention",
    "scale_shift_table_a2v_ca_audio": "audio.exchange_table",
}
_END_PARTS = {
    "patchify_proj": "video.project_in",
    "caption_projection": "video.caption_projection",
    "adaln_single": "video.adaln",
    "prompt_adaln_single": "video.prompt_adaln",
    "keyframes_abs_pos_embedding": "video.keyframe_embedding",
    "scale_shift_table": "video.scale_shift_table",
    "proj_out": "video.project_out",
    "av_ca_video_scale_shift_adaln_single": "video.exchange_adaln",
    "av_ca_a2v_gate_adaln_single": "video.exchange_gate_adaln",
    "av_ca_audio_scale_shift_adaln_single": "audio.exchange_adaln",
    "av_ca_v2a_gate_adaln_single": "audio.exchange_gate_adaln",
}


def _renamed(part: str, parts: dict[str, str]) -> str:
    if part in parts:
        return parts[part]
    # The audio stream's parts carry the video stream's names behind a prefix.
    own = parts.get(part.removeprefix("audio_"), "")
    return own.replace("video.", "audio.", 1) if part.startswith("audio_") and own else part
