"""interpolate, upscale and postprocess as users type them, with small checkpoints in the published format."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from PIL import Image
from tiny_flashvsr import clip
from typer.testing import CliRunner

from LTX_2_MLX import cli, read_video, write_video
from LTX_2_MLX.media.image import StillImage, read_image, write_image
from LTX_2_MLX.media.writer import read_run_record
from LTX_2_MLX.models.srvgg import SRVGG, SRVGGConfig
from LTX_2_MLX.verify.case import Case

TESTS = Path(__file__).parents[1]
SCRIPTS = TESTS.parent / "scripts"
PEBBLES = TESTS / "media" / "pebbles_160x112.mp4"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    """RIFE with stand-in weights, and a compact x4 that changes little."""
    folder = tmp_path_factory.mktemp("models")
    mx.random.seed(0)
    weights = {
        name: mx.contiguous(value.transpose(0, 3, 1, 2)) / 4 if value.ndim == 4 else mx.zeros_like(value)
        for name, value in tree_flatten(SRVGG(SRVGGConfig(4, 1, 4)).parameters())
    }
    mx.save_safetensors(str(folder / "compact.safetensors"), weights)
    rife = Case.open(TESTS / "goldens/rife/procedure", folder).write_checkpoint("flownet.safetensors")
    return {"rife": str(rife), "compact": str(folder / "compact.safetensors")}


def command(name: str, *words: object) -> tuple[int, str]:
    spec = importlib.util.spec_from_file_location(f"{name}_command", SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    done = CliRunner().invoke(cli.as_program(module.main), [str(word) for word in words])
    return done.exit_code, done.output


def both(models: dict[str, str]) -> list[str]:
    return [
        *("--enable-frame-interpolation", "--frame-interpolation-model-path", models["rife"]),
        *("--enable-upscaling", "--upscaling-model-path", models["compact"]),
    ]


def sound(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[0]) if packet.size]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """The sample clip at a quarter of its size: three frames, with their sound."""
    stream = read_video(PEBBLES)
    frames = stream.array()[:3, ::4, ::4]
    path = tmp_path_factory.mktemp("clip") / "small.mp4"
    stream.replace(chunks=iter([frames]), height=28, width=40, num_frames=3, audio=None).save(path)
    return path


def test_sample_clip_becomes_smoother_and_larger_with_the_same_sound(models, tmp_path):
    output = tmp_path / "out.mp4"
    code, said = command("postprocess", PEBBLES, "-o", output, *both(models))
    assert code == 0, said
    made = read_video(output)
    assert (made.num_frames, made.height, made.width, made.frame_rate) == (23, 448, 640, 24)
    assert abs(made.duration_seconds - 1) <= Fraction(1, 12) / 2
    assert sound(output) == sound(PEBBLES)
    assert '"command": "postprocess"' in made.metadata["comment"]


@pytest.mark.parametrize("name", ["interpolate", "upscale", "postprocess"])
def test_run_over_the_memory_limit_is_refused_before_anything_is_written(models, tmp_path, name):
    words = {"interpolate": ["--model-path", models["rife"]], "upscale": ["--model-path", models["compact"]]}
    given = (name, PEBBLES, "-o", tmp_path / "out.mp4", *words.get(name, both(models)), "--memory-limit-gb", "0.01")
    code, said = command(*given)
    assert code == cli.REFUSED and said.count("\n") == 1, said
    assert said.startswith("MemoryBudgetError: ") and "the budget is 10.2 MiB" in said and "--force" in said
    code, said = command(*given, "--dry-run", "--json")
    told = json.loads(said)
    assert code == 0 and not told["fits"] and told["peak_bytes"] > told["budget_bytes"] == int(0.01 * 2**30)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("container", [".mp4", ".mov", ".mkv", ".avi", ".webm"])
def test_every_container_goes_in_and_out(models, small, tmp_path, container):
    source, output = tmp_path / f"in{container}", tmp_path / f"out{container}"
    read_video(small).save(source)
    code, said = command("postprocess", source, "-o", output, *both(models), "--order", "upscale-first")
    assert code == 0, said
    made = read_video(output)
    assert (made.num_frames, made.height, made.width, made.frame_rate) == (5, 112, 160, 24)
    assert len(made.array()) == 5


@pytest.mark.parametrize("rate", ["24000/1001", "24", "25", "30000/1001", "50"])
def test_frame_count_rate_and_duration_are_right_at_every_rate(models, small, tmp_path, rate):
    source, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    read_video(small).replace(frame_rate=Fraction(rate)).save(source)
    code, said = command("interpolate", source, "-o", output, "--model-path", models["rife"])
    assert code == 0, said
    made = read_video(output)
    assert made.num_frames == 5 and made.frame_rate == 2 * Fraction(rate)
    assert abs(made.duration_seconds - 3 / Fraction(rate)) <= 1 / Fraction(rate) / 2


def test_variable_rate_keeps_the_times_of_the_given_frames(models, small, tmp_path):
    times = tuple(Fraction(n, 100) for n in (0, 4, 14, 20))
    source, output = tmp_path / "in.mkv", tmp_path / "out.mkv"
    read_video(small).replace(times=times, frame_rate=Fraction(15)).save(source)
    code, said = command("interpolate", source, "-o", output, "--model-path", models["rife"])
    assert code == 0, said
    made = read_video(output)
    assert made.times[::2][:3] == times[:3] and made.num_frames == 5


@pytest.mark.parametrize("target", ["60", "60000/1001", "10"])
def test_target_rate_keeps_the_duration(models, small, tmp_path, target):
    output = tmp_path / "out.mp4"
    code, said = command("interpolate", small, "-o", output, "--model-path", models["rife"], "--target-fps", target)
    assert code == 0, said
    made = read_video(output)
    assert made.frame_rate == Fraction(target)
    assert abs(made.duration_seconds - Fraction(3, 12)) <= 1 / Fraction(target) / 2


def test_picture_keeps_alpha_sixteen_bits_and_orientation(models, tmp_path):
    random = np.random.default_rng(0)
    pixels, alpha = (random.integers(0, 65536, shape, dtype=np.uint16) for shape in ((11, 14, 3), (11, 14)))
    write_image(StillImage(pixels, alpha), tmp_path / "in.png")
    code, said = command(
        "upscale", tmp_path / "in.png", "-o", tmp_path / "out.png", "--model-path", models["compact"], "--scale", "2"
    )
    assert code == 0, said
    made = read_image(tmp_path / "out.png")
    assert made.pixels.shape == (22, 28, 3) and made.pixels.dtype == made.alpha.dtype == np.uint16
    turned = Image.fromarray((pixels // 257).astype(np.uint8))
    exif = turned.getexif()
    exif[274] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    code, said = command(
        "upscale", tmp_path / "turned.png", "-o", tmp_path / "up.png", "--model-path", models["compact"]
    )
    assert code == 0 and read_image(tmp_path / "up.png").pixels.shape == (56, 44, 3), said


def test_folder_goes_into_a_folder_under_the_same_names(models, tmp_path):
    source, output = tmp_path / "in", tmp_path / "larger"
    source.mkdir()
    for i, size in enumerate([(5, 8), (9, 6)]):
        Image.fromarray(np.full((*size, 3), 80 * i, np.uint8)).save(source / f"{i}.png")
    code, said = command("upscale", source, "-o", output, "--model-path", models["compact"])
    assert code == 0, said
    assert {path.name: read_image(path).pixels.shape[:2] for path in output.iterdir()} == {
        "0.png": (20, 32),
        "1.png": (36, 24),
    }


def test_folder_with_one_damaged_picture_names_it_and_writes_the_others(models, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    Image.fromarray(np.zeros((5, 8, 3), np.uint8)).save(source / "1.png")
    (source / "2.png").write_text("no picture")
    code, said = command("upscale", source, "-o", tmp_path / "larger", "--model-path", models["compact"])
    assert code == cli.REFUSED and "2.png is not a readable image" in said
    assert [path.name for path in (tmp_path / "larger").iterdir()] == ["1.png"]


def test_plan_for_a_folder_is_for_its_largest_picture_and_writes_nothing(models, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name, size in (("1.png", (5, 8)), ("2.png", (9, 60)), ("3.png", (30, 6))):
        Image.fromarray(np.zeros((*size, 3), np.uint8)).save(source / name)
    given = (source, "-o", tmp_path / "larger", "--model-path", models["compact"], "--dry-run")
    code, said = command("upscale", *given)
    assert code == 0 and "Upscale: 9×60 to 36×240" in said
    assert list(tmp_path.iterdir()) == [source]


def test_picture_with_the_name_of_a_film_is_refused_before_the_work(models, tmp_path):
    Image.fromarray(np.zeros((5, 8, 3), np.uint8)).save(tmp_path / "in.png")
    given = (tmp_path / "in.png", "-o", tmp_path / "out.mp4", "--model-path", models["compact"])
    code, said = command("upscale", *given)
    assert code == cli.REFUSED and "Unsupported image format" in said and said.count("\n") == 1


def test_video_is_upscaled_and_keeps_its_sound(models, tmp_path):
    output = tmp_path / "out.mkv"
    code, said = command("upscale", PEBBLES, "-o", output, "--model-path", models["compact"], "--scale", "1.5")
    assert code == 0, said
    made = read_video(output)
    assert (made.num_frames, made.height, made.width, made.frame_rate) == (12, 168, 240, 12)
    assert sound(output) == sound(PEBBLES)


BAD = {
    "nothing enabled": ("postprocess", [], "Nothing is enabled"),
    "option of what is not enabled": ("postprocess", ["--upscaling-scale", "2"], "without --enable-upscaling"),
    "impossible scale": ("interpolate", ["--scale", "0.3"], "0.25, 0.5"),
    "no rate": ("interpolate", ["--target-fps", "fast"], "such as 24"),
    "missing model": ("upscale", ["--model-path", "gone.pth"], "gone.pth does not exist"),
    "foreign model": ("upscale", ["--model-path", "{rife}"], "no RRDBNet or SRVGG"),
    "plan without a plan": ("interpolate", ["--model-path", "{rife}", "--json"], "without --dry-run"),
    "foreign interpolator": ("interpolate", ["--model-path", "{compact}"], "no IFNet"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_request_is_one_clear_line_and_nothing_written(models, small, tmp_path, case):
    name, words, said = BAD[case]
    code, told = command(name, small, "-o", tmp_path / "out.mp4", *(word.format(**models) for word in words))
    assert code == 2 and said in told and told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_dry_run_tells_sizes_and_writes_nothing(models, small, tmp_path):
    code, told = command("postprocess", small, "-o", tmp_path / "out.mp4", *both(models), "--dry-run")
    assert code == 0 and "3 to 5 frames, 12 to 24 fps" in told and "28×40 to 112×160" in told
    assert not list(tmp_path.iterdir())


def test_killed_run_leaves_no_file_under_the_final_name(models, tmp_path):
    output = tmp_path / "out.mp4"
    # Long enough that the run is still at work when the signal comes, however busy the machine is.
    long_clip = write_video(clip(600, 32, 48), tmp_path / "long.mkv")
    words = [long_clip, "-o", output, *both(models), "--progress", "json"]
    run = subprocess.Popen(
        [sys.executable, SCRIPTS / "postprocess.py", *words], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    for line in run.stderr:
        if '"write"' in line and '"advance"' in line:
            break
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stderr.close()
    assert run.returncode == -signal.SIGKILL and not output.exists()


def test_clip_of_one_frame_needs_no_model_and_comes_out_as_it_is(small, tmp_path):
    source, output = tmp_path / "one.mp4", tmp_path / "out.mp4"
    stream = read_video(small)
    stream.replace(chunks=iter([stream.array()[:1]]), num_frames=1).save(source)
    code, said = command("interpolate", source, "-o", output, "--model-path", "gone.pkl", "--force")
    assert code == 0, said
    assert read_video(output).num_frames == 1 and read_video(output).frame_rate == 12
    code, said = command("interpolate", source, "-o", output, "--model-path", "gone.pkl", "--dry-run")
    assert code == 0 and "nothing to do" in said


def test_black_clip_stays_black(models, tmp_path):
    (clip,) = (TESTS / "media" / "cases").glob("23-*/black.mp4")
    code, said = command("interpolate", clip, "-o", tmp_path / "out.mp4", "--model-path", models["rife"])
    assert code == 0, said
    assert read_video(tmp_path / "out.mp4").num_frames == 2 * read_video(clip).num_frames - 1


def test_users_comment_stays_beside_the_record_unless_no_metadata_is_wanted(models, small, tmp_path):
    source, output = tmp_path / "in.mp4", tmp_path / "out.mp4"
    read_video(small).replace(metadata={"comment": "my own words", "title": "A title"}).save(source)
    given = ("interpolate", source, "-o", output, "--model-path", models["rife"])
    code, said = command(*given)
    assert code == 0, said
    made = read_video(output).metadata
    assert (made["comment"], made["title"]) == ("my own words", "A title")
    assert '"command": "interpolate"' in made["description"]
    assert read_run_record(output, "interpolate").request["exp"] == 1
    code, said = command(*given, "--no-metadata")
    assert code == 0 and not {"comment", "title", "description"} & read_video(output).metadata.keys()


def test_odd_size_is_kept_where_it_is_asked_for(models, small, tmp_path):
    output = tmp_path / "out.mp4"
    given = ("upscale", small, "-o", output, "--model-path", models["compact"], "--scale", "0.7")
    code, said = command(*given)
    assert code == 0 and "28×19 is written as 28×20" in said and "--exact-size" in said
    with av.open(str(output)) as made:
        assert made.streams.video[0].pix_fmt == "yuv420p" and made.streams.video[0].height == 20
    code, said = command(*given, "--exact-size")
    assert code == 0 and read_video(output).height == 19
