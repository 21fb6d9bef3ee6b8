"""IFNet and SRVGG in torch, to compare ours with: the plain form, as anyone would write it there.

Weights come under the published names and in published axis order.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

Weights = dict[str, Any]
BLOCK_SCALES = (8, 4, 2, 1)


def torch_srvgg(weights: Weights, scale: int) -> Callable:
    """Frames ``(B, 3, H, W)`` to larger ones."""
    import torch.nn.functional as functional

    last = max(int(name.split(".")[1]) for name in weights)

    def conv(x, i: int):
        return functional.conv2d(x, weights[f"body.{i}.weight"], weights[f"body.{i}.bias"], padding=1)

    def network(frames):
        x = frames
        for i in range(0, last, 2):
            x = functional.prelu(conv(x, i), weights[f"body.{i + 1}.weight"])
        x = conv(x, last)
        return functional.pixel_shuffle(x, scale) + functional.interpolate(frames, scale_factor=scale)

    return network


class TorchIFNet:
    """IFNet 4.22.lite over frames ``(B, 3, H, W)`` and their features."""

    def __init__(self, weights: Weights):
        self.weights = weights

    def encode(self, frames):
        """Features of frames, at their size."""
        x = leaky(self.conv(frames, "encode.cnn0", stride=2))
        x = leaky(self.conv(x, "encode.cnn1"))
        x = leaky(self.conv(x, "encode.cnn2"))
        return self.conv_transpose(x, "encode.cnn3")

    def between(self, first, second, first_features, second_features, fraction: float = 0.5):
        """The frame between two."""
        import torch

        plane = torch.full_like(first[:, :1], fraction)
        x = torch.cat([first, second, first_features, second_features, plane], 1)
        flow, estimate = self.block(0, resize(x, 1 / BLOCK_SCALES[0]), BLOCK_SCALES[0])
        for i, scale in enumerate(BLOCK_SCALES[1:], start=1):
            warped = [warp(first, flow[:, :2]), warp(second, flow[:, 2:])]
            warped += [warp(first_features, flow[:, :2]), warp(second_features, flow[:, 2:])]
            x = resize(torch.cat([*warped, plane, estimate], 1), 1 / scale)
            x = torch.cat([x, resize(flow, 1 / scale) / scale], 1)
            change, estimate = self.block(i, x, scale)
            flow = flow + change
        mask = torch.sigmoid(estimate[:, :1])
        return warp(first, flow[:, :2]) * mask + warp(second, flow[:, 2:]) * (1 - mask)

    def block(self, i: int, x, scale: int):
        """Flow in pixels of the frames, and the estimate that the next block takes."""
        import torch.nn.functional as functional

        x = leaky(self.conv(x, f"block{i}.conv0.0.0", stride=2))
        x = leaky(self.conv(x, f"block{i}.conv0.1.0", stride=2))
        for j in range(8):
            name = f"block{i}.convblock.{j}"
            x = leaky(self.conv(x, f"{name}.conv") * self.weights[f"{name}.beta"] + x)
        x = functional.pixel_shuffle(self.conv_transpose(x, f"block{i}.lastconv.0"), 2)
        x = resize(x, scale)
        return x[:, :4] * scale, x[:, 4:]

    def conv(self, x, name: str, stride: int = 1):
        """A convolution of 3×3."""
        import torch.nn.functional as functional

        weight = self.weights[f"{name}.weight"]
        return functional.conv2d(x, weight, self.weights[f"{name}.bias"], stride=stride, padding=1)

    def conv_transpose(self, x, name: str):
        """A transposed convolution that doubles the size."""
        import torch.nn.functional as functional

        weight = self.weights[f"{name}.weight"]
        return functional.conv_transpose2d(x, weight, self.weights[f"{name}.bias"], stride=2, padding=1)


def leaky(x):
    """The activation, in place."""
    import torch.nn.functional as functional

    return functional.leaky_relu(x, 0.2, inplace=True)


def resize(x, factor: float):
    """Bilinear."""
    import torch.nn.functional as functional

    return x if factor == 1 else functional.interpolate(x, scale_factor=factor, mode="bilinear")


def warp(x, flow):
    """Sample ``x`` where the flow points to, in pixels."""
    import torch
    import torch.nn.functional as functional

    height, width = x.shape[2:]
    columns = torch.linspace(-1, 1, width) + flow[:, 0] / ((width - 1) / 2)
    rows = torch.linspace(-1, 1, height)[:, None] + flow[:, 1] / ((height - 1) / 2)
    grid = torch.stack([columns, rows], dim=-1)
    return functional.grid_sample(x, grid, padding_mode="border", align_corners=True)


class NewFrames:
    """Ways to interpolate three consecutive frames, of which the first has been encoded."""

    def __init__(self, network: TorchIFNet, frames: list):
        self.network = network
        self.frames = frames
        self.features = network.encode(frames[0])

    def one(self):
        """The frame between the first two."""
        return self.network.between(*self.frames[:2], self.features, self.network.encode(self.frames[1]))

    def two(self):
        """Two frames, one after the other."""
        import torch

        features = [self.features, *map(self.network.encode, self.frames[1:])]
        pairs = zip(pairwise(self.frames), pairwise(features), strict=True)
        return torch.cat([self.network.between(*frames, *encoded) for frames, encoded in pairs])

    def batch(self):
        """Two frames in a batch."""
        import torch

        new = torch.cat(self.frames[1:])
        features = self.network.encode(new)
        first_features = torch.cat([self.features, features[:1]])
        return self.network.between(torch.cat(self.frames[:2]), new, first_features, features)
