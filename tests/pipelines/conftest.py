"""Small checkpoints for whole pipelines, written once."""

import json
from fractions import Fraction
from functools import partial
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
import tiny_checkpoints
from PIL import Image

from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion.sampler import Guidance, both_streams
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.prompt import prompt_stages
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.runtime.runner import StageRunner, run_stages

SCENE = {
    "prompt": "A blue ball",
    "negative_prompt": "blur",
    "num_frames": 9,
    "frame_rate": Fraction(24),
    "guidance": both_streams(Guidance(guidance_scale=3.0)),
}


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Paths of a dev checkpoint, its adapter, upscalers, text encoder and a picture."""
    folder = tmp_path_factory.mktemp("tiny")
    weights = tiny_checkpoints.write_weights(folder / "ltx.safetensors")
    picture = np.random.default_rng(1).integers(0, 255, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(picture).resize((280, 200)).save(folder / "picture.png")
    return SimpleNamespace(
        folder=folder,
        weights=weights,
        video_only=tiny_checkpoints.write_weights(folder / "video.safetensors", audio=False),
        spatial=tiny_checkpoints.write_upscaler(folder / "spatial.safetensors"),
        temporal=tiny_checkpoints.write_upscaler(folder / "temporal.safetensors", temporal=True),
        lora=tiny_checkpoints.write_lora(folder / "lora.safetensors", weights),
        gemma=tiny_checkpoints.write_gemma(folder / "gemma"),
        picture=folder / "picture.png",
    )


@pytest.fixture(scope="session")
def with_keyframe_embedding(files):
    """The dev checkpoint with LTX-2.5's embedding of keyframes."""
    tensors, metadata = mx.load(str(files.weights), return_metadata=True)
    config = json.loads(metadata["config"])
    config["transformer"]["use_keyframes_abs_pos_embedding"] = True
    width = tensors["model.diffusion_model.patchify_proj.bias"].shape[0]
    tensors["model.diffusion_model.keyframes_abs_pos_embedding"] = mx.full((1, width), 0.5)
    path = files.folder / "keyframes.safetensors"
    mx.save_safetensors(str(path), tensors, metadata | {"config": json.dumps(config)})
    return path


def opened(files, **changes) -> Models:
    """The small files, opened, in float32."""
    weights = changes.get("weights") or Checkpoint(files.weights)
    fields = {
        "weights": weights,
        "video_vae": weights,
        "audio_vae": weights,
        "text_features": weights,
        "text_encoder": files.gemma,
        "distilled": False,
        "dtype": mx.float32,
        "distilled_lora": Lora.open(files.lora),
        "spatial_upscaler": Checkpoint(files.spatial),
        "temporal_upscaler": Checkpoint(files.temporal),
    }
    return Models(**fields | changes)


@pytest.fixture
def models(files):
    """``models(**changes)``: the small files, opened, in float32."""
    return partial(opened, files)


@pytest.fixture(scope="session")
def embeddings(files):
    """The contexts of the request below in a file: the text encoder takes longer than all the rest."""
    path = files.folder / "embeddings.safetensors"
    request = Request(
        two_stages=False,
        models=opened(files),
        height=64,
        width=96,
        save_embeddings=path,
        **SCENE,
    )
    run_stages(prompt_stages(request), StageRunner(), GenerationState())
    return path


@pytest.fixture
def request_of(models, embeddings):
    """``request_of(**changes)``: nine frames at 64×96 in one stage and one step, its text encoded beforehand."""

    def request(**changes) -> Request:
        fields = {
            "two_stages": False,
            "models": models(),
            "height": 64,
            "width": 96,
            "steps": 1,
            "embeddings": embeddings,
            **SCENE,
        }
        return Request(**fields | changes)

    return request
