"""``--drafts``: stage 1 of several prompts and seeds in one run of ``generate``, and a page to choose from."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from LTX_2_MLX.cli.batch import Named, item_of, planned_batch, videos_asked_for
from LTX_2_MLX.cli.echo import echo
from LTX_2_MLX.cli.generate import NAME_TEMPLATE, STDIN, prompt_from_stdin
from LTX_2_MLX.errors import RequestError

if TYPE_CHECKING:
    from LTX_2_MLX.cli.generate import GenerateOptions
    from LTX_2_MLX.pipelines.batch import Item
    from LTX_2_MLX.pipelines.generate import Prepared

# Typed options that belong to the run which finishes a draft, or keep states elsewhere.
_FOREIGN = ("save_latents", "resume", "save_audio")


def generate_drafts(typed: dict[str, Any], own: "GenerateOptions", seeds: Sequence[int]) -> None:
    """Make the drafts, and write their page."""
    from LTX_2_MLX.cli.command import progress_from
    from LTX_2_MLX.cli.generate import dry_run_text
    from LTX_2_MLX.pipelines import drafts
    from LTX_2_MLX.pipelines.generate import check_outputs

    assert own.drafts is not None, "the caller has seen it"
    folder = own.drafts.expanduser()
    _refuse_foreign(typed, own)
    if typed.get("prompt") == STDIN:
        typed = typed | {"prompt": prompt_from_stdin()}
    videos = [_named(video) for video in videos_asked_for(typed, own, seeds)]
    batch = planned_batch(typed, own, videos, progress_from(vars(own)))
    items = []
    for video in videos:
        shared = item_of(batch.ready, typed, video)
        ready = batch.ready._replace(options=shared.options, request=shared.request)
        items.append(drafts.draft_item(ready, video.prompt, video.seed, folder / _place(video)))
        check_outputs(shared.options, shared.request, folder / drafts.PAGE, folder / drafts.SHEET)
    if own.dry_run:
        echo(dry_run_text(batch.ready, own))
    else:
        _write(items, folder, own, batch.ready)


def _write(items: "Sequence[Item]", folder: Path, own: "GenerateOptions", ready: "Prepared") -> None:
    from LTX_2_MLX.cli.command import check_existing, report
    from LTX_2_MLX.files import check_free, check_writable, made_folder
    from LTX_2_MLX.media.encoder import least_bytes
    from LTX_2_MLX.pipelines import drafts

    page = folder / drafts.PAGE
    settings: dict[str, Any] = {"quiet": own.quiet, "progress": own.progress, "preview_inline": own.preview_inline}
    with made_folder(folder), report(None, wired_bytes=ready.plan.largest_bytes, **settings) as runner:
        check_writable(page)
        check_existing(page, yes=own.yes)
        request = ready.request
        check_free(page, len(items) * least_bytes((request.height, request.width), request.num_frames))
        if not own.quiet:
            for line in (*ready.plan.sizes, f"{len(items)} drafts of stage 1, each network loaded once for all"):
                runner.progress.note(line)
        drafts.write_drafts(items, folder, runner)
        runner.progress.note(f"Wrote {page}")


def _refuse_foreign(typed: dict[str, Any], own: "GenerateOptions") -> None:
    """Raise ``RequestError`` for options that have no effect on drafts."""
    foreign = [f"--{name.replace('_', '-')}" for name in _FOREIGN if typed.get(name) is not None]
    if own.output != NAME_TEMPLATE:
        foreign.append("--output")
    if own.crf is not None:
        foreign.append("--crf")
    if own.report is not None:
        raise RequestError("--drafts writes a page of its own, so --report has no effect. Leave it out.")
    if foreign:
        raise RequestError(
            f"--drafts ends after stage 1, so {foreign[0]} has no effect. Give it to the run that finishes a draft."
        )


def _named(video: Named) -> Named:
    """The video with a name, which the only one of its run lacks."""
    return replace(video, suffix=video.suffix or f"-seed{video.seed}")


def _place(video: Named) -> Path:
    return Path(video.suffix.removeprefix("-").replace("seed", "seed-"))
