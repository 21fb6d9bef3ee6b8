"""LTX-2.5's diffusion decoder as the last stage of a generation."""

from fractions import Fraction

import mlx.core as mx
import numpy as np
import pytest
import tiny_split_files

from LTX_2_MLX.checkpoints.load import config_of
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.media.writer import read_run_record
from LTX_2_MLX.models.ltx import diffusion_decoder_memory
from LTX_2_MLX.models.ltx.diffusion_decoder import DiffusionVideoDecoder
from LTX_2_MLX.pipelines.generate import Options, decode_saved, generate_video, plan_for, prepare, request_for
from LTX_2_MLX.pipelines.generation.decode_diffusion import DecodeByDiffusion, frame_noise
from LTX_2_MLX.pipelines.generation.record import options_from
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.runtime.runner import StageRunner
from LTX_2_MLX.shapes import LatentShape


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return tiny_split_files.write_split_files(tmp_path_factory.mktemp("ltx-2.5"))


def options(split, **changes) -> Options:
    """One distilled step, decoded by diffusion."""
    named = {
        "weights": str(split.transformer),
        "gemma": str(split.gemma),
        "video_vae": str(split.video_vae),
        "model_variant": "distilled",
        "pipeline": "distilled",
        "steps": 1,
        "height": 64,
        "width": 96,
        "frames": 9,
    }
    return Options("A blue ball", **named | changes)


def frames_of(asked: Options) -> np.ndarray:
    video = generate_video(request_for(asked), StageRunner(), asked)
    return np.concatenate([np.array(chunk) for chunk in video])


@pytest.fixture(scope="module")
def plain(split) -> np.ndarray:
    return frames_of(options(split))


def stage(split, frames: int, height: int = 2, width: int = 3, **changes) -> DecodeByDiffusion:
    """The stage for a latent of this size."""
    shape = LatentShape(frames, height, width)
    checkpoint = Checkpoint(split.video_vae)
    cell = config_of(DiffusionVideoDecoder, checkpoint).compression
    return DecodeByDiffusion(checkpoint, mx.float32, shape, cell, Fraction(24), seed=3, **changes)


def decoded(stage: DecodeByDiffusion) -> np.ndarray:
    shape = (1, stage.shape.num_frames, stage.shape.height, stage.shape.width, 8)
    latent = mx.random.normal(shape, key=mx.random.key(stage.shape.num_frames))
    video = stage.run(StageRunner(), GenerationState(latents={"video": latent}))
    return np.concatenate([np.array(chunk) for chunk in video])


def test_latent_becomes_a_video_that_its_seed_repeats(split, plain):
    assert plain.shape == (9, 64, 96, 3)
    assert plain.std() > 1
    np.testing.assert_array_equal(frames_of(options(split)), plain)
    assert not np.array_equal(frames_of(options(split, seed=1)), plain)


def test_both_kinds_of_attention_can_be_asked_for(split, plain):
    np.testing.assert_array_equal(frames_of(options(split, decoder_attention="chunked")), plain)
    assert not np.array_equal(frames_of(options(split, decoder_attention="combined")), plain)
    with pytest.raises(RequestError, match=r"--decoder-attention belongs to the diffusion decoder.*Leave it out"):
        request_for(options(split, video_vae=str(split.conv_vae), decoder_attention="chunked"))


def test_decoder_is_that_of_the_file_unless_the_user_asks_for_the_other(split, plain):
    for decoder, file in (("conv", split.video_vae), ("diffusion", split.conv_vae)):
        with pytest.raises(CheckpointError, match=f"--video-decoder is {decoder}, but .*--video-vae"):
            request_for(options(split, video_vae=str(file), video_decoder=decoder))
    folder = str(split.transformer.parents[1])
    both = {"weights": folder, "video_vae": "auto", "gemma": "auto"}
    np.testing.assert_array_equal(frames_of(options(split, **both, video_decoder="diffusion")), plain)
    notes = []
    assert not request_for(options(split, **both), notes.append).models.decodes_by_diffusion
    assert any("--video-decoder diffusion" in note for note in notes)


def test_a_run_resumes_decodes_again_and_its_record_keeps_the_choice(split, plain, tmp_path):
    asked = options(split, decoder_attention="combined", save_latents=tmp_path / "run")
    path = tmp_path / "video.mp4"
    generate_video(request_for(asked), StageRunner(), asked).save(path)
    combined = frames_of(options(split, decoder_attention="combined", resume=tmp_path / "run"))
    runner = StageRunner()
    again = decode_saved(tmp_path / "run", runner)
    np.testing.assert_array_equal(np.concatenate([np.array(chunk) for chunk in again]), combined)
    repeated = options_from(read_run_record(path, "generate"), {})
    assert (repeated.video_vae, repeated.decoder_attention) == (str(split.video_vae), "combined")
    np.testing.assert_array_equal(frames_of(repeated), combined)
    assert not np.array_equal(combined, plain)


def test_tiles_see_the_noise_that_the_whole_video_has():
    draw = frame_noise(5, (8, 12, 3))
    whole = draw((1, 6, 8, 12, 3), (0, 0, 0))
    part = draw((1, 3, 5, 6, 3), (2, 1, 4))
    np.testing.assert_array_equal(np.array(part), np.array(whole[:, 2:5, 1:6, 4:10]))
    assert abs(float(whole.mean())) < 0.1 and abs(float(whole.std()) - 1) < 0.1


def test_latents_smaller_than_the_windows_are_decoded_too(split):
    assert decoded(stage(split, 1, 1, 1)).shape == (1, 32, 32, 3)


def test_tiles_of_a_size_can_be_asked_for_and_are_refused_where_they_share_too_little(split):
    whole = decoded(stage(split, 1, 1, 4))
    tiles = stage(split, 1, 1, 4, tile_size=96)
    assert tiles.plan().tiling.width.size == 96
    video = decoded(tiles)
    assert video.shape == whole.shape == (1, 32, 128, 3)
    assert np.abs(video.astype(int) - whole).mean() < 8
    with pytest.raises(RequestError, match="too small"):
        stage(split, 2, 4, 4, tile_size=8).estimate()


def test_memory_does_not_grow_with_the_length_of_the_clip(split, monkeypatch):
    monkeypatch.setattr(diffusion_decoder_memory, "_LONGEST_TILE", 24)
    monkeypatch.setattr(diffusion_decoder_memory, "_PIECES", (4,))

    def peaks(frames: int) -> tuple[int, int]:
        asked = stage(split, frames, 1, 2)
        runner = StageRunner()
        latent = mx.zeros((1, frames, 1, 2, 8))
        for _ in asked.run(runner, GenerationState(latents={"video": latent})):
            pass
        return asked.estimate().peak_bytes, runner.reports[-1].peak_bytes

    planned, measured = zip(peaks(10), peaks(20), strict=True)
    assert planned[0] == planned[1]
    assert measured[1] < 1.05 * measured[0]


def test_plan_says_how_the_video_is_decoded(split):
    asked = options(split)
    *_, last = plan_for(prepare(asked).request, asked).stages
    assert last.name == "decode" and last.work == "64×96, 9 frames, by diffusion"
