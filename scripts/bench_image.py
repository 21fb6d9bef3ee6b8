"""Measure an upscaled image: seams of its tiles, and its sharpness beside bicubic."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image

from LTX_2_MLX import cli
from LTX_2_MLX.media.image import read_image
from LTX_2_MLX.pipelines.upscale import Request, upscale_images


def main(
    image: Annotated[Path, typer.Argument(help="Image to upscale.")],
    model_path: Annotated[str, typer.Option(help="Real-ESRGAN's file.")] = "realesr-animevideov3",
    tile_size: Annotated[int, typer.Option(help="Side of the tiles.")] = 64,
) -> None:
    """Print the difference between an image upscaled in tiles and whole, and its sharpness beside bicubic."""
    given = read_image(image)
    whole, tiled = (
        next(upscale_images([given], Request(model_path, tile_size=size))).pixels.astype(int) for size in (0, tile_size)
    )
    bicubic = np.asarray(Image.fromarray(given.pixels).resize(whole.shape[1::-1], Image.Resampling.BICUBIC)).astype(int)
    different, largest = (whole != tiled).mean(), np.abs(whole - tiled).max()
    print(f"Tiles of {tile_size}: at most {largest} levels from the whole, in {different:.1e} of the values")
    print(f"Mean gradient over that of bicubic: {gradient(whole) / gradient(bicubic):.2f}")


def gradient(pixels: np.ndarray) -> float:
    """Mean step between neighbours, in levels."""
    return sum(np.abs(np.diff(pixels, axis=axis)).mean() for axis in (0, 1))


if __name__ == "__main__":
    with cli.exit_codes():
        typer.run(main)
