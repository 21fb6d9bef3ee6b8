"""Frames for looking at: scaled, labelled, side by side, and an audio track as a waveform."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from LTX_2_MLX.files import printable

BACKGROUND = (24, 24, 27)
_TEXT = (244, 244, 245)
_WAVE = (125, 176, 255)


def scaled(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """A frame ``(H, W, 3)`` uint8 in another size, bicubic with antialiasing; the same array if the size is its own."""
    if frame.shape[:2] == (height, width):
        return frame
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def label_height(height: int) -> int:
    """Rows of the band with the label of a panel of this height: even, for video."""
    return max(18, height // 20) // 2 * 2


def label_band(text: str, height: int, width: int) -> np.ndarray:
    """A band ``(height, width, 3)`` uint8 with one line of text, cut with an ellipsis where it is too long."""
    image = Image.new("RGB", (width, height), BACKGROUND)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=height * 0.62)
    margin = height // 3
    line = _shortened(printable(text), font, width - 2 * margin)
    draw.text((margin, height / 2), line, fill=_TEXT, font=font, anchor="lm")
    return np.asarray(image)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The beginning of a text that is at most ``width`` pixels wide."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…" if text else ""


def grid(panels: Sequence[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """Panels ``(H, W, 3)`` uint8 of one size in rows of ``columns``, on the background, with gaps around each."""
    height, width = panels[0].shape[:2]
    rows = -(-len(panels) // columns)
    size = (rows * (height + gap) + gap, columns * (width + gap) + gap, 3)
    sheet = np.full(size, BACKGROUND, np.uint8)
    for index, panel in enumerate(panels):
        top = gap + index // columns * (height + gap)
        left = gap + index % columns * (width + gap)
        sheet[top : top + height, left : left + width] = panel
    return sheet


def waveform_strip(peaks: np.ndarray, height: int, width: int) -> np.ndarray:
    """A waveform as an image ``(height, width, 3)`` uint8.

    Args:
        peaks: ``(N, 2)`` in [-1, 1], lowest and highest value of consecutive stretches; see ``peaks_of``.
        height, width: Pixels.
    """
    strip = np.full((height, width, 3), BACKGROUND, np.uint8)
    edges = np.linspace(0, len(peaks), width + 1).astype(int)
    middle = (height - 1) / 2
    for column, (start, end) in enumerate(pairwise(edges)):
        values = peaks[start : max(end, start + 1)]
        if len(values):
            top = round(middle - middle * float(min(values[:, 1].max(), 1)))
            bottom = round(middle - middle * float(max(values[:, 0].min(), -1)))
            strip[top : bottom + 1, column] = _WAVE
    return strip


def peaks_of(samples: np.ndarray, length: int) -> np.ndarray:
    """Lowest and highest value ``(N, 2)`` of each ``length`` samples ``(S, channels)``, the channels' mean."""
    mono = samples.mean(axis=1)
    starts = np.arange(0, len(mono), length)
    if not len(starts):
        return np.empty((0, 2), np.float32)
    return np.stack([np.minimum.reduceat(mono, starts), np.maximum.reduceat(mono, starts)], axis=1)
