"""Stage from conditioning images to their latents, one for each resolution."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import mlx.core as mx

from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.diffusion.state import VideoGrid
from LTX_2_MLX.media.first_frame import read_first_frame, resize_and_crop
from LTX_2_MLX.media.image import read_image
from LTX_2_MLX.models.ltx.video_vae import VideoEncoderConfig
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder, encoder_layers
from LTX_2_MLX.models.ltx.video_vae_memory import largest_array, run_bytes
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationState, Result, contents
from LTX_2_MLX.planning.plan import Estimate, network_weights_bytes
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.shapes import VideoShape

# On the CPU, measured: bytes of a pixel while the image is resized, and those of the encoder's start. The widest
# convolution reads 27 values for each that it writes, and copies them side by side.
_PIXEL_BYTES = 126
_START_BYTES = 3_000_000
_TAPS = 27


class Sized(Protocol):
    """A denoising stage with the grid of its video."""

    @property
    def name(self) -> str:
        """The stage's name."""

    @property
    def grid(self) -> VideoGrid:
        """Latent grid of its video."""


@dataclass(frozen=True)
class EncodeImage:
    """Video encoder: each image to a latent frame at each denoising stage's resolution.

    Attributes:
        images: The files.
        models: The files with the encoder.
        shapes: By denoising stage: the size of its video in pixels.
    """

    images: tuple[Path, ...]
    models: Models
    shapes: Mapping[str, VideoShape]
    name = "image_encoder"
    needs: ClassVar[tuple[Result, ...]] = ()
    gives: ClassVar[Result] = "images"
    saved_as = "image"

    def estimate(self) -> Estimate:
        """One image at its largest resolution. An image that cannot be read is refused here."""
        for image in self.images:
            read_image(image)
        weights = self.models.video_vae
        config = config_of(VideoEncoder, weights)
        largest = max(self.shapes.values(), key=lambda shape: shape.height * shape.width)
        return Estimate(
            name=self.name,
            work="an image" if len(self.images) == 1 else f"{len(self.images)} images",
            dtype=self.models.dtype,
            file=weights.path,
            weights_bytes=network_weights_bytes([VideoEncoder], weights, dtype=self.models.dtype),
            activation_bytes=image_encoder_bytes(config, largest, self.models.dtype.size),
            array_bytes=image_array_bytes(config, largest, self.models.dtype.size),
        )

    def run(self, runner: StageRunner, state: GenerationState) -> GenerationState:
        """Encode the images at every resolution."""

        def work(encoder: VideoEncoder) -> Arrays:
            latents = {}
            for number, image in enumerate(self.images):
                pixels = read_first_frame(image, self.models.defaults.image_crf)
                for stage, shape in self.shapes.items():
                    latent = encoder.encode(resize_and_crop(pixels, shape.height, shape.width))
                    mx.eval(latent)
                    latents[f"{stage}.{number}"] = latent
            return latents

        weights = self.models.video_vae
        images = runner.run(self.name, lambda: load(VideoEncoder, weights, dtype=self.models.dtype), work)
        return replace(state, images=images)

    def facts(self) -> dict[str, Any]:
        """The images, their sizes, the checkpoint and its precision."""
        return {
            "images": contents(*self.images),
            "crf": self.models.defaults.image_crf,
            "shapes": {stage: (shape.height, shape.width) for stage, shape in self.shapes.items()},
            "weights": contents(*self.models.video_vae.paths),
            "dtype": str(self.models.dtype),
        }


def image_stage(request: Request, stages: Sequence[Sized]) -> EncodeImage:
    """The stage that encodes the request's images for each denoising stage."""
    shapes = {stage.name: stage.grid.shape.pixels(stage.grid.compression) for stage in stages}
    return EncodeImage(tuple(image.path for image in request.images), request.models, shapes)


def image_encoder_bytes(config: VideoEncoderConfig, shape: VideoShape, item_bytes: int, *, starts: bool = True) -> int:
    """Memory of encoding one image beside the weights; ``starts``: nothing larger has run before it."""
    if on_cpu():
        unfolded = _TAPS * config.in_channels * mx.float32.size
        return shape.height * shape.width * (unfolded + _PIXEL_BYTES) + starts * _START_BYTES
    return run_bytes(encoder_layers(config), (1, 1, shape.height, shape.width, 3), item_bytes)


def image_array_bytes(config: VideoEncoderConfig, shape: VideoShape, item_bytes: int) -> int:
    """Bytes of the largest array of encoding one image: a layer's, or its pixels in float32."""
    pixels = shape.height * shape.width * 3 * mx.float32.size
    return max(pixels, largest_array(encoder_layers(config), (1, 1, shape.height, shape.width, 3), item_bytes))
