"""Program for ``mlx.launch``: frames that several processes make together beside those that one makes alone.

``python shared_frames.py FOLDER WORK ...`` with the files that ``test_shared_frames.py`` writes into FOLDER.
"""

import hashlib
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np

import LTX_2_MLX  # noqa: F401  (loads BLAS before MLX)
from LTX_2_MLX.checkpoints.load import config_of, load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.image import StillImage
from LTX_2_MLX.models.ltx.diffusion_decoder import DiffusionVideoDecoder
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.ops.collective import ALONE
from LTX_2_MLX.pipelines import interpolate, super_resolve, upscale, upscale_temporal
from LTX_2_MLX.pipelines.generation.decode import decode_frames
from LTX_2_MLX.pipelines.generation.decode_diffusion import DecodeByDiffusion
from LTX_2_MLX.pipelines.generation.encode import encode_frames
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.pipelines.sharing import on_every_machine, run_group
from LTX_2_MLX.runtime.machines import Machines, acting_as, joined
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.shapes import LatentShape

Frames = list[np.ndarray]


def scene(num_frames: int, height: int = 21, width: int = 34) -> np.ndarray:
    """A pattern that moves."""
    time, row, column = np.mgrid[:num_frames, :height, :width]
    planes = [np.sin(0.3 * time + 0.5 * row + 0.2 * column + phase) for phase in (0, 1, 2)]
    return ((np.stack(planes, axis=-1) + 1) * 127).astype(np.uint8)


def clip(num_frames: int, height: int = 21, width: int = 34) -> FrameStream:
    """The pattern in chunks of two frames."""
    chunks = iter(np.array_split(scene(num_frames, height, width), max(num_frames // 2, 1)))
    return FrameStream(chunks, height, width, Fraction(24), num_frames)


def interpolated(folder: Path) -> Iterator[np.ndarray]:
    """Odd and even numbers of gaps, fewer gaps than processes, and a target rate."""
    weights = str(folder / "flownet.safetensors")
    for num_frames in (2, 4, 7):
        yield from interpolate.interpolate(clip(num_frames), interpolate.Request(weights, exp=2))
    yield from interpolate.interpolate(clip(5), interpolate.Request(weights, target_fps=60))


def upscaled(folder: Path) -> Iterator[np.ndarray]:
    """Whole frames, tiles, more processes than frames, and another scale."""
    weights = str(folder / "esrgan.safetensors")
    for num_frames in (1, 5):
        yield from upscale.upscale(clip(num_frames), upscale.Request(weights, scale=3, color_fix="wavelet"))
    yield from upscale.upscale(clip(3), upscale.Request(weights, tile_size=16))


def upscaled_images(folder: Path) -> Iterator[np.ndarray]:
    """Images with and without transparency, some in tiles."""
    images = [StillImage(frame) for frame in scene(3)]
    images[1] = StillImage(images[1].pixels, alpha=images[1].pixels[..., 0])
    for tile in (None, 16):
        made = upscale.upscale_images(iter(images), upscale.Request(str(folder / "esrgan.safetensors"), tile_size=tile))
        for image in made:
            yield image.pixels
            if image.alpha is not None:
                yield image.alpha


def super_resolved(folder: Path) -> Iterator[np.ndarray]:
    """Whole frames, by each kind of decoder, with the transformer unloaded and not."""
    weights = str(folder / "flashvsr")
    for num_frames, options in ((22, {}), (22, {"unload_dit": True}), (3, {"mode": "full", "vae_type": "light"})):
        request = super_resolve.Request(weights=weights, **options)
        yield from super_resolve.super_resolve(clip(num_frames, 10, 17), request)


def super_resolved_tiles(folder: Path) -> Iterator[np.ndarray]:
    """Tiles, with the transformer unloaded and not."""
    tiles = {"scale": 1.5, "tile_dit": True, "tile_size": 48, "overlap": 8}
    for unload in (False, True):
        request = super_resolve.Request(weights=str(folder / "flashvsr"), unload_dit=unload, **tiles)
        yield from super_resolve.super_resolve(clip(3, 40, 100), request)


def decoded(folder: Path) -> Iterator[np.ndarray]:
    """Whole frames, tiles, and one latent frame, by the decoders of 2.0 and 2.3."""
    for name in ("vae.safetensors", "vae_2_3.safetensors"):
        decoder = load(VideoDecoder, Checkpoint(folder / name))
        for num_latents, tile in ((1, None), (5, None), (5, 64)):
            latent = mx.random.normal((1, num_latents, 3, 5, 8), key=mx.random.key(num_latents))
            yield from decode_frames(decoder, latent, tile, group=run_group())


def decoded_by_diffusion(folder: Path) -> Iterator[np.ndarray]:
    """Tiles of the diffusion decoder."""
    shape = LatentShape(1, 2, 4)
    checkpoint = Checkpoint(folder / "diffusion_vae.safetensors")
    cell = config_of(DiffusionVideoDecoder, checkpoint).compression
    stage = DecodeByDiffusion(checkpoint, mx.float32, shape, cell, Fraction(24), seed=3, tile_size=64)
    latent = mx.random.normal((1, 1, 2, 4, 8), key=mx.random.key(0))
    yield from stage.run(StageRunner(), GenerationState(latents={"video": latent}))


def encoded(folder: Path) -> Iterator[np.ndarray]:
    """Latents of whole frames and of tiles; every process gets them."""
    encoder = load(VideoEncoder, Checkpoint(folder / "vae.safetensors"))
    frames = scene(17, 128, 192)
    for tile in (None, 64):
        chunks = iter([frames[:3], frames[3:]])
        latent = encode_frames(encoder, chunks, size=(128, 192), num_frames=17, tile_size=tile, group=run_group())
        yield np.array(latent)


def doubled(folder: Path) -> Iterator[np.ndarray]:
    """A clip encoded, upscaled in time and decoded."""
    request = upscale_temporal.Request(str(folder / "vae.safetensors"), str(folder / "temporal.safetensors"))
    yield from upscale_temporal.upscale_temporal(clip(10, 50, 70), request)


def handed_out(folder: Path) -> Iterator[np.ndarray]:
    """A stream that the first process alone has, interpolated by all."""
    first = run_group().rank == 0
    stream = clip(5) if first else clip(5).replace(chunks=iter(()))
    yield from interpolate.interpolate(
        on_every_machine(stream), interpolate.Request(str(folder / "flownet.safetensors"))
    )


# Work whose frames every process has; of the others the first one has them.
EVERYWHERE = {"interpolated", "upscaled", "upscaled_images", "encoded", "handed_out"}
WORK: dict[str, Callable[[Path], Iterator[np.ndarray]]] = {
    work.__name__: work
    for work in (
        interpolated, upscaled, upscaled_images, super_resolved, super_resolved_tiles, decoded, decoded_by_diffusion,
        encoded, doubled, handed_out,
    )
}  # fmt: skip


def compare(name: str, folder: Path, together: Machines) -> None:
    """Print on the first process whether all together make what it makes alone."""
    rank = together.group.rank
    alone: list[np.ndarray] = []
    if rank == 0:
        with acting_as(Machines(ALONE)):
            alone = list(WORK[name](folder))
    made = together.exchange(list(map(described, WORK[name](folder))))
    if rank == 0:
        expected = list(map(described, alone))
        same = made[0][1] == expected
        for _, others in made[1:]:
            same = same and others == (expected if name in EVERYWHERE else [])
        print(f"LINE {name}: {len(expected)} results, {'same' if same else made}", flush=True)


def described(array: np.ndarray) -> str:
    """Type, shape and content of an array."""
    content = hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
    return f"{array.dtype} {array.shape} {content}"


def peaks(folder: Path, together: Machines) -> None:
    """Print the peaks of Python's and of MLX's memory for a short and a long clip, which are not kept."""
    request = interpolate.Request(str(folder / "flownet.safetensors"))
    for num_frames in (10, 10, 40):
        frames = (scene(1, 64, 96) + np.uint8(number) for number in range(num_frames))
        stream = FrameStream(frames, 64, 96, Fraction(24), num_frames)
        runner = StageRunner()
        smooth = interpolate.interpolate(stream, request, runner)
        large = upscale.upscale(smooth, upscale.Request(str(folder / "esrgan.safetensors"), scale=2), runner)
        tracemalloc.start()
        for _ in large:
            pass
        _, python_peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        found = together.exchange([max(stage.peak_bytes for stage in runner.reports), python_peak])
        if together.group.rank == 0:
            print("LINE peaks", num_frames, *(value for _, both in found for value in both))


def fails(folder: Path, together: Machines) -> None:
    """The second process cannot read its clip to the end."""
    rank = together.group.rank
    frames = scene(9)

    def chunks() -> Iterator[np.ndarray]:
        for number, frame in enumerate(frames):
            if rank == 1 and number == 5:
                raise OSError("the disk is gone")
            yield frame[None]

    stream = FrameStream(chunks(), 21, 34, Fraction(24), 9)
    for _ in interpolate.interpolate(stream, interpolate.Request(str(folder / "flownet.safetensors"))):
        pass
    print(f"LINE {rank} has all frames")


if __name__ == "__main__":
    place = Path(sys.argv[1])
    with joined(sys.exit) as machines_of_run:
        machines_of_run.agree()
        for each in sys.argv[2:]:
            if each in WORK:
                compare(each, place, machines_of_run)
            else:
                {"peaks": peaks, "fails": fails}[each](place, machines_of_run)
