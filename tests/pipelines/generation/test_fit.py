"""Plans that do not fit, the nearest that do, and what is said of them."""

from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import pytest
import tiny_checkpoints

from LTX_2_MLX.bench import workloads
from LTX_2_MLX.errors import MemoryBudgetError, RequestError
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.pipelines.generate import Options, prepare
from LTX_2_MLX.pipelines.generation.decode import decode_memory
from LTX_2_MLX.pipelines.generation.fit import nearest_options
from LTX_2_MLX.planning.fit import longest, refusal
from LTX_2_MLX.planning.plan import Estimate, Plan
from LTX_2_MLX.runtime.this_machine import GIB
from LTX_2_MLX.shapes import LatentShape


@dataclass(frozen=True)
class Asked:
    quantize: int | None = None
    low_ram: bool = False
    tile_size: int | None = None
    frames: int | None = None
    duration: float | None = None


def model(weights: float, per_frame: float, decoder: float, floor: float = 0.1):
    """Plans of a made-up film: weights that bits and streaming reduce, a decoder that tiles reduce; sizes in GiB."""

    def plan_of(asked: Asked) -> Plan:
        frames = asked.frames or 97
        held = weights * (asked.quantize or 16) / 16 / (8 if asked.low_ram else 1)
        tile = decoder if asked.tile_size is None else decoder * asked.tile_size / 1024
        if asked.tile_size is None and decoder > 50:
            raise MemoryBudgetError("not even in tiles")
        stages = [
            Estimate("denoise", "", Path("a"), int(held * GIB), int(per_frame * frames * GIB)),
            Estimate("decode", "", Path("a"), int(floor * GIB), int(tile * GIB)),
        ]
        return Plan((), tuple(stages))

    return plan_of


@pytest.mark.parametrize(
    ("asked", "made_of", "budget", "flags"),
    [
        (Asked(), {"weights": 37, "per_frame": 0.01, "decoder": 4}, 24, ("--quantize 8",)),
        (Asked(), {"weights": 37, "per_frame": 0.01, "decoder": 4}, 8, ("--low-ram",)),
        (
            Asked(),
            {"weights": 37, "per_frame": 0.01, "decoder": 4},
            4,
            ("--quantize 8", "--low-ram", "--tile-size 512"),
        ),
        (Asked(), {"weights": 1, "per_frame": 0.01, "decoder": 30}, 16, ("--tile-size 512",)),
        (Asked(), {"weights": 1, "per_frame": 0.01, "decoder": 60}, 16, ("--tile-size 256",)),
        (Asked(tile_size=256), {"weights": 1, "per_frame": 0.01, "decoder": 60}, 12, ("--tile-size 192",)),
        (Asked(quantize=4), {"weights": 37, "per_frame": 0.01, "decoder": 4}, 8, ("--low-ram",)),
        (Asked(low_ram=True), {"weights": 37, "per_frame": 0.01, "decoder": 1}, 4, ("--quantize 8",)),
        (Asked(), {"weights": 1, "per_frame": 0.2, "decoder": 1}, 11, ("--frames 49",)),
        (Asked(duration=4.0), {"weights": 1, "per_frame": 0.2, "decoder": 1}, 11, ("--frames 49",)),
    ],
)
def test_nearest_plan_changes_no_more_than_it_must(asked, made_of, budget, flags):
    plan_of = model(**made_of)
    found = nearest_options(asked, 97, plan_of, budget * GIB)
    assert found.flags == flags
    assert found.plan.largest_bytes <= budget * GIB and found.plan == plan_of(found.options)


def test_nothing_is_found_where_even_one_frame_is_too_much():
    assert nearest_options(Asked(), 97, model(weights=1, per_frame=0.01, decoder=1, floor=3), 2 * GIB) is None


def test_longest_film_is_found_for_every_budget():
    for most in range(12):
        found = longest(97, 8, lambda count, most=most: count if count <= 8 * most + 1 else None)
        assert found == 8 * most + 1
    assert longest(97, 8, lambda count: None) is None


def test_what_cannot_be_is_passed_over():
    plan_of = model(weights=37, per_frame=0.01, decoder=4)

    def whole_weights_only(asked):
        if asked.quantize:
            raise RequestError("no layer is wide enough")
        return plan_of(asked)

    assert nearest_options(Asked(), 97, whole_weights_only, 24 * GIB).flags == ("--low-ram",)


def test_refusal_names_stage_need_budget_and_cure():
    plan_of = model(weights=37, per_frame=0.01, decoder=4)
    found = nearest_options(Asked(), 97, plan_of, 24 * GIB)
    assert str(refusal(plan_of(Asked()), 24 * GIB, found)) == (
        "denoise needs about 37.97 GiB, the budget is 24.00 GiB. The nearest plan that fits takes 19.47 GiB: "
        "pass --quantize 8, or --fit to change the options automatically. --force goes on regardless."
    )
    assert "No plan of this size fits" in str(refusal(plan_of(Asked()), GIB, None))


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    section = tiny_checkpoints.transformer_section(num_layers=24, attention_head_dim=64, cross_attention_dim=256)
    weights = tiny_checkpoints.write_weights(folder / "weights.safetensors", transformer=section)
    gemma = tiny_checkpoints.write_gemma(folder / "gemma")
    return Options(
        "a red ball",
        pipeline="one-stage",
        height=64,
        width=96,
        frames=33,
        # On a CPU, pieces of whole frames are held to be larger than such a small budget.
        tile_size=64,
        steps=1,
        weights=str(weights),
        gemma=str(gemma),
        precision="fp32",
    )


def test_request_over_the_budget_is_refused_fitted_or_forced(options):
    whole = prepare(options)
    assert whole.plan.fits and whole.options == options
    limit = 0.75 * whole.plan.largest_bytes / GIB
    little = replace(options, memory_limit_gb=limit)
    with pytest.raises(MemoryBudgetError, match=r"The nearest plan that fits takes .*--fit"):
        prepare(little)
    notes = []
    fitted = prepare(replace(little, fit=True), notes.append)
    assert fitted.plan.fits and fitted.plan.largest_bytes <= limit * GIB
    assert fitted.options != little
    assert any(note.startswith("To fit into") for note in notes)
    notes.clear()
    forced = prepare(little, notes.append, refuse=False)
    assert not forced.plan.fits and forced.options == little
    assert any("nearest plan that fits" in note for note in notes)


def test_limit_that_is_no_amount_is_refused(options):
    for limit in (0, -1, float("nan")):
        with pytest.raises(RequestError, match="--memory-limit-gb"):
            replace(options, memory_limit_gb=limit)


def test_plan_tells_memory_disk_and_verdict(options, tmp_path):
    asked = replace(options, save_latents=tmp_path / "states", memory_limit_gb=0.09)
    made = prepare(asked, refuse=False).plan
    told = made.as_json()
    assert told["budget_bytes"] == int(0.09 * GIB) and told["fits"] is False
    assert told["peak_bytes"] == max(stage["peak_bytes"] for stage in told["stages"])
    assert told["states_bytes"] == 33 * 64 * 96 * 3 and told["output_bytes"] > 0
    assert any("it does not fit" in line for line in made.lines())
    assert any(line.startswith("Disk:") and "for saved stage results" in line for line in made.lines())


def test_an_array_that_the_device_does_not_hold_is_refused(options, monkeypatch):
    whole = prepare(options).plan
    arrays = {stage.name: stage.array_bytes for stage in whole.stages}
    assert "text_features" in arrays and all(arrays.values()), arrays
    largest = whole.with_largest_array
    monkeypatch.setattr("LTX_2_MLX.planning.plan.largest_array_bytes", lambda: largest.array_bytes // 4)
    with pytest.raises(MemoryBudgetError, match=rf"{largest.name} makes one array of .*this device holds at most"):
        prepare(options)
    forced = prepare(options, refuse=False).plan
    assert not forced.fits and any("makes one array" in line for line in forced.lines())
    assert forced.as_json()["max_array_bytes"] == largest.array_bytes // 4


def test_fewer_frames_are_advised_where_an_array_is_too_large():
    def plan_of(asked):
        frames = asked.frames or 97
        stage = Estimate("denoise", "", Path("weights"), weights_bytes=GIB, array_bytes=frames * GIB // 10)
        return Plan((), (stage,), budget_bytes=64 * GIB, max_array_bytes=5 * GIB)

    assert not plan_of(Asked()).fits
    assert nearest_options(Asked(), 97, plan_of, 64 * GIB).flags == ("--frames 49",)


def test_decoding_takes_tiles_where_whole_frames_make_too_large_an_array(monkeypatch):
    config = workloads.vae_config(workloads.PUBLISHED)
    latent = LatentShape(1, 68, 120)
    with as_backend("gpu"):
        whole = decode_memory(config, latent, mx.bfloat16, None, 64 * GIB).array_bytes
        monkeypatch.setattr("LTX_2_MLX.pipelines.generation.decode.largest_array_bytes", lambda item: whole // 2)
        tiled = decode_memory(config, latent, mx.bfloat16, None, 64 * GIB).array_bytes
    assert tiled <= whole // 2
