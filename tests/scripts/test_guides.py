"""Our form of every command of the guides that this project matches, with an empty cache and a hub on this machine.

G1: sglang, post-processing. G2: Wan2GP's FlashVSR plugin. G3: FlashVSR-Pro. G4: LTX-2-MLX, high quality generation.
"""

import hashlib
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny_checkpoints
from mlx.utils import tree_flatten
from PIL import Image
from safetensors.numpy import load_file
from tiny_flashvsr import PUBLISHED, clip, write_flashvsr
from torch_files import write_torch
from typer.testing import CliRunner

from LTX_2_MLX import read_video, write_video
from LTX_2_MLX.checkpoints.resolve import BY_NAME
from LTX_2_MLX.cli.app import program
from LTX_2_MLX.media.audio import Waveform
from LTX_2_MLX.models.srvgg import SRVGG, SRVGGConfig
from LTX_2_MLX.verify.case import Case

TESTS = Path(__file__).parents[1]
RIFE = "elfgum/RIFE-4.22.lite/flownet.pkl"
ESRGAN = "ai-forever/Real-ESRGAN/RealESRGAN_x4.pth"
FLASHVSR = "JunhaoZhuang/FlashVSR-v1.1"
FILES = ("diffusion_pytorch_model_streaming_dmd.safetensors", "LQ_proj_in.ckpt", "TCDecoder.ckpt", "Wan2.1_VAE.pth")
PROMPT = "code/FlashVSR/posi_prompt.pth"
LIGHT_VAE = "lightx2v/Autoencoders/lightvaew2_1.pth"
UPSCALER = "Lightricks/LTX-2/ltx-2-spatial-upscaler-x2-1.0.safetensors"
VERSION_1_1 = frozenset({*(f"{FLASHVSR}/{name}" for name in FILES), PROMPT})
VERSION_1 = frozenset({*(f"JunhaoZhuang/FlashVSR/{name}" for name in FILES), PROMPT})
# Sizes and numbers of steps of the guides, and those that small networks take here.
SMALL = {
    "--height": "64", "--width": "96", "--frames": "9", "--steps-stage1": "2", "--steps": "1", "--tile-size": "128",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One command of a guide.

    Attributes:
        guide: The guide, and the command as it stands there.
        ours: Our form of it.
        sent: What the hub sends.
        result: Frames, height and width of the result.
        said: Part of what is said beside.
    """

    guide: str
    ours: str
    sent: frozenset[str] = frozenset()
    result: tuple[int, int, int] | None = None
    said: str = ""


ONE_STAGE = "--pipeline one-stage --steps 8"
G1 = (
    Row(
        'sglang generate --prompt "A dog running through a park" --num-frames 5 --enable-frame-interpolation '
        "--frame-interpolation-exp 1 --save-output",
        f'generate "A dog running through a park" --frames 9 {ONE_STAGE} --enable-frame-interpolation '
        "--frame-interpolation-exp 1 --height 480 --width 704 -o dog.mp4",
        frozenset({RIFE}),
        (17, 64, 96),
    ),
    Row(
        'sglang generate --prompt "A cat sitting on a windowsill" --output-size 1024x1024 --enable-upscaling '
        "--save-output",
        f'generate "A cat sitting on a windowsill" --height 1024 --width 1024 {ONE_STAGE} --enable-upscaling '
        "-o cat.png",
        frozenset({ESRGAN}),
        (1, 256, 384),
    ),
    Row(
        'sglang generate --prompt "A curious raccoon" --enable-upscaling --upscaling-scale 4 --save-output',
        f'generate "A curious raccoon" {ONE_STAGE} --height 480 --width 704 --frames 97 --enable-upscaling '
        "--upscaling-scale 4 -o raccoon.mp4",
        frozenset({ESRGAN}),
        (9, 256, 384),
    ),
    Row(
        'sglang generate --prompt "A curious raccoon" --num-frames 5 --enable-frame-interpolation '
        "--frame-interpolation-exp 1 --enable-upscaling --upscaling-scale 4 --save-output",
        f'generate "A curious raccoon" --frames 9 {ONE_STAGE} --height 480 --width 704 --enable-frame-interpolation '
        "--frame-interpolation-exp 1 --enable-upscaling --upscaling-scale 4 -o raccoon.mp4",
        frozenset({RIFE, ESRGAN}),
        (17, 256, 384),
    ),
)
G2 = (
    Row("huggingface-cli download JunhaoZhuang/FlashVSR", "download-weights flashvsr-v1", VERSION_1),
    Row(
        "Upscale Video, with the defaults: Tiny, 4x, FlashVSR-v1.1",
        "super-resolve -i input.mp4 -o out.mp4 --sparse-ratio 2.0 --kv-ratio 3 --local-range 11 --quality 6",
        VERSION_1_1,
        (5, 72, 132),
    ),
    Row(
        "Upscale Video: Tiny-Long, FlashVSR, fp16, Tiled DiT, Unload DiT",
        "super-resolve -i input.mp4 -o out.mp4 --mode tiny-long --version v1 --dtype fp16 --tile-dit --tile-size 256 "
        "--overlap 24 --unload-dit",
        VERSION_1,
        (5, 72, 132),
    ),
)
G3 = (
    Row(
        "infer.py -i input.mp4 -o results --mode full --vae-type wan2.2",
        "super-resolve -i input.mp4 -o results --mode full --vae-type wan2.2",
        VERSION_1_1,
        (5, 72, 132),
        "wan2.2 cannot be used",
    ),
    Row(
        "infer.py -i input.mp4 -o results --mode full --vae-type light",
        "super-resolve -i input.mp4 -o results --mode full --vae-type light",
        VERSION_1_1 | {LIGHT_VAE},
        (5, 72, 132),
    ),
    Row(
        "infer.py -i input.mp4 -o results --mode tiny --vae-type tcd",
        "super-resolve -i input.mp4 -o results --mode tiny --vae-type tcd",
        VERSION_1_1,
        (5, 72, 132),
    ),
    Row(
        "infer.py -i input.mp4 -o results --mode full --vae-type wan2.1 --vae-path ./custom/path/Wan2.1_VAE.pth",
        "super-resolve -i input.mp4 -o results --mode full --vae-type wan2.1 --vae-path ./custom/path/Wan2.1_VAE.pth",
        VERSION_1_1,
        (5, 72, 132),
    ),
    Row(
        "infer.py -i input.mp4 -o results --mode tiny --vae-type lighttae-hy1.5 --tile-dit --tile-vae --tile-size 256 "
        "--dtype fp16 --device cuda",
        "super-resolve -i input.mp4 -o results --mode tiny --vae-type lighttae-hy1.5 --tile-dit --tile-vae "
        "--tile-size 256 --dtype fp16",
        VERSION_1_1,
        (5, 72, 132),
        "cannot be used",
    ),
    Row(
        "git lfs clone https://huggingface.co/JunhaoZhuang/FlashVSR-v1.1",
        "download-weights flashvsr-v1.1",
        VERSION_1_1,
    ),
    Row(
        "infer.py -i ./inputs/example0.mp4 -o ./results --mode full",
        "super-resolve -i input.mp4 -o ./results --mode full",
        VERSION_1_1,
        (5, 72, 132),
    ),
    Row(
        "infer.py -i ./inputs/example4.mp4 -o ./results --mode tiny-long",
        "super-resolve -i input.mp4 -o ./results --mode tiny-long",
        VERSION_1_1,
        (5, 72, 132),
    ),
    Row(
        "infer.py -i large_input.mp4 -o ./results --mode tiny --tile-dit --tile-size 256 --overlap 24",
        "super-resolve -i input.mp4 -o ./results --mode tiny --tile-dit --tile-size 256 --overlap 24",
        VERSION_1_1,
        (5, 72, 132),
    ),
    Row(
        "infer.py -i input.mp4 -o ./results --mode full --vae-type light --tile-vae",
        "super-resolve -i input.mp4 -o ./results --mode full --vae-type light --tile-vae",
        VERSION_1_1 | {LIGHT_VAE},
        (5, 72, 132),
    ),
    Row(
        "infer.py -i input_with_audio.mp4 -o ./results --mode tiny --keep-audio",
        "super-resolve -i input.mp4 -o ./results --mode tiny --keep-audio",
        VERSION_1_1,
        (5, 72, 132),
    ),
    Row(
        "infer.py -i large_input_with_audio.mp4 -o ./results --mode full --vae-type wan2.2 --tile-dit --keep-audio",
        "super-resolve -i input.mp4 -o ./results --mode full --vae-type wan2.2 --tile-dit --keep-audio",
        VERSION_1_1,
        (5, 72, 132),
        "wan2.2 cannot be used",
    ),
)
G4 = (
    Row(
        'generate.py "A beautiful tropical beach with palm trees" --height 480 --width 704 --frames 97 '
        "--pipeline two-stage --cfg 5.0 --steps-stage1 15 --fp16 --output gens/hq_output.mp4",
        'generate "A beautiful tropical beach with palm trees" --height 480 --width 704 --frames 97 '
        "--pipeline two-stage --cfg 5.0 --steps-stage1 15 --fp16 --output gens/hq_output.mp4",
        result=(9, 128, 192),
        said="960×1408",
    ),
    Row(
        "upscale_temporal.py gens/base.mp4 --output gens/smooth.mp4 --weights "
        "weights/ltx-2/ltx-2-19b-distilled.safetensors --temporal-weights "
        "weights/ltx-2/ltx-2-temporal-upscaler-x2-1.0.safetensors --fp16",
        "upscale-temporal gens/base.mp4 --output gens/smooth.mp4 --weights "
        "weights/ltx-2/ltx-2-19b-distilled.safetensors --temporal-weights "
        "weights/ltx-2/ltx-2-temporal-upscaler-x2-1.0.safetensors --fp16",
        result=(17, 64, 96),
    ),
    Row(
        'generate.py "A red sports car driving on a highway at sunset" --height 480 --width 704 --frames 97 '
        "--pipeline two-stage --cfg 5.0 --steps-stage1 15 --fp16 --weights "
        "weights/ltx-2/ltx-2-19b-distilled.safetensors --spatial-upscaler-weights "
        "weights/ltx-2/ltx-2-spatial-upscaler-x2-1.0.safetensors --output gens/sunset_car_hq.mp4",
        'generate "A red sports car driving on a highway at sunset" --height 480 --width 704 --frames 97 '
        "--pipeline two-stage --cfg 5.0 --steps-stage1 15 --fp16 --weights "
        "weights/ltx-2/ltx-2-19b-distilled.safetensors --spatial-upscaler-weights "
        "weights/ltx-2/ltx-2-spatial-upscaler-x2-1.0.safetensors --output gens/sunset_car_hq.mp4",
        result=(9, 128, 192),
        said="960×1408",
    ),
    Row(
        'generate.py "A blue ball bouncing on green grass" --height 256 --width 384 --frames 33 --pipeline two-stage '
        "--cfg 5.0 --steps-stage1 10 --fp16 --output gens/bouncing_ball.mp4",
        'generate "A blue ball bouncing on green grass" --height 256 --width 384 --frames 33 --pipeline two-stage '
        "--cfg 5.0 --steps-stage1 10 --fp16 --output gens/bouncing_ball.mp4",
        result=(9, 128, 192),
        said="512×768",
    ),
    Row(
        'generate.py "A cat walking through a garden" --height 480 --width 704 --frames 97 --pipeline two-stage '
        "--model-variant dev --cfg 7.0 --steps-stage1 25 --fp16 --output gens/cat_garden_dev.mp4",
        'generate "A cat walking through a garden" --height 480 --width 704 --frames 97 --pipeline two-stage '
        "--model-variant dev --cfg 7.0 --steps-stage1 25 --fp16 --output gens/cat_garden_dev.mp4",
        result=(9, 128, 192),
        said="960×1408",
    ),
    Row(
        "generate.py --generate-audio --pipeline text-to-video",
        'generate "A blue ball" --generate-audio --pipeline text-to-video --steps 8 --height 480 --width 704 '
        "--frames 97 -o sound.mp4",
        result=(9, 64, 96),
        said="480×704",
    ),
    Row(
        "wget https://huggingface.co/Lightricks/LTX-2/resolve/main/ltx-2-spatial-upscaler-x2-1.0.safetensors -O "
        "weights/ltx-2/ltx-2-spatial-upscaler-x2-1.0.safetensors",
        "download-weights ltx-2-spatial-upscaler-x2-1.0",
        frozenset({UPSCALER}),
    ),
)
GUIDES = {"G1": G1, "G2": G2, "G3": G3, "G4": G4}
ROWS = [pytest.param(row, id=f"{name}-{i}") for name, rows in GUIDES.items() for i, row in enumerate(rows)]


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> dict[str, bytes]:
    """Content by repository and path: small networks under every published name of the post-processors."""
    folder = tmp_path_factory.mktemp("published")
    files = {RIFE: load_file(Case.open(TESTS / "goldens/rife/procedure", folder).write_checkpoint("rife.safetensors"))}
    mx.random.seed(0)
    files[ESRGAN] = {
        name: np.array(value.transpose(0, 3, 1, 2) / 4 if value.ndim == 4 else mx.zeros_like(value))
        for name, value in tree_flatten(SRVGG(SRVGGConfig(4, 1, 4)).parameters())
    }
    flashvsr = write_flashvsr(folder)
    for case, name in (("light_vae", LIGHT_VAE), ("wan_vae_2_1", "Wan2.1_VAE.pth")):
        files[name] = Case.open(TESTS / "goldens/flashvsr" / case, folder).weights()
    for name in ("LQ_proj_in", "TCDecoder"):
        files[f"{name}.ckpt"] = load_file(flashvsr / f"{name}.safetensors")
    files[PROMPT] = load_file(flashvsr / "posi_prompt.safetensors")
    content = {name: write_torch(folder / "file.pth", tensors).read_bytes() for name, tensors in files.items()}
    content[UPSCALER] = tiny_checkpoints.write_upscaler(folder / "upscaler.safetensors").read_bytes()
    content[FILES[0]] = (flashvsr / PUBLISHED["dit"]).read_bytes()
    for name in FILES:
        own = content.pop(name)
        content |= {f"{repository}/{name}": own for repository in (FLASHVSR, "JunhaoZhuang/FlashVSR")}
    return content


@pytest.fixture
def machine(hub, published, tmp_path, request):
    """The hub, a clip with sound, and base models of published form on this machine."""
    from huggingface_hub import constants

    row = request.node.callspec.params["row"]
    changed = {}
    for name in ("flashvsr-v1.1", "flashvsr-v1", "lightvaew2_1"):
        entry = BY_NAME[name]
        changed[name] = entry.files
        files = []
        for file in entry.files:
            # Sizes and digests are those of the large files; the address is that of a pinned commit elsewhere.
            own = replace(file, num_bytes=None, sha256=None)
            if file.url is not None:
                blob = hashlib.sha1(b"blob %d\0" % len(published[PROMPT]) + published[PROMPT]).hexdigest()
                own = replace(own, url=f"{constants.ENDPOINT}/{PROMPT}", git_blob=blob)
            files.append(own)
        object.__setattr__(entry, "files", tuple(files))
    ltx = tmp_path / "weights" / "ltx-2"
    ltx.mkdir()
    for variant in ("distilled", "dev"):
        tiny_checkpoints.write_weights(ltx / f"ltx-2-19b-{variant}.safetensors", sound="audio" in row.ours)
    if row.sent != {UPSCALER}:
        tiny_checkpoints.write_upscaler(ltx / "ltx-2-spatial-upscaler-x2-1.0.safetensors")
    tiny_checkpoints.write_upscaler(ltx / "ltx-2-temporal-upscaler-x2-1.0.safetensors", temporal=True)
    lora = ltx / "ltx-2-19b-distilled-lora-384.safetensors"
    tiny_checkpoints.write_lora(lora, ltx / "ltx-2-19b-dev.safetensors")
    tiny_checkpoints.write_gemma(tmp_path / "weights" / "gemma" / "gemma-3-12b-it")
    sound = Waveform(np.zeros((16_000, 1), np.float32), 16_000)
    write_video(clip(5, 18, 33).replace(audio=sound), tmp_path / "input.mp4", exact_size=True)
    (tmp_path / "gens").mkdir()
    write_video(clip(9, 64, 96), tmp_path / "gens" / "base.mp4")
    custom = tmp_path / "custom" / "path"
    custom.mkdir(parents=True)
    (custom / "Wan2.1_VAE.pth").write_bytes(published[f"{FLASHVSR}/Wan2.1_VAE.pth"])
    yield hub
    for name, files in changed.items():
        object.__setattr__(BY_NAME[name], "files", files)


def run(words: list[str]):
    return CliRunner().invoke(program(), words)


def small(words: list[str]) -> list[str]:
    """The command at the sizes that small networks take; ``--overlap`` fits the smaller tiles."""
    flags = ["", *words]
    return [SMALL.get(flag, word) for flag, word in zip(flags, words, strict=False)]


@pytest.mark.parametrize("row", ROWS)
def test_command_of_a_guide_downloads_what_it_needs_and_runs(machine, row, tmp_path):
    words = shlex.split(row.ours)
    before = set(tmp_path.rglob("*"))
    done = run(small(words))
    text = " ".join(done.output.split())
    assert done.exit_code == 0, text
    assert set(machine) == row.sent and len(machine) == len(row.sent), text
    if row.result is not None:
        (output,) = [path for path in set(tmp_path.rglob("*")) - before if path.suffix in (".mp4", ".png")]
        assert size_of(output) == row.result
    assert "audio" not in row.ours or read_video(output).audio is not None
    plan = run([*words, "--dry-run"]) if row.guide.startswith("generate.py") else done
    assert plan.exit_code == 0 and row.said in " ".join(plan.output.split()), plan.output


def size_of(path: Path) -> tuple[int, int, int]:
    if path.suffix == ".png":
        width, height = Image.open(path).size
        return 1, height, width
    video = read_video(path)
    frames = video.array()
    return frames.shape[0], frames.shape[1], frames.shape[2]
