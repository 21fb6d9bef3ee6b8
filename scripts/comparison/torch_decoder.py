"""LTX-2's video decoder in torch, to compare ours with: the plain form. Weights are those of ``torch_weights``."""

from comparison.torch_ltx import Weights

from LTX_2_MLX.models.ltx.video_vae import Block


class TorchDecoder:
    """The video decoder; ``blocks`` from the latent outwards."""

    def __init__(self, weights: Weights, blocks: list[Block], patch: int):
        self.weights = weights
        self.blocks = blocks
        self.patch = patch

    def __call__(self, latent):
        """Latent ``(B, C, T, H, W)`` to frames ``(B, 3, T, H, W)``."""
        x = self.conv(latent * self.statistic("std") + self.statistic("mean"), "conv_in")
        for number, block in enumerate(self.blocks):
            name = f"up_blocks.{number}"
            x = self.residual_group(x, name) if block.stride is None else self.upsample(x, name, block)
        x = self.conv(activate(x), "conv_out")
        return pixel_shuffle(x, (1, self.patch, self.patch), width_first=True)

    def residual_group(self, x, name: str):
        block = 0
        while f"{name}.res_blocks.{block}.conv1.conv.weight" in self.weights:
            start = f"{name}.res_blocks.{block}"
            hidden = self.conv(activate(x), f"{start}.conv1")
            x = x + self.conv(activate(hidden), f"{start}.conv2")
            block += 1
        return x

    def upsample(self, x, name: str, block: Block):
        larger = pixel_shuffle(self.conv(x, f"{name}.conv"), block.stride)
        if block.residual:
            shortcut = pixel_shuffle(x, block.stride)
            larger = larger + shortcut.repeat(1, larger.shape[1] // shortcut.shape[1], 1, 1, 1)
        return larger[:, :, block.stride[0] - 1 :]

    def conv(self, x, name: str):
        import torch.nn.functional as functional

        x = functional.pad(x, (1, 1, 1, 1, 0, 0), mode="reflect")
        x = functional.pad(x, (0, 0, 0, 0, 1, 1), mode="replicate")
        return functional.conv3d(x, self.weights[f"{name}.conv.weight"], self.weights[f"{name}.conv.bias"])

    def statistic(self, name: str):
        return self.weights[f"per_channel_statistics.{name}"][:, None, None, None]


def activate(x):
    """Pixel norm and SiLU."""
    import torch.nn.functional as functional

    return functional.silu(x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt())


def pixel_shuffle(x, stride: tuple[int, int, int], *, width_first: bool = False):
    """Channels to frames, rows and columns."""
    time, height, width = stride
    if width_first:
        x = x.unflatten(1, (-1, time, width, height)).permute(0, 1, 5, 2, 6, 4, 7, 3)
    else:
        x = x.unflatten(1, (-1, time, height, width)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)
