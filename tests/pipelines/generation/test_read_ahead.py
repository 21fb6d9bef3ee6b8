"""The next stage's weights are read while the last step of a stage runs, where there is room."""

from dataclasses import replace
from pathlib import Path

import pytest

from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.pipelines.generate import Options, generate, plan_for, request_for
from LTX_2_MLX.pipelines.generation import read_ahead
from LTX_2_MLX.planning import plan as plan_module
from LTX_2_MLX.planning.plan import Estimate, Plan
from LTX_2_MLX.runtime.progress import SilentProgress

SIZE = {"height": 64, "width": 64, "frames": 9, "steps_stage1": 3, "cache": False}


class Stored:
    """So many bytes on disk."""

    def __init__(self, num_bytes):
        self.num_bytes = num_bytes


class Events(SilentProgress):
    """Lists what happens, with what is read."""

    def __init__(self):
        self.events = []

    def begin(self, stage):
        self.events.append(f"begin {stage}")

    def advance(self, stage, done, total):
        self.events.append(f"{stage} {done}/{total}")

    def reading(self, spans):
        events = self.events

        class Reading:
            def __init__(self):
                events.append(("read", {span.path for span in spans}))

            def stop(self):
                events.append("stop")

        return Reading()


@pytest.fixture(autouse=True)
def small_weights_count(monkeypatch):
    """Weights are read ahead however small they are."""
    monkeypatch.setattr(plan_module, "_READ_AHEAD_BYTES", 1)


@pytest.fixture
def own(files):
    return {
        "weights": str(files.weights),
        "spatial_upscaler_weights": str(files.spatial),
        "distilled_lora": str(files.lora),
        "gemma": str(files.gemma),
        "precision": "fp32",
    }


def pairs_of(stages, budget):
    ahead = Plan(sizes=(), stages=tuple(stages), budget_bytes=budget).ahead
    return {name: following.name for name, following in ahead.items()}


def estimate(name, *, peak, disk):
    stored = (Stored(disk),) if disk else ()
    return Estimate(name, "", Path("a"), weights_bytes=peak, stored=stored)


def test_small_weights_are_not_worth_it(monkeypatch):
    stages = [estimate("a", peak=60, disk=60), estimate("b", peak=30, disk=40)]
    monkeypatch.setattr(plan_module, "_READ_AHEAD_BYTES", 31)
    assert pairs_of(stages, None) == {}


def test_only_what_fits_beside_the_stage_that_runs_is_read():
    stages = [estimate("a", peak=60, disk=60), estimate("b", peak=30, disk=40), estimate("c", peak=50, disk=71)]
    assert pairs_of(stages, 100) == {"a": "b"}
    assert pairs_of(stages, 99) == {}
    assert pairs_of(stages, 101) == {"a": "b", "b": "c"}
    assert pairs_of([*stages, estimate("d", peak=1, disk=0)], None) == {"a": "b", "b": "c"}


def test_reading_begins_with_the_last_step_and_ends_with_the_next_stage(own, monkeypatch):
    heard = Events()
    monkeypatch.setattr(read_ahead, "Reading", lambda spans: heard.reading(list(spans)))
    generate("A blue ball", progress=heard, **SIZE, **own).array()
    events = heard.events
    assert len([event for event in events if event[0] == "read"]) == 4
    weights = Path(own["weights"])
    # The text features and the upscaler have one step.
    assert events[events.index("text_features 0/1") - 1] == ("read", {weights})
    assert events[events.index("latent_upscaler 0/1") - 1] == ("read", {weights, Path(own["distilled_lora"])})
    last_step = events.index("stage_1 2/3")
    assert events[last_step - 1] == ("read", {Path(own["spatial_upscaler_weights"])})
    assert events[events.index("begin latent_upscaler") - 1] == "stop"
    assert events[events.index("stage_2 2/3") - 1] == ("read", {weights})
    assert events[events.index("begin decode") - 1] == "stop"


def test_saved_stages_are_not_read(own, monkeypatch, tmp_path):
    generate("A blue ball", save_latents=tmp_path / "run", **SIZE, **own).array()
    for path in [*(tmp_path / "run").glob("*decode*"), *(tmp_path / "run").glob("*frames*")]:
        path.unlink()
    heard = Events()
    monkeypatch.setattr(read_ahead, "Reading", lambda spans: heard.reading(list(spans)))
    generate("A blue ball", resume=tmp_path / "run", progress=heard, **SIZE, **own).array()
    assert [event for event in heard.events if event[0] == "read"] == []


def test_the_plan_says_what_is_read_and_low_memory_reads_nothing(own):
    def planned(**options):
        asked = Options("A blue ball", **SIZE, **own, **options)
        return plan_for(request_for(asked), asked)

    def lines(**options):
        return "\n".join(planned(**options).lines())

    read = "Weights of {}: read from disk during the last step of the stage before."
    assert read.format("stage_1, latent_upscaler, stage_2, decode") in lines()
    # Blocks that stay on disk are read anew in every pass.
    assert read.format("latent_upscaler, decode") in lines(low_ram=True)
    plan = planned()
    smaller = min(stage.peak_bytes for stage in plan.stages)
    assert "read from disk" not in "\n".join(replace(plan, budget_bytes=smaller).lines())


def test_adapters_are_read_with_the_transformer(own):
    asked = Options("A blue ball", **SIZE, **own)
    planned = plan_for(request_for(asked), asked)
    stored = {stage.name: stage.stored for stage in planned.stages}
    assert [each.checkpoint.path for each in stored["stage_1"]] == [Path(own["weights"])]
    assert [each.checkpoint.path for each in stored["stage_2"]] == [Path(own["weights"]), Path(own["distilled_lora"])]
    assert stored["stage_2"][1].num_bytes == sum(
        info.num_bytes for info in Checkpoint(own["distilled_lora"]).header.tensors.values()
    )
