import os
from fractions import Fraction
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from tiny_checkpoints import write_vae

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import MemoryBudgetError, RequestError
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.pipelines.generation import decode
from LTX_2_MLX.pipelines.generation.decode import DecodeVideo, choose_tiling, decode_frames, square_tiles
from LTX_2_MLX.pipelines.generation.encode import encode_frames
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.runtime import this_machine
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.shapes import Compression, LatentShape


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    checkpoint = Checkpoint(write_vae(Path(tmp_path_factory.mktemp("vae")) / "vae.safetensors"))
    return load(VideoEncoder, checkpoint), load(VideoDecoder, checkpoint)


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(2).integers(0, 256, (9, 128, 192, 3), dtype=np.uint8)


def test_whole_frames_wherever_they_fit(networks):
    for network in networks:
        assert choose_tiling(network, LatentShape(1000, 4, 6)) is None


def _fits(network, latent, budget):
    try:
        return choose_tiling(network, latent, budget=budget) is None
    except MemoryBudgetError:
        return False


def test_smaller_budget_gives_smaller_tiles_down_to_a_clear_end(networks):
    decoder, latent = networks[1], LatentShape(13, 30, 44)
    budgets = range(2**28, 2**34, 2**26)
    enough = next(budget for budget in budgets if _fits(decoder, latent, budget))
    sides = []
    for share in (1, 0.97, 0.92, 0.87):
        tiling = choose_tiling(decoder, latent, budget=int(enough * share))
        sides.append(44 if tiling is None else tiling.height.size)
    assert sides == sorted(sides, reverse=True) and 44 == sides[0] > sides[1] > sides[-1] >= 4
    with pytest.raises(MemoryBudgetError, match="1408×960"):
        choose_tiling(decoder, latent, budget=2**20)


def test_frames_that_no_tile_helps_are_refused_without_trying_every_side(networks, monkeypatch):
    sides = []
    monkeypatch.setattr(decode, "run_bytes", lambda layers, shape, item_bytes: sides.append(shape) or 2**62)
    with pytest.raises(MemoryBudgetError):
        choose_tiling(networks[1], LatentShape(2, 3_000_000, 3))
    assert len(sides) == 1


def test_tile_size_has_to_fit_the_compression(networks):
    assert square_tiles(256, Compression(8, 32, 32)).width.overlap == 2
    assert square_tiles(64, Compression(4, 16, 16)).width.overlap == 1
    with pytest.raises(RequestError, match="multiples of 32"):
        choose_tiling(networks[0], LatentShape(2, 4, 6), tile_size=100)


def test_tiles_change_pixels_but_not_sizes(networks, frames):
    encoder, decoder = networks
    chunks = [frames[:4], frames[4:]]
    whole = encode_frames(encoder, chunks, size=(128, 192), num_frames=9)
    tiled = encode_frames(encoder, chunks, size=(128, 192), num_frames=9, tile_size=128)
    assert whole.shape == tiled.shape == (1, 2, 4, 6, 8)
    films = [np.concatenate(list(decode_frames(decoder, whole, side))) for side in (None, 128)]
    assert films[0].shape == films[1].shape == frames.shape
    assert films[0].dtype == np.uint8 and (films[0] != films[1]).any()


def test_tiles_need_the_number_of_frames_whole_frames_do_not(networks, frames):
    encoder = networks[0]
    known, unknown = (encode_frames(encoder, [frames], size=(128, 192), num_frames=n) for n in (9, None))
    assert mx.array_equal(known, unknown)
    with pytest.raises(RequestError, match="how many frames"):
        encode_frames(encoder, [frames], size=(128, 192), num_frames=None, tile_size=128)


@pytest.mark.parametrize(("winograd", "expected"), [(True, ["1", "0", "1", "0"]), (False, ["0", "0", "0", "0"])])
def test_only_decoding_in_float32_goes_by_winograd(winograd, expected, monkeypatch):
    # A process started by this library inherits the variables as if the user had set them.
    monkeypatch.setattr(this_machine, "_ours", {"MLX_CONV_WINOGRAD"})
    seen = []

    class Recorded(StageRunner):
        def stream(self, name, load, work):
            for _ in range(2):
                seen.append(os.environ["MLX_CONV_WINOGRAD"])
                yield np.zeros((1, 32, 32, 3), np.uint8)

    cell = Compression(8, 32, 32)
    stage = DecodeVideo(None, mx.float32, LatentShape(2, 1, 1), cell, Fraction(24), winograd=winograd)
    for _ in stage.run(Recorded(), GenerationState(latents={"video": mx.zeros((1, 2, 1, 1, 8))})).chunks:
        seen.append(os.environ["MLX_CONV_WINOGRAD"])
    assert seen == expected
