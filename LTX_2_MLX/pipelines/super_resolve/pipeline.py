"""Super-resolution of a clip with FlashVSR: its stages, its plan, and the nearest request that fits into memory."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from LTX_2_MLX.errors import MediaError, RequestError
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.writer import waiting_bytes
from LTX_2_MLX.pipelines.requests import SuperResolveRequest as Request
from LTX_2_MLX.pipelines.stage import Stage
from LTX_2_MLX.pipelines.super_resolve.files import open_files
from LTX_2_MLX.pipelines.super_resolve.stages import (
    DecodeLatents,
    MakeLatents,
    Setup,
    SuperResolve,
    Work,
    temporary_bytes,
)
from LTX_2_MLX.pipelines.super_resolve.tiles import layout_of
from LTX_2_MLX.planning.fit import Fitted, nearest, refusal
from LTX_2_MLX.planning.plan import Plan, format_bytes, plan
from LTX_2_MLX.runtime.runner import StageRunner, run_stages

# Sides of tiles that are tried, in source pixels, and the overlap of tiles that had none.
_TILE_SIZES = (512, 256, 192, 128, 96, 64)
_TILE_OVERLAP = 24


def super_resolve(
    stream: FrameStream, request: Request | None = None, runner: StageRunner | None = None
) -> FrameStream:
    """The clip at ``request.scale`` times its size, as many frames as it has, made while it is read.

    Raises:
        CheckpointError: If a file is missing, of another network, or does not fit the others.
        RequestError: If the frames are too small. Errors of reading the clip are raised as it is read.
    """
    request = request or Request()
    runner = runner or StageRunner()
    setup = _setup(stream, request)
    if setup.files.note:
        runner.progress.note(setup.files.note)
    height, width = setup.layout.output
    return stream.replace(chunks=_chunks(stream, setup, runner), height=height, width=width)


def _setup(stream: FrameStream, request: Request) -> Setup:
    if stream.bit_depth > 8 and request.resize == "8bit":
        raise RequestError("--resize 8bit rounds frames to 8 bits. Leave it out with --bit-depth 10.")
    return Setup(request, open_files(request), layout_of(stream.height, stream.width, request))


def _stages(setup: Setup) -> Sequence[Stage]:
    if setup.request.unload_dit:
        return [MakeLatents(setup), DecodeLatents(setup)]
    return [SuperResolve(setup)]


def _chunks(stream: FrameStream, setup: Setup, runner: StageRunner) -> Iterator[np.ndarray]:
    with ExitStack() as open_files:
        open_files.callback(stream.close)
        yield from run_stages(_stages(setup), runner, Work(stream, open_files))


def weight_files(request: Request) -> list[Path]:
    """Files of the networks and the prompt. Raises CheckpointError as ``super_resolve`` does."""
    files = open_files(request)
    return [each.path for each in (files.transformer, files.projector, files.prompt, files.decoder)]


def plan_of(stream: FrameStream, request: Request, budget: int | None = None) -> Plan:
    """The plan of super-resolving a clip, beside a budget of memory. Its frames are not read.

    Raises:
        CheckpointError: If a file is missing, of another network, or does not fit the others.
        RequestError: If the frames are too small.
    """
    setup = _setup(stream, request)
    height, width = setup.layout.output
    num_tiles = len(setup.layout.tiles)
    tiles = f", in {num_tiles} tiles of up to {request.tile_size} source pixels" if request.tile_dit else ""
    size = (
        f"{stream.width} x {stream.height} -> {width} x {height} pixels{tiles}, decoder {setup.files.decoder_name}, "
        f"{request.attention} attention."
    )
    notes = [setup.files.note] if setup.files.note else []
    return plan(
        _stages(setup),
        sizes=[*notes, size],
        budget_bytes=budget,
        temporary_bytes=temporary_bytes(stream, setup),
        source_bytes=stream.decoding_bytes,
        writer_bytes=waiting_bytes(height, width, stream.bit_depth),
    )


def prepare(
    stream: FrameStream, request: Request, budget: int, free_disk: int, *, fit: bool = False, refuse: bool = True
) -> Fitted[Request]:
    """The request and its plan, without flags where it is unchanged.

    Args:
        stream: The clip.
        request: Its options.
        budget: Bytes of memory.
        free_disk: Bytes free where temporary files go.
        fit: Change the request to the nearest that fits the budget.
        refuse: Raise if memory or disk do not allow it; otherwise only plan.

    Raises:
        MemoryBudgetError: If it needs more memory; the message says what would fit.
        MediaError: If the temporary files would not fit.
    """
    fitted = Fitted(request, plan_of(stream, request, budget), ())
    if not fitted.plan.fits and (fit or refuse):
        smaller = nearest_fit(stream, request, budget)
        if not fit or smaller is None:
            raise refusal(fitted.plan, budget, smaller, "Nothing smaller would fit either.")
        fitted = smaller
    disk = fitted.plan.temporary_bytes or 0
    if refuse and disk > free_disk:
        raise MediaError(
            f"Temporary files take about {format_bytes(disk)}, {format_bytes(free_disk)} are free. "
            f"Free some disk, or set TMPDIR to a larger one."
        )
    return fitted


def nearest_fit(stream: FrameStream, request: Request, budget: int) -> Fitted[Request] | None:
    """The first smaller request that fits; None if none does."""
    ladders = [[change] for change in _smaller(request)]
    return nearest(request, ladders, lambda changed: plan_of(stream, changed, budget), budget)


def _smaller(request: Request) -> Iterator[dict[str, Any]]:
    """Changes that need less memory, the mildest first."""
    if not request.unload_dit:
        yield {"unload_dit": True}
    if request.mode == "full" and not request.tile_vae:
        yield {"tile_vae": True}
    for size in _TILE_SIZES:
        if request.tile_dit and size >= request.tile_size:
            continue
        overlap = min(request.overlap or _TILE_OVERLAP, size // 4)
        tiles = {"tile_dit": True, "tile_size": size, "overlap": overlap}
        yield tiles
        yield tiles | {"unload_dit": True}
