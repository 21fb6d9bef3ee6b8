from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from tiny_flashvsr import clip, write_flashvsr

from LTX_2_MLX.errors import CheckpointError, MediaError, RequestError
from LTX_2_MLX.models.flashvsr.block_attention import Sparsity
from LTX_2_MLX.models.flashvsr.transformer import TransformerStream
from LTX_2_MLX.pipelines.super_resolve import Request, stages, super_resolve
from LTX_2_MLX.pipelines.super_resolve.decoders import DEFAULTS, allowed
from LTX_2_MLX.runtime.runner import StageRunner

# One attention window of output: the smallest picture there is.
SMALL = {"height": 10, "width": 17}


def made(folder: Path, num_frames: int = 3, height: int = 10, width: int = 17, **options) -> np.ndarray:
    stream = super_resolve(clip(num_frames, height, width), Request(weights=str(folder), **options))
    frames = stream.array()
    assert frames.shape[1:3] == (stream.height, stream.width) and len(frames) == num_frames
    return frames


@pytest.mark.parametrize("num_frames", [1, 21, 22])
def test_clip_of_any_length_comes_out_with_as_many_frames_rate_and_tags(flashvsr, num_frames):
    source = clip(num_frames, **SMALL)
    source.metadata["title"] = "pebbles"
    stream = super_resolve(source, Request(weights=str(flashvsr)))
    assert (stream.num_frames, stream.frame_rate) == (num_frames, source.frame_rate)
    assert stream.metadata["title"] == "pebbles"
    assert stream.array().shape == (num_frames, 40, 68, 3)


def test_modes_tiny_and_tiny_long_agree(flashvsr):
    np.testing.assert_array_equal(made(flashvsr, 22), made(flashvsr, 22, mode="tiny-long"))


def test_first_frames_do_not_depend_on_what_follows_beyond_the_look_ahead(flashvsr):
    np.testing.assert_array_equal(made(flashvsr, 31)[:21], made(flashvsr, 25)[:21])


def test_unloading_the_transformer_changes_nothing(flashvsr):
    np.testing.assert_array_equal(made(flashvsr, 22), made(flashvsr, 22, unload_dit=True))


def test_one_tile_that_covers_the_frame_changes_nothing(flashvsr):
    np.testing.assert_array_equal(made(flashvsr), made(flashvsr, tile_dit=True))


def test_tiles_are_joined_to_whole_frames_with_and_without_the_transformer_unloaded(flashvsr):
    options = {"height": 50, "width": 60, "scale": 1.5, "tile_dit": True, "tile_size": 48, "overlap": 8}
    tiled = made(flashvsr, 3, **options)
    assert tiled.shape == (3, 75, 90, 3)
    # Neither the outermost pixels nor the seams are black.
    assert tiled.astype(int).sum(axis=-1).min() > 0
    np.testing.assert_array_equal(tiled, made(flashvsr, 3, unload_dit=True, **options))


def test_same_seed_gives_the_same_frames_and_another_one_others(flashvsr):
    first = made(flashvsr)
    np.testing.assert_array_equal(first, made(flashvsr))
    assert (first != made(flashvsr, seed=1)).any()


@pytest.mark.parametrize(
    "options",
    [
        {"version": "v1"},
        {"color_fix": "adain"},
        {"color_fix": "none"},
        {"resize": "8bit"},
        {"vae_type": "tae-w2.1"},
        {"mode": "full", "vae_type": "light"},
    ],
    ids=lambda options: "-".join(options.values() if "mode" in options else map(str, options.values())),
)
def test_option_changes_the_frames(flashvsr, options):
    assert (made(flashvsr, **options) != made(flashvsr)).any()


def test_what_attention_keeps_is_told_to_the_transformer(flashvsr, monkeypatch):
    told = []

    def spy(transformer, prompt, sparsity, kv_ratio):
        told.append((sparsity, kv_ratio))
        return TransformerStream(transformer, prompt, sparsity, kv_ratio)

    monkeypatch.setattr(stages, "TransformerStream", spy)
    options = {"sparse_ratio": 1.5, "local_range": 7, "kv_ratio": 4.5, "attention": "sage"}
    made(flashvsr, 1, 33, 65, **options)
    # The ratio is for 768 x 1280 pixels; these are 256 x 384.
    assert told == [(Sparsity("sage", 1.5 * 768 * 1280 / (256 * 384), 7), 4.5)]


def test_cropping_cuts_sides_to_multiples_of_128(flashvsr):
    assert made(flashvsr, height=33, width=70, borders="crop").shape == (3, 128, 256, 3)


def test_decoder_that_does_not_fit_is_replaced_with_a_word(flashvsr):
    heard = []

    class Listener:
        def begin(self, stage): ...
        def advance(self, stage, done, total): ...
        def end(self, stage): ...
        def note(self, text):
            heard.append(text)

    request = Request(weights=str(flashvsr), vae_type="tae-hv", vae_path="never/opened")
    stream = super_resolve(clip(1, **SMALL), request, StageRunner(Listener()))
    np.testing.assert_array_equal(stream.array(), made(flashvsr, 1))
    assert len(heard) == 1 and "tae-hv" in heard[0]


@pytest.mark.parametrize(("mode", "name"), [(mode, name) for mode in DEFAULTS for name in allowed(mode)])
def test_every_decoder_finishes_every_mode_it_belongs_to(flashvsr, mode, name):
    frames = made(flashvsr, 2, mode=mode, vae_type=name)
    assert frames.shape == (2, 40, 68, 3) and frames.std() > 1


def test_decoder_of_ones_own_is_taken_from_its_path(flashvsr):
    path = flashvsr / "taew2_1.safetensors"
    assert made(flashvsr, vae_type="tae-w2.1", vae_path=str(path)).shape == (3, 40, 68, 3)
    with pytest.raises(CheckpointError, match="TinyAutoencoder"):
        made(flashvsr, vae_type="tae-w2.1", vae_path=str(flashvsr / "TCDecoder.safetensors"))


def test_stopping_early_frees_networks_and_source(flashvsr):
    closed = []

    def chunks():
        try:
            yield from clip(60, **SMALL)
        finally:
            closed.append(True)

    before = mx.get_active_memory()
    stream = super_resolve(replace(clip(60, **SMALL), chunks=chunks()), Request(weights=str(flashvsr)))
    next(iter(stream))
    stream.close()
    assert closed and mx.get_active_memory() <= before + 2**20


def test_source_is_read_no_further_than_needed(flashvsr):
    read = []

    def chunks():
        for chunk in clip(60, chunk=1, **SMALL):
            read.append(1)
            yield chunk

    stream = super_resolve(replace(clip(60, **SMALL), chunks=chunks()), Request(weights=str(flashvsr)))
    next(iter(stream))
    assert len(read) == 25
    stream.close()


def test_missing_files_are_named(tmp_path, flashvsr):
    with pytest.raises(CheckpointError, match="transformer of FlashVSR"):
        super_resolve(clip(1), Request(weights=str(tmp_path)))
    write_flashvsr(tmp_path)
    (tmp_path / "posi_prompt.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"prompt of FlashVSR.*posi_prompt"):
        super_resolve(clip(1), Request(weights=str(tmp_path)))
    with pytest.raises(CheckpointError, match="does not exist"):
        super_resolve(clip(1), Request(weights=str(tmp_path / "nowhere.safetensors")))


def test_transformers_file_stands_for_its_folder(flashvsr):
    path = flashvsr / "diffusion_pytorch_model_streaming_dmd.safetensors"
    np.testing.assert_array_equal(made(path), made(flashvsr))


def test_files_of_another_version_are_refused_where_the_catalogue_knows(tmp_path):
    folder = tmp_path / "FlashVSR-v1"
    folder.mkdir()
    write_flashvsr(folder)
    with pytest.raises(CheckpointError, match=r"FlashVSR v1's, but version is v1\.1"):
        super_resolve(clip(1), Request(weights=str(folder)))
    assert made(folder, 1, version="v1").shape == (1, 40, 68, 3)


def test_one_file_of_another_version_among_others_is_refused(tmp_path, flashvsr):
    old, mixed = tmp_path / "FlashVSR-v1", tmp_path / "mixed"
    for folder in (old, mixed):
        folder.mkdir()
        write_flashvsr(folder)
    alone = old / "diffusion_pytorch_model_streaming_dmd.safetensors"
    for name in ("LQ_proj_in", "TCDecoder", "posi_prompt"):
        (old / f"{name}.safetensors").unlink()
        (tmp_path / f"{name}.safetensors").symlink_to(mixed / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=rf"{alone.name} is FlashVSR v1's, but version is v1\.1"):
        super_resolve(clip(1), Request(weights=str(alone)))
    write_flashvsr(old)
    with pytest.raises(CheckpointError, match=r"TCDecoder\.safetensors is FlashVSR v1's"):
        super_resolve(clip(1), Request(weights=str(mixed), vae_path=str(old / "TCDecoder.safetensors")))


def test_too_small_pictures_and_empty_clips_are_refused(flashvsr):
    with pytest.raises(RequestError, match="1 x 9"):
        super_resolve(clip(1, 9, 1), Request(weights=str(flashvsr)))
    with pytest.raises(MediaError, match="no frame"):
        super_resolve(replace(clip(1), chunks=iter(())), Request(weights=str(flashvsr))).array()
