"""Drafts: stage 1 of several prompts and seeds, on one page to choose from. Entry point for the CLI and library users.

Each draft keeps its states in a folder of its own, so that ``--resume`` finishes it without doing stage 1 again.
"""

import io
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.files import write_file
from LTX_2_MLX.invocation import command_line
from LTX_2_MLX.media.audio import Waveform
from LTX_2_MLX.media.contact_sheet import clock, preview_sheet, spread
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.panels import peaks_of
from LTX_2_MLX.media.video import write_video
from LTX_2_MLX.pages.document import setting_words
from LTX_2_MLX.pages.drafts import DraftCard, drafts_page
from LTX_2_MLX.pipelines.batch import Item, draft_batch
from LTX_2_MLX.pipelines.generate import Prepared, prepare
from LTX_2_MLX.pipelines.generation.option_groups.guidance import TWO_STAGES
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.options import options_of
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.job import REQUEST_FILE
from LTX_2_MLX.runtime.progress import Progress
from LTX_2_MLX.runtime.runner import StageRunner

PAGE, SHEET, VIDEO = "drafts.html", "drafts.png", "draft.mp4"
# Files for a page are looked at once and chosen from.
_CRF = 23
_JPEG_QUALITY = 80
_SHEET_FRAMES = 3
_PEAKS_PER_SECOND = 100
# What differs from draft to draft, or tells of the user's folders.
_NOT_SHARED = ("prompt", "seed", "save_latents", "resume", "preview", "preview_every")


@dataclass
class _Seen:
    """A few frames and the waveform of a draft, kept while it is written."""

    frames: list[np.ndarray] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    peaks: np.ndarray | None = None


def drafts(
    prompts: str | Sequence[str],
    folder: str | Path,
    *,
    seeds: Sequence[int] = (0,),
    progress: Progress | None = None,
    **options: Any,
) -> Path:
    """Make a draft of every prompt with every seed, and a page of them.

    Args:
        prompts: One text prompt or several.
        folder: Where the page, the sheet and the drafts' states are written.
        seeds: Of the drafts.
        progress: Callback for stages, steps and automatic choices.
        **options: The other fields of ``Options``, for all of them.

    Returns:
        The page.

    Raises:
        RequestError: If a draft cannot be made as asked.
        CheckpointError: If a file is missing, damaged or of another network.
    """
    texts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not texts or not seeds or len(set(seeds)) != len(seeds):
        raise RequestError("Drafts need a prompt, and seeds that differ.")
    runner = StageRunner(progress)
    fields = options_of(Options, {"prompt": max(texts, key=len), "seed": seeds[0]} | options, "drafts")
    ready = prepare(Options(**fields), runner.progress.note)
    items = []
    for number, prompt in enumerate(texts, 1):
        for seed in seeds:
            name = (f"{number:03d}-" if len(texts) > 1 else "") + f"seed-{seed}"
            items.append(draft_item(ready, prompt, seed, Path(folder) / name))
    return write_drafts(items, Path(folder), runner)


def draft_item(ready: Prepared, prompt: str, seed: int, folder: Path) -> Item:
    """One draft, with its states in ``folder``; those of an earlier run that fit are used again.

    Raises:
        RequestError: If the pipeline has no stage 1 of two, or the length is not settled.
    """
    options = ready.options
    if options.pipeline not in TWO_STAGES:
        raise RequestError(
            f"--drafts ends after stage 1 of two, but --pipeline is {options.pipeline}. Use two-stage or hq."
        )
    if ready.request.duration is not None:
        raise RequestError("A duration head gives each draft a length of its own. Give --frames or --duration.")
    if options.save_latents is not None or options.resume is not None:
        raise RequestError("--drafts keeps the states in its own folders. Leave out --save-latents and --resume.")
    place = "resume" if (folder / REQUEST_FILE).is_file() else "save_latents"
    changes: dict[str, Any] = {"prompt": prompt, "seed": seed, place: folder}
    return Item(replace(options, **changes), replace(ready.request, prompt=prompt, seed=seed))


def write_drafts(items: Sequence[Item], folder: Path, runner: StageRunner) -> Path:
    """Make the drafts, with videos beside their states, and write the page and the sheet into ``folder``.

    Args:
        items: From ``draft_item``, with places of their own.
        folder: Holds the places.
        runner: Runs the stages.

    Returns:
        The page.
    """
    cards, rows = [], []
    for item, stream in draft_batch(items, runner):
        place = Path(item.options.resume or item.options.save_latents or folder)
        seen = _Seen()
        path = write_video(_watched(stream, seen), place / VIDEO, crf=_CRF, progress=runner.progress)
        if launch.FOLLOWS:
            # The first machine has the videos.
            continue
        cards.append(_card(item, place.name, stream, seen, path.read_bytes(), finishing(folder, place.name)))
        rows.append(preview_sheet(f"{place.name}   {item.options.prompt}", seen.frames, seen.labels, seen.peaks))
    if launch.FOLLOWS:
        return folder / PAGE
    shared = {name: value for name, value in asdict(items[0].options).items() if name not in _NOT_SHARED}
    page = drafts_page(cards, setting_words(shared), finishing(folder), _where(folder))
    image = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(image, "PNG")
    write_file(folder / SHEET, image.getvalue())
    write_file(folder / PAGE, page)
    return folder / PAGE


def finishing(folder: Path, name: str | None = None) -> str:
    """The command that finishes the draft of this name, or all of them; no folders above theirs are in it."""
    short = _short(folder)
    words = ["--resume", str(short)] if name is None else ["--resume", str(short / name), "-o", f"{name}.mp4"]
    start = command_line("generate")
    if any(Path(word).is_absolute() for word in start.split()):
        start = "python scripts/generate.py"
    return f"{start} {shlex.join(words)}"


def _short(folder: Path) -> Path:
    """The folder as seen from the current one; its name alone where it is outside."""
    below = os.path.relpath(folder)
    return Path(folder.absolute().name if below.startswith(os.pardir) else below)


def _where(folder: Path) -> str:
    if os.path.relpath(folder).startswith(os.pardir):
        return f"the folder that holds {folder.absolute().name}"
    return "the folder in which the drafts were started"


def _watched(stream: FrameStream, seen: _Seen) -> FrameStream:
    """The same stream, of which a few frames are kept as they pass."""
    assert stream.num_frames is not None, "a decoder knows its frames"
    wanted = set(spread(stream.num_frames, _SHEET_FRAMES))
    if isinstance(stream.audio, Waveform):
        seen.peaks = peaks_of(stream.audio.samples, max(stream.audio.sample_rate // _PEAKS_PER_SECOND, 1))

    def chunks() -> Any:
        first = 0
        try:
            for chunk in stream:
                for index in sorted(wanted & set(range(first, first + len(chunk)))):
                    seen.frames.append(chunk[index - first].copy())
                    seen.labels.append(clock(index / stream.frame_rate))
                first += len(chunk)
                yield chunk
        finally:
            stream.close()

    return stream.replace(chunks=chunks())


def _card(item: Item, name: str, stream: FrameStream, seen: _Seen, encoded: bytes, command: str) -> DraftCard:
    poster = io.BytesIO()
    Image.fromarray(seen.frames[len(seen.frames) // 2]).save(poster, "JPEG", quality=_JPEG_QUALITY)
    seconds = stream.duration_seconds or 0
    rate = f"{float(stream.frame_rate):.6g} fps"
    return DraftCard(
        name=name,
        prompt=item.options.prompt or "",
        seed=item.options.seed,
        facts=f"{stream.width}×{stream.height}, {stream.num_frames} frames, {rate}, {float(seconds):.2f} s",
        command=command,
        encoded=encoded,
        poster=poster.getvalue(),
        has_sound=stream.audio is not None,
    )
