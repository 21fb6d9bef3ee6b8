"""Small checkpoints for whole roads, written once."""

from fractions import Fraction
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
import tiny_checkpoints
from PIL import Image

from LTX_2_MLX.checkpoints.lora import Lora
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.diffusion.guidance import Guidance
from LTX_2_MLX.pipelines.embeddings import save_contexts
from LTX_2_MLX.pipelines.film import Film, Models
from LTX_2_MLX.pipelines.stages import Contexts, encode_text
from LTX_2_MLX.runtime.runner import StageRunner

PROMPT, NEGATIVE = "A blue ball", "blur"


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


@pytest.fixture
def models(files):
    """``models(**changes)``: the small files, opened, in float32."""

    def opened(**changes) -> Models:
        given = {
            "weights": Checkpoint(files.weights),
            "text_encoder": files.gemma,
            "distilled": False,
            "dtype": mx.float32,
            "distilled_lora": Lora.open(files.lora),
            "spatial_upscaler": Checkpoint(files.spatial),
            "temporal_upscaler": Checkpoint(files.temporal),
        }
        return Models(**given | changes)

    return opened


@pytest.fixture(scope="session")
def embeddings(files):
    """The contexts of the film below in a file: the text encoder's turn takes longer than all the rest."""
    texts = {"prompt": PROMPT, "negative_prompt": NEGATIVE}
    weights = Checkpoint(files.weights)
    contexts = Contexts(*encode_text(StageRunner(), files.gemma, weights, list(texts.values()), mx.float32))
    path = files.folder / "embeddings.safetensors"
    save_contexts(path, contexts, weights=weights, **texts)
    return path


@pytest.fixture
def film(embeddings):
    """``film(**changes)``: nine frames of something, its text encoded beforehand."""

    def asked(**changes) -> Film:
        given = {
            "prompt": PROMPT,
            "negative_prompt": NEGATIVE,
            "embeddings": embeddings,
            "num_frames": 9,
            "frame_rate": Fraction(24),
            "guidance": Guidance(guidance_scale=3.0),
        }
        return Film(**given | changes)

    return asked
