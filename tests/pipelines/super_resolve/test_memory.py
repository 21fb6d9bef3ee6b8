import json

import pytest
from memory_peaks import largest_peaks
from tiny_flashvsr import clip

from LTX_2_MLX.errors import MediaError, MemoryBudgetError
from LTX_2_MLX.models.wan.transformer import WanTransformerConfig
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.pipelines.super_resolve import Request, check_plan, plan, super_resolve
from LTX_2_MLX.pipelines.super_resolve.memory import _cache, fitted, nearest
from LTX_2_MLX.runtime.memory import GIB


def planned(folder, height=32, width=48, num_frames=5, **options):
    return plan(clip(num_frames, height, width), Request(weights=str(folder), **options))


@pytest.mark.parametrize(("height", "width"), [(10, 17), (40, 70)])
def test_plan_is_near_the_measured_peak(flashvsr, height, width):
    request = Request(weights=str(flashvsr))
    expected = plan(clip(1, height, width), request).peak_bytes
    planned = {"super-resolve": expected}
    measured = largest_peaks(
        lambda runner: super_resolve(clip(1, height, width), request, runner).array(), planned, most=1 / 0.8
    )
    assert measured["super-resolve"] == pytest.approx(expected, rel=0.2)


def test_peak_grows_with_the_picture_and_not_with_the_clip(flashvsr):
    peaks = [planned(flashvsr, height, width).peak_bytes for height, width in ((16, 16), (64, 32), (64, 96), (128, 96))]
    assert peaks == sorted(set(peaks))
    assert planned(flashvsr, num_frames=5).peak_bytes == planned(flashvsr, num_frames=5000).peak_bytes


def test_keys_and_values_are_in_the_plan(flashvsr):
    (one,), (two,), (three,), (six,) = (planned(flashvsr, kv_ratio=k).stages for k in (1, 2, 3, 6))
    # Tokens of a slice of 128 x 256 pixels, 40 features, two blocks and the one at work, keys and values in float32.
    slice_bytes = 2 * 8 * 16 * 40 * 2 * 4
    assert six.cache_bytes - three.cache_bytes == slice_bytes * 2 * 3
    assert one.cache_bytes == two.cache_bytes == three.cache_bytes - slice_bytes * 2
    assert three.cache_bytes == slice_bytes * (2 * 3 + 1) + 2 * 512 * 40 * 2 * 4


def test_tiles_and_unloading_take_less_memory_and_some_disk(flashvsr):
    size = {"height": 128, "width": 192}
    whole, tiled = planned(flashvsr, **size), planned(flashvsr, tile_dit=True, tile_size=64, overlap=8, **size)
    unloaded = planned(flashvsr, unload_dit=True, **size)
    assert tiled.peak_bytes < whole.peak_bytes / 2 and unloaded.peak_bytes < whole.peak_bytes
    assert whole.disk_bytes == 0 and unloaded.disk_bytes > 0 and tiled.disk_bytes > unloaded.disk_bytes
    assert [stage.name for stage in unloaded.stages] == ["super-resolve latents", "super-resolve decode"]


def test_more_than_the_budget_is_refused_with_what_would_fit(flashvsr):
    stream, request = clip(5, 128, 192), Request(weights=str(flashvsr))
    peak = plan(stream, request).peak_bytes
    assert check_plan(stream, request, free_disk=GIB, budget=peak).peak_bytes == peak
    with pytest.raises(MemoryBudgetError, match=r"Pass --tile-dit --tile-size \d+ --overlap \d+"):
        check_plan(stream, request, free_disk=GIB, budget=peak // 2)
    with pytest.raises(MemoryBudgetError, match=r"Nothing smaller would fit.*--force"):
        check_plan(stream, request, free_disk=GIB, budget=1000)


def test_what_is_advised_does_fit(flashvsr):
    stream, request = clip(5, 128, 192), Request(weights=str(flashvsr))
    budget = plan(stream, request).peak_bytes // 2
    found = nearest(stream, request, budget)
    words = found.flags.replace("--unload-dit", "").split()
    options = {"tile_dit": True, "tile_size": int(words[2]), "overlap": int(words[4])}
    again = planned(flashvsr, 128, 192, unload_dit="--unload-dit" in found.flags, **options)
    assert again.peak_bytes == found.plan.peak_bytes <= budget


def test_request_is_fitted_into_memory_only_where_it_has_to_be(flashvsr):
    stream, request = clip(5, 128, 192), Request(weights=str(flashvsr))
    peak = plan(stream, request).peak_bytes
    unchanged, milder = fitted(stream, request, peak), fitted(stream, request, peak // 2)
    assert unchanged.request == request and not unchanged.flags
    assert plan(stream, milder.request).peak_bytes <= peak // 2 and "--tile-dit" in milder.flags
    with pytest.raises(MemoryBudgetError, match="Nothing smaller"):
        fitted(stream, request, 1000)


def test_published_network_holds_as_many_keys_and_values_as_counted_by_hand():
    published = WanTransformerConfig(
        dim=1536, in_dim=16, out_dim=16, ffn_dim=8960, text_dim=4096, freq_dim=256, num_heads=12, num_layers=30
    )
    request = Request(dtype="bf16")
    # 30 blocks, three slices of two latent frames, keys and values of 1536 features in 16 bits.
    assert _cache(published, 768, 1408, request) == pytest.approx(4.67e9, rel=0.05)
    assert _cache(published, 1280, 1920, request) == pytest.approx(10.6e9, rel=0.05)


def test_temporary_files_that_would_not_fit_are_refused(flashvsr):
    stream, request = clip(5, 32, 48), Request(weights=str(flashvsr), unload_dit=True)
    with pytest.raises(MediaError, match="TMPDIR"):
        check_plan(stream, request, free_disk=1000)


def test_plan_is_told_to_programs_in_bytes(flashvsr):
    stream, request = clip(5), Request(weights=str(flashvsr), unload_dit=True)
    intended = plan(stream, request, budget=1000)
    told = json.loads(json.dumps(intended.as_json()))
    assert [stage["stage"] for stage in told["stages"]] == ["super-resolve latents", "super-resolve decode"]
    parts = ("weights_bytes", "cache_bytes", "working_bytes")
    assert all(sum(stage[part] for part in parts) == stage["peak_bytes"] for stage in told["stages"])
    assert (told["peak_bytes"], told["disk_bytes"]) == (intended.peak_bytes, intended.disk_bytes)
    assert not told["fits"] and plan(stream, request, intended.peak_bytes).as_json()["fits"]


def test_plan_reads_no_frame_and_says_what_it_takes(flashvsr):
    stream = clip(5, 32, 48)
    lines = "\n".join(plan(stream, Request(weights=str(flashvsr), vae_type="wan2.2", tile_dit=True)).lines())
    assert "48 x 32 -> 192 x 128" in lines and "keys and values" in lines and "wan2.2" in lines
    assert len(list(stream.frames())) == 5


def test_plan_for_a_gpu_computes_in_sixteen_bits(flashvsr):
    with as_backend("cpu"):
        on_cpu = planned(flashvsr, 128, 192)
    with as_backend("gpu"):
        on_gpu = planned(flashvsr, 128, 192)
    assert on_gpu.peak_bytes != on_cpu.peak_bytes
    assert on_gpu.stages[0].weights_bytes * 2 == on_cpu.stages[0].weights_bytes
