"""Which of several generations on disk ``auto`` takes."""

import gzip
import json
from pathlib import Path

import pytest

from LTX_2_MLX.checkpoints.catalog import ENTRIES
from LTX_2_MLX.checkpoints.resolve import entries_for_role, entry_by_name, installed_path, resolve
from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.pipelines.generation.files import automatic_model
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.requests import UpscaleTemporalRequest
from LTX_2_MLX.pipelines.upscale_temporal import autoencoder_file

MANIFESTS = Path(__file__).parents[1] / "manifests"
GEMMA3 = [f"gemma/{name}" for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")]
LTX_2 = ["ltx-2/ltx-2-19b-distilled.safetensors", "ltx-2/ltx-2-spatial-upscaler-x2-1.0.safetensors", *GEMMA3]
LTX_2_3 = ["ltx-2.3/ltx-2.3-22b-distilled-1.1.safetensors", "ltx-2.3/ltx-2.3-spatial-upscaler-x2-1.1.safetensors"]
LTX_2_5 = [
    f"ltx-2.5/{name}.safetensors"
    for name in (
        "diffusion_models/ltx-2.5-22b-distilled-transformer-bf16",
        "text_encoders/gemma4-12b-with-proj-ltx-2.5-bf16",
        "vae/ltx-2.5-video-vae-conv-bf16",
        "latent_upscale_models/ltx-2.5-latent-spatial-upscaler-x2-bf16-1.0",
    )
]
DEMO = ["demo/ltx-2-demo-distilled.safetensors", "demo/ltx-2-demo-dev.safetensors"]


def taken(notes=None, variant=None, **options) -> str:
    asked = Options(prompt="a", model_variant=variant, **options)
    return automatic_model(asked, [].append if notes is None else notes.append).path.name


@pytest.mark.parametrize("shape", ["repository", "flat"])
def test_newest_complete_set_is_taken_and_said(machine, shape):
    machine([*DEMO, *LTX_2])
    assert taken() == "ltx-2-19b-distilled.safetensors"
    machine(LTX_2_3)
    assert taken() == "ltx-2.3-22b-distilled-1.1.safetensors"
    files = LTX_2_5 if shape == "repository" else [f"ltx-2.5/{name.rsplit('/', 1)[1]}" for name in LTX_2_5]
    machine(files)
    notes: list[str] = []
    assert taken(notes) == "ltx-2.5-22b-distilled-transformer-bf16.safetensors"
    assert notes == [
        "Taken is ltx-2.5-22b-distilled-transformer-bf16.safetensors, the newest on this machine that is complete."
    ]


@pytest.mark.parametrize("lacks", range(1, 4))
def test_set_that_lacks_a_file_is_passed_over_with_the_command_that_gets_it(machine, lacks):
    machine([*LTX_2, *LTX_2_5[:lacks], *LTX_2_5[lacks + 1 :]])
    notes: list[str] = []
    assert taken(notes) == "ltx-2-19b-distilled.safetensors"
    name = LTX_2_5[lacks].rsplit("/", 1)[1].removesuffix(".safetensors")
    assert "is passed over" in notes[0] and notes[0].endswith(f"download_weights.py {name}")


def test_only_what_the_options_need_has_to_be_there(machine):
    machine([*LTX_2, *LTX_2_5[:3]])
    assert taken() == "ltx-2-19b-distilled.safetensors"
    newest = "ltx-2.5-22b-distilled-transformer-bf16.safetensors"
    assert taken(pipeline="distilled") == taken(spatial_upscaler_weights="mine.safetensors") == newest
    # No temporal upscaler of either generation: the newest is taken, whose error says what it lacks.
    assert taken(pipeline="distilled", temporal_upscale=True) == newest
    machine(["ltx-2/ltx-2-temporal-upscaler-x2-1.0.safetensors"])
    assert taken(pipeline="distilled", temporal_upscale=True) == "ltx-2-19b-distilled.safetensors"


def test_dev_model_needs_its_distilled_lora(machine):
    machine([*LTX_2, *LTX_2_5[1:], "ltx-2.5/ltx-2.5-22b-dev-transformer-bf16.safetensors"])
    assert taken() == "ltx-2-19b-distilled.safetensors"
    assert taken(pipeline="one-stage") == "ltx-2.5-22b-dev-transformer-bf16.safetensors"
    machine(["ltx-2.5/ltx-2.5-22b-distilled-lora-450-bf16.safetensors"])
    assert taken() == "ltx-2.5-22b-dev-transformer-bf16.safetensors"
    assert taken(variant="distilled") == "ltx-2-19b-distilled.safetensors"


def test_demo_is_taken_where_nothing_else_is(machine):
    machine(DEMO)
    notes: list[str] = []
    assert taken(notes) == "ltx-2-demo-dev.safetensors"
    assert "demo model is used" in notes[0]


def test_second_pass_takes_the_newest_autoencoder_with_its_upscaler(machine):
    machine([*DEMO, *LTX_2, *LTX_2_5])
    request, notes = UpscaleTemporalRequest(), []
    upscaler = "latent_upscale_models/ltx-2.5-latent-temporal-upscaler-x2-bf16-1.0.safetensors"
    machine(["ltx-2/ltx-2-temporal-upscaler-x2-1.0.safetensors"])
    assert autoencoder_file(request, notes.append).path.name == "ltx-2-19b-distilled.safetensors"
    assert "latent-temporal-upscaler" in notes[0]
    machine([f"ltx-2.5/{upscaler}"])
    found = autoencoder_file(request, notes.append)
    assert found.path.name == "ltx-2.5-video-vae-conv-bf16.safetensors"
    assert resolve("auto", "temporal-upscaler", model=found).path.name == upscaler.rsplit("/", 1)[1]


def test_companions_of_2_5_are_its_own(machine):
    machine([*LTX_2, *LTX_2_5])
    model = resolve("ltx-2.5-22b-distilled-transformer-bf16", "model")
    for role, name in (("text-encoder", "gemma4-12b"), ("video-vae", "conv"), ("spatial-upscaler", "ltx-2.5-latent")):
        assert name in resolve("auto", role, model=model).path.name
    with pytest.raises(CheckpointError, match=r"ltx-2.5-audio-vae-bf16 is not on this machine.*0\.4 GB"):
        resolve("auto", "audio-vae", model=model)
    assert resolve("auto", "text-encoder", model=resolve("ltx-2-19b-distilled", "model")).path.name == "gemma"


@pytest.mark.parametrize("spec", ["Lightricks/LTX-2.5", "Lightricks/LTX-2.5:vae/ltx-2.5-video-vae-bf16.safetensors"])
def test_files_of_the_repository_are_found_by_its_name(machine, spec):
    machine([*LTX_2_5, "ltx-2.5/ltx-2.5-video-vae-bf16.safetensors"])
    name = "video-vae-bf16" if ":" in spec else "distilled-transformer"
    assert name in resolve(spec, "model").path.name


def test_catalogue_has_every_file_of_2_5_with_its_folder():
    files = {entry.files[0].path: entry for entry in ENTRIES if entry.repository == "Lightricks/LTX-2.5"}
    assert len(files) == 10
    for entry in files.values():
        manifest = json.loads(gzip.decompress((MANIFESTS / f"{entry.files[0].name}.json.gz").read_bytes()))
        # The duration head's size is known to its first digits alone.
        assert entry.num_bytes == manifest.get("size_check", {}).get("published_file_bytes"), entry.name
    assert all("/" in path and entry.licence == "LTX-2.x Community License" for path, entry in files.items())
    assert {entry.name for entry in entries_for_role("text-encoder", "LTX-2.5")} == {
        "gemma4-12b-with-proj-ltx-2.5-bf16"
    }
    # A plain folder of Gemma 3 is not the chat model of Gemma 4.
    assert installed_path(entry_by_name("gemma-4-E2B-it")) is None
