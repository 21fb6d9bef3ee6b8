"""The command as users type it, with small checkpoints in the published format."""

import importlib.util
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import tiny_checkpoints
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from LTX_2_MLX import FrameStream, cli, write_video
from LTX_2_MLX.media.writer import run_record
from LTX_2_MLX.pipelines.generate import Options
from LTX_2_MLX.verify.case import Case

SCRIPT = Path(__file__).parents[2] / "scripts" / "generate.py"
PROMPT = "A blue ball bouncing on green grass"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("generate_command", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as a user has it: ``weights/ltx-2/`` with the published names, and ``gens/``."""
    root = tmp_path_factory.mktemp("home")
    place = root / "weights" / "ltx-2"
    place.mkdir(parents=True)
    (root / "gens").mkdir()
    tiny_checkpoints.write_weights(place / "ltx-2-19b-distilled.safetensors", seed=1)
    dev = tiny_checkpoints.write_weights(place / "ltx-2-19b-dev.safetensors", seed=4)
    tiny_checkpoints.write_upscaler(place / "ltx-2-spatial-upscaler-x2-1.0.safetensors")
    tiny_checkpoints.write_upscaler(place / "ltx-2-temporal-upscaler-x2-1.0.safetensors", temporal=True)
    tiny_checkpoints.write_lora(place / "ltx-2-19b-distilled-lora-384.safetensors", dev)
    tiny_checkpoints.write_gemma(place / "gemma-3-12b-it")
    return root


@pytest.fixture
def generate(script, folder, monkeypatch):
    """``generate(*arguments)`` runs the command in the user's folder; its result has exit_code and stderr."""
    monkeypatch.chdir(folder)
    runner = CliRunner()

    def run(*arguments):
        return runner.invoke(cli.as_program(script.main), [str(argument) for argument in arguments])

    return run


def probe(path: Path) -> tuple[int, int, int, Fraction]:
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        return stream.height, stream.width, sum(1 for _ in film.decode(video=0)), stream.average_rate


# The guide's command lines with height, width and frames a fraction of its own, all else as it stands there.
GUIDE = {
    "quick_start": "--pipeline two-stage --cfg 5.0 --steps-stage1 15 --fp16",
    "full_example": "--pipeline two-stage --cfg 5.0 --steps-stage1 15 --fp16 "
    "--weights weights/ltx-2/ltx-2-19b-distilled.safetensors "
    "--spatial-upscaler-weights weights/ltx-2/ltx-2-spatial-upscaler-x2-1.0.safetensors",
    "faster": "--pipeline two-stage --cfg 5.0 --steps-stage1 10 --fp16",
    "dev": "--pipeline two-stage --model-variant dev --cfg 7.0 --steps-stage1 25 --fp16",
}


@pytest.mark.parametrize("name", GUIDE)
def test_guides_command_lines_give_films_of_twice_the_size(generate, folder, name):
    # 16-bit matrix products are slow on MLX's CPU backend, so the precision is another here.
    line = GUIDE[name].replace("--fp16", "--fp32").split()
    output = folder / "gens" / f"{name}.mp4"
    result = generate(PROMPT, "--height", 64, "--width", 96, "--frames", 9, *line, "--output", output)
    assert result.exit_code == 0, result.stderr
    assert probe(output) == (128, 192, 9, 24)
    assert "Stage 1: 64×96" in result.stderr and "Output: 128×192" in result.stderr
    assert ("distilled checkpoint" in result.stderr) == (name != "dev")


def test_guides_sizes_are_planned_as_it_says(generate):
    for size, frames, output in (((480, 704), 97, "960×1408, 97 frames"), ((256, 384), 33, "512×768, 33 frames")):
        result = generate(PROMPT, "--height", size[0], "--width", size[1], "--frames", frames, "--fp16", "--dry-run")
        assert result.exit_code == 0, result.stderr
        assert output in result.stdout


def test_plan_is_printed_for_programs_as_well(generate):
    size = ("--height", 64, "--width", 96, "--frames", 9)
    result = generate(PROMPT, *size, "--dry-run", "--json", "--memory-limit-gb", 1)
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert [stage["stage"] for stage in told["stages"]][-1] == "decode"
    assert told["fits"] and told["peak_bytes"] < told["budget_bytes"] == 2**30


def test_run_over_the_memory_limit_is_refused_before_anything_is_written(generate, folder):
    output = folder / "gens" / "large.mp4"
    size = ("--height", 64, "--width", 96, "--frames", 9, "--tile-size", 64, "--memory-limit-gb", 0.01)
    result = generate(PROMPT, *size, "-o", output)
    assert result.exit_code == cli.REFUSED and not output.exists()
    assert result.stderr.splitlines()[-1].startswith("MemoryBudgetError: ")
    assert "the budget is 10.2 MiB" in result.stderr


def test_full_disk_is_found_before_the_work(generate, folder, monkeypatch):
    monkeypatch.setattr("LTX_2_MLX.files.free_bytes", lambda path: 0)
    output = folder / "gens" / "full.mp4"
    result = generate(PROMPT, "--height", 64, "--width", 96, "--frames", 9, "-o", output)
    assert result.exit_code == cli.REFUSED and not output.exists()
    assert "0 MiB are free there" in result.stderr and "text_encoder" not in result.stderr


def test_half_precision_runs_to_the_end(generate, folder):
    output = folder / "gens" / "half.mp4"
    result = generate(PROMPT, "--height", 64, "--width", 64, "--frames", 1, "--steps-stage1", 1, "--fp16", "-o", output)
    assert result.exit_code == 0, result.stderr
    assert probe(output)[:3] == (128, 128, 1)


@pytest.mark.parametrize("pipeline", ["one-stage", "text-to-video", "distilled"])
def test_other_pipelines_make_films_of_the_size_given(generate, folder, pipeline):
    output = folder / "gens" / f"{pipeline}.mkv"
    size = ("--height", 64, "--width", 96, "--frames", 9)
    result = generate(PROMPT, "--pipeline", pipeline, "--steps", 2, *size, "-o", output, "--progress", "json")
    assert result.exit_code == 0, result.stderr
    assert probe(output) == (64, 96, 9, 24)
    events = [json.loads(line) for line in result.stderr.splitlines()]
    assert [e["stage"] for e in events if e["event"] == "begin"][:3] == ["text_encoder", "text_features", "denoise"]


def test_picture_temporal_upscale_duration_and_output_size_go_together(generate, folder):
    picture, output = folder / "picture.png", folder / "gens" / "all.mp4"
    Image.fromarray(np.full((40, 70, 3), 90, np.uint8)).save(picture)
    size = ("--output-height", 128, "--output-width", 192, "--duration", 0.5, "--fps", 12)
    result = generate(PROMPT, *size, "--image", picture, "--temporal-upscale", "--steps-stage1", 1, "-o", output)
    assert result.exit_code == 0, result.stderr
    # Half a second at 12 frames a second is 6 frames, so 9; doubled 17 at 24.
    assert probe(output) == (128, 192, 17, 24)


def test_replayed_film_has_the_same_bytes_and_options_can_be_changed(generate, folder):
    first, again, other = (folder / "gens" / f"{name}.mp4" for name in ("first", "again", "other"))
    size = ("--height", 64, "--width", 64, "--frames", 9, "--steps-stage1", 1, "--seed", 5, "--crf", 30)
    assert generate(PROMPT, *size, "-o", first).exit_code == 0
    assert generate("--replay", first, "-o", again).exit_code == 0
    assert generate("--replay", first, "--seed", 6, "-o", other).exit_code == 0
    assert again.read_bytes() == first.read_bytes()
    assert other.read_bytes() != first.read_bytes()


def test_the_decoder_can_run_in_float32_alone_and_the_record_keeps_it(generate, folder):
    first, again, half = (folder / "gens" / f"{name}.mp4" for name in ("decoded", "decoded_again", "decoded_half"))
    size = ("--height", 64, "--width", 64, "--frames", 9, "--steps-stage1", 1, "--fp16", "--crf", 10)
    plans = []
    for more in ((), ("--decode-dtype", "float32")):
        plans.append(json.loads(generate(PROMPT, *size, *more, "--dry-run", "--json").stdout)["stages"])
    weights = [{stage["stage"]: stage["weights_bytes"] for stage in stages} for stages in plans]
    assert weights[1]["decode"] == 2 * weights[0]["decode"] and weights[1]["stage_2"] == weights[0]["stage_2"]
    assert generate(PROMPT, *size, "--decode-dtype", "float32", "-o", first).exit_code == 0
    assert generate("--replay", first, "-o", again).exit_code == 0
    assert generate(PROMPT, *size, "-o", half).exit_code == 0
    assert again.read_bytes() == first.read_bytes() != half.read_bytes()


def test_saved_embeddings_give_the_same_film_without_the_text_encoder(generate, folder):
    first, again, saved = folder / "gens" / "text.mp4", folder / "gens" / "saved.mp4", folder / "text.safetensors"
    size = ("--height", 64, "--width", 64, "--frames", 9, "--steps-stage1", 1, "--cfg", 3)
    assert generate(PROMPT, *size, "--save-embeddings", saved, "-o", first).exit_code == 0
    result = generate(PROMPT, *size, "--embeddings", saved, "--gemma", "nowhere", "-o", again)
    assert result.exit_code == 0, result.stderr
    assert "text_encoder" not in result.stderr
    with av.open(str(first)) as one, av.open(str(again)) as two:
        pairs = zip(one.decode(video=0), two.decode(video=0), strict=True)
        assert all(np.array_equal(a.to_ndarray(), b.to_ndarray()) for a, b in pairs)
    refused = generate("Something else", *size, "--embeddings", saved, "-o", again)
    assert refused.exit_code == cli.REFUSED and "Something else" in refused.stderr


def test_lora_says_how_many_tensors_it_changes(generate, folder):
    lora = "weights/ltx-2/ltx-2-19b-distilled-lora-384.safetensors:0.5"
    size = ("--height", 64, "--width", 64, "--frames", 9, "--pipeline", "distilled")
    result = generate(PROMPT, *size, "--lora", lora, "-o", folder / "gens" / "lora.mp4")
    assert result.exit_code == 0, result.stderr
    assert "at strength 0.5 changes 82 tensors" in " ".join(result.stderr.split())


def broken_files(folder: Path) -> dict[str, Path]:
    """Checkpoints with one fault each."""
    good = folder / "weights" / "ltx-2" / "ltx-2-19b-dev.safetensors"
    arrays = load_file(good)
    with safe_open(str(good), framework="numpy") as file:
        texts = file.metadata()
    place = folder / "broken"
    place.mkdir(exist_ok=True)

    def write(name, tensors, **changes):
        save_file(tensors, str(place / name), metadata=texts | changes)

    (place / "short.safetensors").write_bytes(good.read_bytes()[:-1000])
    (place / "text.safetensors").write_text("no tensors here")
    last = "vae.decoder.conv_out.conv.bias"
    write("missing.safetensors", {name: value for name, value in arrays.items() if name != last})
    write("surplus.safetensors", arrays | {"vae.decoder.another.weight": np.zeros((2, 2), np.float32)})
    config = json.loads(texts["config"])
    config["transformer"]["activation_fn"] = "relu"
    write("config.safetensors", arrays, config=json.dumps(config))
    halves = {"A": np.zeros((2, 4), np.float32), "B": np.zeros((4, 2), np.float32)}
    save_file({f"diffusion_model.other.lora_{k}.weight": v for k, v in halves.items()}, str(place / "lora.safetensors"))
    (place / "picture.png").write_text("no picture")
    return {path.stem: path for path in place.iterdir()}


# What a file of one's own has to be told.
MINE = ("--model-variant", "distilled", "--gemma", "weights/ltx-2/gemma-3-12b-it")
SIZE = ("--height", 64, "--width", 64, "--frames", 9)
REFUSALS = {
    "frames": (("--frames", 96), "Use 97 (or 89)"),
    "height": (("--height", 70), "Use 64 (or 96)"),
    "output_height": (("--output-height", 96, "--output-width", 128), "Use 64 (or 128)"),
    "negative_size": (("--width", -32), "multiple of 32"),
    "no_prompt": ((), "no prompt"),
    "empty_prompt": (("  ", *SIZE), "prompt is empty"),
    "two_sizes": (("--height", 64, "--output-height", 128), "--output-height"),
    "two_lengths": (("--frames", 9, "--duration", 1), "--duration"),
    "foreign_option": (("--steps", 4), "--steps belongs to one-stage and distilled"),
    "foreign_option_2": (("--pipeline", "one-stage", "--steps-stage1", 4), "--steps-stage1 belongs to two-stage"),
    "two_precisions": (("--fp16", "--bf16"), "--fp16 and --bf16"),
    "steps": (("--steps-stage1", 0), "from 1 to 1000"),
    "cfg": (("--cfg", -1), "from 0 to 100"),
    "rate": (("--fps", "fast"), "24000/1001"),
    "rate_zero": (("--fps", 0), "above 0"),
    "seconds": (("--duration", -1), "above 0"),
    "strength": (("--image-strength", 2), "from 0 to 1"),
    "tile": (("--tile-size", 0), "Leave it out"),
    "resume": (("--resume", "nowhere"), "Give a folder of --save-latents"),
    "weights": (("--weights", "nowhere.safetensors"), "does not exist"),
    "gemma": (("--gemma", "nowhere"), "does not exist"),
    "image": (("--image", "nowhere.png"), "does not exist"),
    "lora": (("--lora", "nowhere.safetensors:0.5"), "does not exist"),
    "variant": (("--weights", "ltx-2-19b-dev", "--model-variant", "distilled"), "Leave out one"),
    "folder": (("-o", "missing/out.mp4"), "missing"),
    "container": (("-o", "out.flv"), ".mp4"),
    "upscaler_kind": (("--spatial-upscaler-weights", "ltx-2-temporal-upscaler-x2-1.0"), "upscales in time"),
    "not_weights": (("--weights", "ltx-2-spatial-upscaler-x2-1.0"), "holds no"),
    "replay": (("--replay", "nowhere.mp4"), "does not exist"),
    "embeddings": (("--embeddings", "ltx-2-19b-dev.safetensors"), "does not exist"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_are_one_line_with_exit_code_two_and_nothing_is_written(generate, folder, name):
    given, expected = REFUSALS[name]
    before = sorted(folder.rglob("*"))
    prompt = () if name in ("no_prompt", "empty_prompt") else (PROMPT,)
    result = generate(*prompt, *given)
    assert result.exit_code == cli.REFUSED, (result.stderr, result.exception)
    assert expected in result.stderr
    # Automatic choices are told after the error.
    choices = ("distilled checkpoint", "the newest on this machine")
    told = [line for line in result.stderr.splitlines() if not any(words in line for words in choices)]
    assert len(told) == 1, told
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("short", "truncated"), ("text", "not a readable safetensors"), ("missing", "lacks 1 tensor"),
        ("surplus", "does not know"), ("config", "activation_fn"),
    ],
)  # fmt: skip
def test_broken_checkpoints_are_refused_before_anything_loads(generate, folder, name, expected):
    result = generate(PROMPT, *SIZE, "--weights", broken_files(folder)[name], *MINE)
    assert result.exit_code == cli.REFUSED, result.stderr
    assert expected in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (folder / "output.mp4").exists()


def test_lora_of_another_model_and_unreadable_picture_are_refused(generate, folder):
    broken = broken_files(folder)
    for option, name, expected in (
        ("--lora", "lora", "another model"),
        ("--image", "picture", "is not a readable image"),
    ):
        result = generate(PROMPT, *SIZE, option, broken[name])
        assert result.exit_code == cli.REFUSED, result.stderr
        assert expected in result.stderr


def test_two_stages_without_an_upscaler_say_what_is_missing(generate, folder):
    alone = folder / "alone"
    alone.mkdir(exist_ok=True)
    weights = tiny_checkpoints.write_weights(alone / "my.safetensors")
    upscaler = folder / "weights" / "ltx-2" / "ltx-2-spatial-upscaler-x2-1.0.safetensors"
    hidden = upscaler.rename(folder / "hidden.safetensors")
    try:
        result = generate(PROMPT, *SIZE, "--weights", weights, *MINE)
    finally:
        hidden.rename(upscaler)
    assert result.exit_code == cli.REFUSED
    assert "Two-stage pipeline requires --spatial-upscaler-weights" in result.stderr
    assert "download_weights.py ltx-2-spatial-upscaler-x2-1.0" in result.stderr


def test_every_option_of_the_library_is_a_flag(script):
    flags = set(script.main.__annotations__)
    assert set(Options.__dataclass_fields__) - {"precision"} <= flags


def test_quiet_says_nothing(generate, folder):
    result = generate(PROMPT, *SIZE, "--steps-stage1", 1, "--quiet", "-o", folder / "gens" / "quiet.mp4")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_film_made_with_options_that_are_not_known_is_not_replayed(generate, folder):
    path = folder / "gens" / "newer.mp4"
    record = run_record("generate", {"prompt": "A red car", "time_travel": True})
    black = [np.zeros((1, 64, 64, 3), np.uint8)]
    write_video(FrameStream(black, 64, 64, Fraction(24), 1, metadata=record), path)
    result = generate("--replay", path)
    assert result.exit_code == cli.REFUSED and "'time_travel'" in result.stderr


@pytest.fixture(scope="module")
def finishers(tmp_path_factory):
    """Flags that make the film smoother and twice as large, with small networks."""
    place = tmp_path_factory.mktemp("finishers")
    case = Case.open(Path(__file__).parents[1] / "goldens" / "rife" / "procedure", place)
    rife = case.write_checkpoint("flownet.safetensors")
    compact = Case.open(Path(__file__).parents[1] / "goldens" / "esrgan" / "srvgg_x2", place)
    esrgan = compact.write_checkpoint("compact.safetensors")
    smoother = ("--enable-frame-interpolation", "--frame-interpolation-model-path", rife)
    return (*smoother, "--enable-upscaling", "--upscaling-scale", 2, "--upscaling-model-path", esrgan)


def test_film_is_made_smoother_and_larger_after_it_is_decoded(generate, folder, finishers):
    output = folder / "gens" / "finished.mp4"
    size = ("--pipeline", "distilled", "--steps", 2, "--height", 64, "--width", 64, "--frames", 9)
    result = generate(PROMPT, *size, *finishers, "-o", output)
    assert result.exit_code == 0, result.stderr
    assert probe(output) == (128, 128, 17, 48)
    assert "Interpolate: 9 to 17 frames, 24 to 48 fps" in result.stderr and "to 128×128" in result.stderr


def test_missing_finishers_are_found_out_before_any_work(generate, folder):
    output = folder / "gens" / "unfinished.mp4"
    result = generate(PROMPT, "--enable-upscaling", "--upscaling-model-path", "gone.pth", "-o", output)
    assert result.exit_code == 2 and "gone.pth does not exist" in result.stderr and not output.exists()
    result = generate(PROMPT, "--upscaling-scale", 2, "-o", output)
    assert result.exit_code == 2 and "does nothing without --enable-upscaling" in result.stderr
