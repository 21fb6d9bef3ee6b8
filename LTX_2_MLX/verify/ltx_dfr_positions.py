"""Positions of detail-fidelity rendering's tokens, and of slower or faster motion, in the newer form."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.diffusion.dfr import Keyframe, StageTokens, TemporalRound, carried_keyframes, doubled
from LTX_2_MLX.diffusion.dfr_layout import AudioWindow, Canvas, conditioning_rate, next_keyframes
from LTX_2_MLX.diffusion.state import AudioClock, LatentState, VideoGrid
from LTX_2_MLX.shapes import LatentShape, VideoShape
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.ltx_positions import compression_of


def dfr_new_positions(case: Case) -> Outputs:
    """Every rate of the case, and the rows of motion speeds."""
    outputs: Outputs = {}
    for rate in case.parameter("fps"):
        outputs |= _Positions(case, rate).outputs()
    frames = case.parameter("motion_frames")
    shape = VideoShape(frames, *case.parameter("motion_hw")).latent(compression_of(case))
    for number, (rate, speed) in enumerate(case.parameter("motion")):
        grid = VideoGrid(shape, compression_of(case), rate / speed)
        outputs |= {
            f"motion{number}.coords": grid.positions()[0],
            f"motion{number}.rate": np.array([grid.frame_rate]),
            f"motion{number}.audio_tokens": np.array([AudioClock().num_latents(frames, rate)]),
        }
    return outputs


class _Positions:
    """The tokens of both stages and of all rounds at one playback rate; latents are zeros of one channel."""

    def __init__(self, case: Case, rate: float):
        self.case = case
        self.rate = rate
        self.name = f"fps{rate:g}"
        self.rounds = range(1, case.parameter("rounds") + 1)
        self.compression = compression_of(case)
        self.canvas = Canvas.for_frames(case.parameter("frames"))

    def outputs(self) -> Outputs:
        length = AudioClock().num_latents(self.canvas.num_frames, self.rate)
        rates = [conditioning_rate(self.rate * 2**number) for number in (0, *self.rounds)]
        small = self.stage(2)
        large = self.stage(1, reference=small.latent)
        outputs: Outputs = {
            f"{self.name}.conditioning_fps": np.array(rates),
            f"{self.name}.audio.coords": AudioClock().positions(length)[0, 0],
        }
        outputs |= _tokens(f"{self.name}.stage1", small.state())
        outputs |= _tokens(f"{self.name}.stage2", large.state())
        slots = _zeros(LatentShape(len(self.canvas.positions), large.grid.shape.height, large.grid.shape.width))
        strength = self.case.parameter("anchor_strength")
        keyframes = carried_keyframes(slots, self.canvas.positions, strength)
        for number in self.rounds:
            temporal = self.round(number, keyframes)
            outputs |= self.tiles(temporal)
            frames = next_keyframes([keyframe.frame for keyframe in temporal.keyframes], temporal.tiles)
            keyframes = carried_keyframes(mx.repeat(slots[:, :1], len(frames), axis=1), frames, strength)
        return outputs

    def stage(self, smaller: int, reference: mx.array | None = None) -> StageTokens:
        height = self.case.parameter("height") // smaller
        width = self.case.parameter("width") // smaller
        shape = VideoShape(self.canvas.num_frames, height, width).latent(self.compression)
        return StageTokens(
            VideoGrid(shape, self.compression, conditioning_rate(self.rate)),
            _zeros(shape),
            images=self.images(shape),
            slots=self.canvas.positions,
            reference=reference,
            reference_downscale=self.case.parameter("reference_downscale_factor"),
        )

    def images(self, shape: LatentShape, factor: int = 1) -> list[Keyframe]:
        image = _zeros(LatentShape(1, shape.height, shape.width))
        return [Keyframe(image, frame * factor, strength) for frame, strength in self.case.parameter("images")]

    def round(self, number: int, keyframes: list[Keyframe]) -> TemporalRound:
        num_frames = (self.canvas.num_frames - 1) * 2**number + 1
        video = VideoShape(num_frames, self.case.parameter("height"), self.case.parameter("width"))
        shape = video.latent(self.compression)
        grid = VideoGrid(shape, self.compression, conditioning_rate(self.rate * 2**number))
        return TemporalRound(number, grid, doubled(keyframes), self.images(shape, 2**number))

    def tiles(self, temporal: TemporalRound) -> Outputs:
        outputs: Outputs = {}
        video = _zeros(temporal.grid.shape)
        for number, tile in enumerate(temporal.tiles):
            name = f"{self.name}.round{temporal.number}.tile{number}"
            outputs |= _tokens(name, temporal.tokens(tile, video).state())
            window = AudioWindow(
                first_frame=tile.first_frame,
                num_frames=tile.num_frames,
                playback_rate=self.rate * 2**temporal.number,
                conditioning_rate=float(temporal.grid.frame_rate),
                source_seconds=self.canvas.num_frames / self.rate,
                latents_per_second=self.case.parameter("audio_latents_per_second"),
            )
            outputs[f"{name}.audio.coords"] = AudioClock().positions(window.num_tokens)[0, 0]
        return outputs


def _zeros(shape: LatentShape) -> mx.array:
    return mx.zeros((1, shape.num_frames, shape.height, shape.width, 1))


def _tokens(name: str, state: LatentState) -> Outputs:
    assert state.keyframe_mask is not None
    return {
        f"{name}.coords": state.positions[0],
        f"{name}.mask": 1 - state.denoise_mask[0, :, 0],
        f"{name}.marked": state.keyframe_mask[0, :, 0].astype(mx.uint8),
    }
