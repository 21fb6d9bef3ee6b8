"""Videos from LTX-2.5's files in the published split layout."""

import json
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
import tiny_split_files
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import LTX_2_MLX
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.media.frames import FrameStream
from LTX_2_MLX.media.writer import read_run_record
from LTX_2_MLX.pipelines.generate import generate_video, prepare, stages_for
from LTX_2_MLX.pipelines.generation.denoise import Denoise
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.record import options_from
from LTX_2_MLX.pipelines.requests import UpscaleTemporalRequest
from LTX_2_MLX.pipelines.upscale_temporal import upscale_temporal
from LTX_2_MLX.runtime.progress import SilentProgress
from LTX_2_MLX.runtime.runner import StageRunner


class Notes(SilentProgress):
    """Keeps the notes of a run."""

    def __init__(self, notes: list[str]):
        self.note = notes.append


SIZE = {"height": 64, "width": 96, "frames": 9}


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return tiny_split_files.write_split_files(tmp_path_factory.mktemp("ltx-2.5"))


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory):
    return tiny_checkpoints.write_upscaler(tmp_path_factory.mktemp("upscaler") / "spatial.safetensors")


def options(split, **changes) -> Options:
    """One distilled stage of two steps."""
    named = {
        "weights": str(split.transformer),
        "gemma": str(split.gemma),
        "video_vae": str(split.conv_vae),
        "model_variant": "distilled",
        "pipeline": "distilled",
        "steps": 2,
    }
    return Options(prompt="A blue ball", **(SIZE | named | changes))


def frames_of(asked: Options) -> np.ndarray:
    prepared = prepare(asked)
    video = generate_video(prepared.request, StageRunner(), prepared.options)
    return np.concatenate([np.array(chunk) for chunk in video])


@pytest.fixture(scope="module")
def plain(split) -> np.ndarray:
    return frames_of(options(split))


def test_text_becomes_a_video(plain):
    assert plain.shape == (9, 64, 96, 3)
    assert plain.std() > 1


def test_files_may_be_given_in_any_order_or_as_a_folder(split, plain, tmp_path):
    files = (str(split.conv_vae), str(split.gemma), str(split.transformer))
    np.testing.assert_array_equal(frames_of(options(split, weights=files, gemma="auto", video_vae="auto")), plain)
    folder = split.transformer.parents[1]
    asked = options(split, weights=str(folder), gemma="auto")
    np.testing.assert_array_equal(frames_of(asked), plain)


def test_two_autoencoders_of_one_kind_are_refused(split, tmp_path):
    files = (
        split.transformer,
        split.gemma,
        split.conv_vae,
        shutil.copy(split.conv_vae, tmp_path / "other.safetensors"),
    )
    with pytest.raises(CheckpointError, match=r"each hold a video autoencoder.*--video-vae"):
        prepare(options(split, weights=tuple(map(str, files)), video_vae="auto", gemma="auto"))


def test_folder_with_missing_shards_says_so(split, tmp_path):
    shutil.copy(split.transformer, tmp_path / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match=r"lacks 1 of 2 files \(model-00002-of-00002.safetensors\). Finish the"):
        prepare(options(split, weights=str(tmp_path)))


def test_streamed_and_resident_networks_give_the_same_video(split, plain):
    np.testing.assert_array_equal(frames_of(options(split, low_ram=True)), plain)


@pytest.fixture(scope="module")
def temporal(tmp_path_factory):
    return tiny_checkpoints.write_upscaler(tmp_path_factory.mktemp("temporal") / "mine.safetensors", temporal=True)


def test_frame_rate_doubles_before_decoding(split, temporal):
    notes: list[str] = []
    asked = options(split, temporal_upscale=True, temporal_weights=str(temporal))
    prepared = prepare(asked, notes.append)
    # The upscaler does not say for which generation it was made.
    assert [line for line in notes if "mine.safetensors does not say for which model it was made" in line]
    video = generate_video(prepared.request, StageRunner(), prepared.options)
    assert (video.num_frames, video.frame_rate, len(video.array())) == (17, 48, 17)


def test_second_pass_takes_the_autoencoder_of_a_file_or_a_folder(split, temporal):
    clip = np.random.default_rng(3).integers(0, 256, (10, 50, 70, 3), dtype=np.uint8)
    results = []
    for weights in (split.conv_vae, split.transformer.parents[1]):
        notes = []
        runner = StageRunner(Notes(notes))
        request = UpscaleTemporalRequest(str(weights), str(temporal))
        stream = FrameStream([clip[:4], clip[4:]], 50, 70, Fraction(24), num_frames=10)
        results.append(upscale_temporal(stream, request, runner).array())
        assert len(notes) == 1 and "mine.safetensors does not say for which model" in notes[0]
    assert results[0].shape == (19, 50, 70, 3)
    np.testing.assert_array_equal(*results)
    for weights, said in ((split.transformer, "ltx-2.5-video-vae-conv-bf16"), (split.gemma.parent, "holds no conv")):
        request = UpscaleTemporalRequest(str(weights), str(temporal))
        with pytest.raises(CheckpointError, match=said):
            upscale_temporal(FrameStream([clip], 50, 70, Fraction(24), num_frames=10), request)


def test_two_stages_take_an_image_and_an_ancestral_first_stage(split, upscaler, files):
    changes = {"pipeline": "two-stage", "steps": None, "steps_stage1": 2, "steps_stage2": 1}
    asked = options(split, **changes, spatial_upscaler_weights=str(upscaler))
    request = prepare(asked).request
    first, second = (stage for stage in stages_for(request) if isinstance(stage, Denoise))
    assert (first.sampler, second.sampler) == ("ancestral", "euler")
    assert request.models.defaults.image_crf == 18
    from_text = frames_of(asked)
    from_image = frames_of(replace(asked, image=files.picture))
    assert from_text.shape == from_image.shape == (9, 128, 192, 3)
    assert not np.array_equal(from_text, from_image)


def test_a_run_resumes_and_its_record_repeats_it(split, plain, tmp_path):
    asked = options(split, save_latents=tmp_path / "run")
    np.testing.assert_array_equal(frames_of(asked), plain)
    resumed = options(split, resume=tmp_path / "run")
    np.testing.assert_array_equal(frames_of(resumed), plain)
    files = (str(split.transformer), str(split.gemma), str(split.conv_vae))
    asked = options(split, weights=files, gemma="auto", video_vae="auto")
    prepared = prepare(asked)
    path = tmp_path / "video.mp4"
    generate_video(prepared.request, StageRunner(), prepared.options).save(path)
    repeated = options_from(read_run_record(path, "generate"), {})
    assert (repeated.weights, repeated.gemma) == (str(split.transformer), str(split.gemma))
    assert repeated.video_vae == str(split.conv_vae)
    np.testing.assert_array_equal(frames_of(repeated), plain)


def test_saved_embeddings_replace_the_text_encoder(split, plain, tmp_path):
    saved = tmp_path / "prompt.safetensors"
    frames_of(options(split, save_embeddings=saved))
    asked = options(split, embeddings=saved, gemma="auto")
    np.testing.assert_array_equal(frames_of(asked), plain)


def changed(path: Path, target: Path, part: str = "", **metadata: str) -> Path:
    """A copy of a file with other metadata, and with doubled tensors where their names hold ``part``."""
    with safe_open(path, "np") as file:
        own = file.metadata()
    arrays = load_file(path)
    for name in [name for name in arrays if part and part in name]:
        arrays[name] = arrays[name] * 2
    save_file(arrays, target, metadata=own | metadata)
    return target


def test_embeddings_belong_to_connectors_projections_and_text_encoder(split, tmp_path):
    saved = tmp_path / "prompt.safetensors"
    frames_of(options(split, save_embeddings=saved))
    # Connectors in the transformer's file.
    other = changed(split.transformer, tmp_path / "distilled-connectors.safetensors", "video_embeddings_connector")
    with pytest.raises(RequestError, match="made with the connectors of another checkpoint"):
        prepare(options(split, weights=str(other), embeddings=saved, gemma="auto"))
    # Projections, and layers, in the text encoder's file.
    for part in ("text_embedding_projection", "model.layers.1."):
        encoder = changed(split.gemma, tmp_path / f"{part}safetensors", part)
        with pytest.raises(RequestError, match="made with another text encoder"):
            prepare(options(split, embeddings=saved, gemma=str(encoder)))
    source = json.dumps({"gemma_version": "another"})
    other = changed(split.transformer, tmp_path / "distilled-other.safetensors", gemma_source_checkpoint=source)
    with pytest.raises(RequestError, match=r"text encoder gemma4-12b-ltx-v1, but .* was made for another"):
        prepare(options(split, weights=str(other), embeddings=saved, gemma="auto"))
    prepare(options(split, embeddings=saved))


def test_two_files_of_one_network_are_refused_before_loading(split, tmp_path):
    second = tmp_path / "second.safetensors"
    for path, said in ((split.transformer, "both hold the tensor"), (split.gemma, "each hold a text encoder.*--gemma")):
        shutil.copy(path, second)
        files = (str(split.transformer), str(split.gemma), str(second))
        with pytest.raises(CheckpointError, match=said):
            prepare(options(split, weights=files, gemma="auto"))


def test_text_encoder_of_another_version_is_refused_before_loading(split, files, tmp_path):
    with safe_open(split.gemma, "np") as file:
        metadata = file.metadata()
    config = json.loads(metadata["gemma_config"]) | {"gemma_version": "another"}
    other = tmp_path / "other.safetensors"
    save_file(load_file(split.gemma), other, metadata=metadata | {"gemma_config": json.dumps(config)})
    with pytest.raises(CheckpointError, match=r"made for the text encoder gemma4-12b-ltx-v1.*another"):
        prepare(options(split, gemma=str(other)))
    with pytest.raises(CheckpointError, match=r"made for the text encoder gemma4-12b-ltx-v1.*Gemma 3"):
        prepare(options(split, gemma=str(files.gemma)))
    with pytest.raises(CheckpointError, match=r"such as Gemma 3, but .*gemma4-12b-ltx-v1"):
        prepare(options(split, weights=str(files.weights), video_vae="auto"))


def test_model_without_a_decoder_that_can_be_used_is_refused(split):
    with pytest.raises(CheckpointError, match=r"holds no video autoencoder.*--video-vae"):
        prepare(options(split, video_vae="auto"))
    with pytest.raises(CheckpointError, match=r"holds no video decoder.*ltx-2.5-video-vae-conv"):
        prepare(options(split, video_vae=str(split.transformer)))


def test_an_autoencoder_overrides_that_of_a_combined_file(split, files):
    named = {"weights": str(files.weights), "gemma": str(files.gemma)}
    own = frames_of(options(split, **named, video_vae="auto"))
    other = frames_of(options(split, **named))
    assert own.shape == other.shape
    assert not np.array_equal(own, other)


@pytest.mark.parametrize("call", [tuple, list])
def test_the_public_call_takes_several_files(split, plain, call):
    files = call(Path(path) for path in (split.transformer, split.gemma, split.conv_vae))
    rest = {"pipeline": "distilled", "model_variant": "distilled", "steps": 2}
    video = LTX_2_MLX.generate("A blue ball", weights=files, **rest, **SIZE)
    np.testing.assert_array_equal(np.concatenate([np.array(chunk) for chunk in video]), plain)
