"""Plan of a detail-fidelity rendering: sizes, rates, keyframes and sound of each of its stages.

Stage 1 runs at half the size, stage 2 and the temporal rounds at the size itself, the spatial stage at twice the size.

Source: Lightricks/LTX-2, packages/ltx-pipelines/src/ltx_pipelines/dfr_pipeline.py at 400fd31, and
huggingface/diffusers 0.42.1, pipelines/ltx2/{pipeline_ltx2_dfr,pipeline_ltx2_dfr_temporal_refine}.py.
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from LTX_2_MLX.diffusion.dfr import KEYFRAME_STRENGTH, ROUND_ETA, kept_latents
from LTX_2_MLX.diffusion.dfr_layout import (
    SPATIAL_OVERLAP,
    AudioWindow,
    Canvas,
    RoundTile,
    SpatialTile,
    conditioning_rate,
    next_keyframes,
    round_tiles,
    spatial_tiles,
)
from LTX_2_MLX.diffusion.state import AudioClock, VideoGrid
from LTX_2_MLX.shapes import Compression, LatentShape, VideoShape


@dataclass(frozen=True)
class Rendering:
    """What the stages of one rendering share.

    Attributes:
        num_frames: Pixel frames asked for, before the rounds double the frame rate.
        frame_rate: Frames per second of playback, likewise.
        height, width: Latent rows and columns of stage 2 and of the rounds.
        compression: Pixels per latent step.
        rounds: Temporal rounds, each of which doubles the frame rate.
        newer: The newer form, in which rounds attend to sound; otherwise that of 400fd31.
        keyframe_strength: Conditioning strength of keyframes of earlier stages.
        eta: Share of each step's noise that is new in the rounds.
    """

    num_frames: int
    frame_rate: Fraction | float
    height: int
    width: int
    compression: Compression
    rounds: int = 0
    newer: bool = True
    keyframe_strength: float = KEYFRAME_STRENGTH
    eta: float = ROUND_ETA

    @cached_property
    def canvas(self) -> Canvas:
        """The clip of both stages, a multiple of a segment long."""
        return Canvas.for_frames(self.num_frames)

    def grid(self, number: int = 0, *, larger: int = 1, smaller: int = 1) -> VideoGrid:
        """The whole canvas after ``number`` rounds, ``larger`` times or a ``smaller``-th of the size."""
        num_frames = (self.canvas.num_frames - 1) * 2**number + 1
        shape = LatentShape(
            num_frames=(num_frames - 1) // self.compression.time + 1,
            height=self.height * larger // smaller,
            width=self.width * larger // smaller,
        )
        return VideoGrid(shape, self.compression, self._coordinate_rate(number))

    def _coordinate_rate(self, number: int) -> Fraction | float:
        playback = self.playback_rate(number)
        if self.newer:
            return conditioning_rate(float(playback))
        # 400fd31 limits the rate of coordinates in rounds alone.
        return conditioning_rate(float(playback), snap=False) if number else playback

    def playback_rate(self, number: int) -> Fraction | float:
        """Frames per second of playback after ``number`` rounds."""
        doubled: Fraction | float = self.frame_rate * 2**number
        return doubled

    def keyframes(self, number: int = 0) -> list[int]:
        """Pixel frames of the keyframes that stage 2, or round ``number``, hands on."""
        if number == 0:
            return list(self.canvas.positions)
        return next_keyframes(self.seams(number), self.tiles(number))

    def seams(self, number: int) -> list[int]:
        """Pixel frames of the keyframes that round ``number`` is given."""
        return [2 * frame for frame in self.keyframes(number - 1)]

    def tiles(self, number: int) -> list[RoundTile]:
        """Tiles of round ``number``."""
        return round_tiles(self.seams(number), 2**number, self.compression.time)

    def image_frame(self, frame: int, number: int) -> int:
        """Where an image for pixel frame ``frame`` stands after ``number`` rounds."""
        return frame * 2**number if self.newer else frame

    @property
    def audio_tokens(self) -> int:
        """Audio tokens of both stages."""
        return max(AudioClock().num_latents(self.canvas.num_frames, self.frame_rate), 1)

    def audio_window(self, number: int, tile: RoundTile) -> AudioWindow:
        """The sound of stage 1 that a tile of round ``number`` attends to."""
        return AudioWindow(
            first_frame=tile.first_frame,
            num_frames=tile.num_frames,
            playback_rate=float(self.playback_rate(number)),
            conditioning_rate=float(self._coordinate_rate(number)),
            source_seconds=self.canvas.num_frames / float(self.frame_rate),
        )

    def spatial_tiles(self, overlap: int = SPATIAL_OVERLAP) -> list[SpatialTile]:
        """Tiles of the spatial stage, which follows on the last round."""
        shape = self.grid(self.rounds, larger=2).shape
        # The keyframes that the last round was given, not those that it has generated.
        frames = self.seams(self.rounds) if self.rounds else self.keyframes()
        seams = [frame // self.compression.time for frame in frames]
        return spatial_tiles(shape.num_frames, shape.height, shape.width, 2**self.rounds, seams, overlap=overlap)

    @property
    def final_latents(self) -> int:
        """Latent frames of the finished video, which is cut from the canvas."""
        return kept_latents(self.num_frames, self.rounds, self.compression.time)

    @property
    def final_frames(self) -> int:
        """Pixel frames of the finished video."""
        frames: int = (self.num_frames - 1) * 2**self.rounds + 1
        return frames

    @property
    def stage_1(self) -> VideoShape:
        """The canvas in pixels in stage 1."""
        return self.grid(smaller=2).shape.pixels(self.compression)
