"""IFNet and SRVGG, ours and torch's with the same weights, timed in turns."""

from itertools import pairwise
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import torch
from comparison.in_turns import compare
from comparison.published_weights import published
from comparison.torch_networks import NewFrames, TorchIFNet, torch_srvgg

from LTX_2_MLX.models.rife import IFNet, IFNetConfig
from LTX_2_MLX.models.srvgg import SRVGG, SRVGGConfig
from LTX_2_MLX.runtime.runner import map_on_cores
from LTX_2_MLX.runtime.this_machine import memory_limits


def compare_networks(height: int, width: int, repeats: int) -> None:
    """Print a row for each network."""
    frames = np.random.default_rng(0).random((3, height, width, 3), dtype=np.float32)
    with torch.inference_mode(), memory_limits():
        compare_ifnet(frames, repeats)
        compare_srvgg(frames[:1], repeats)


def compare_ifnet(frames: np.ndarray, repeats: int) -> None:
    """One new frame, and two, which torch computes one after the other and in a batch."""
    network = IFNet(IFNetConfig())
    ours = OurFrames(network, frames)
    theirs = NewFrames(TorchIFNet(torch_weights(network)), [channels_first(frame[None]) for frame in frames])
    compare("IFNet, one frame", ours.one, lambda: channels_last(theirs.one()), repeats)
    compare("IFNet, two frames", ours.two, lambda: channels_last(theirs.two()), repeats, frames=2)
    batch = "IFNet, two frames, torch's in a batch"
    compare(batch, ours.two, lambda: channels_last(theirs.batch()), repeats, frames=2)


def compare_srvgg(frame: np.ndarray, repeats: int) -> None:
    """One frame enlarged four times."""
    network = SRVGG(SRVGGConfig(num_features=64, num_convolutions=16, scale=4))
    our_frame = mx.array(frame)
    their_frame = channels_first(frame)
    mx.eval(network.parameters(), our_frame)
    theirs = torch_srvgg(torch_weights(network), 4)
    compare(
        "SRVGG 64×16, x4",
        lambda: np.asarray(network(our_frame)),
        lambda: channels_last(theirs(their_frame)),
        repeats,
    )


class OurFrames:
    """New frames of three consecutive ones, of which the first has been encoded."""

    def __init__(self, network: IFNet, frames: np.ndarray):
        self.network = network
        self.frames = [mx.array(frame[None]) for frame in frames]
        mx.eval(network.parameters(), self.frames)
        self.features = self.encode(self.frames[0])

    def encode(self, frame: mx.array) -> mx.array:
        """A frame's features, evaluated."""
        features = self.network.encode_frame(frame)
        mx.eval(features)
        return features

    def between(self, pair: tuple[mx.array, mx.array]) -> np.ndarray:
        """The frame between two encoded ones."""
        return np.asarray(self.network.between(*pair, 0.5, 1.0))

    def one(self) -> np.ndarray:
        """The frame between the first two."""
        return self.between((self.features, self.encode(self.frames[1])))

    def two(self) -> np.ndarray:
        """Two frames, on two cores."""
        features = [self.features, *map_on_cores(self.encode, self.frames[1:])]
        return np.concatenate(map_on_cores(self.between, list(pairwise(features))))


def torch_weights(network: nn.Module) -> dict[str, Any]:
    """A network's weights for torch, on its default device."""
    device = torch.get_default_device()
    return {name: torch.from_numpy(np.array(value)).to(device) for name, value in published(network).items()}


def channels_first(frames: np.ndarray) -> Any:
    """``(B, H, W, C)`` to torch's ``(B, C, H, W)``, on its default device."""
    return torch.from_numpy(frames.transpose(0, 3, 1, 2).copy()).to(torch.get_default_device())


def channels_last(frames: Any) -> np.ndarray:
    """Torch's ``(B, C, H, W)`` to ``(B, H, W, C)``."""
    return frames.cpu().numpy().transpose(0, 2, 3, 1)
