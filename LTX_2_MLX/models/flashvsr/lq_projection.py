"""FlashVSR's projector: low-quality frames to tokens for the transformer, four frames to one latent frame of tokens."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.layers.channel_norm import ChannelNorm
from LTX_2_MLX.layers.streaming import WHOLE_CLIP, StreamState, join_frames
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.ops.activation import silu
from LTX_2_MLX.ops.conv import pixel_unshuffle

# Pixels of a token along each side.
_CELL = 16
# Frames that become one latent frame.
_TIME = 4
# Of both convolutions, in frames.
_KERNEL = 4
_STRIDE = 2


@dataclass(frozen=True)
class LQProjectionConfig:
    """Sizes of the projector.

    Attributes:
        widths: Channels after each convolution, ``hidden_dim1`` and ``hidden_dim2``.
        token_dim: Features of a token, ``out_dim``.
        num_layers: Transformer blocks that get tokens of their own, ``layer_num``.
    """

    widths: tuple[int, int]
    token_dim: int
    num_layers: int

    @classmethod
    def from_header(cls, header: Header) -> "LQProjectionConfig | None":
        """Sizes from the shapes; None without the projector's layers."""
        shapes = {name: info.shape for name, info in header.tensors.items()}
        conv1, conv2 = shapes.get("conv1.weight", ()), shapes.get("conv2.weight", ())
        linear = shapes.get("linear_layers.0.weight", ())
        if len(conv1) != 5 or len(conv2) != 5 or len(linear) != 2:
            return None
        if conv1[1] != 3 * _CELL**2:
            raise CheckpointError(
                f"The projector's conv1 takes {conv1[1]} channels, expected {3 * _CELL**2} (RGB blocks of "
                f"{_CELL}x{_CELL} pixels). Use FlashVSR's LQ_proj_in."
            )
        num_layers = sum(name.startswith("linear_layers.") and name.endswith(".weight") for name in shapes)
        return cls(widths=(conv1[0], conv2[0]), token_dim=linear[0], num_layers=num_layers)


class LQProjection(nn.Module):
    """FlashVSR's projector of low-quality frames.

    Shape:
        frames ``(B, 4, H, W, 3)`` in [-1, 1] -> for each of ``num_layers``, tokens ``(B, 1, H / 16, W / 16, D)``.

    v1 and v1.1 have the same tensors and differ in what a convolution sees before its first frame: in v1.1 the
    end of the frames before (``causal``), in v1 the end of the same frames, which is how it was trained.

    Source: Hakaze/wan2gp-flashvsr, src/models/utils.py at 4f0afc1 (``Buffer_LQ4x_Proj``, ``Causal_LQ4x_Proj``).
    """

    Config = LQProjectionConfig

    def __init__(self, config: LQProjectionConfig):
        super().__init__()
        first, second = config.widths
        self.config = config
        self.conv1 = nn.Conv3d(3 * _CELL**2, first, (_KERNEL, 3, 3), stride=(_STRIDE, 1, 1))
        self.norm1 = ChannelNorm(first, 1, 1, 1)
        self.conv2 = nn.Conv3d(first, second, (_KERNEL, 3, 3), stride=(_STRIDE, 1, 1))
        self.norm2 = ChannelNorm(second, 1, 1, 1)
        self.linear_layers = [nn.Linear(second, config.token_dim) for _ in range(config.num_layers)]

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """The published name itself."""
        prefixes = ("conv1.", "norm1.", "conv2.", "norm2.", "linear_layers.")
        return published if published.startswith(prefixes) else None

    def __call__(self, frames: mx.array, causal: bool, state: StreamState = WHOLE_CLIP) -> list[mx.array]:
        """Tokens for each of ``num_layers``, of the next frames of a clip.

        Args:
            frames: A clip's first frame alone, which gives no tokens of its own, then four frames a call.
            causal: Whether the convolutions see the frames before, as in v1.1.
            state: Of the clip.
        """
        first_frame, later = state.split_start(frames, 1)
        # The first frame stands for four.
        x = join_frames(mx.repeat(first_frame, _TIME, axis=1), later)
        features = self._features(x, causal, state)
        _, features = state["features"].split_start(features, 1)
        return [linear(features) for linear in self.linear_layers]

    def _features(self, frames: mx.array, causal: bool, state: StreamState) -> mx.array:
        x = pixel_unshuffle(frames, (1, _CELL, _CELL)).astype(self.conv1.weight.dtype)
        x = silu(self.norm1(self.conv1(_window(x, causal, state["conv1"]))))
        x = state.checkpoint(x)
        x = silu(self.norm2(self.conv2(_window(x, causal, state["conv2"]))))
        return state.checkpoint(x)


def _window(x: mx.array, causal: bool, state: StreamState) -> mx.array:
    """What a convolution reads for the frames ``x``, edges repeated in space."""
    if causal:
        frames = state.window(x, _KERNEL, stride=_STRIDE, before=_KERNEL - _STRIDE)
    else:
        frames = mx.concatenate([x[:, _STRIDE - _KERNEL :], x], axis=1)
    return mx.pad(frames, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
