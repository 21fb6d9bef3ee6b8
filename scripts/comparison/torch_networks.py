"""IFNet and SRVGG in torch, to hold ours against: the plain form, as anyone would write it there.

Weights come under the published names and in published axis order.
"""

from collections.abc import Callable
from itertools import pairwise


def torch_srvgg(weights: dict, scale: int) -> Callable:
    """Frames ``(B, 3, H, W)`` to larger ones."""
    import torch.nn.functional as functional

    last = max(int(name.split(".")[1]) for name in weights)

    def network(frames):
        hidden = frames
        for i in range(0, last, 2):
            hidden = functional.conv2d(hidden, weights[f"body.{i}.weight"], weights[f"body.{i}.bias"], padding=1)
            hidden = functional.prelu(hidden, weights[f"body.{i + 1}.weight"])
        hidden = functional.conv2d(hidden, weights[f"body.{last}.weight"], weights[f"body.{last}.bias"], padding=1)
        return functional.pixel_shuffle(hidden, scale) + functional.interpolate(frames, scale_factor=scale)

    return network


def torch_ifnet(weights: dict) -> tuple[Callable, Callable]:
    """An encoder of frames ``(B, 3, H, W)``, and the network over two frames and their features."""
    import torch
    import torch.nn.functional as functional

    def leaky(x):
        return functional.leaky_relu(x, 0.2, inplace=True)

    def convolved(x, name: str, stride: int = 1):
        return functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=stride, padding=1)

    def doubled(x, name: str):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.conv_transpose2d(x, weight, bias, stride=2, padding=1)

    def resized(x, factor: float):
        return x if factor == 1 else functional.interpolate(x, scale_factor=factor, mode="bilinear")

    def encode(frames):
        hidden = leaky(convolved(frames, "encode.cnn0", 2))
        hidden = leaky(convolved(leaky(convolved(hidden, "encode.cnn1")), "encode.cnn2"))
        return doubled(hidden, "encode.cnn3")

    def estimate(i: int, x, scale: int):
        x = leaky(convolved(leaky(convolved(x, f"block{i}.conv0.0.0", 2)), f"block{i}.conv0.1.0", 2))
        for j in range(8):
            name = f"block{i}.convblock.{j}"
            x = leaky(convolved(x, f"{name}.conv") * weights[f"{name}.beta"] + x)
        x = resized(functional.pixel_shuffle(doubled(x, f"block{i}.lastconv.0"), 2), scale)
        return x[:, :4] * scale, x[:, 4:]

    def warp(x, flow):
        height, width = x.shape[2:]
        columns = torch.linspace(-1, 1, width) + flow[:, 0] / ((width - 1) / 2)
        rows = torch.linspace(-1, 1, height)[:, None] + flow[:, 1] / ((height - 1) / 2)
        grid = torch.stack([columns, rows], dim=-1)
        return functional.grid_sample(x, grid, padding_mode="border", align_corners=True)

    def network(first, second, features_1, features_2, fraction: float = 0.5):
        plane, flow, rest = torch.full_like(first[:, :1], fraction), None, None
        for i, scale in enumerate((8, 4, 2, 1)):
            if flow is None:
                x = resized(torch.cat([first, second, features_1, features_2, plane], 1), 1 / scale)
            else:
                to_first, to_second = flow[:, :2], flow[:, 2:]
                pulled = [warp(first, to_first), warp(second, to_second)]
                pulled += [warp(features_1, to_first), warp(features_2, to_second)]
                x = resized(torch.cat([*pulled, plane, rest], 1), 1 / scale)
                x = torch.cat([x, resized(flow, 1 / scale) / scale], 1)
            change, rest = estimate(i, x, scale)
            flow = change if flow is None else flow + change
        share = torch.sigmoid(rest[:, :1])
        return warp(first, flow[:, :2]) * share + warp(second, flow[:, 2:]) * (1 - share)

    return encode, network


def new_frames(encode: Callable, network: Callable, frames: list) -> tuple[Callable, Callable, Callable]:
    """Ways to what lies between frames, of which the first has been encoded: of two; of three, one after the other; of
    three, in a batch."""
    import torch

    features = encode(frames[0])

    def one():
        return network(*frames[:2], features, encode(frames[1]))

    def two():
        known = [features, encode(frames[1]), encode(frames[2])]
        pairs = zip(pairwise(frames), pairwise(known), strict=True)
        return torch.cat([network(*clip, *seen) for clip, seen in pairs])

    def batch():
        new = torch.cat(frames[1:])
        known = encode(new)
        return network(torch.cat(frames[:2]), new, torch.cat([features, known[:1]]), known)

    return one, two, batch
