"""Frames on several machines: how the processes of a run share the work on them, and what they compare before it.

On one machine every function here leaves things as they are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from LTX_2_MLX.files import content_digest
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.ops.collective import ALONE, Group, share_out
from LTX_2_MLX.pipelines.options import declared_options
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.spool import Spool
from LTX_2_MLX.runtime.this_machine import GIB, budget_bytes

Task = TypeVar("Task")
Request = TypeVar("Request", bound=Any)
Value = TypeVar("Value")


def run_group() -> Group:
    """The processes of this run."""
    if launch.RANK is None:
        return ALONE
    # Most runs have one process.
    from LTX_2_MLX.runtime.machines import machines

    return machines().group


def shared_frames(
    tasks: Iterable[Task], work: Callable[[list[Task]], Iterable[np.ndarray]], *, at_once: int = 1
) -> Iterator[np.ndarray]:
    """The result of every task in order, each computed on one of the machines; all of them have all results.

    Args:
        tasks: The same on all machines, which all read them.
        work: Consecutive tasks, ``at_once`` of them or fewer, to an array of uint8 or uint16 for each.
        at_once: Tasks that a machine computes at once.
    """
    group = run_group()
    if group.size == 1:
        tasks = iter(tasks)
        while own := list(islice(tasks, at_once)):
            yield from work(own)
        return
    for result in share_out(group, tasks, lambda own: [mx.array(frames) for frames in work(own)], at_once=at_once):
        yield np.array(result)


def smallest(value: Value, size: Callable[[Any], float], found: Callable[[Any], Value]) -> Value:
    """The smallest of what the machines have chosen by their own memory, so that all choose the same.

    Args:
        value: This machine's; a dataclass, or None.
        size: Of a choice in JSON's form.
        found: JSON's form to the choice.
    """
    if run_group().size == 1:
        return value
    from LTX_2_MLX.runtime.machines import machines

    own: Any = value
    choices = [other for _, other in machines().exchange(None if own is None else asdict(own))]
    return found(min(choices, key=size))


def on_every_machine(stream: FrameStream) -> FrameStream:
    """A stream that the first machine alone has, for work that the machines share: all of them read its frames.

    The first one computes all of them before, into a temporary file.
    """
    group = run_group()
    return stream if group.size == 1 else stream.replace(chunks=_sent_frames(stream, group))


def _sent_frames(stream: FrameStream, group: Group) -> Iterator[np.ndarray]:
    with closing(Spool((stream.height, stream.width, 3), np.uint8 if stream.bit_depth == 8 else np.uint16)) as spool:
        try:
            for chunk in stream:
                if group.rank == 0:
                    spool.append(chunk)
        finally:
            stream.close()
        (length,) = group.first_arrays([mx.array(len(spool))])
        for number in range(int(np.array(length))):
            own = [mx.array(spool[number])] if group.rank == 0 else []
            (frame,) = group.first_arrays(own)
            yield np.array(frame)[None]


def with_least_memory(request: Request) -> Request:
    """The request with the memory of the smallest machine as its limit, so that all cut the same tiles."""
    if launch.RANK is None:
        return request
    from LTX_2_MLX.runtime.machines import machines

    limit = min(value for _, value in machines().exchange(budget_bytes(request.memory_limit_gb)))
    return replace(request, memory_limit_gb=limit / GIB)


def agree(request: Any, source: Path, weights: Sequence[Path]) -> None:
    """Compare a request, its input and its weights with those of the other machines.

    Args:
        request: Of a pipeline from a video to a video.
        source: The input, a file or a folder of images.
        weights: Files of the networks.

    Raises:
        RequestError: If they differ, or another machine cannot take part.
    """
    if launch.RANK is None:
        return
    from LTX_2_MLX.runtime.machines import machines

    files = [content_digest(path) for path in weights]
    machines().agree({"input": _input_facts(source), "settings": _settings(request), "weights": files})


def _settings(request: Any) -> dict[str, str]:
    """The options of a request but for its files, whose folders may differ."""
    options: type = type(request)
    declared = declared_options(options)
    return {name: str(value) for name, value in vars(request).items() if not declared[name].opt.is_file}


def _input_facts(source: Path) -> Any:
    """A file's digest; of a folder the names and digests of its files."""
    if not source.is_dir():
        return content_digest(source)
    return [(path.name, content_digest(path)) for path in sorted(source.iterdir()) if path.is_file()]
