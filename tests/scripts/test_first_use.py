"""Commands that download what they name: an empty cache, and a hub on this machine."""

import hashlib
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny_checkpoints
import tiny_split_files
from mlx.utils import tree_flatten
from safetensors.numpy import load_file
from torch_files import write_torch
from typer.testing import CliRunner

from LTX_2_MLX import cli, read_video
from LTX_2_MLX.checkpoints import download
from LTX_2_MLX.checkpoints.catalog import PublishedFile
from LTX_2_MLX.checkpoints.resolve import BY_NAME
from LTX_2_MLX.checkpoints.transfer import RemoteFile
from LTX_2_MLX.cli import first_use
from LTX_2_MLX.cli.command import progress_from
from LTX_2_MLX.cli.interpolate import main as interpolate
from LTX_2_MLX.cli.upscale import main as upscale
from LTX_2_MLX.cli.upscale_temporal import main as upscale_temporal
from LTX_2_MLX.errors import DownloadError
from LTX_2_MLX.models.srvgg import SRVGG, SRVGGConfig
from LTX_2_MLX.verify.case import Case

TESTS = Path(__file__).parents[1]
CLIP = TESTS / "media" / "pebbles_160x112.mp4"
TEMPORAL = "ltx-2.5-latent-temporal-upscaler-x2-bf16-1.0"


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, bytes]:
    """Content by repository and path: stand-ins for RIFE and for the default upscaler."""
    folder = tmp_path_factory.mktemp("published")
    rife = load_file(Case.open(TESTS / "goldens/rife/procedure", folder).write_checkpoint("flownet.safetensors"))
    mx.random.seed(0)
    compact = {
        name: np.array(value.transpose(0, 3, 1, 2) / 4 if value.ndim == 4 else mx.zeros_like(value))
        for name, value in tree_flatten(SRVGG(SRVGGConfig(4, 1, 4)).parameters())
    }
    vae = tiny_split_files.write_conv_vae(folder / "conv.safetensors")
    temporal = tiny_checkpoints.write_upscaler(folder / "temporal.safetensors", temporal=True)
    return {
        f"Lightricks/LTX-2.5/vae/{tiny_split_files.CONV_VAE}": vae.read_bytes(),
        f"Lightricks/LTX-2.5/latent_upscale_models/{TEMPORAL}.safetensors": temporal.read_bytes(),
        "elfgum/RIFE-4.22.lite/flownet.pkl": write_torch(folder / "flownet.pkl", rife).read_bytes(),
        "ai-forever/Real-ESRGAN/RealESRGAN_x4.pth": write_torch(folder / "x4.pth", compact).read_bytes(),
        "someone/upscalers/net.pth": write_torch(folder / "net.pth", compact).read_bytes(),
    }


def run(main, *words):
    done = CliRunner().invoke(cli.as_program(main), [str(word) for word in words])
    return done.exit_code, " ".join(done.output.split())


def test_interpolation_downloads_rife_once(hub, tmp_path):
    code, text = run(interpolate, CLIP, "-o", tmp_path / "a.mp4")
    assert code == 0, text
    assert "Downloading rife-4.22.lite (" in text and "MIT" in text and "free disk" in text
    assert hub == ["elfgum/RIFE-4.22.lite/flownet.pkl"]
    assert read_video(tmp_path / "a.mp4").num_frames == 2 * read_video(CLIP).num_frames - 1
    code, text = run(interpolate, CLIP, "-o", tmp_path / "b.mp4")
    assert code == 0 and "Downloading" not in text and len(hub) == 1


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ((), "ai-forever/Real-ESRGAN/RealESRGAN_x4.pth"),
        (("--model-path", "ai-forever/Real-ESRGAN"), "ai-forever/Real-ESRGAN/RealESRGAN_x4.pth"),
        (("--model-path", "someone/upscalers:net.pth"), "someone/upscalers/net.pth"),
    ],
)
def test_upscaling_downloads_what_is_named(hub, tmp_path, words, name):
    shutil.copy(TESTS / "cases" / "relative" / "A" / "pic.png", tmp_path / "pic.png")
    code, text = run(upscale, tmp_path / "pic.png", "-o", tmp_path / "big.png", "--scale", 4, *words)
    assert code == 0, text
    assert hub == [name] and (tmp_path / "big.png").is_file()


def test_files_of_2_5_are_downloaded_by_name_and_then_found_by_auto(hub, tmp_path):
    named = ("--weights", "ltx-2.5-video-vae-conv-bf16", "--temporal-weights", TEMPORAL)
    code, text = run(upscale_temporal, CLIP, "-o", tmp_path / "a.mp4", *named)
    assert code == 0, text
    assert "Downloading ltx-2.5-video-vae-conv-bf16 (" in text and "LTX-2.x Community License" in text
    assert len(hub) == 2 and all(name.startswith("Lightricks/LTX-2.5/") for name in hub)
    link = tmp_path / "weights" / "ltx-2.5" / tiny_split_files.CONV_VAE
    assert link.is_symlink() and (tmp_path / "weights" / "ltx-2.5" / f"{TEMPORAL}.safetensors").is_symlink()
    code, text = run(upscale_temporal, CLIP, "-o", tmp_path / "b.mp4")
    assert code == 0, text
    assert "Taken is ltx-2.5-video-vae-conv-bf16.safetensors" in text and len(hub) == 2
    videos = [read_video(tmp_path / name).array() for name in ("a.mp4", "b.mp4")]
    np.testing.assert_array_equal(*videos)
    assert len(videos[0]) == 2 * read_video(CLIP).num_frames - 1


@pytest.mark.parametrize("how", ["--no-download", "offline", "--dry-run"])
def test_forbidden_downloads_say_the_command(hub, tmp_path, monkeypatch, how):
    words = [how] if how.startswith("--") else []
    if how == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, text = run(interpolate, CLIP, "-o", tmp_path / "a.mp4", *words)
    assert code == cli.REFUSED and "download_weights.py rife-4.22.lite" in text and hub == []
    assert how == "--dry-run" or ("--no-download" if words else "HF_HUB_OFFLINE") in text


def test_full_disk_and_a_hub_that_is_away_are_one_line(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "free_bytes", lambda folder: 10**6)
    code, text = run(interpolate, CLIP, "-o", tmp_path / "a.mp4")
    assert code == cli.REFUSED and "the disk has 0.0 GB free" in text and "HF_HOME" in text and hub == []
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    code, text = run(interpolate, CLIP, "-o", tmp_path / "a.mp4")
    assert code == cli.REFUSED and "cannot be reached" in text and "Get it: python" in text and hub == []


@pytest.fixture
def large(monkeypatch) -> list[str]:
    """Names of the files fetched, where each lookup finds one of 2 GB."""
    fetched: list[str] = []
    monkeypatch.setattr(download, "look_up", lambda entry: [RemoteFile("LQ_proj_in.ckpt", 2 * 10**9)])
    monkeypatch.setattr(download, "fetch", lambda entry, remote, folder, advance: fetched.append(remote.path))
    monkeypatch.setattr(download, "free_bytes", lambda folder: 10**12)
    return fetched


@pytest.mark.parametrize("answer", [False, True])
def test_large_downloads_are_asked_for_on_a_terminal(hub, large, monkeypatch, answer):
    ask = first_use.FirstUse(progress_from({"quiet": True}))
    with pytest.raises(DownloadError, match="more than 1 GB need --yes"):
        ask(BY_NAME["flashvsr-v1.1"])
    monkeypatch.setattr(first_use, "_on_terminal", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda text, err: answer)
    if answer:
        ask(BY_NAME["flashvsr-v1.1"])
    else:
        with pytest.raises(DownloadError, match=r"declined.*download_weights\.py flashvsr-v1\.1"):
            ask(BY_NAME["flashvsr-v1.1"])
    assert large == ["LQ_proj_in.ckpt"] * answer


def test_yes_answers_for_large_downloads(hub, large):
    first_use.FirstUse(progress_from({"quiet": True}), yes=True)(BY_NAME["flashvsr-v1.1"])
    assert large == ["LQ_proj_in.ckpt"]


@pytest.mark.parametrize("content", [b"right", b"wrong"])
def test_prompt_of_flashvsr_comes_from_a_pinned_commit(hub, published, tmp_path, monkeypatch, content):
    entry = BY_NAME["flashvsr-v1.1"]
    (prompt,) = [file for file in entry.files if file.url]
    assert prompt.name == "posi_prompt.pth" and len(prompt.git_blob or "") == 40
    assert "/OpenImagingLab/FlashVSR/ccac0ac457243a47c13997682ebbaf987dabbea7/" in (prompt.url or "")
    blob = hashlib.sha1(b"blob 5\0right").hexdigest()
    published["code/repository/posi_prompt.pth"] = content
    from huggingface_hub import constants

    url = f"{constants.ENDPOINT}/code/repository/posi_prompt.pth"
    own = type(entry)(**vars(entry) | {"files": (PublishedFile("posi_prompt.pth", url=url, git_blob=blob),)})
    (remote,) = download.look_up(own)
    target = tmp_path / "weights" / "FlashVSR-v1.1" / "posi_prompt.pth"
    if content == b"right":
        assert download.fetch(own, remote, tmp_path / "weights", lambda *_: None, pause=0) == target
        assert target.read_bytes() == content
    else:
        with pytest.raises(DownloadError, match="Git's name is"):
            download.fetch(own, remote, tmp_path / "weights", lambda *_: None, pause=0)
        assert not target.exists()
