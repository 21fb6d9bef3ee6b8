from fractions import Fraction

import mlx.core as mx
import numpy as np
import pytest
from memory_peaks import largest_peaks
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError, OutputError, RequestError
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.image import StillImage
from LTX_2_MLX.models.rrdbnet import RRDBNet, RRDBNetConfig
from LTX_2_MLX.models.srvgg import SRVGG, SRVGGConfig
from LTX_2_MLX.ops.device import as_backend
from LTX_2_MLX.pipelines import upscale as module
from LTX_2_MLX.pipelines.upscale import Request, Tiles, plan_for, tiles_for, upscale, upscale_images
from LTX_2_MLX.runtime.runner import StageRunner

RANDOM = np.random.default_rng(0)
FRAMES = RANDOM.integers(0, 256, (5, 23, 31, 3), dtype=np.uint8)


def write(path, network, seed: int) -> str:
    mx.random.seed(seed)
    weights = {
        name: mx.contiguous(value.transpose(0, 3, 1, 2)) if value.ndim == 4 else mx.random.normal(value.shape) / 9
        for name, value in tree_flatten(network.parameters())
    }
    mx.save_safetensors(str(path), weights)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A compact x4, another one like it, a large x2 and a large x1."""
    folder = tmp_path_factory.mktemp("esrgan")
    return {
        "compact": write(folder / "compact.safetensors", SRVGG(SRVGGConfig(8, 3, 4)), 1),
        "weak": write(folder / "weak.safetensors", SRVGG(SRVGGConfig(8, 3, 4)), 2),
        "large_x2": write(folder / "x2.safetensors", RRDBNet(RRDBNetConfig(6, 1, 4, unshuffle=2)), 3),
        "large_x1": write(folder / "x1.safetensors", RRDBNet(RRDBNetConfig(6, 1, 4, unshuffle=4)), 4),
    }


def clip(frames: np.ndarray = FRAMES, **changes) -> FrameStream:
    facts = {"num_frames": len(frames), "height": frames.shape[1], "width": frames.shape[2]}
    return FrameStream(
        chunks=iter([frames[:2], frames[2:]]), frame_rate=Fraction(25), audio="its sound", **facts | changes
    )


def levels(first: np.ndarray, second: np.ndarray) -> int:
    return int(np.abs(first.astype(int) - second.astype(int)).max())


@pytest.mark.parametrize("scale", [4, 2, 1, 3, 1.5, 0.5, 5])
@pytest.mark.parametrize("name", ["compact", "large_x2", "large_x1"])
def test_any_scale_gives_its_size_and_keeps_everything_else(files, name, scale):
    made = upscale(clip(), Request(files[name], scale=scale))
    assert (made.height, made.width) == (int(23 * scale), int(31 * scale))
    assert made.num_frames == 5 and made.frame_rate == 25 and made.audio == "its sound"
    assert made.array().shape == (5, made.height, made.width, 3)


@pytest.mark.parametrize("tile", [8, 9, 16, 30])
def test_tiled_is_the_whole_within_one_level_for_a_compact_network(files, tile):
    whole = upscale(clip(), Request(files["compact"], tile_size=0)).array()
    tiled = upscale(clip(), Request(files["compact"], tile_size=tile)).array()
    assert levels(whole, tiled) <= 1 and (whole != tiled).mean() < 1e-3


def test_less_context_shows(files):
    whole, cut = (upscale(clip(), Request(files["compact"], tile_size=size, tile_overlap=1)).array() for size in (0, 8))
    assert levels(whole, cut) > 1


def test_tiles_follow_the_memory_there_is(files, monkeypatch):
    whole = upscale(clip(), Request(files["compact"])).array()
    monkeypatch.setattr(module, "_MAX_WORKING_BYTES", 100_000)
    monkeypatch.setattr(module, "_SMALLEST_TILE", 8)
    network = load([RRDBNet, SRVGG], Checkpoint(files["compact"]))
    tiles = tiles_for(network, 23, 31, Request())
    assert tiles.tile == 8 and tiles.context == network.reach == 5
    assert levels(whole, upscale(clip(), Request(files["compact"])).array()) <= 1


def test_tiles_follow_the_users_limit():
    network = SRVGG(SRVGGConfig(64, 16, 4))
    sizes = [tiles_for(network, 1900, 2600, Request(memory_limit_gb=gib)).tile for gib in (1, 2, 4)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("gib", [0, -1, float("nan"), 1e6])
def test_impossible_limit_is_refused(gib):
    with pytest.raises(RequestError, match="--memory-limit-gb is"):
        Request(memory_limit_gb=gib)


def test_large_networks_take_tiles_with_the_usual_context():
    network = RRDBNet(RRDBNetConfig())
    assert tiles_for(network, 100, 100, Request(tile_size=64)) == Tiles(64, 32)
    assert tiles_for(network, 50, 60, Request(tile_size=64)) == Tiles()


def test_folding_networks_refuse_odd_tiles(files):
    for changes, said in (({"tile_size": 9}, "tile_size is 9"), ({"tile_size": 8, "tile_overlap": 3}, "overlap is 3")):
        with pytest.raises(RequestError, match=said):
            upscale(clip(), Request(files["large_x2"], **changes)).array()
    assert upscale(clip(), Request(files["large_x2"], tile_size=10, scale=2)).array().shape[1:3] == (46, 62)


def test_frames_do_not_touch_each_other_in_a_batch(files, monkeypatch):
    monkeypatch.setattr(module, "_batch_size", lambda *_: 3)
    together = upscale(clip(), Request(files["compact"])).array()
    for i in range(5):
        alone = upscale(clip(FRAMES[i : i + 1]), Request(files["compact"])).array()
        assert levels(alone[0], together[i]) <= 1


def test_strength_goes_from_the_weak_checkpoint_to_the_strong_one(files):
    def made(model: str, **changes) -> np.ndarray:
        return upscale(clip(), Request(files[model], weak_model_path=files["weak"], **changes)).array()

    assert np.array_equal(made("compact", denoise_strength=1.0), made("compact"))
    assert levels(made("compact", denoise_strength=0.0), made("weak")) <= 1
    between = made("compact", denoise_strength=0.5)
    assert levels(between, made("compact")) > 1 and levels(between, made("weak")) > 1


def test_checkpoints_of_different_networks_are_not_mixed(files):
    with pytest.raises(CheckpointError, match="cannot be mixed"):
        upscale(clip(), Request(files["compact"], denoise_strength=0.5, weak_model_path=files["large_x2"]))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_keep_alpha_depth_and_profile(files, dtype):
    largest = np.iinfo(dtype).max
    pixels = RANDOM.integers(0, largest, (13, 10, 3), dtype=dtype, endpoint=True)
    alpha = RANDOM.integers(0, largest, (13, 10), dtype=dtype, endpoint=True)
    picture = StillImage(pixels, alpha, b"profile")
    plain = StillImage(pixels)
    first, second = upscale_images([picture, plain], Request(files["compact"], scale=2))
    assert first.pixels.dtype == first.alpha.dtype == dtype and first.icc_profile == b"profile"
    assert first.pixels.shape == (26, 20, 3) and first.alpha.shape == (26, 20)
    assert np.array_equal(first.pixels, second.pixels) and second.alpha is None


def test_sixteen_bits_are_finer_than_eight(files):
    ramp = np.linspace(20_000, 21_000, 12 * 9 * 3).astype(np.uint16).reshape(12, 9, 3)
    (made,) = upscale_images([StillImage(ramp)], Request(files["compact"]))
    assert len(np.unique(made.pixels // 257)) < len(np.unique(made.pixels))


def test_overflow_is_an_error_and_not_a_picture(tmp_path):
    network = SRVGG(SRVGGConfig(4, 1, 2))
    network.body[0].bias = mx.full((4,), float("nan"))
    weights = {
        n: mx.contiguous(v.transpose(0, 3, 1, 2)) if v.ndim == 4 else v for n, v in tree_flatten(network.parameters())
    }
    mx.save_safetensors(str(tmp_path / "nan.safetensors"), weights)
    with pytest.raises(OutputError, match="NaN"):
        upscale(clip(), Request(str(tmp_path / "nan.safetensors"))).array()


def test_stopping_early_closes_the_clip_and_frees_the_network(files):
    closed, runner = [], StageRunner()

    def chunks():
        try:
            while True:
                yield FRAMES
        finally:
            closed.append(True)

    made = upscale(clip().replace(chunks=chunks(), num_frames=None), Request(files["compact"]), runner)
    next(iter(made))
    made.close()
    assert closed and [report.name for report in runner.reports] == ["upscale"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scale": 0}, "above 0"),
        ({"scale": 17}, "up to 16"),
        ({"tile_size": 7}, "at least 8"),
        ({"tile_overlap": -1}, "from 0 to 4096"),
        ({"denoise_strength": 1.5}, "from 0 to 1"),
        ({"precision": "bf16"}, "fp16, fp32"),
    ],
)
def test_requests_that_cannot_be_are_refused(changes, said):
    with pytest.raises(RequestError, match=said):
        Request(**changes)


def test_nothing_left_is_refused(files):
    with pytest.raises(RequestError, match="leaves no pixels"):
        upscale(clip(), Request(files["compact"], scale=0.01))


def test_plan_tells_the_network_and_the_size(files):
    told = plan_for(23, 31, Request(files["large_x2"], scale=3))
    assert told.sizes == ("Upscale: 23×31 to 69×93",) and "RRDBNet" in told.stages[0].work


@pytest.mark.parametrize(
    ("network", "config", "changes"),
    [
        (SRVGG, SRVGGConfig(64, 2, 4), {"tile_size": 0}),
        (SRVGG, SRVGGConfig(64, 2, 4), {"tile_size": 48}),
        (SRVGG, SRVGGConfig(64, 2, 4), {"tile_size": 0, "scale": 2.0}),
        (SRVGG, SRVGGConfig(64, 2, 4), {"tile_size": 0, "scale": 3.0}),
        (SRVGG, SRVGGConfig(24, 2, 4), {"tile_size": 0, "color_fix": "wavelet"}),
        (SRVGG, SRVGGConfig(24, 2, 4), {"tile_size": 0, "scale": 6.0, "color_fix": "adain"}),
        (SRVGG, SRVGGConfig(24, 2, 2), {"tile_size": 0, "scale": 2.0}),
        (RRDBNet, RRDBNetConfig(num_blocks=1), {"tile_size": 32, "tile_overlap": 8}),
        (RRDBNet, RRDBNetConfig(num_blocks=1, unshuffle=2), {"tile_size": 0, "scale": 2.0}),
    ],
)
def test_plan_is_near_the_measured_peak(tmp_path, network, config, changes):
    request = Request(write(tmp_path / "net.safetensors", network(config), 1), **changes)
    frames = RANDOM.integers(0, 256, (3, 96, 130, 3), dtype=np.uint8)
    (stage,) = plan_for(96, 130, request).stages
    planned = {stage.name: stage.peak_bytes}
    measured = largest_peaks(lambda runner: upscale(clip(frames), request, runner).array(), planned, most=1.25)
    assert 0.8 < stage.peak_bytes / measured[stage.name] < 1.25


def test_plan_for_a_gpu_computes_in_sixteen_bits_and_in_batches(tmp_path):
    request = Request(write(tmp_path / "net.safetensors", SRVGG(SRVGGConfig(64, 2, 4)), 1))
    with as_backend("cpu"):
        (on_cpu,) = plan_for(96, 130, request).stages
    with as_backend("gpu"):
        (on_gpu,) = plan_for(96, 130, request).stages
    assert on_gpu.weights_bytes * 2 == on_cpu.weights_bytes
    assert on_gpu.activation_bytes > on_cpu.activation_bytes


@pytest.mark.parametrize("color_fix", ["wavelet", "adain"])
def test_color_fix_gives_the_colours_of_the_input_back(tmp_path, color_fix):
    model = write(tmp_path / "net.safetensors", SRVGG(SRVGGConfig(4, 1, 2)), 1)
    rows, columns = np.mgrid[0:48, 0:64]
    frames = np.stack([np.stack([rows * 4, columns * 3, rows + columns + 60], -1)] * 2).astype(np.uint8)
    whole = np.repeat(np.repeat(frames, 2, axis=1), 2, axis=2).mean(axis=(1, 2))
    plain, fixed = (
        upscale(clip(frames), Request(model, scale=2, color_fix=each)).array().mean(axis=(1, 2))
        for each in ("none", color_fix)
    )
    assert np.abs(fixed - whole).max() < 8 < np.abs(plain - whole).max()
    (image,) = upscale_images([StillImage(frames[0])], Request(model, scale=2, color_fix=color_fix))
    assert np.abs(image.pixels.mean(axis=(0, 1)) - whole[0]).max() < 8


def test_flat_colour_comes_back_by_the_wavelet_fix(tmp_path):
    model = write(tmp_path / "net.safetensors", SRVGG(SRVGGConfig(4, 1, 2)), 1)
    flat = np.broadcast_to(np.array([90, 150, 60], np.uint8), (1, 40, 44, 3))
    got = upscale(clip(flat), Request(model, scale=2, color_fix="wavelet")).array()
    # The border differs: the network sees zeros beyond it. These random weights give a pattern of 2x2 pixels.
    assert np.abs(got[0, 36:-36, 36:-36].mean(axis=(0, 1)) - [90, 150, 60]).max() <= 1.5
