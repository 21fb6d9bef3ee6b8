"""Measure the demo model: content and sharpness of its videos, errors of its VAE, upscalers and low precisions."""

import time
from pathlib import Path
from typing import Annotated

import typer

from LTX_2_MLX.training.report import (
    ASPECTS,
    FEWER_PASSES,
    PRECISIONS,
    WAYS,
    counted_passes,
    generated,
    held_out_scenes,
    passed_through,
    psnr_to_first,
    reconstruction,
    shares,
    sharpness_beside_bicubic,
    temporal_upscaling,
)
from LTX_2_MLX.training.sound_report import SOUND_WAYS, sound_quality


def main(
    folder: Annotated[Path, typer.Argument(help="The bundle.")] = Path("weights/demo"),
    prompts: Annotated[int, typer.Option(help="Unseen prompts.")] = 64,
    clips: Annotated[int, typer.Option(help="Held-out clips for the VAE and the temporal upscaler.")] = 16,
    precisions: Annotated[bool, typer.Option("--precisions", help="Compare precisions of two-stage instead.")] = False,
    fewer_passes: Annotated[
        bool, typer.Option("--fewer-passes", help="Compare options that save passes of two-stage instead.")
    ] = False,
    sound: Annotated[list[str] | None, typer.Option(help=f"Measure sound instead: {', '.join(SOUND_WAYS)}.")] = None,
) -> None:
    """Print the tables of docs/measurements/demo-model.md."""
    scenes, videos = held_out_scenes(prompts), {}
    if sound:
        measure_sound(folder, prompts, sound)
        return
    if fewer_passes:
        compare_fewer_passes(folder, prompts)
        return
    if precisions:
        compare_precisions(folder, prompts)
        return
    typer.echo(f"| {prompts} unseen prompts | {' | '.join(ASPECTS)} |\n|{'---|' * (len(ASPECTS) + 1)}")
    for way, options in WAYS.items():
        videos[way] = [generated(folder, scene, seed, **options) for seed, scene in enumerate(scenes)]
    for scale in (1, 2):
        videos[f"drawn, through the VAE at {64 * scale} lines"] = passed_through(folder, scenes, scale)
    for way, made in videos.items():
        found = shares(scenes, made)
        typer.echo(f"| {way} | {' | '.join(f'{found[name]:.0%}' for name in ASPECTS)} |")
    sharp, soft = sharpness_beside_bicubic(videos["two-stage"], videos["one-stage, guided"])
    typer.echo(f"\nsharpness in levels: two-stage {sharp:.2f}, one-stage resized by bicubic {soft:.2f}")
    for size, decibel in reconstruction(folder, clips).items():
        typer.echo(f"VAE, {size}: {decibel:.2f} dB over {clips} held-out clips")
    for name, decibel in temporal_upscaling(folder, clips).items():
        typer.echo(f"17 to 33 frames, {name}: {decibel:.2f} dB over {clips} held-out clips")


def measure_sound(folder: Path, prompts: int, ways: list[str]) -> None:
    """Print how many bounces have their knock in time, and how high things of each size hum."""
    typer.echo(
        f"| {prompts} unseen prompts | knock at the bounce | with the sounds of other clips | no bounce, no knock |"
    )
    typer.echo(f"|{'---|' * 4}")
    hums = {}
    for way in ways:
        found = sound_quality(folder, prompts, **SOUND_WAYS[way])
        typer.echo(f"| {way} | {found.bounces:.0%} | {found.others:.0%} | {found.silent:.0%} |")
        hums[way] = ", ".join(f"{size} {height:.0f} Hz" for size, height in found.hum_hz.items())
    for way, heights in hums.items():
        typer.echo(f"hum of bouncing things, {way}: {heights}")


def compare_precisions(folder: Path, prompts: int) -> None:
    """Print PSNR and content of two-stage videos in every precision, and the seconds that a video took here."""
    scenes, videos, seconds = held_out_scenes(prompts), {}, {}
    for name, options in PRECISIONS.items():
        start = time.perf_counter()
        made = [generated(folder, scene, seed, pipeline="two-stage", **options) for seed, scene in enumerate(scenes)]
        seconds[name] = (time.perf_counter() - start) / prompts
        videos[name] = made
    decibel = psnr_to_first(videos)
    typer.echo(f"| {prompts} unseen prompts | dB to float32 | {' | '.join(ASPECTS)} | s here |")
    typer.echo(f"|{'---|' * (len(ASPECTS) + 3)}")
    for name, made in videos.items():
        found = shares(scenes, made)
        cells = [f"{decibel[name]:.1f}" if name in decibel else "", *[f"{found[aspect]:.0%}" for aspect in ASPECTS]]
        typer.echo(f"| {name} | {' | '.join(cells)} | {seconds[name]:.1f} |")


def compare_fewer_passes(folder: Path, prompts: int) -> None:
    """Print passes, CPU seconds, PSNR and content of two-stage videos by options that save passes."""
    scenes, videos, cost = held_out_scenes(prompts), {}, {}
    for name, options in FEWER_PASSES.items():
        start = time.process_time()
        with counted_passes() as counted:
            made = [
                generated(folder, scene, seed, pipeline="two-stage", **options) for seed, scene in enumerate(scenes)
            ]
        cost[name] = (counted["passes"] / prompts, (time.process_time() - start) / prompts)
        videos[name] = made
    decibel = psnr_to_first(videos)
    typer.echo(f"| {prompts} unseen prompts | passes | CPU s | dB to all passes | {' | '.join(ASPECTS)} |")
    typer.echo(f"|{'---|' * (len(ASPECTS) + 4)}")
    for name, made in videos.items():
        found = shares(scenes, made)
        cells = [f"{cost[name][0]:.0f}", f"{cost[name][1]:.2f}"]
        cells += [f"{decibel[name]:.1f}" if name in decibel else "", *[f"{found[aspect]:.0%}" for aspect in ASPECTS]]
        typer.echo(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    typer.run(main)
