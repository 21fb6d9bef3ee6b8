"""Names and defaults of flags that users have in scripts and notes: none is renamed, dropped or changed unseen."""

import importlib.util
from enum import Enum
from pathlib import Path

import pytest
import typer

SCRIPTS = Path(__file__).parents[1] / "scripts"
# A default that the model or the pipeline settles; the command itself has none.
SETTLED_LATER = None

GENERATE = {
    "--pipeline": "two-stage",
    "--height": SETTLED_LATER,
    "--width": SETTLED_LATER,
    "--output-height": SETTLED_LATER,
    "--output-width": SETTLED_LATER,
    "--frames": SETTLED_LATER,
    "--num-frames": SETTLED_LATER,
    "--duration": SETTLED_LATER,
    "--fps": SETTLED_LATER,
    "--frame-rate": SETTLED_LATER,
    "--steps": SETTLED_LATER,
    "--steps-stage1": SETTLED_LATER,
    "--steps-stage2": SETTLED_LATER,
    "--cfg": SETTLED_LATER,
    "--cfg-stage1": SETTLED_LATER,
    "--guidance-rescale": None,
    "--stg-scale": None,
    "--negative-prompt": SETTLED_LATER,
    "--image": None,
    "--image-strength": 1.0,
    "--lora": None,
    "--model-variant": None,
    "--weights": "auto",
    "--spatial-upscaler-weights": "auto",
    "--temporal-weights": "auto",
    "--distilled-lora": "auto",
    "--gemma": "auto",
    "--fp16": False,
    "--bf16": False,
    "--fp32": False,
    "--quantize": None,
    "-q": None,
    "--low-ram": False,
    "--enable-frame-interpolation": False,
    "--frame-interpolation-exp": 1,
    "--frame-interpolation-scale": 1.0,
    "--frame-interpolation-model-path": "elfgum/RIFE-4.22.lite",
    "--enable-upscaling": False,
    "--upscaling-scale": 4.0,
    "--upscaling-model-path": "ai-forever/Real-ESRGAN:RealESRGAN_x4.pth",
    "--temporal-upscale": False,
    "--save-latents": None,
    "--resume": None,
    "--replay": None,
    "--seed": 0,
}
COMMON = {
    "-o": ...,
    "--output": ...,
    "--quiet": False,
    "--progress": "bar",
    "--dry-run": False,
    "--json": False,
    "--force": False,
    "--memory-limit-gb": None,
}
FLAGS = {
    "generate": GENERATE | COMMON,
    "upscale_temporal": COMMON | {"--weights": "auto", "--temporal-weights": "auto", "--fp16": False, "--seed": 0},
    "interpolate": COMMON
    | {
        "--exp": 1,
        "--scale": 1.0,
        "--model-path": "elfgum/RIFE-4.22.lite",
        "--target-fps": None,
        "--scene-threshold": ...,
    },
    "upscale": COMMON
    | {
        "--scale": 4.0,
        "--model-path": "ai-forever/Real-ESRGAN:RealESRGAN_x4.pth",
        "--tile-size": None,
        "--tile-overlap": None,
        "--denoise-strength": None,
    },
    "postprocess": COMMON
    | {name: value for name, value in GENERATE.items() if name.startswith(("--enable", "--frame-inter", "--upscaling"))}
    | {"--order": "interpolate-first"},
    "super_resolve": COMMON
    | {
        "-i": ...,
        "--input": ...,
        "--output": "results",
        "--mode": "tiny",
        "--vae-type": SETTLED_LATER,
        "--attention": "block",
        "--vae-path": SETTLED_LATER,
        "--weights": "auto",
        "--version": "v1.1",
        "--scale": 4.0,
        "--keep-audio": True,
        "--no-keep-audio": True,
        "--color-fix": "wavelet",
        "--tile-dit": False,
        "--tile-vae": True,
        "--tile-size": 256,
        "--overlap": 24,
        "--sparse-ratio": 2.0,
        "--kv-ratio": 3.0,
        "--local-range": 11,
        "--quality": 6,
        "--fps": "30",
        "--dtype": SETTLED_LATER,
        "--unload-dit": False,
        "--seed": 0,
    },
    "download_weights": {"--list": False, "--dry-run": False, "--force": False},
    "convert_weights": {
        "-o": ...,
        "--output": ...,
        "--dtype": None,
        "-q": None,
        "--quantize": None,
        "--group-size": 64,
    },
    "inspect_checkpoint": {"--json": False},
    "verify": {"--device": None, "--backend-forms": False, "--skip-unknown": False, "--json": False},
}


def flags_of(script: str) -> dict:
    """Every name of every option, with the default as users would write it."""
    spec = importlib.util.spec_from_file_location(f"flags_of_{script}", SCRIPTS / f"{script}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app = typer.Typer()
    app.command()(module.main)
    found = {}
    for parameter in typer.main.get_command(app).params:
        default = parameter.default() if callable(parameter.default) else parameter.default
        if isinstance(default, list) and len(default) == 1:
            default = default[0]
        default = default.value if isinstance(default, Enum) else str(default) if isinstance(default, Path) else default
        found |= dict.fromkeys((*parameter.opts, *parameter.secondary_opts), default)
    return found


@pytest.mark.parametrize("script", FLAGS)
def test_flags_keep_their_names_and_defaults(script):
    found = flags_of(script)
    assert not FLAGS[script].keys() - found.keys()
    changed = {name: found[name] for name, value in FLAGS[script].items() if value is not ... and found[name] != value}
    assert not changed


# Every flag of every command before options were declared as fields: none of them may go.
FLAGS_BEFORE = {
    "convert_weights": ("--dtype --group-size --output --quantize -o -q"),
    "decode": ("--crf --force --output --progress --quiet --tile-size -o"),
    "download_weights": ("--dry-run --force --list"),
    "generate": (
        "--bf16 --cfg --cfg-stage1 --crf --distilled-lora --dry-run --duration --embeddings "
        "--enable-frame-interpolation --enable-upscaling --fit --force --fp16 --fp32 --fps "
        "--frame-interpolation-exp --frame-interpolation-model-path --frame-interpolation-scale --frame-rate "
        "--frames --gemma --guidance-rescale --height --image --image-strength --json --lora --low-ram "
        "--memory-limit-gb --model-variant --negative-prompt --num-frames --output --output-height "
        "--output-width --pipeline --progress --quantize --quiet --replay --resume --save-embeddings "
        "--save-latents --seed --spatial-upscaler-weights --steps --steps-stage1 --steps-stage2 --stg-scale "
        "--temporal-upscale --temporal-weights --tile-size --upscaling-model-path --upscaling-scale --weights "
        "--width -o -q"
    ),
    "inspect_checkpoint": ("--json"),
    "interpolate": (
        "--crf --dry-run --exp --force --fp16 --fp32 --json --memory-limit-gb --model-path --output "
        "--progress --quiet --scale --scene-threshold --target-fps -o"
    ),
    "postprocess": (
        "--crf --dry-run --enable-frame-interpolation --enable-upscaling --force --frame-interpolation-exp "
        "--frame-interpolation-model-path --frame-interpolation-scale --json --memory-limit-gb --order "
        "--output --progress --quiet --upscaling-model-path --upscaling-scale -o"
    ),
    "super_resolve": (
        "--attention --borders --color-fix --dry-run --dtype --fit --force --fps --input --json --keep-audio "
        "--kv-ratio --local-range --memory-limit-gb --mode --no-keep-audio --no-tile-vae --output --overlap "
        "--progress --quality --quiet --resize --scale --seed --sparse-ratio --tile-dit --tile-size "
        "--tile-vae --unload-dit --vae-path --vae-type --version --weights -i -o"
    ),
    "upscale": (
        "--crf --denoise-strength --dry-run --force --fp16 --fp32 --json --memory-limit-gb --model-path "
        "--output --progress --quiet --scale --tile-overlap --tile-size --weak-model-path -o"
    ),
    "upscale_temporal": (
        "--bf16 --crf --dry-run --force --fp16 --fp32 --json --memory-limit-gb --output --progress --quiet "
        "--seed --temporal-weights --tile-size --weights -o"
    ),
    "verify": ("--device --json"),
}


@pytest.mark.parametrize("script", FLAGS_BEFORE)
def test_every_flag_of_before_is_there(script):
    missing = set(FLAGS_BEFORE[script].split()) - flags_of(script).keys()
    assert not missing
