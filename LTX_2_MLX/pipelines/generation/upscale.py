"""Latent upscaler stage: a video latent to a larger one in space or time."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import mlx.core as mx

from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.checkpoints.read_ahead import StoredNetwork
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler, LatentUpscalerConfig
from LTX_2_MLX.models.ltx.video_vae import LatentStatistics
from LTX_2_MLX.ops.conv import conv3d_scratch_bytes
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationState, Result, contents
from LTX_2_MLX.planning.plan import Estimate, dtype_for, network_weights_bytes
from LTX_2_MLX.runtime.runner import StageRunner, check_result
from LTX_2_MLX.shapes import LatentShape

# Arrays of a residual block. The CPU's have the input of a convolution, padded, among them; measured.
_GPU_COPIES = 6
_CPU_COPIES = 13
# The widest weight, of a 3×3 convolution, and its copies while it is turned to MLX's axis order.
_WEIGHT_COPIES = 3
_WEIGHT_TAPS = 9


@dataclass(frozen=True)
class UpscaleLatent:
    """Latent upscaler: larger latents, as the upscaler's file says; those of other names pass through.

    Attributes:
        name: The stage's name.
        upscaler: The upscaler's file.
        weights: The checkpoint of the same generation, with the statistics of the latent.
        shape: Size of the latent that comes in.
        dtype: Precision of the network; the statistics stay float32.
        work: What it does, for the plan.
        waiting_bytes: Memory of results that wait for later stages.
        latents: Names of the latents that are upscaled, each as a clip of its own.
        small_as: Name under which the video is handed on as it was, too.
    """

    name: str
    upscaler: Checkpoint
    weights: Checkpoint
    shape: LatentShape
    dtype: mx.Dtype
    work: str = ""
    waiting_bytes: int = 0
    latents: tuple[str, ...] = ("video",)
    small_as: str | None = None
    needs: ClassVar[tuple[Result, ...]] = ("latents",)
    gives: ClassVar[Result] = "latents"

    @property
    def saved_as(self) -> str:
        """The stage's name."""
        return self.name

    def estimate(self) -> Estimate:
        """The last layers, at the larger size.

        Raises:
            CheckpointError: If the upscaler belongs to another autoencoder.
        """
        config = config_of(LatentUpscaler, self.upscaler)
        channels = config_of(LatentStatistics, self.weights).channels
        if config.in_channels != channels:
            raise CheckpointError(
                f"{self.upscaler.path} upscales latents of {config.in_channels} channels, those of "
                f"{self.weights.path} have {channels}. Use the upscaler that was published with this model."
            )
        item_bytes = self.dtype.size
        mid_channels = config.mid_channels
        larger = config.output_shape(self.shape)
        # The arrays of a residual block at the larger size.
        activations = (_CPU_COPIES if on_cpu() else _GPU_COPIES) * larger.num_tokens * mid_channels * item_bytes
        if on_cpu():
            first = (self.shape.num_frames, self.shape.height * self.shape.width, config.in_channels, mid_channels)
            block = (larger.num_frames, larger.height * larger.width, mid_channels, mid_channels)
            activations += max(conv3d_scratch_bytes(*first), conv3d_scratch_bytes(*block))
        widest_weight = _WEIGHT_COPIES * _WEIGHT_TAPS * mid_channels**2 * item_bytes
        return Estimate(
            name=self.name,
            work=self.work,
            dtype=self.dtype,
            file=self.upscaler.path,
            weights_bytes=network_weights_bytes([LatentUpscaler], self.upscaler, dtype=self.dtype),
            activation_bytes=activations + widest_weight + self.waiting_bytes,
            # A group norm's values are float32.
            array_bytes=larger.num_tokens * mid_channels * mx.float32.size,
            stored=(StoredNetwork(self.upscaler, LatentUpscaler),),
        )

    def run(self, runner: StageRunner, state: GenerationState) -> GenerationState:
        """Upscale the normalised latents; the results are normalised again."""

        def work(networks: tuple[LatentUpscaler, LatentStatistics]) -> Arrays:
            upscaler, statistics = networks
            larger = {}
            runner.progress.advance(self.name, 0, len(self.latents))
            for name in self.latents:
                larger[name] = upscaler.upscale(state.latents[name], statistics)
                mx.eval(larger[name])
                runner.progress.advance(self.name, len(larger), len(self.latents))
            return larger

        larger = runner.run(self.name, self._load, work)
        check_result(self.name, larger)
        small = {} if self.small_as is None else {self.small_as: state.latents["video"]}
        return replace(state, latents=state.latents | small | larger)

    def facts(self) -> dict[str, Any]:
        """Both files, the precision, and which latents they are."""
        return {
            "files": contents(self.upscaler.path, *self.weights.paths),
            "dtype": str(self.dtype),
            "latents": list(self.latents),
            "small_as": self.small_as,
        }

    def _load(self) -> tuple[LatentUpscaler, LatentStatistics]:
        upscaler = load(LatentUpscaler, self.upscaler, dtype=self.dtype)
        return upscaler, load(LatentStatistics, self.weights, dtype=dtype_for("latent statistics"))


def upscaler_config(checkpoint: Checkpoint, *, temporal: bool, flag: str) -> LatentUpscalerConfig:
    """The config of an upscaler that works in time, or in space.

    Raises:
        CheckpointError: If it works in the other, or is no upscaler.
    """
    config = config_of(LatentUpscaler, checkpoint)
    if (config.temporal_upsample, config.spatial_upsample) != (temporal, not temporal):
        actual = "time" if config.temporal_upsample else "space"
        expected = "time" if temporal else "space"
        raise CheckpointError(f"{checkpoint.path} upscales in {actual}. Give {flag} an upscaler in {expected}.")
    return config
