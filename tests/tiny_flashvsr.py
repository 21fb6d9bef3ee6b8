"""Small FlashVSR folders with stand-in weights, and clips."""

from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from safetensors.numpy import save_file

from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.models.tae import TinyAutoencoder, TinyConfig
from LTX_2_MLX.verify.case import Case

GOLDENS = Path(__file__).parent / "goldens" / "flashvsr"
# Folders of the golden pipeline's tensors and the published file each one stands for.
PUBLISHED = {
    "dit": "diffusion_pytorch_model_streaming_dmd.safetensors",
    "lq_proj_in": "LQ_proj_in.safetensors",
    "tcdecoder": "TCDecoder.safetensors",
}


def write_flashvsr(folder: Path) -> Path:
    """A folder with every file that mode tiny takes."""
    case = Case.open(GOLDENS / "pipeline_tiny", folder)
    weights = case.weights()
    for part, name in PUBLISHED.items():
        tensors = {key.removeprefix(f"{part}/"): value for key, value in weights.items() if key.startswith(f"{part}/")}
        metadata = {"config": '{"num_heads": 2}'} if part == "dit" else None
        save_file(tensors, str(folder / name), metadata=metadata)
    save_file({"context": case.io["input.context"]}, str(folder / "posi_prompt.safetensors"))
    return folder


def write_decoder(case_name: str, target: Path) -> Path:
    """The checkpoint of a decoder's golden case."""
    case = Case.open(GOLDENS / case_name, target.parent)
    save_file(case.weights(), str(target))
    return target


def write_tiny_autoencoder(target: Path) -> Path:
    """A tiny autoencoder of Wan 2.1's latents, a few channels wide."""
    config = TinyConfig(latent_channels=16, patch_size=1, encoder_width=3, decoder_widths=(6, 5, 4, 3))
    mx.random.seed(5)
    tensors = {}
    for name, value in tree_flatten(TinyAutoencoder(config).parameters()):
        tensors[name] = np.array(value.transpose(0, 3, 1, 2) if value.ndim == 4 else value)
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, str(target))
    return target


def clip(num_frames: int, height: int = 18, width: int = 33, chunk: int = 5) -> FrameStream:
    """A moving pattern, different in every frame."""
    time, row, column = np.mgrid[:num_frames, :height, :width]
    planes = [np.sin(0.3 * time + 0.5 * row + 0.2 * column + phase) for phase in (0, 1, 2)]
    frames = ((np.stack(planes, axis=-1) + 1) * 127).astype(np.uint8)
    chunks = (frames[i : i + chunk] for i in range(0, num_frames, chunk))
    return FrameStream(
        chunks=chunks, height=height, width=width, frame_rate=Fraction(24000, 1001), num_frames=num_frames
    )
