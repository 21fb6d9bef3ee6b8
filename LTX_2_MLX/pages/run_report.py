"""The page on a run: settings, machine, plan beside measured by stage, notes, and frames of the result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from LTX_2_MLX.pages.document import base64_text, document, text


@dataclass(frozen=True)
class StageFigures:
    """One stage.

    Attributes:
        name: Of the stage.
        planned_bytes: Peak of memory by the plan; None: not planned.
        peak_bytes: Measured peak; None: the run did not come to it.
        planned_seconds: By the plan; None: this machine's rate is not known.
        seconds: Measured.
    """

    name: str
    planned_bytes: int | None = None
    peak_bytes: int | None = None
    planned_seconds: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class RunFacts:
    """All that the page shows.

    Attributes:
        command: Of the program.
        outcome: One line: what was written, or the error.
        failed: Whether it is an error.
        settings: Options by name, in words.
        machine: Facts of the machine and versions, in words.
        stages: In the order in which they were planned or ran.
        seconds: Of the whole run.
        notes: What was printed.
        sheet: JPEG with frames of the result; empty without.
        previews: JPEG with the last preview of a stage, by the stage's name.
        videos: JPEG with frames of each video of a batch, by its words: name, seed and prompt.
    """

    command: str
    outcome: str
    failed: bool
    settings: Mapping[str, str]
    machine: Mapping[str, str]
    stages: Sequence[StageFigures]
    seconds: float
    notes: Sequence[str] = ()
    sheet: bytes = b""
    previews: Mapping[str, bytes] = field(default_factory=dict)
    videos: Mapping[str, bytes] = field(default_factory=dict)


def run_page(facts: RunFacts) -> str:
    """The page as HTML."""
    kind = "warning" if facts.failed else "quiet"
    parts = [f'<p class="{kind}">{text(facts.outcome)}</p>', f"<p>{facts.seconds:.1f} seconds in all.</p>"]
    if facts.sheet:
        parts += ["<h2>Result</h2>", _sheet(facts.sheet, "Frames of the result with their times")]
    if facts.videos:
        parts.append("<h2>Videos</h2>")
    for words, sheet in facts.videos.items():
        parts.append(f"<p>{text(words)}</p>")
        parts += [_sheet(sheet, f"Frames with their times: {words}")] if sheet else []
    shown = {stage: sheet for stage, sheet in facts.previews.items() if sheet}
    if shown:
        parts.append("<h2>Previews</h2>")
        parts += [_sheet(sheet, f"Last preview of {stage}: frames with their times") for stage, sheet in shown.items()]
    parts += ["<h2>Stages</h2>", _stages(facts.stages), "<h2>Settings</h2>", _pairs(facts.settings)]
    parts += ["<h2>Machine</h2>", _pairs(facts.machine)]
    if facts.notes:
        lines = "".join(f"<li>{text(line)}</li>" for line in facts.notes)
        parts.append(f"<h2>Notes</h2><ul>{lines}</ul>")
    return document(f"Run of {facts.command}", "\n".join(parts))


def _sheet(jpeg: bytes, words: str) -> str:
    return f'<img class="sheet" src="data:image/jpeg;base64,{base64_text(jpeg)}" alt="{text(words)}">'


def _pairs(pairs: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th scope='row'>{text(name)}</th><td>{text(value)}</td></tr>" for name, value in pairs.items())
    return f"<div class='figures'><table>{rows}</table></div>"


def _stages(stages: Sequence[StageFigures]) -> str:
    largest = max([1.0, *(each or 0 for stage in stages for each in (stage.planned_bytes, stage.peak_bytes))])
    longest = max([0.1, *(each or 0 for stage in stages for each in (stage.planned_seconds, stage.seconds))])
    rows = []
    for stage in stages:
        memory = _bars(stage.planned_bytes, stage.peak_bytes, largest, _size)
        time = _bars(stage.planned_seconds, stage.seconds, longest, _seconds)
        rows.append(f"<tr><th scope='row'>{text(stage.name)}</th><td>{memory}</td><td>{time}</td></tr>")
    return (
        "<div class='figures'><table class='bars'><tr><th>Stage</th><th>Memory</th><th>Time</th></tr>"
        f"{''.join(rows)}</table></div>"
    )


def _bars(planned: float | None, measured: float | None, largest: float, shown: Callable[[float], str]) -> str:
    """A bar for the plan and one for the measurement, each with its number."""
    bars = []
    for name, word, number in (("second", "planned", planned), ("first", "measured", measured)):
        if number is not None:
            width = max(1, round(100 * number / largest))
            bars.append(f'<div class="bar {name}" style="width:{width}%"></div><span>{word} {shown(number)}</span>')
    return "".join(f"<div>{bar}</div>" for bar in bars) or "not run"


def _size(number: float) -> str:
    return f"{number / 2**20:.1f} MiB" if number < 2**30 else f"{number / 2**30:.2f} GiB"


def _seconds(number: float) -> str:
    return f"{number:.1f} s"
