"""Text contexts to the duration of a video, and durations to numbers of frames.

Source: Lightricks/LTX-2, packages/ltx-core/src/ltx_core/duration_head and
packages/ltx-pipelines/src/ltx_pipelines/utils/blocks.py at 400fd31.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.config import ConfigSection
from LTX_2_MLX.ops.activation import gelu_tanh
from LTX_2_MLX.shapes import StreamName

_PREFIX = "duration_head."
_FIELDS = {"pooler_hidden_dim", "num_queries", "num_pooler_heads", "mlp_hidden"}
_DEFAULT_HEADS = 4
_TIME_COMPRESSION = 8


@dataclass(frozen=True)
class DurationHeadConfig:
    """Sizes of the duration head.

    Attributes:
        video_width: Width of the video stream's context.
        audio_width: Width of the audio stream's context.
        width: Published as ``pooler_hidden_dim``.
        num_queries: Learned queries.
        num_heads: Published as ``num_pooler_heads``.
        mlp_width: Published as ``mlp_hidden``.
    """

    video_width: int
    audio_width: int
    width: int = 256
    num_queries: int = 1
    num_heads: int = _DEFAULT_HEADS
    mlp_width: int = 256

    @classmethod
    def from_header(cls, header: Header) -> "DurationHeadConfig | None":
        """Sizes from the tensors' shapes, the heads from the config where it has a section; None without the head.

        Raises:
            CheckpointError: If the config contradicts the tensors, or has fields that are not known.
        """
        shapes = {
            name.removeprefix(_PREFIX): info.shape for name, info in header.tensors.items() if name.startswith(_PREFIX)
        }
        try:
            width, video_width = shapes["video_input_proj.weight"]
            _, audio_width = shapes["audio_input_proj.weight"]
            num_queries, _ = shapes["attention_pooler.query_tokens"]
            mlp_width, _ = shapes["mlp_hidden.weight"]
        except (KeyError, ValueError):
            return None
        section = ConfigSection("duration_head", header.config.get("duration_head", {}), _FIELDS)
        num_heads = section.size("num_pooler_heads", _DEFAULT_HEADS)
        expected = {"pooler_hidden_dim": width, "num_queries": num_queries, "mlp_hidden": mlp_width}
        for field, value in expected.items():
            if section.size(field, value) != value:
                raise CheckpointError(
                    f"config.duration_head.{field} is {section.values[field]}, but the tensors have {value}."
                )
        if width % num_heads:
            raise CheckpointError(f"The duration head is {width} wide, which {num_heads} heads do not divide.")
        return cls(video_width, audio_width, width, num_queries, num_heads, mlp_width)


class AttentionPooler(nn.Module):
    """Attention of learned queries to tokens.

    Shape:
        ``(B, L, D)`` -> ``(B, queries * D)``.
    """

    def __init__(self, config: DurationHeadConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.query_tokens = mx.zeros((config.num_queries, config.width))
        self.q_proj = nn.Linear(config.width, config.width)
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def __call__(self, tokens: mx.array) -> mx.array:
        batch = tokens.shape[0]
        queries = mx.broadcast_to(self.query_tokens, (batch, *self.query_tokens.shape)).astype(tokens.dtype)
        head_width = tokens.shape[-1] // self.num_heads

        def heads(x: mx.array) -> mx.array:
            return x.reshape(batch, -1, self.num_heads, head_width).transpose(0, 2, 1, 3)

        pooled = mx.fast.scaled_dot_product_attention(
            heads(self.q_proj(queries)),
            heads(self.k_proj(tokens)),
            heads(self.v_proj(tokens)),
            scale=head_width**-0.5,
        )
        pooled = pooled.transpose(0, 2, 1, 3).reshape(batch, -1, tokens.shape[-1])
        return self.out_proj(pooled).reshape(batch, -1)


class DurationHead(nn.Module):
    """Duration head of LTX-2.5.

    Shape:
        contexts ``(B, L, D)`` by stream, one of them at least -> seconds ``(B,)``, float32.
    """

    Config = DurationHeadConfig

    def __init__(self, config: DurationHeadConfig):
        super().__init__()
        self.video_input_proj = nn.Linear(config.video_width, config.width)
        self.audio_input_proj = nn.Linear(config.audio_width, config.width)
        self.video_modality_emb = mx.zeros((config.width,))
        self.audio_modality_emb = mx.zeros((config.width,))
        self.attention_pooler = AttentionPooler(config)
        self.mlp_hidden = nn.Linear(config.num_queries * config.width, config.mlp_width)
        self.mlp_out = nn.Linear(config.mlp_width, 1)

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """Parameter name of a tensor; None for other networks'."""
        if not published.startswith(_PREFIX):
            return None
        return published.removeprefix(_PREFIX).replace(".cross_attn.", ".")

    @staticmethod
    def prepare(weights: Mapping[str, mx.array]) -> dict[str, mx.array]:
        """Weights with the fused input projection split into queries, keys and values."""
        prepared = dict(weights)
        for kind in ("weight", "bias"):
            fused = prepared.pop(f"attention_pooler.in_proj_{kind}", None)
            if fused is None or fused.shape[0] % 3:
                continue
            for name, rows in zip("qkv", mx.split(fused, 3), strict=True):
                prepared[f"attention_pooler.{name}_proj.{kind}"] = rows
        return prepared

    def __call__(self, contexts: Mapping[StreamName, mx.array]) -> mx.array:
        tokens = []
        if "video" in contexts:
            tokens.append(self.video_input_proj(contexts["video"]) + self.video_modality_emb)
        if "audio" in contexts:
            tokens.append(self.audio_input_proj(contexts["audio"]) + self.audio_modality_emb)
        pooled = self.attention_pooler(mx.concatenate(tokens, axis=1))
        hidden = gelu_tanh(self.mlp_hidden(pooled))
        return mx.exp(self.mlp_out(hidden).astype(mx.float32)).squeeze(-1)


def reference_frames(seconds: float, frame_rate: float, min_seconds: float, max_seconds: float) -> int:
    """The reference's number of frames for a duration.

    It leaves the grid of 8k + 1 frames where no such number lies between the limits.
    """
    low = round(min_seconds * frame_rate)
    high = round(max_seconds * frame_rate)
    frames = min(max(round(seconds * frame_rate), low), high)
    frames = max(frames - 1, 0) // _TIME_COMPRESSION * _TIME_COMPRESSION + 1
    if frames < low:
        frames = min(frames + _TIME_COMPRESSION, high)
    return frames


def frames_of_duration(
    seconds: float, frame_rate: Fraction, min_seconds: float = 1.0, max_seconds: float = 20.0
) -> int:
    """Number of frames, 8k + 1, for a duration within the limits.

    Raises:
        RequestError: If no such number lies between the limits.
    """
    frames = reference_frames(seconds, float(frame_rate), min_seconds, max_seconds)
    if frames % _TIME_COMPRESSION != 1:
        raise RequestError(
            f"No number of frames of the form 8k + 1 lies between {min_seconds:g} and {max_seconds:g} s at "
            f"{float(frame_rate):g} fps. Widen --min-duration and --max-duration, or pass --frames."
        )
    return frames


def longest_answer(min_seconds: float, max_seconds: float, frame_rate: Fraction) -> int:
    """The most frames that a head within these limits can ask for.

    Raises:
        RequestError: If the limits contradict each other, or no number of the form 8k + 1 lies between them.
    """
    if min_seconds > max_seconds:
        raise RequestError(
            f"--min-duration is {min_seconds:g}, more than --max-duration, which is {max_seconds:g}. Swap them."
        )
    return frames_of_duration(max_seconds, frame_rate, min_seconds, max_seconds)
