"""Carried keyframes of detail-fidelity rendering at a larger size, by way of their pixels.

Source: huggingface/diffusers 0.42.1, pipelines/ltx2/pipeline_ltx2_dfr.py (``rebuild_epilogue_keyframes``).
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
from PIL import Image

from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.media.frames import signed_to_levels, to_signed
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder, decoder_layers
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.models.ltx.video_vae_memory import decoder_bytes, largest_array
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.image import image_array_bytes, image_encoder_bytes
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationState, Result, contents
from LTX_2_MLX.planning.plan import Estimate, network_weights_bytes
from LTX_2_MLX.runtime.runner import StageRunner, check_result
from LTX_2_MLX.shapes import LatentShape

_SCALE = 2


def enlarge(image: np.ndarray, scale: int = 2) -> np.ndarray:
    """An 8-bit image ``(H, W, 3)`` at ``scale`` times the size, by Pillow's Lanczos filter."""
    height, width = image.shape[:2]
    larger = Image.fromarray(image).resize((scale * width, scale * height), Image.Resampling.LANCZOS)
    return np.asarray(larger)


def enlarged_keyframe(latent: mx.array, decoder: VideoDecoder, encoder: VideoEncoder, scale: int = 2) -> mx.array:
    """The latent ``(1, 1, H, W, C)`` of a single frame, decoded, enlarged and encoded as a clip of its own.

    The decoder looks across frames, and the latent upscaler's norms run over the whole clip, so keyframes that lie
    far apart go through neither together.
    """
    frame = signed_to_levels(decoder.decode(latent)[0, 0])
    return encoder.encode(to_signed(enlarge(frame, scale))[None, None])


@dataclass(frozen=True)
class EnlargeKeyframes:
    """Video decoder and encoder: the keyframes at twice the size, one by one.

    Attributes:
        models: The files with both.
        shape: Size of the keyframes' latents; its frames are their number.
        waiting_bytes: Memory of results that wait for later stages.
    """

    models: Models
    shape: LatentShape
    waiting_bytes: int = 0
    name = "keyframes"
    needs: ClassVar[tuple[Result, ...]] = ("latents",)
    gives: ClassVar[Result] = "latents"
    saved_as = "keyframes"

    def estimate(self) -> Estimate:
        """One keyframe: decoded, or encoded at the larger size."""
        models = self.models
        weights = models.video_vae
        config = config_of(VideoDecoder, weights)
        latent = replace(self.shape, num_frames=1)
        small = latent.pixels(models.compression)
        large = replace(small, height=_SCALE * small.height, width=_SCALE * small.width)
        item_bytes = models.dtype.size
        encoder = config_of(VideoEncoder, weights)
        encoding = image_encoder_bytes(encoder, large, item_bytes, starts=False)
        decoding = decoder_bytes(config, latent, item_bytes=item_bytes)
        decoded = largest_array(decoder_layers(config), (1, 1, latent.height, latent.width), item_bytes)
        return Estimate(
            name=self.name,
            work=f"{self.shape.num_frames} keyframes to {large.height}×{large.width}",
            dtype=models.dtype,
            file=weights.path,
            weights_bytes=network_weights_bytes([VideoDecoder, VideoEncoder], weights, dtype=models.dtype),
            activation_bytes=max(encoding, decoding) + self.waiting_bytes,
            array_bytes=max(decoded, image_array_bytes(encoder, large, item_bytes)),
        )

    def run(self, runner: StageRunner, state: GenerationState) -> GenerationState:
        """Decode, enlarge and encode every keyframe alone."""

        def work(networks: tuple[VideoDecoder, VideoEncoder]) -> Arrays:
            planes = []
            for number in range(self.shape.num_frames):
                plane = state.latents["keyframes"][:, number : number + 1]
                planes.append(enlarged_keyframe(plane, *networks, _SCALE))
                mx.eval(planes)
                runner.progress.advance(self.name, number + 1, self.shape.num_frames)
            return {"keyframes": mx.concatenate(planes, axis=1)}

        larger = runner.run(self.name, self._load, work)
        check_result(self.name, larger)
        return replace(state, latents=state.latents | larger)

    def facts(self) -> dict[str, Any]:
        """The checkpoint, its precision and the size."""
        return {
            "shape": asdict(self.shape),
            "weights": contents(*self.models.video_vae.paths),
            "dtype": str(self.models.dtype),
        }

    def _load(self) -> tuple[VideoDecoder, VideoEncoder]:
        weights, dtype = self.models.video_vae, self.models.dtype
        return load(VideoDecoder, weights, dtype=dtype), load(VideoEncoder, weights, dtype=dtype)
