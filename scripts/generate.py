"""Make a film from a prompt."""

from pathlib import Path

import typer

from LTX_2_MLX import cli, write_video
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.media.encoder import CRF, choose_encoding
from LTX_2_MLX.media.record import read_run_record
from LTX_2_MLX.media.validate import validated
from LTX_2_MLX.pipelines.generate import Options, film, options_from, output_size, prepare
from LTX_2_MLX.runtime.job import remembered_request


def main(
    prompt: cli.Prompt = None,
    output: cli.Output = Path("output.mp4"),
    pipeline: cli.Pipeline = cli.PipelineName.two_stage,
    height: cli.Height = None,
    width: cli.Width = None,
    output_height: cli.OutputHeight = None,
    output_width: cli.OutputWidth = None,
    frames: cli.Frames = None,
    duration: cli.Duration = None,
    fps: cli.Fps = None,
    steps: cli.Steps = None,
    steps_stage1: cli.StepsStage1 = None,
    steps_stage2: cli.StepsStage2 = None,
    cfg: cli.Cfg = None,
    cfg_stage1: cli.CfgStage1 = None,
    guidance_rescale: cli.GuidanceRescale = Options.guidance_rescale,
    stg_scale: cli.StgScale = Options.stg_scale,
    negative_prompt: cli.NegativePrompt = None,
    image: cli.FirstFrame = None,
    image_strength: cli.ImageStrength = Options.image_strength,
    lora: cli.Lora = None,
    model_variant: cli.Variant = None,
    weights: cli.Weights = Options.weights,
    spatial_upscaler_weights: cli.SpatialUpscalerWeights = Options.spatial_upscaler_weights,
    temporal_weights: cli.TemporalWeights = Options.temporal_weights,
    distilled_lora: cli.DistilledLora = Options.distilled_lora,
    gemma: cli.Gemma = Options.gemma,
    fp16: cli.Fp16 = False,
    bf16: cli.Bf16 = False,
    fp32: cli.Fp32 = False,
    quantize: cli.Quantize = None,
    low_ram: cli.LowRam = False,
    temporal_upscale: cli.TemporalUpscale = False,
    enable_frame_interpolation: cli.EnableFrameInterpolation = False,
    frame_interpolation_exp: cli.FrameInterpolationExp = Options.frame_interpolation_exp,
    frame_interpolation_scale: cli.FrameInterpolationScale = Options.frame_interpolation_scale,
    frame_interpolation_model_path: cli.FrameInterpolationModel = Options.frame_interpolation_model_path,
    enable_upscaling: cli.EnableUpscaling = False,
    upscaling_scale: cli.UpscalingScale = Options.upscaling_scale,
    upscaling_model_path: cli.UpscalingModel = Options.upscaling_model_path,
    tile_size: cli.TileSize = None,
    memory_limit_gb: cli.MemoryLimit = None,
    fit: cli.FitMemory = Options.fit,
    seed: cli.Seed = Options.seed,
    embeddings: cli.Embeddings = None,
    save_embeddings: cli.SaveEmbeddings = None,
    save_latents: cli.SaveLatents = None,
    resume: cli.Resume = None,
    crf: cli.Crf = CRF,
    replay: cli.Replay = None,
    quiet: cli.Quiet = False,
    progress: cli.ProgressOption = cli.ProgressKind.bar,
    dry_run: cli.DryRun = False,
    json: cli.JsonPlan = False,
    force: cli.Force = False,
) -> None:
    """Make a film of PROMPT and write it to OUTPUT."""
    given = {name: value for name, value in locals().items() if name in Options.__dataclass_fields__}
    given |= {"precision": cli.precision(fp16=fp16, bf16=bf16, fp32=fp32), "lora": tuple(lora or ())}
    options, crf = asked_for(given, crf, replay)
    voice = cli.progress_for(quiet, progress)
    ready = prepare(options, voice.note, refuse=not (dry_run or force))
    options, request, intended = ready.options, ready.request, ready.plan
    if dry_run:
        typer.echo(cli.told(intended, as_json=json))
        return
    with cli.report(output, quiet=quiet, progress=progress, wired_bytes=intended.largest_bytes) as runner:
        # A name that no container fits, or a full disk, is refused now and not after the work.
        choose_encoding(output, output_size(request, options), crf=crf)
        cli.check_disk(intended, output, options.save_latents or options.resume)
        for line in () if quiet else intended.sizes:
            runner.progress.note(line)
        stream = film(request, runner, options, crf=crf)
        write_video(stream if force else validated(stream, moving=True), output, crf=crf, progress=runner.progress)


def asked_for(given: dict, crf: float, replay: Path | None) -> tuple[Options, float]:
    """Options and quality given here; those of a replayed film or of a run that goes on where nothing else is said."""
    resume = given["resume"]
    if replay is None and resume is None and given["prompt"] is None:
        raise RequestError("There is no prompt. Say what is to be seen, or give --replay a film.")
    usual = Options(prompt=None)
    told = {name: value for name, value in given.items() if value != getattr(usual, name)}
    recorded = read_run_record(replay, "generate") if replay else remembered_request(resume) if resume else {}
    recorded_crf = recorded.pop("crf", CRF)
    return options_from(recorded, told), recorded_crf if crf == CRF else crf


if __name__ == "__main__":
    cli.run(main)
