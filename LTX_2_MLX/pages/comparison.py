"""A page that compares videos: a line to drag between two of them, single pixels, PSNR and SSIM of each frame."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from LTX_2_MLX.pages.document import base64_text, document, text
from LTX_2_MLX.pages.plot import CURVES, LEFT, RIGHT, WIDTH, line_plot

# Shown for equal frames, whose ratio is infinite.
_EQUAL_DB = 100.0


@dataclass(frozen=True)
class ComparedVideo:
    """One of the videos.

    Attributes:
        label: Its name on the page.
        facts: Size, length and rate, in words.
        width: Columns of its panel in the encoded video.
        psnr: dB of each frame against the first video; empty for the first video itself.
        ssim: The same.
    """

    label: str
    facts: str
    width: int
    psnr: tuple[float, ...] = ()
    ssim: tuple[float, ...] = ()


def comparison_page(
    videos: Sequence[ComparedVideo], encoded: bytes, *, height: int, frame_rate: Fraction, num_frames: int
) -> str:
    """The page as HTML.

    Args:
        videos: Two or three.
        encoded: An .mp4 file with the videos side by side, without labels.
        height: Rows of the panels.
        frame_rate: Of the encoded video.
        num_frames: Of the encoded video.
    """
    labels = [video.label for video in videos]
    data = {
        "labels": labels,
        "widths": [video.width for video in videos],
        "height": height,
        "rate": float(frame_rate),
        "frames": num_frames,
        "plot": [LEFT, RIGHT, WIDTH],
    }
    body = "\n".join([_facts(videos), _viewer(labels), _plots(videos[0].label, videos[1:])])
    video = f'<script type="text/plain" id="video-data">{base64_text(encoded)}</script>'
    return document(f"Comparison of {' and '.join(labels)}", f"{body}\n{video}", scripts=("comparison.js",), data=data)


def _facts(videos: Sequence[ComparedVideo]) -> str:
    rows = "".join(f"<tr><th scope='row'>{text(video.label)}</th><td>{text(video.facts)}</td></tr>" for video in videos)
    return f"<div class='figures'><table>{rows}</table></div>"


def _viewer(labels: Sequence[str]) -> str:
    options = "".join(f'<option value="{index}">{text(label)}</option>' for index, label in enumerate(labels))
    return f"""<div class="viewer" id="viewer">
<canvas id="canvas" role="img" aria-label="The two chosen videos, left and right of a line"></canvas>
<span class="left" id="left-label"></span><span class="right" id="right-label"></span>
</div>
<label class="quiet" for="split">Line between left and right</label>
<input type="range" id="split" min="0" max="1000" value="500">
<div class="controls">
<button id="play" aria-pressed="false">Play</button>
<button id="back" aria-label="Previous frame">◀ Frame</button>
<button id="forward" aria-label="Next frame">Frame ▶</button>
<label class="wide">Frame <input type="range" id="frame" min="0" value="0"></label>
<output id="position" for="frame"></output>
</div>
<div class="controls">
<label>Left <select id="left">{options}</select></label>
<label>Right <select id="right">{options}</select></label>
<label>Zoom <select id="zoom"><option value="fit">Whole frame</option><option value="1">100 %</option>
<option value="2">200 %</option><option value="4">400 %</option><option value="8">800 %</option></select></label>
<button id="sound" aria-pressed="false">Sound</button>
</div>
<p class="quiet">Drag the line; with a zoom, drag inside the frame. Space plays, the arrow keys step by a frame.
The page shows encoded copies; PSNR and SSIM are of the files' own frames.</p>"""


def _plots(reference: str, others: Sequence[ComparedVideo]) -> str:
    parts = []
    for title, unit, lists in (
        ("PSNR", " dB", [_finite(video.psnr) for video in others]),
        ("SSIM", "", [video.ssim for video in others]),
    ):
        summary = _summary(title, unit, reference, others, lists)
        parts.append(f"<h2>{title}</h2>{summary}{line_plot(lists, unit=unit, description=f'{title} of each frame')}")
    return "\n".join([*parts, _table(others)])


def _finite(values: Sequence[float]) -> list[float]:
    return [min(value, _EQUAL_DB) for value in values]


def _summary(
    title: str, unit: str, reference: str, others: Sequence[ComparedVideo], lists: Sequence[Sequence[float]]
) -> str:
    lines = []
    for name, video, values in zip(CURVES, others, lists, strict=False):
        lowest = min(range(len(values)), key=values.__getitem__)
        lines.append(
            f'<p><span class="key {name}"></span>{text(video.label)} against {text(reference)}: mean '
            f"{sum(values) / len(values):.3f}{unit}, lowest {values[lowest]:.3f}{unit} at frame {lowest}</p>"
        )
    return "".join(lines)


def _table(others: Sequence[ComparedVideo]) -> str:
    header = "".join(f"<th>{text(video.label)} PSNR</th><th>{text(video.label)} SSIM</th>" for video in others)
    rows = []
    for index in range(len(others[0].psnr)):
        cells = "".join(f"<td>{_decibels(video.psnr[index])}</td><td>{video.ssim[index]:.4f}</td>" for video in others)
        rows.append(f"<tr><th scope='row'>{index}</th>{cells}</tr>")
    return (
        "<details><summary>All values</summary><div class='figures'><table>"
        f"<tr><th>Frame</th>{header}</tr>{''.join(rows)}</table></div></details>"
    )


def _decibels(value: float) -> str:
    return "equal" if math.isinf(value) else f"{value:.2f} dB"
