"""Reference video of an IC-LoRA: what is taken of it, the stage that encodes it, and its tokens beside the video's.

Source: Lightricks/LTX-2, packages/ltx-pipelines/src/ltx_pipelines/{ic_lora,iclora_utils}.py at 400fd31.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx

from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.checkpoints.lora import Lora, reads_reference, reference_downscale, reference_slower
from LTX_2_MLX.diffusion.conditioning import append_reference, weigh_attention
from LTX_2_MLX.diffusion.state import LatentState, VideoGrid
from LTX_2_MLX.errors import CheckpointError, MediaError, RequestError
from LTX_2_MLX.media.first_frame import resize_and_crop
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.image_folder import read_folder
from LTX_2_MLX.media.video import read_video
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder, encoder_layers
from LTX_2_MLX.models.ltx.video_vae_memory import encoder_bytes, largest_array
from LTX_2_MLX.pipelines.generation.decode import activation_budget
from LTX_2_MLX.pipelines.generation.encode import encode_pixels
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.generation.state import Arrays, GenerationState, Result, contents
from LTX_2_MLX.pipelines.sharing import run_group
from LTX_2_MLX.planning.plan import Estimate, network_weights_bytes
from LTX_2_MLX.runtime.runner import StageRunner, check_result
from LTX_2_MLX.shapes import LatentShape, VideoShape, nearest_multiples

# Weights between tokens, their logarithms and what is between the two, in float32.
_ATTENTION_COPIES = 4
# Bytes of a colour value of the file while its frame is resized: as read, float32, and between the two axes.
_SOURCE_COPIES = 13
# Frames that are encoded at once.
_CHUNK_FRAMES = 8
# Rates that differ by less count as the same.
_SAME_RATE = Fraction(1, 100)


@dataclass(frozen=True)
class Control:
    """A reference video, and how an IC-LoRA reads it.

    Attributes:
        path: A video file or a folder of images.
        shape: Its frames and size as they are encoded.
        latent: Their latent's size.
        reading_bytes: Memory that reading the file and resizing a frame of it takes.
        downscale: Height and width of the video over those of the reference.
        slower: Frame rate of the video over that of the reference.
        strength: 1 holds it, 0 lets it be denoised.
        attention: Weight of the attention between the video and it, 0 to 1.
    """

    path: Path
    shape: VideoShape
    latent: LatentShape
    reading_bytes: int = 0
    downscale: int = 1
    slower: int = 1
    strength: float = 1.0
    attention: float = 1.0

    def takes(self, frame: int) -> bool:
        """Whether a frame of the file is taken: the first, and then every ``slower``-th."""
        return frame == 0 or (frame - 1) % self.slower == 0

    def append(self, video: LatentState, latent: mx.array, grid: VideoGrid) -> LatentState:
        """The video's tokens with those of the reference's ``latent`` ``(1, T, H, W, C)`` after them."""
        after = append_reference(
            video, latent, grid, downscale=self.downscale, slower=self.slower, strength=self.strength
        )
        return after if self.attention == 1 else weigh_attention(video, after, grid, self.attention)

    def attention_bytes(self, tokens: int) -> int:
        """Memory of the weights between ``tokens`` tokens, those of the reference among them."""
        return 0 if self.attention == 1 else _ATTENTION_COPIES * mx.float32.size * tokens**2

    def facts(self) -> dict[str, Any]:
        """What a result follows from, beside the latent."""
        return {name: getattr(self, name) for name in ("downscale", "slower", "strength", "attention")}


def with_reference(loras: Sequence[Lora]) -> tuple[Lora, ...]:
    """The adapters, of which IC-LoRAs are marked as having their reference video.

    Raises:
        RequestError: If there is no IC-LoRA among them.
    """
    marked = tuple(replace(lora, has_reference=reads_reference(lora.checkpoint)) for lora in loras)
    if not any(lora.has_reference for lora in marked):
        found = ", ".join(lora.checkpoint.path.name for lora in loras) or "none is given"
        raise RequestError(
            f"--control is a reference video for an IC-LoRA, and no --lora is one ({found}). Name an adapter whose "
            f"metadata has reference_downscale_factor, or whose file name has ic-lora in it."
        )
    return marked


def control_for(
    options: Options, models: Models, video: VideoShape, frame_rate: Fraction, note: Callable[[str], None]
) -> Control:
    """What is taken of the reference video.

    Args:
        options: With ``control``.
        models: With the IC-LoRA.
        video: Size and length of the video in the first stage.
        frame_rate: Of the video.
        note: Callback for a reference that is shorter than the video, or of another rate.

    Raises:
        CheckpointError: If adapters contradict each other.
        RequestError: If the reference's size would not be legal.
        MediaError: If the file cannot be read, or is no video.
    """
    path = Path(options.control or "")
    adapters = [lora.checkpoint for lora in models.loras if lora.has_reference]
    downscale = _common("reference_downscale_factor", {each.path: reference_downscale(each, 1) for each in adapters})
    slower = _common("reference_temporal_scale_factor", {each.path: reference_slower(each) for each in adapters})
    source = source_of(path)
    for line in _notes(source, path, video, frame_rate):
        note(line)
    config = config_of(VideoEncoder, models.video_vae)
    cell = config.encoder_compression
    # The first frame, then every `slower`-th; the encoder leaves out what is beyond 8k + 1.
    kept = 1 + -(-(min(source.num_frames or 1, video.num_frames) - 1) // slower)
    reference = VideoShape(
        num_frames=(kept - 1) // cell.time * cell.time + 1,
        height=_side("height", video.height, downscale, cell.height, config.fewest_cells),
        width=_side("width", video.width, downscale, cell.width, config.fewest_cells),
    )
    return Control(
        path=path,
        shape=reference,
        latent=reference.latent(cell),
        reading_bytes=source.decoding_bytes + _SOURCE_COPIES * 3 * source.height * source.width,
        downscale=downscale,
        slower=slower,
        strength=options.control_strength,
        attention=options.control_attention,
    )


def _common(field: str, factors: Mapping[Path, int]) -> int:
    """The factor of all adapters but those that have none."""
    stated = {path: factor for path, factor in factors.items() if factor != 1}
    if len(set(stated.values())) > 1:
        shown = ", ".join(f"{path.name} {factor}" for path, factor in stated.items())
        raise CheckpointError(f"The IC-LoRAs read references of different sizes ({field}: {shown}). Give one of them.")
    return next(iter(stated.values()), 1)


def _side(name: str, side: int, downscale: int, cell: int, fewest_cells: int) -> int:
    """Pixels of the reference along one axis."""
    least = fewest_cells * cell
    if side % (downscale * cell) == 0 and side // downscale >= least:
        return side // downscale
    near, far = nearest_multiples(max(side, least * downscale), downscale * cell)
    raise RequestError(
        f"The IC-LoRA reads its reference at 1/{downscale} of the video's size, so the {name} of its stage must be a "
        f"multiple of {downscale * cell} from {least * downscale} on. It is {side}. "
        + (f"Use {near}." if near == far else f"Use {near} (or {far}).")
    )


def _notes(source: FrameStream, path: Path, video: VideoShape, frame_rate: Fraction) -> Iterator[str]:
    num_frames = source.num_frames or 0
    if num_frames < video.num_frames:
        yield f"{path.name} has {num_frames} of the video's {video.num_frames} frames: the rest has no reference."
    if not path.is_dir() and abs(source.frame_rate / frame_rate - 1) > _SAME_RATE:
        yield (
            f"{path.name} has {float(source.frame_rate):g} frames per second, the video {float(frame_rate):g}: "
            f"frames are taken one for one."
        )


def source_of(path: Path) -> FrameStream:
    """Size, length and rate of the reference video; the file is looked through once while it is the same.

    Raises:
        MediaError: If it cannot be read, or is no video.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise MediaError(f"{path} cannot be read: {error.strerror}. Give --control a video file.") from error
    return _looked_through(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=4)
def _looked_through(path: Path, modified: int, size: int) -> FrameStream:
    return _open(path)


def _open(path: Path) -> FrameStream:
    return read_folder(path) if path.is_dir() else read_video(path)


@dataclass(frozen=True)
class EncodeControl:
    """Video encoder: the reference video, resized and cropped, to its latent.

    Attributes:
        control: The reference video.
        models: The files with the encoder.
        budget: Bytes for activations, by which tiles are chosen.
    """

    control: Control
    models: Models
    budget: int | None = None
    name = "control_encoder"
    needs: ClassVar[tuple[Result, ...]] = ()
    gives: ClassVar[Result] = "control"
    saved_as = "control"

    def estimate(self) -> Estimate:
        """One frame, while the next one is read."""
        models, shape = self.models, self.control.shape
        config = config_of(VideoEncoder, models.video_vae)
        return Estimate(
            name=self.name,
            work=f"{shape.num_frames} reference frames at {shape.height}×{shape.width}",
            dtype=models.dtype,
            file=models.video_vae.path,
            weights_bytes=network_weights_bytes([VideoEncoder], models.video_vae, dtype=models.dtype),
            activation_bytes=encoder_bytes(config, shape, item_bytes=models.dtype.size) + self.control.reading_bytes,
            array_bytes=largest_array(encoder_layers(config), (1, 1, shape.height, shape.width, 3), models.dtype.size),
        )

    def run(self, runner: StageRunner, state: GenerationState) -> GenerationState:
        """Encode the frames as they are read.

        Raises:
            OutputError: If the latent is not finite, or a single value.
        """
        shape, models = self.control.shape, self.models

        def work(encoder: VideoEncoder) -> Arrays:
            latent = encode_pixels(
                encoder,
                self._pixels(runner),
                size=(shape.height, shape.width),
                num_frames=shape.num_frames,
                budget=self.budget,
                group=run_group(),
            )
            return {"reference": latent.astype(mx.float32)}

        control = runner.run(self.name, lambda: load(VideoEncoder, models.video_vae, dtype=models.dtype), work)
        check_result(self.name, control)
        return replace(state, control=control)

    def _pixels(self, runner: StageRunner) -> Iterator[mx.array]:
        """The frames that are taken, a few at a time."""
        shape = self.control.shape
        source = _open(self.control.path)
        done = 0
        try:
            taken = (frame for number, frame in enumerate(source.frames()) if self.control.takes(number))
            frames = (resize_and_crop(frame, shape.height, shape.width) for frame in islice(taken, shape.num_frames))
            while chunk := list(islice(frames, _CHUNK_FRAMES)):
                yield mx.concatenate(chunk, axis=1)
                done += len(chunk)
                runner.progress.advance(self.name, done, shape.num_frames)
        finally:
            source.close()

    def facts(self) -> dict[str, Any]:
        """The reference video, what is taken of it, the checkpoint and its precision."""
        return {
            "control": contents(self.control.path),
            "shape": asdict(self.control.shape),
            "slower": self.control.slower,
            "weights": contents(*self.models.video_vae.paths),
            "dtype": str(self.models.dtype),
        }


def control_stage(request: Request) -> EncodeControl:
    """The stage that encodes the request's reference video."""
    assert request.control is not None
    return EncodeControl(request.control, request.models, activation_budget(request.memory_limit_gb))
