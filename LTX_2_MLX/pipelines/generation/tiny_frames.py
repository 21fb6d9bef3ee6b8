"""Single frames by the tiny decoder, for previews of models whose own decoder is a diffusion decoder."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.resolve import open_checkpoint
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.media.frames import signed_to_levels
from LTX_2_MLX.models.tae import TinyAutoencoder
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.planning.plan import Estimate, network_weights_bytes
from LTX_2_MLX.shapes import Compression, LatentShape

NAME = "taeltx2_3"
# Cells of the decoder's last level to one of the latent.
_LAST_LEVEL = 8
# Arrays of the last levels that live at once, as wide as these levels, and those that a CPU lays out for a convolution;
# measured on the CPU.
_ARRAYS = 8
_UNFOLDED = 24


@dataclass(frozen=True)
class TinyFrames:
    """The tiny decoder, on single frames.

    Attributes:
        weights: Its checkpoint.
        shape: A latent of one frame.
        dtype: Precision.
    """

    weights: Checkpoint
    shape: LatentShape
    dtype: mx.Dtype

    def estimate(self) -> Estimate:
        """Memory of the decoder and of one frame."""
        widths = config_of(TinyAutoencoder, self.weights).decoder_widths[-2:]
        cells = _LAST_LEVEL**2 * self.shape.height * self.shape.width
        arrays = _ARRAYS + (_UNFOLDED if on_cpu() else 0)
        return Estimate(
            name="preview",
            work="single frames",
            dtype=self.dtype,
            file=self.weights.path,
            weights_bytes=network_weights_bytes([TinyAutoencoder], self.weights, dtype=self.dtype),
            activation_bytes=cells * max(widths) * arrays * self.dtype.size,
        )

    def load(self) -> TinyAutoencoder:
        """The network."""
        return load(TinyAutoencoder, self.weights, dtype=self.dtype)

    def frame(self, network: TinyAutoencoder, latent: mx.array) -> np.ndarray:
        """The frame ``(H, W, 3)`` uint8 of one latent frame ``(1, 1, H', W', C)``."""
        return signed_to_levels(network.decode(latent)[0, 0])


def open_tiny_decoder(compression: Compression, channels: int) -> Checkpoint:
    """The tiny decoder's file, by its name in the catalogue.

    Args:
        compression: Of the model's latents.
        channels: Likewise.

    Raises:
        CheckpointError: If it is not on this machine, or decodes other latents.
    """
    weights = open_checkpoint(NAME, "decoder")
    config = config_of(TinyAutoencoder, weights)
    if (config.compression, config.latent_channels) != (compression, channels):
        raise CheckpointError(
            f"{weights.path} decodes latents of {config.latent_channels} channels, {config.compression}, but the model "
            f"makes {channels} channels, {compression}. Give --video-vae the file with the convolutional decoder."
        )
    return weights
