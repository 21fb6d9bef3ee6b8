"""Low-quality frames to the tokens that steer the transformer, four frames to one latent frame of tokens."""

from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.layers.channel_norm import ChannelNorm
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.ops.resample import pixel_unshuffle

# Pixels of a token along each side.
_CELL = 16
# Frames that become one latent frame.
_TIME = 4
# Frames a convolution of kernel 4 and stride 2 sees before the ones it is given.
_SPAN = 2


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


@dataclass
class LQPast:
    """The last two input frames of each convolution; empty before a clip's start."""

    conv1: mx.array | None = None
    conv2: mx.array | None = None


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
        self.conv1 = nn.Conv3d(3 * _CELL**2, first, (4, 3, 3), stride=(2, 1, 1))
        self.norm1 = ChannelNorm(first, 1, 1, 1)
        self.conv2 = nn.Conv3d(first, second, (4, 3, 3), stride=(2, 1, 1))
        self.norm2 = ChannelNorm(second, 1, 1, 1)
        self.linear_layers = [nn.Linear(second, config.token_dim) for _ in range(config.num_layers)]

    @staticmethod
    def parameter_name(published: str) -> str | None:
        """The published name itself."""
        parts = ("conv1.", "norm1.", "conv2.", "norm2.", "linear_layers.")
        return published if published.startswith(parts) else None

    def start(self, frame: mx.array, causal: bool) -> LQPast:
        """State after a clip's first frame ``(B, 1, H, W, 3)``, which gives no tokens of its own."""
        past = LQPast()
        self._features(mx.repeat(frame, _TIME, axis=1), past, causal)
        return past

    def step(self, frames: mx.array, past: LQPast, causal: bool) -> list[mx.array]:
        """Tokens of the next four frames, for each layer; ``past`` is kept up to date."""
        features = self._features(frames, past, causal)
        return [linear(features) for linear in self.linear_layers]

    def _features(self, frames: mx.array, past: LQPast, causal: bool) -> mx.array:
        x = pixel_unshuffle(frames, (1, _CELL, _CELL)).astype(self.conv1.weight.dtype)
        before, past.conv1 = past.conv1 if causal else x[:, -_SPAN:], mx.contiguous(x[:, -_SPAN:])
        x = nn.silu(self.norm1(self.conv1(_padded(x, before))))
        mx.eval(x, past.conv1)
        before, past.conv2 = past.conv2 if causal else x[:, -_SPAN:], mx.contiguous(x[:, -_SPAN:])
        return nn.silu(self.norm2(self.conv2(_padded(x, before))))


def _padded(x: mx.array, before: mx.array | None) -> mx.array:
    """Frames ``before`` in front (the first one repeated when there are none) and edges repeated in space."""
    if before is None:
        before = mx.repeat(x[:, :1], _SPAN, axis=1)
    x = mx.concatenate([before, x], axis=1)
    return mx.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1), (0, 0)], mode="edge")
