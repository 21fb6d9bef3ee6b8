"""Programs for ``mlx.launch``: what several processes do together, each a function that the test names."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import LTX_2_MLX  # noqa: F401  (loads BLAS before MLX)

# isort: split
import mlx.core as mx

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.files import without_keeping
from LTX_2_MLX.ops.collective import CollectiveOrderError, TokenShare
from LTX_2_MLX.pipelines.generate import generate_video, prepare
from LTX_2_MLX.pipelines.generation.fastest_way import measured_speed
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.sharing import SharedJob, answer_of_first, number_of_first, state_of_first
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.runtime.machines import Machines, joined
from LTX_2_MLX.runtime.progress import SilentProgress
from LTX_2_MLX.runtime.runner import StageRunner


def exchange(machines: Machines, folder: Path) -> str:
    """Arrays, bytes and states go from each process to the others."""
    group = machines.group
    assert mx.array_equal(group.gather(mx.array([group.rank, 7])), mx.array([[0, 7], [1, 7]]))
    assert group.gather_bytes(b"x" * group.rank) == [b"", b"x"]
    tokens = mx.random.normal((2, 7, 3), key=mx.random.key(0))
    share = TokenShare(group, 7)
    assert mx.array_equal(share.gather(tokens[:, share.tokens]), tokens)
    job = SharedJob(folder, resume=False, note=print)
    job.save("stage_1", {"video": mx.full((2, 3), 1.5), "empty": mx.zeros((0,))}, seed=group.rank)
    job = SharedJob(folder, resume=True, note=print)
    # The first process's facts count.
    states = job.load("stage_1", seed=group.rank)
    assert states is not None and mx.array_equal(states["video"], mx.full((2, 3), 1.5))
    assert job.load("stage_2") is None
    return "exchanged"


def wrong_order(machines: Machines, folder: Path) -> str:
    """One process evaluates two exchanges in the other order, and a checked group finds that."""
    group = machines.group
    group.checked = True
    sums = [mx.sum(group.gather(mx.array([value]))) for value in (1.0, 20.0)]
    for value in sums if group.rank == 0 else reversed(sums):
        mx.eval(value)
    try:
        group.check_order()
    except CollectiveOrderError as error:
        group.checked = False
        return str(error)
    raise AssertionError("the order was not checked")


def different_tasks(machines: Machines, folder: Path) -> str:
    """The processes have different weights."""
    try:
        machines.agree({"stage_1": {"weights": ["ab", "cd"][machines.group.rank], "seed": 3}})
    except RequestError as error:
        return str(error)
    raise AssertionError("the difference was not found")


def error_of_one(machines: Machines, folder: Path) -> str:
    """The second process cannot take part."""
    if machines.group.rank == 1:
        raise RequestError("There is no prompt. Give one.")
    try:
        machines.agree()
    except RequestError as error:
        return str(error)
    raise AssertionError("the error was not found")


def lost_machine(machines: Machines, folder: Path) -> str:
    """The second process is killed while the first one exchanges bytes with it."""
    if machines.group.rank == 1:
        machines.exchange("here")
        os.kill(os.getpid(), signal.SIGKILL)
    # mlx.launch may notice it first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        while True:
            machines.exchange("here")
    except RuntimeError as error:
        print(f"LINE {error}", flush=True)
        os._exit(0)


def first_one_counts(machines: Machines, folder: Path) -> str:
    """Each process has computed something else, and all go on with what the first one has."""
    rank = machines.group.rank
    assert answer_of_first(lambda: f"the answer of {rank}") == "the answer of 0"
    assert number_of_first(0.1 + rank) == 0.1
    images = {"stage_1.0": mx.full((1, 1, 2, 3, 4), rank, mx.bfloat16)}
    state = state_of_first(GenerationState(contexts={"positive.video": mx.array([rank + 0.5])}, images=images))
    assert state.contexts["positive.video"].item() == 0.5 and state.latents == {}
    assert state.images["stage_1.0"].dtype == mx.bfloat16 and not state.images["stage_1.0"].any()
    speed = measured_speed(machines, mx.float32)
    assert len(set(value for _, value in machines.exchange(str(speed)))) == 1 and min(speed) > 0
    return "the first one's"


class Notes(SilentProgress):
    """Prints the notes of the first process."""

    def note(self, text: str) -> None:
        """Show one line."""
        print(text, flush=True)


def reused_block_outputs(machines: Machines, folder: Path) -> str:
    """A video by each way to share, whose blocks' outputs are reused; all saved, with a line before each."""
    progress = Notes() if machines.group.rank == 0 else SilentProgress()
    cached = {"frames": 9, "steps_stage1": 5, "steps_stage2": 1, "cfg": 5.0, "step_cache": 0.6, "cache": False}
    for way in ("guidance", "sequence", "blocks"):
        progress.note(f"WAY {way}")
        options = Options("A blue ball bouncing on green grass", parallel=way, save_latents=folder / way, **cached)
        prepared = prepare(options)
        with without_keeping() if machines.group.rank else nullcontext():
            for _ in generate_video(prepared.request, StageRunner(progress), prepared.options):
                pass
    return "made"


if __name__ == "__main__":
    work: Callable[[Machines, Path], str] = globals()[sys.argv[1]]
    with joined(sys.exit) as together:
        rank = together.group.rank
        line = work(together, Path(sys.argv[2]))
        if rank == 0:
            print(f"LINE {line}", flush=True)
