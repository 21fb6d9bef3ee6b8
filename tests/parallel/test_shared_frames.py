"""Frames that several processes make together: decoding, encoding, interpolation, upscaling and super-resolution."""

import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from launching import ENVIRONMENT, ROOT, launched, start
from mlx.utils import tree_flatten
from tiny_checkpoints import write_upscaler, write_vae
from tiny_flashvsr import write_decoder, write_flashvsr
from tiny_split_files import write_conv_vae, write_diffusion_vae

from LTX_2_MLX.models.srvgg import SRVGG, SRVGGConfig
from LTX_2_MLX.verify.case import Case

PROGRAM = Path(__file__).with_name("shared_frames.py")
TESTS = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
PEBBLES = TESTS / "media/pebbles_160x112.mp4"
DEEP = [["res_x", {"num_layers": 3}], ["compress_all", {"multiplier": 2, "residual": True}]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Small checkpoints of every network that makes frames."""
    folder = tmp_path_factory.mktemp("shared")
    Case.open(TESTS / "goldens/rife/procedure", folder).write_checkpoint("flownet.safetensors")
    write_vae(folder / "vae.safetensors", decoder_blocks=[*DEEP, *DEEP, *DEEP, DEEP[0]])
    write_conv_vae(folder / "vae_2_3.safetensors")
    write_upscaler(folder / "temporal.safetensors", temporal=True)
    write_diffusion_vae(folder / "diffusion_vae.safetensors")
    (folder / "flashvsr").mkdir()
    write_flashvsr(folder / "flashvsr")
    write_decoder("light_vae", folder / "flashvsr" / "lightvaew2_1.safetensors")
    mx.random.seed(1)
    weights = {}
    for name, value in tree_flatten(SRVGG(SRVGGConfig(8, 3, 4)).parameters()):
        weights[name] = mx.contiguous(value.transpose(0, 3, 1, 2)) if value.ndim == 4 else mx.random.normal(value.shape)
    mx.save_safetensors(str(folder / "esrgan.safetensors"), weights)
    return folder


FINISHING = ["interpolated", "upscaled", "upscaled_images", "handed_out"]
SUPER_RESOLUTION = ["super_resolved", "super_resolved_tiles"]
AUTOENCODERS = ["decoded", "decoded_by_diffusion", "encoded", "doubled"]
# Three processes for what they may share unevenly; the rest is their division among two.
WORK = [(2, FINISHING), (2, SUPER_RESOLUTION), (2, AUTOENCODERS), (3, FINISHING)]
WORK += [(3, ["super_resolved_tiles", "decoded", "encoded"])]


@pytest.mark.parametrize(("processes", "work"), WORK)
def test_processes_make_the_frames_of_one(folder, processes, work):
    out, err = launched(processes, PROGRAM, folder, *work)
    lines = [line for line in out.splitlines() if line.startswith("LINE")]
    assert [line.split()[1] for line in lines] == [f"{name}:" for name in work], err
    assert all(line.endswith("results, same") for line in lines), lines


def test_memory_does_not_grow_with_the_clip(folder):
    out, err = launched(2, PROGRAM, folder, "peaks")
    lines = [line.split()[2:] for line in out.splitlines() if line.startswith("LINE peaks")]
    assert [line[0] for line in lines] == ["10", "10", "40"], err
    short, long = (np.array(line[1:], dtype=int) for line in lines[1:])
    # How many frames wait at once is chance, a few of 74 kB; the long clip makes 60 more, 4.4 MB.
    assert (long < 1.2 * short + 1_000_000).all(), lines


def test_an_error_in_the_middle_of_one_process_ends_all(folder):
    out, err = launched(2, PROGRAM, folder, "fails")
    assert "has all frames" not in out
    assert "the disk is gone" in err and "exited with code" in err


def frames_of(path: Path) -> bytes:
    assert path.exists()
    return path.read_bytes()


def test_commands_write_the_file_of_one_process(folder, tmp_path):
    commands = {
        "interpolate": [PEBBLES, "--model-path", folder / "flownet.safetensors", "--scale", "0.5"],
        "upscale": [PEBBLES, "--model-path", folder / "esrgan.safetensors", "--scale", "2"],
    }
    for name, arguments in commands.items():
        command = [SCRIPTS / f"{name}.py", *arguments, "--quiet", "--allow-blank"]
        alone = [sys.executable, *map(str, command), "-o", str(tmp_path / "one.mp4")]
        subprocess.run(alone, env=ENVIRONMENT, check=True, capture_output=True)
        _, err = launched(2, *command, "-o", tmp_path / f"{name}.mp4")
        assert frames_of(tmp_path / f"{name}.mp4") == frames_of(tmp_path / "one.mp4"), err


def test_commands_plan_and_refuse_together(folder, tmp_path):
    command = [SCRIPTS / "interpolate.py", PEBBLES, "--model-path", folder / "flownet.safetensors"]
    out, _ = launched(2, *command, "--dry-run", "-o", tmp_path / "made.mp4")
    assert out.count("2 machines share the work") == 1
    missing = [*command[:1], tmp_path / "nowhere.mp4", *command[2:]]
    run = start(2, *missing, "-o", tmp_path / "made.mp4")
    _, err = run.communicate(timeout=600)
    assert err.count("nowhere.mp4") == 1 and "exited with code 2" in err, err
    assert not list(tmp_path.iterdir())
