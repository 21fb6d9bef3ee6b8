import json

import pytest
from memory_peaks import largest_peaks
from tiny_flashvsr import clip

from LTX_2_MLX.checkpoints.load import config_of
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import MediaError, MemoryBudgetError
from LTX_2_MLX.models.wan.transformer import WanTransformer, WanTransformerConfig
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.pipelines.super_resolve import Request, nearest_fit, plan_of, prepare, super_resolve
from LTX_2_MLX.pipelines.super_resolve.stages import cache_bytes
from LTX_2_MLX.runtime.this_machine import GIB


def planned(folder, height=32, width=48, num_frames=5, **options):
    return plan_of(clip(num_frames, height, width), Request(weights=str(folder), **options))


@pytest.mark.parametrize("options", [{}, {"unload_dit": True}], ids=["one stage", "two stages"])
@pytest.mark.parametrize(("height", "width"), [(10, 17), (40, 70)])
def test_plan_of_every_stage_is_near_the_measured_peak(flashvsr, height, width, options):
    request = Request(weights=str(flashvsr), **options)
    expected = {stage.name: stage.peak_bytes for stage in plan_of(clip(1, height, width), request).stages}
    measured = largest_peaks(
        lambda runner: super_resolve(clip(1, height, width), request, runner).array(), expected, most=1 / 0.8
    )
    for name, peak in expected.items():
        assert measured[name] == pytest.approx(peak, rel=0.2), name


def test_peak_grows_with_the_frame_and_not_with_the_clip(flashvsr):
    sizes = ((16, 16), (64, 32), (64, 96), (128, 96))
    peaks = [planned(flashvsr, height, width).largest_bytes for height, width in sizes]
    assert peaks == sorted(set(peaks))
    assert planned(flashvsr, num_frames=5).largest_bytes == planned(flashvsr, num_frames=5000).largest_bytes


def cached(network: WanTransformerConfig, height: int, width: int, **options) -> int:
    return cache_bytes(network, height, width, Request(**options))


def test_keys_and_values_are_in_the_plan(flashvsr):
    network = config_of(WanTransformer, Checkpoint(flashvsr / "diffusion_pytorch_model_streaming_dmd.safetensors"))
    one, two, three, six = (cached(network, 128, 256, kv_ratio=k, dtype="fp32") for k in (1, 2, 3, 6))
    # Tokens of a slice of 128 x 256 pixels, 40 features, two blocks and the one at work, keys and values in float32.
    slice_bytes = 2 * 8 * 16 * 40 * 2 * 4
    assert six - three == slice_bytes * 2 * 3
    assert one == two == three - slice_bytes * 2
    assert three == slice_bytes * (2 * 3 + 1) + 2 * 512 * 40 * 2 * 4
    (longer,), (shorter,) = (planned(flashvsr, kv_ratio=k, dtype="fp32").stages for k in (6, 3))
    # The networks see 128 x 256 pixels of this clip.
    assert longer.activation_bytes - shorter.activation_bytes == six - three


def test_tiles_and_unloading_take_less_memory_and_some_disk(flashvsr):
    size = {"height": 128, "width": 192}
    whole = planned(flashvsr, **size)
    tiled = planned(flashvsr, tile_dit=True, tile_size=64, overlap=8, **size)
    unloaded = planned(flashvsr, unload_dit=True, **size)
    assert tiled.largest_bytes < whole.largest_bytes / 2 and unloaded.largest_bytes < whole.largest_bytes
    assert whole.temporary_bytes == 0
    assert tiled.temporary_bytes > unloaded.temporary_bytes > 0
    assert [stage.name for stage in unloaded.stages] == ["super-resolve latents", "super-resolve decode"]


def test_more_than_the_budget_is_refused_with_what_would_fit(flashvsr):
    stream, request = clip(5, 128, 192), Request(weights=str(flashvsr))
    peak = plan_of(stream, request).largest_bytes
    assert prepare(stream, request, peak, GIB).plan.largest_bytes == peak
    with pytest.raises(MemoryBudgetError, match=r"pass --tile-dit --tile-size \d+.*--force"):
        prepare(stream, request, peak // 2, GIB)
    with pytest.raises(MemoryBudgetError, match=r"Nothing smaller would fit.*--force"):
        prepare(stream, request, 1000, GIB)


def test_what_is_advised_does_fit(flashvsr):
    stream, request = clip(5, 128, 192), Request(weights=str(flashvsr))
    budget = plan_of(stream, request).largest_bytes // 2
    fitted = nearest_fit(stream, request, budget)
    size = int(" ".join(fitted.flags).split("--tile-size ")[1].split()[0])
    assert (fitted.options.tile_dit, fitted.options.tile_size) == (True, size)
    assert plan_of(stream, fitted.options).largest_bytes == fitted.plan.largest_bytes <= budget


def test_request_is_fitted_into_memory_only_where_it_has_to_be(flashvsr):
    stream, request = clip(5, 128, 192), Request(weights=str(flashvsr))
    peak = plan_of(stream, request).largest_bytes
    unchanged = prepare(stream, request, peak, GIB, fit=True)
    smaller = prepare(stream, request, peak // 2, GIB, fit=True)
    assert unchanged.options == request and not unchanged.flags
    assert plan_of(stream, smaller.options).largest_bytes <= peak // 2 and "--tile-dit" in smaller.flags
    with pytest.raises(MemoryBudgetError, match="Nothing smaller"):
        prepare(stream, request, 1000, GIB, fit=True)
    assert not prepare(stream, request, 1000, GIB, refuse=False).plan.fits


def test_published_network_holds_as_many_keys_and_values_as_counted_by_hand():
    published = WanTransformerConfig(
        dim=1536, in_dim=16, out_dim=16, ffn_dim=8960, text_dim=4096, freq_dim=256, num_heads=12, num_layers=30
    )
    request = Request(dtype="bf16")
    # 30 blocks, three slices of two latent frames, keys and values of 1536 features in 16 bits.
    assert cache_bytes(published, 768, 1408, request) == pytest.approx(4.67e9, rel=0.05)
    assert cache_bytes(published, 1280, 1920, request) == pytest.approx(10.6e9, rel=0.05)


def test_temporary_files_that_would_not_fit_are_refused(flashvsr):
    stream, request = clip(5, 32, 48), Request(weights=str(flashvsr), unload_dit=True)
    with pytest.raises(MediaError, match="TMPDIR"):
        prepare(stream, request, 2**40, free_disk=1000)


def test_plan_for_programs_is_in_bytes(flashvsr):
    stream, request = clip(5), Request(weights=str(flashvsr), unload_dit=True)
    intended = plan_of(stream, request, budget=1000)
    parsed = json.loads(json.dumps(intended.as_json()))
    assert [stage["stage"] for stage in parsed["stages"]] == ["super-resolve latents", "super-resolve decode"]
    assert all(stage["weights_bytes"] + stage["activation_bytes"] == stage["peak_bytes"] for stage in parsed["stages"])
    assert parsed["peak_bytes"] == intended.largest_bytes
    assert parsed["temporary_bytes"] == intended.temporary_bytes
    assert not parsed["fits"] and plan_of(stream, request, intended.largest_bytes).as_json()["fits"]


def test_plan_reads_no_frame_and_names_sizes_and_decoder(flashvsr):
    stream = clip(5, 32, 48)
    lines = "\n".join(plan_of(stream, Request(weights=str(flashvsr), vae_type="wan2.2", tile_dit=True)).lines())
    assert "48 x 32 -> 192 x 128" in lines and "keys and values" in lines and "wan2.2" in lines
    assert len(list(stream.frames())) == 5


def test_plan_for_a_gpu_computes_in_sixteen_bits(flashvsr):
    with as_backend("cpu"):
        on_cpu = planned(flashvsr, 128, 192)
    with as_backend("gpu"):
        on_gpu = planned(flashvsr, 128, 192)
    assert on_gpu.largest_bytes != on_cpu.largest_bytes
    assert on_gpu.stages[0].weights_bytes * 2 == on_cpu.stages[0].weights_bytes


def test_a_wan_decoder_takes_tiles_where_whole_frames_make_too_large_an_array(flashvsr, monkeypatch):
    options = {"mode": "full", "vae_type": "light", "tile_vae": False}
    whole = planned(flashvsr, 160, 240, **options).stages[0]
    monkeypatch.setattr("LTX_2_MLX.pipelines.super_resolve.stages.largest_array_bytes", lambda item: 50 * 2**20)
    tiled = planned(flashvsr, 160, 240, **options).stages[0]
    assert tiled.array_bytes < whole.array_bytes and tiled.activation_bytes < whole.activation_bytes


def test_an_array_that_the_device_does_not_hold_is_refused_with_what_would_fit(flashvsr, monkeypatch):
    stream, request = clip(5, 160, 240), Request(weights=str(flashvsr))
    array = plan_of(stream, request).stages[0].array_bytes
    monkeypatch.setattr("LTX_2_MLX.planning.plan.largest_array_bytes", lambda: array - 1)
    with pytest.raises(MemoryBudgetError, match=r"makes one array of .*--tile-dit"):
        prepare(stream, request, 64 * GIB, GIB)
