"""Stages: evaluated, freed, timed and measured, however they end."""

import gc
import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import pytest

from LTX_2_MLX.runtime.runner import StageRunner, arrays_in


class Model(nn.Module):
    """64 KiB of weights, with a reference cycle as modules may have one."""

    def __init__(self):
        super().__init__()
        self.weight = mx.ones((128, 128))
        self.again = [self]


class Watch:
    """Loads a model and tells whether it is still there, without a garbage collection of its own."""

    def __init__(self):
        self.alive = None

    def load(self) -> Model:
        model = Model()
        mx.eval(model.weight)
        self.alive = weakref.ref(model)
        return model

    @property
    def freed(self) -> bool:
        return self.alive() is None


@pytest.fixture(autouse=True)
def no_collection_by_chance():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@dataclass
class State:
    latent: mx.array
    step: int


def test_run_evaluates_and_frees():
    watch, runner = Watch(), StageRunner()
    result = runner.run("a", watch.load, lambda model: model.weight.sum())
    assert watch.freed and result.item() == 128 * 128


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: y,
        lambda y: [y, None],
        lambda y: {"a": (y, 3)},
        lambda y: State(latent=y, step=2),
        lambda y: State(latent=State(latent=[y], step=1), step=2),
    ],
    ids=["array", "list", "dictionary", "dataclass", "nested dataclass"],
)
def test_lazy_result_of_any_shape_does_not_keep_the_weights(wrap):
    runner = StageRunner()
    before = mx.get_active_memory()
    # A megabyte that a lazy result would hold.
    result = runner.run("a", lambda: mx.ones((512, 512)) * 1.5, lambda weight: wrap(weight.sum(axis=1)))
    mx.synchronize()
    assert mx.get_active_memory() - before < 2**20
    assert len(arrays_in(result)) == 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_run_frees_the_model_when_work_raises(error):
    watch, runner = Watch(), StageRunner()

    def work(model):
        raise error("no")

    with pytest.raises(error) as caught:
        runner.run("a", watch.load, work)
    assert watch.freed, "the error still holds the model"
    assert caught.value.args == ("no",) and [report.name for report in runner.reports] == ["a"]


def test_run_frees_the_model_when_a_chain_of_errors_holds_it():
    watch, runner = Watch(), StageRunner()

    def fail(model):
        raise KeyError(model.weight.shape)

    def work(model):
        try:
            fail(model)
        except KeyError as error:
            raise ValueError("no") from error

    with pytest.raises(ValueError) as caught:
        runner.run("a", watch.load, work)
    assert watch.freed and isinstance(caught.value.__cause__, KeyError)


def test_stream_frees_the_model_when_its_items_end():
    watch, runner = Watch(), StageRunner()
    items = list(runner.stream("a", watch.load, lambda model: (model.weight * n for n in range(3))))
    assert watch.freed and [int(item[0, 0].item()) for item in items] == [0, 1, 2]


def test_stream_frees_the_model_when_the_consumer_stops_early():
    watch, runner = Watch(), StageRunner()
    closed = []

    def work(model):
        try:
            while True:
                yield model.weight.sum()
        finally:
            closed.append(True)

    stream = runner.stream("a", watch.load, work)
    next(stream)
    assert not watch.freed
    stream.close()
    assert watch.freed and closed == [True] and len(runner.reports) == 1


def test_stream_frees_the_model_when_it_raises():
    watch, runner = Watch(), StageRunner()

    def work(model):
        yield model.weight.sum()
        raise ValueError("no")

    stream = runner.stream("a", watch.load, work)
    next(stream)
    with pytest.raises(ValueError):
        next(stream)
    assert watch.freed


def test_stream_loads_nothing_until_it_is_read():
    watch = Watch()
    stream = StageRunner().stream("a", watch.load, lambda model: iter([1]))
    assert watch.alive is None
    stream.close()


def test_no_stage_sees_the_model_of_the_one_before():
    first, second, runner = Watch(), Watch(), StageRunner()
    runner.run("first", first.load, lambda model: model.weight.sum())

    def load():
        assert first.freed
        return second.load()

    runner.run("second", load, lambda model: model.weight.sum())
    assert second.freed


def test_nested_streams_share_time_and_memory_fairly(monkeypatch):
    now = 0.0
    monkeypatch.setattr("LTX_2_MLX.runtime.runner.time.perf_counter", lambda: now)

    def take(seconds):
        nonlocal now
        now += seconds

    runner = StageRunner()

    def decode(_):
        for _ in range(3):
            take(2)
            yield mx.ones((256, 1024))

    def upscale(_):
        for item in runner.stream("decode", lambda: take(10), decode):
            take(5)
            yield item + 1

    for _ in runner.stream("upscale", lambda: take(100), upscale):
        take(1000)
    reports = {report.name: report for report in runner.reports}
    # The consumer's time is nobody's; the inner stage's is not the outer's.
    assert reports["decode"].seconds == 10 + 3 * 2
    assert reports["upscale"].seconds == 100 + 3 * 5
    for report in reports.values():
        assert report.peak_bytes >= 2**20 and report.process_bytes > 2**20


def test_peak_of_an_outer_stage_covers_what_ran_inside_it():
    runner = StageRunner()

    def outer(_):
        yield runner.run("inner", lambda: None, lambda _: mx.ones((1024, 1024)).sum())

    before = mx.get_active_memory()
    for _ in runner.stream("outer", lambda: None, outer):
        pass
    peaks = {report.name: report.peak_bytes - before for report in runner.reports}
    assert peaks["outer"] >= peaks["inner"]


def test_progress_hears_begin_and_end_even_when_work_raises():
    heard = []

    class Progress:
        def begin(self, stage):
            heard.append(("begin", stage))

        def end(self, stage):
            heard.append(("end", stage))

    def fail(_):
        raise ValueError

    runner = StageRunner(Progress())
    with pytest.raises(ValueError):
        runner.run("a", lambda: None, fail)
    assert heard == [("begin", "a"), ("end", "a")]


def test_cache_has_the_librarys_limit_in_a_stages_turns_and_the_callers_between_them():
    before = mx.set_cache_limit(12345)
    seen = []

    def limit() -> int:
        found = mx.set_cache_limit(0)
        mx.set_cache_limit(found)
        return found

    def work(_) -> Iterator[mx.array]:
        for number in range(2):
            seen.append(limit())
            yield mx.array(number)

    try:
        runner = StageRunner()
        runner.run("one", lambda: None, lambda _: seen.append(limit()))
        between = [limit() for _ in runner.stream("two", lambda: None, work)]
    finally:
        assert mx.set_cache_limit(before) == 12345
    assert seen == [2**30] * 3
    assert between == [12345] * 2
