"""Small FlashVSR folders with stand-in weights, and clips."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.verify.case import Case

GOLDENS = Path(__file__).parents[2] / "goldens" / "flashvsr"
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


@pytest.fixture(scope="session")
def flashvsr(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("flashvsr")
    write_flashvsr(folder)
    write_decoder("light_vae", folder / "lightvaew2_1.safetensors")
    write_decoder("wan_vae_2_1", folder / "Wan2.1_VAE.safetensors")
    write_decoder("taehv_w2_1", folder / "taew2_1.safetensors")
    return folder


def clip(num_frames: int, height: int = 18, width: int = 33, chunk: int = 5) -> FrameStream:
    """A moving pattern, different in every frame."""
    time, row, column = np.mgrid[:num_frames, :height, :width]
    planes = [np.sin(0.3 * time + 0.5 * row + 0.2 * column + phase) for phase in (0, 1, 2)]
    frames = ((np.stack(planes, axis=-1) + 1) * 127).astype(np.uint8)
    chunks = (frames[i : i + chunk] for i in range(0, num_frames, chunk))
    return FrameStream(
        chunks=chunks, height=height, width=width, frame_rate=Fraction(24000, 1001), num_frames=num_frames
    )
