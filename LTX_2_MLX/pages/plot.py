"""Line plots as SVG, with a marker that a script moves."""

from collections.abc import Sequence

from LTX_2_MLX.pages.document import text

WIDTH, HEIGHT = 900, 160
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 24
CURVES = ("first", "second")


def line_plot(curves: Sequence[Sequence[float]], *, unit: str, description: str) -> str:
    """An SVG with one line for each list of values of one length, and the lowest and highest value at the axis.

    Args:
        curves: One or two.
        unit: Behind the values at the axis; empty for none.
        description: For those who do not see it.
    """
    lowest = min(min(values) for values in curves)
    highest = max(max(values) for values in curves)
    span = highest - lowest or 1.0
    lines = []
    for name, values in zip(CURVES, curves, strict=False):
        lines.append(f'<polyline class="curve {name}" points="{_points(values, lowest, span)}"/>')
    bottom = HEIGHT - BOTTOM
    last = len(curves[0]) - 1
    return f"""<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(description)}" data-plot>
<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{TOP}" y2="{TOP}"/>
<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>
<text x="{LEFT - 6}" y="{TOP + 4}" text-anchor="end">{_number(highest)}{text(unit)}</text>
<text x="{LEFT - 6}" y="{bottom}" text-anchor="end">{_number(lowest)}{text(unit)}</text>
<text x="{LEFT}" y="{HEIGHT - 6}">frame 0</text>
<text x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{last}</text>
{"".join(lines)}
<line class="marker" x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{bottom}"/>
</svg>"""


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:.1f}"


def _points(values: Sequence[float], lowest: float, span: float) -> str:
    width = WIDTH - LEFT - RIGHT
    height = HEIGHT - TOP - BOTTOM
    steps = max(len(values) - 1, 1)
    points = []
    for index, value in enumerate(values):
        x = LEFT + width * index / steps
        y = HEIGHT - BOTTOM - height * (value - lowest) / span
        points.append(f"{x:.1f},{y:.1f}")
    # A single value is a point, which no line shows.
    return " ".join(points if len(points) > 1 else [*points, f"{WIDTH - RIGHT},{points[0].split(',')[1]}"])
