"""The model in the box is made again in small: losses fall, an interruption changes nothing, the bundle is whole."""

import hashlib
import json
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.gemma3 import load_gemma
from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.models.ltx.video_vae_encoder import VideoEncoder
from LTX_2_MLX.training import autoencoder, bundle
from LTX_2_MLX.training.loop import Settings, train
from LTX_2_MLX.training.recipe import RUNS, Recipe, Workshop

ROOT = Path(__file__).parents[2]
BOX, SCRIPT = ROOT / "weights" / "demo", ROOT / "scripts" / "train_demo.py"
STEPS = {"text": 40, "dev": 12, "decoder": 1, "spatial": 12, "temporal": 12, "distilled": 2}
# What a run lowers, free of how hard a batch happens to be.
FIGURES = {"text": "loss", "dev": "loss", "spatial": "unexplained", "temporal": "unexplained"}


def logged(folder: Path, figure: str = "loss") -> list[float]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line[figure] for line in lines if figure in line]


def check_manifest(folder: Path) -> None:
    listed = json.loads((folder / "manifest.json").read_text())
    there = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(listed) == there
    for name, entry in listed.items():
        content = (folder / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}, name


@pytest.fixture(scope="module")
def workshop(tmp_path_factory) -> Workshop:
    recipe = Recipe().shortened(1)
    for name, steps in STEPS.items():
        recipe = recipe.with_steps(name, steps)
    folder = tmp_path_factory.mktemp("workshop")
    for name in RUNS:
        # As a command, so that OpenBLAS is loaded before MLX: several times faster than in a test's own process.
        words = ["--folder", folder, "--shortened", "--run", name, "--steps", STEPS[name]]
        subprocess.run([sys.executable, SCRIPT, *map(str, words)], check=True)
    return Workshop(folder, recipe)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_losses_fall_in_a_shortened_run(workshop, name):
    found = logged(workshop.folder / name, FIGURES[name])
    assert len(found) == STEPS[name]
    third = len(found) // 3
    assert np.mean(found[-third:]) < np.mean(found[:third])


@pytest.mark.slow
def test_the_closed_form_start_is_a_working_autoencoder(workshop):
    # A grey picture would give about 14 dB; the start is fitted to a handful of clips here.
    assert autoencoder.reconstruction(workshop.encoder(), workshop.decoder(), 1, 2) > 20


@pytest.mark.slow
def test_the_written_bundle_loads_and_its_manifest_matches(workshop, tmp_path):
    workshop.write_bundle(tmp_path)
    check_manifest(tmp_path)
    for kind in ("dev", "distilled"):
        checkpoint = Checkpoint(tmp_path / bundle.FILES[kind])
        for network in (Transformer, TextFeatures, VideoEncoder, VideoDecoder):
            load(network, checkpoint)
        steps = json.loads(checkpoint.header.metadata["training"])["steps"]
        assert steps == STEPS
    for kind in ("spatial", "temporal"):
        load(LatentUpscaler, Checkpoint(tmp_path / bundle.FILES[kind]))
    load_gemma(tmp_path / "gemma")


@pytest.mark.slow
def test_the_lora_turns_the_dev_transformer_into_the_distilled_one(workshop, tmp_path):
    workshop.write_bundle(tmp_path)
    dev, distilled = (Checkpoint(tmp_path / bundle.FILES[kind]) for kind in ("dev", "distilled"))
    lora = Checkpoint(tmp_path / bundle.FILES["lora"])
    name = "diffusion_model.transformer_blocks.1.attn1.to_q"
    adapters = lora.arrays([f"{name}.lora_A.weight", f"{name}.lora_B.weight"])
    a, b = (value.astype(mx.float32) for value in adapters.values())
    weight = f"model.{name}.weight"
    before, after = (file.arrays([weight])[weight].astype(mx.float32) for file in (dev, distilled))
    changed = mx.abs(after - before).max().item()
    assert changed > 0
    # Muon's steps have full rank, so the adapters keep nearly all and not all; files hold 16 bits.
    left = after - before - b @ a
    assert mx.square(left).sum().item() < 0.1 * mx.square(after - before).sum().item()


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path):
    def loss(network, batch, key):
        error = mx.square(network(batch["x"]) - batch["y"]).mean() + 0 * mx.random.normal(key=key)
        return error, {"error": error}

    def batches(rng, count):
        x = mx.array(rng.standard_normal((count, 3)).astype(np.float32))
        return {"x": x, "y": x[:, :2] * 2}

    def run(folder: Path, steps: int) -> dict[str, np.ndarray]:
        mx.random.seed(3)
        network = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
        settings = Settings(steps=steps, batch_size=7, warmup=1, cooldown=0.0, log_every=1)
        return {n: np.array(v) for n, v in tree_flatten(train(network, loss, batches, settings, folder).parameters())}

    whole = run(tmp_path / "whole", 6)
    run(tmp_path / "parts", 2)
    # What a run that was killed while saving leaves behind is not looked at.
    shutil.copy(tmp_path / "parts" / "log.jsonl", tmp_path / "parts" / "checkpoint.part.safetensors")
    parts = run(tmp_path / "parts", 6)
    for name, value in whole.items():
        np.testing.assert_array_equal(parts[name], value)
    assert logged(tmp_path / "parts") == logged(tmp_path / "whole")


@pytest.mark.parametrize(
    ("network", "named"),
    [
        (bundle.new_transformer, bundle.transformer_name),
        (bundle.new_features, bundle.features_name),
        (lambda: bundle.new_upscaler(temporal=True), bundle.upscaler_name),
    ],
)
def test_published_names_lead_back_to_the_parameters(network, named):
    network = network()
    for parameter, _ in tree_flatten(network.parameters()):
        assert type(network).parameter_name(named(parameter)) == parameter


def test_the_model_in_the_box_is_as_its_manifest_says():
    check_manifest(BOX)


def test_the_model_in_the_box_takes_at_most_35_megabytes_in_git():
    # Git keeps files deflated; the closed-form encoder is mostly zeros.
    sizes = [len(zlib.compress(path.read_bytes())) for path in BOX.rglob("*") if path.is_file()]
    assert sum(sizes) <= 35_000_000
