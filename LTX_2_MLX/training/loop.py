"""One training run: steps, averages, a log, and checkpoints that it resumes from.

Every run of the demo model is this loop with a network, a loss and batches of its own.
"""

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import mlx.core as mx
import mlx.nn as nn
import mlx.optimizers as optim
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten

from LTX_2_MLX.ops.device import traced

NetworkT = TypeVar("NetworkT", bound=nn.Module)
Batch = dict[str, mx.array]
Batches = Callable[[np.random.Generator, int], Batch]
# Of the network, a batch and a random key: what to lower, and figures for the log.
Loss = Callable[[NetworkT, Batch, mx.array], tuple[mx.array, dict[str, mx.array]]]


@dataclass(frozen=True)
class Settings:
    """How a run goes.

    Attributes:
        steps: Updates in all.
        batch_size: Samples in each.
        matrix_rate: Learning rate of the matrices inside the network.
        rate: Learning rate of everything else, by Adam.
        muon: Whether Muon trains the matrices; else Adam does. Muon moves all directions alike, which is fast from
            random weights and too coarse near a good solution.
        warmup: Steps over which both rates rise.
        cooldown: Share of the steps at the end over which both fall to a twentieth.
        average: Decay of the running average of the weights, which is what a run delivers.
        seed: Of batches and noise; a resumed run draws what an uninterrupted one would have drawn.
        traced: Whether the loss is traced, which a network that looks at its inputs' values forbids.
        log_every: Steps between two lines of the log.
        save_seconds: Time between two checkpoints.
    """

    steps: int
    batch_size: int
    matrix_rate: float = 0.01
    rate: float = 5e-4
    muon: bool = True
    warmup: int = 50
    cooldown: float = 0.3
    average: float = 0.995
    seed: int = 0
    traced: bool = True
    log_every: int = 20
    save_seconds: float = 120.0

    def factor(self, step: int) -> float:
        """Share of the learning rates that step ``step``, from 0, goes with."""
        left = (self.steps - step) / max(self.cooldown * self.steps, 1)
        return min(1.0, (step + 1) / max(self.warmup, 1), max(0.05, left))


def train(
    network: NetworkT,
    loss: Loss[NetworkT],
    batches: Batches,
    settings: Settings,
    folder: Path,
    *,
    on_save: Callable[[int, NetworkT], dict[str, float]] | None = None,
) -> NetworkT:
    """Train ``network`` from the checkpoint in ``folder``, if there is one, to the last step.

    Args:
        network: Its parameters are what is trained; frozen ones stay.
        loss: Of the network, a batch and a random key: what to lower, and figures for the log.
        batches: Of a generator and a batch size.
        settings: How long and how fast.
        folder: Gets ``checkpoint.safetensors`` and ``log.jsonl``.
        on_save: Of the step and the network with averaged weights, at each checkpoint: more figures for the log.

    Returns:
        The network with averaged weights.
    """
    run = _Run(network, loss, batches, settings, folder)
    while run.step < settings.steps:
        run.update()
        if run.step % settings.log_every == 0 or run.done:
            run.log_means()
        if run.save_is_due():
            run.save()
            if on_save is not None:
                run.log_with_average(on_save)
    network.update(tree_unflatten(list(run.average.items())))
    mx.eval(network.parameters())
    return network


class _Run(Generic[NetworkT]):
    """The state of one run, begun or resumed.

    Attributes:
        step: Updates that have been made.
        average: Averaged weights by parameter name.
    """

    def __init__(
        self, network: NetworkT, loss: Loss[NetworkT], batches: Batches, settings: Settings, folder: Path
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.network = network
        self.batches = batches
        self.settings = settings
        self.folder = folder
        self.optimizer = _optimizer(settings)
        self.optimizer.init(network.trainable_parameters())
        self.step = 0
        self.average: dict[str, mx.array] = dict(tree_flatten(network.trainable_parameters()))
        seconds = 0.0
        if (folder / "checkpoint.safetensors").exists():
            self.step, seconds, self.average = _resume(folder, network, self.optimizer)
        step_loss = nn.value_and_grad(network, loss)
        self.step_loss = _traced(network, step_loss) if settings.traced else step_loss
        self.saved = time.monotonic()
        self.began = self.saved - seconds
        self.figures: list[dict[str, float]] = []

    @property
    def done(self) -> bool:
        """Whether the last step has been made."""
        return self.step == self.settings.steps

    def update(self) -> None:
        """Make one step."""
        seed = self.settings.seed
        batch = self.batches(np.random.default_rng((seed, self.step)), self.settings.batch_size)
        key = mx.random.key(seed * 1_000_003 + self.step)
        (value, extra), gradients = self.step_loss(self.network, batch, key)
        self._set_rates()
        self.optimizer.update(self.network, gradients)
        self.step += 1
        self._update_average()
        mx.eval(self.network.parameters(), self.optimizer.state, self.average, value, extra)
        self.figures.append({"loss": value.item(), **{name: figure.item() for name, figure in extra.items()}})

    def _set_rates(self) -> None:
        factor = self.settings.factor(self.step)
        matrices, others = self.optimizer.optimizers
        matrices.learning_rate = self.settings.matrix_rate * factor
        others.learning_rate = self.settings.rate * factor

    def _update_average(self) -> None:
        decay = min(self.settings.average, self.step / (self.step + 10))
        for name, weight in dict(tree_flatten(self.network.trainable_parameters())).items():
            self.average[name] = self.average[name] * decay + weight * (1 - decay)

    def log_means(self) -> None:
        """Write the means of the figures since the last line into the log."""
        line: dict[str, float] = {"step": self.step, "seconds": round(time.monotonic() - self.began, 1)}
        for name in self.figures[0]:
            line[name] = round(float(np.mean([figures[name] for figures in self.figures])), 5)
        _log(self.folder, line)
        self.figures = []

    def save_is_due(self) -> bool:
        """Whether the last checkpoint is old enough, or the run is done."""
        return self.done or time.monotonic() - self.saved > self.settings.save_seconds

    def save(self) -> None:
        """Write a checkpoint."""
        self.saved = time.monotonic()
        _save(self.folder, self.network, self.optimizer, self.average, self.step, self.saved - self.began)

    def log_with_average(self, measure: Callable[[int, NetworkT], dict[str, float]]) -> None:
        """Write the figures of the network with averaged weights into the log."""

        def log() -> None:
            _log(self.folder, {"step": self.step, **measure(self.step, self.network)})

        with_average(self.network, self.average, log)


def _traced(network: nn.Module, step_loss: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, traced once: on the CPU that saves a fifth of the time.

    The first batch runs untraced, so that tables which a network keeps are real ones.
    """
    state = [network.state]
    compiled = traced(lambda batch, key: step_loss(network, batch, key), inputs=state, outputs=state)
    begun = False

    def step(network: nn.Module, batch: Batch, key: mx.array) -> Any:
        nonlocal begun
        if begun:
            return compiled(batch, key)
        begun = True
        return step_loss(network, batch, key)

    return step


def _optimizer(settings: Settings) -> optim.MultiOptimizer:
    def adam(rate: float) -> optim.Adam:
        return optim.Adam(learning_rate=rate, betas=[0.9, 0.98], bias_correction=True)

    muon = optim.Muon(learning_rate=settings.matrix_rate, momentum=0.95, weight_decay=0.0)
    matrices = muon if settings.muon else adam(settings.matrix_rate)
    return optim.MultiOptimizer([matrices, adam(settings.rate)], [_is_inner_matrix])


def with_average(network: nn.Module, average: dict[str, mx.array], work: Callable[[], None]) -> None:
    """Run ``work`` while the network has its averaged weights."""
    kept = network.trainable_parameters()
    network.update(tree_unflatten(list(average.items())))
    work()
    network.update(kept)


def averaged_weights(folder: Path) -> dict[str, mx.array]:
    """What the run in ``folder`` has come to: averaged weights by parameter name."""
    arrays, _ = _load_checkpoint(folder)
    return _under("a.", arrays)


# Parts that Adam trains although they are matrices: first and last layers, tables, and what follows a sinusoid.
_NOT_INNER = re.compile(
    r"(^|\.)(conv_in|conv_out|up_blocks\.\d+\.conv|initial_conv|final_conv|(video|audio)\.(patchify_proj|proj_out|adaln)|probes|"
    r"aggregate_embed|learnable_registers)\b|table"
)


def _is_inner_matrix(name: str, weight: mx.array) -> bool:
    """Muon is for maps between features."""
    return weight.ndim >= 2 and not _NOT_INNER.search(name)


def _save(
    folder: Path,
    network: nn.Module,
    optimizer: optim.MultiOptimizer,
    average: dict[str, mx.array],
    step: int,
    seconds: float,
) -> None:
    arrays: dict[str, mx.array] = {}
    arrays |= {f"w.{name}": value for name, value in dict(tree_flatten(network.trainable_parameters())).items()}
    arrays |= {f"a.{name}": value for name, value in average.items()}
    arrays |= {f"o.{name}": value for name, value in dict(tree_flatten(optimizer.state)).items()}
    temporary = folder / "checkpoint.part.safetensors"
    mx.save_safetensors(str(temporary), arrays, {"step": str(step), "seconds": str(seconds)})
    os.replace(temporary, folder / "checkpoint.safetensors")


def _resume(
    folder: Path, network: nn.Module, optimizer: optim.MultiOptimizer
) -> tuple[int, float, dict[str, mx.array]]:
    arrays, metadata = _load_checkpoint(folder)
    network.update(tree_unflatten(list(_under("w.", arrays).items())))
    optimizer.state = tree_unflatten(list(_under("o.", arrays).items()))
    return int(metadata["step"]), float(metadata["seconds"]), _under("a.", arrays)


def _under(prefix: str, arrays: dict[str, mx.array]) -> dict[str, mx.array]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _load_checkpoint(folder: Path) -> tuple[dict[str, mx.array], dict[str, str]]:
    loaded: Any = mx.load(str(folder / "checkpoint.safetensors"), return_metadata=True)
    arrays, metadata = loaded
    return arrays, metadata


def _log(folder: Path, line: dict[str, float]) -> None:
    text = json.dumps(line)
    with (folder / "log.jsonl").open("a") as file:
        file.write(text + "\n")
    print(f"{folder.name}: {text}", flush=True)


def finished_steps(folder: Path) -> int:
    """Steps that the run in ``folder`` has behind it; 0 where there is no checkpoint."""
    if not (folder / "checkpoint.safetensors").exists():
        return 0
    _, metadata = _load_checkpoint(folder)
    return int(metadata["step"])


def copy_logs(folder: Path, runs: Sequence[str], target: Path) -> None:
    """Copy the logs of the runs in ``folder``, shortened, to ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    for name in runs:
        if (log := folder / name / "log.jsonl").exists():
            (target / f"{name}.jsonl").write_text(_thinned(log.read_text(encoding="utf-8")), encoding="utf-8")


def _thinned(log: str, most: int = 200) -> str:
    """Some two hundred lines of a log, evenly spaced; lines with held-out figures all stay."""
    lines = log.splitlines()
    step = max(1, len(lines) // most)
    kept = [line for n, line in enumerate(lines) if n % step == 0 or n == len(lines) - 1 or "held_out" in line]
    assert all(isinstance(json.loads(line), dict) for line in kept)
    return "\n".join(kept) + "\n"
