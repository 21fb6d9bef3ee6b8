"""Option types that the commands share: name, help and range of each flag, once for every command that has it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ProgressKind(StrEnum):
    """How a command tells how far it is."""

    bar = "bar"
    json = "json"


InputVideo = Annotated[
    Path, typer.Argument(metavar="VIDEO", help="Video file: anything FFmpeg reads.", show_default=False)
]
Output = Annotated[
    Path, typer.Option("--output", "-o", help="File to write; an existing one is replaced.", show_default=False)
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but warnings and errors.")]
ProgressOption = Annotated[
    ProgressKind, typer.Option("--progress", help="Bars for people, or JSON lines on stderr for programs.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")]
JsonPlan = Annotated[bool, typer.Option("--json", help="With --dry-run: the plan as JSON.")]
MemoryLimit = Annotated[
    float | None,
    typer.Option(
        "--memory-limit-gb",
        help="GiB that the run may use (what the machine lends).",
        show_default=False,
        min=0.01,
        max=100_000,
    ),
]
FitMemory = Annotated[
    bool, typer.Option("--fit", help="Change what does not fit into memory to the nearest that does.")
]
Force = Annotated[bool, typer.Option("--force", help="Go on where the preflight or the check of the output says no.")]
Seed = Annotated[int, typer.Option("--seed", help="The same seed gives the same output.", min=0, max=2**32 - 1)]
Crf = Annotated[float, typer.Option("--crf", help="Quality of the written film: 0 (best) to 51.", min=0, max=51)]
Fp16 = Annotated[bool, typer.Option("--fp16", help="Compute in float16.")]
Bf16 = Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16.")]
Fp32 = Annotated[bool, typer.Option("--fp32", help="Compute in float32.")]
Quantize = Annotated[
    int | None,
    typer.Option("--quantize", "-q", help="Bits of the large layers while they load: 8 or 4.", show_default=False),
]
LowRam = Annotated[
    bool, typer.Option("--low-ram", help="Read transformer and text encoder block by block from disk, in every step.")
]
_WHERE = "path, catalogue name, repository id or repository:file"
Weights = Annotated[str, typer.Option("--weights", help=f"LTX-2 checkpoint: {_WHERE}.")]
TemporalWeights = Annotated[str, typer.Option("--temporal-weights", help=f"Temporal upscaler: {_WHERE}.")]
SpatialUpscalerWeights = Annotated[
    str, typer.Option("--spatial-upscaler-weights", help=f"Spatial upscaler, for two-stage: {_WHERE}.")
]
DistilledLora = Annotated[
    str,
    typer.Option(
        "--distilled-lora",
        help=f"What makes a dev checkpoint a distilled one: {_WHERE}; a strength may follow a colon.",
    ),
]
Gemma = Annotated[str, typer.Option("--gemma", help=f"Text encoder, a folder: {_WHERE}.")]
Lora = Annotated[
    list[str] | None, typer.Option("--lora", metavar="PATH[:SCALE]", help="LoRA of the transformer; repeatable.")
]


class PipelineName(StrEnum):
    """How a film is made; ``text-to-video`` is another name of ``one-stage``."""

    one_stage = "one-stage"
    text_to_video = "text-to-video"
    distilled = "distilled"
    two_stage = "two-stage"


class ModelVariant(StrEnum):
    """How a checkpoint was trained."""

    dev = "dev"
    distilled = "distilled"


Prompt = Annotated[str | None, typer.Argument(help="What is to be seen.", show_default=False)]
Pipeline = Annotated[PipelineName, typer.Option("--pipeline", help="How the film is made.")]
Height = Annotated[int | None, typer.Option("--height", help="Rows of pixels; in two-stage, of stage 1.")]
Width = Annotated[int | None, typer.Option("--width", help="Columns of pixels; in two-stage, of stage 1.")]
OutputHeight = Annotated[int | None, typer.Option("--output-height", help="Rows of the film, instead of --height.")]
OutputWidth = Annotated[int | None, typer.Option("--output-width", help="Columns of the film, instead of --width.")]
Frames = Annotated[int | None, typer.Option("--frames", "--num-frames", help="Frames: 8k + 1.")]
Duration = Annotated[float | None, typer.Option("--duration", help="Seconds instead; rounded up to 8k + 1 frames.")]
Fps = Annotated[
    str | None, typer.Option("--fps", "--frame-rate", metavar="RATE", help="Frames per second, 24 or 24000/1001.")
]
Steps = Annotated[int | None, typer.Option("--steps", help="Steps of one-stage (30) and distilled (8).")]
StepsStage1 = Annotated[int | None, typer.Option("--steps-stage1", help="Steps of stage 1 (15).")]
StepsStage2 = Annotated[int | None, typer.Option("--steps-stage2", help="Steps of stage 2 (3).")]
Cfg = Annotated[float | None, typer.Option("--cfg", help="Guidance scale; 1 is none (dev 5, distilled 1).")]
CfgStage1 = Annotated[float | None, typer.Option("--cfg-stage1", help="The same for stage 1 (value of --cfg).")]
GuidanceRescale = Annotated[
    float, typer.Option("--guidance-rescale", help="0 to 1; 0.7 against colours that are too strong.")
]
StgScale = Annotated[float, typer.Option("--stg-scale", help="Spatio-temporal guidance; 0 is none.")]
NegativePrompt = Annotated[
    str | None, typer.Option("--negative-prompt", help="What guidance leads away from (a list of faults).")
]
FirstFrame = Annotated[Path | None, typer.Option("--image", help="Picture for the first frame.")]
ImageStrength = Annotated[float, typer.Option("--image-strength", help="How firmly it is held, 0 to 1.")]
Variant = Annotated[
    ModelVariant | None, typer.Option("--model-variant", help="Which checkpoint to take, or what the given one is.")
]
TemporalUpscale = Annotated[
    bool, typer.Option("--temporal-upscale", help="Double the frame rate in latent space before decoding.")
]
Embeddings = Annotated[Path | None, typer.Option("--embeddings", help="The prompt's embeddings from an earlier run.")]
SaveEmbeddings = Annotated[Path | None, typer.Option("--save-embeddings", help="File for the prompt's embeddings.")]
SaveLatents = Annotated[
    Path | None, typer.Option("--save-latents", help="Folder to keep every stage's result in.", show_default=False)
]
Resume = Annotated[
    Path | None,
    typer.Option("--resume", help="Folder of an earlier run: go on from its last complete stage.", show_default=False),
]
Replay = Annotated[Path | None, typer.Option("--replay", help="Film to make again from the options in its tags.")]

InterpolationExp = Annotated[
    int, typer.Option("--exp", help="Times that the number of frames is doubled.", min=0, max=4)
]
InterpolationScale = Annotated[
    float,
    typer.Option("--scale", help="Size at which motion is sought: 0.25, 0.5 (for 1080p), 1, 2, 4.", min=0.25, max=4),
]
InterpolationModel = Annotated[str, typer.Option("--model-path", help=f"RIFE 4.22.lite: {_WHERE}.")]
TargetFps = Annotated[
    str | None,
    typer.Option("--target-fps", metavar="RATE", help="Any frame rate instead of --exp: 60 or 60000/1001."),
]
SceneThreshold = Annotated[
    float,
    typer.Option(
        "--scene-threshold", help="Similarity of frames below which there is a cut; 0 finds none.", min=0, max=1
    ),
]
InputPictures = Annotated[
    Path,
    typer.Argument(metavar="SOURCE", help="Picture, folder of pictures, or video.", show_default=False),
]
OutputPictures = Annotated[
    Path, typer.Option("--output", "-o", help="File to write, or folder for a folder.", show_default=False)
]
Scale = Annotated[float, typer.Option("--scale", help="Factor of the sides, above 0 up to 16.", min=0, max=16)]
UpscalerModel = Annotated[str, typer.Option("--model-path", help=f"Real-ESRGAN: {_WHERE}.")]
TileSize = Annotated[
    int | None,
    typer.Option("--tile-size", help="Side of the autoencoder's tiles in pixels; whole frames where they fit."),
]
UpscalerTileSize = Annotated[
    int | None, typer.Option("--tile-size", help="Side of the tiles in input pixels; 0 is none (by memory).", min=0)
]
UpscalerTileOverlap = Annotated[
    int | None,
    typer.Option("--tile-overlap", help="Pixels seen around a tile (all the network looks at, or 32).", min=0),
]
DenoiseStrength = Annotated[
    float | None,
    typer.Option("--denoise-strength", help="0 keeps noise and texture, 1 none; mixes two checkpoints.", min=0, max=1),
]
WeakModel = Annotated[str, typer.Option("--weak-model-path", help=f"The checkpoint of denoise strength 0: {_WHERE}.")]


class Order(StrEnum):
    """What post-processing begins with."""

    interpolate_first = "interpolate-first"
    upscale_first = "upscale-first"


EnableFrameInterpolation = Annotated[
    bool, typer.Option("--enable-frame-interpolation", help="Make the film smoother, by RIFE.")
]
FrameInterpolationExp = Annotated[
    int,
    typer.Option("--frame-interpolation-exp", help="Times that the number of frames is doubled.", min=0, max=4),
]
FrameInterpolationScale = Annotated[
    float,
    typer.Option("--frame-interpolation-scale", help="Size at which motion is sought; 0.5 for 1080p.", min=0.25, max=4),
]
FrameInterpolationModel = Annotated[
    str, typer.Option("--frame-interpolation-model-path", help=f"RIFE 4.22.lite: {_WHERE}.")
]
EnableUpscaling = Annotated[bool, typer.Option("--enable-upscaling", help="Make the film larger, by Real-ESRGAN.")]
UpscalingScale = Annotated[
    float, typer.Option("--upscaling-scale", help="Factor of the sides, above 0 up to 16.", min=0, max=16)
]
UpscalingModel = Annotated[str, typer.Option("--upscaling-model-path", help=f"Real-ESRGAN: {_WHERE}.")]


class SuperResolutionMode(StrEnum):
    """Which kind of decoder finishes super-resolution."""

    tiny = "tiny"
    tiny_long = "tiny-long"
    full = "full"


class SuperResolutionVersion(StrEnum):
    """Which FlashVSR the files are."""

    v1 = "v1"
    v1_1 = "v1.1"


class ColorFix(StrEnum):
    """Where the colours come from."""

    wavelet = "wavelet"
    adain = "adain"
    none = "none"


class SparseAttention(StrEnum):
    """How attention chooses what it looks at."""

    block = "block"
    sage = "sage"
    dense = "dense"


class ComputeType(StrEnum):
    """Precision of the networks."""

    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"


class PictureBorders(StrEnum):
    """How sides become multiples of 128."""

    pad = "pad"
    crop = "crop"


class PictureResize(StrEnum):
    """How frames are enlarged before the networks see them."""

    floats = "float"
    eight_bits = "8bit"


InputClip = Annotated[
    Path, typer.Option("--input", "-i", help="Video, folder of pictures, or picture.", show_default=False)
]
OutputClip = Annotated[Path, typer.Option("--output", "-o", help="File to write, or folder for it.")]
Mode = Annotated[
    SuperResolutionMode, typer.Option("--mode", help="tiny and tiny-long end in a small decoder, full in a Wan VAE.")
]
VaeType = Annotated[
    str | None,
    typer.Option("--vae-type", help="Decoder: tcd, tae-w2.1, lighttae-w2.1 (tiny), wan2.1, light (full)."),
]
VaePath = Annotated[str | None, typer.Option("--vae-path", help=f"The decoder's file: {_WHERE}.")]
SuperResolutionWeights = Annotated[
    str, typer.Option("--weights", help=f"Folder with FlashVSR's files, or its transformer: {_WHERE}.")
]
VersionOption = Annotated[
    SuperResolutionVersion, typer.Option("--version", help="Which FlashVSR the files are; they do not tell.")
]
SuperResolutionScale = Annotated[
    float, typer.Option("--scale", help="Factor of the sides; the networks were trained for 4.", min=1, max=8)
]
KeepAudio = Annotated[bool, typer.Option("--keep-audio/--no-keep-audio", help="Copy the sound.")]
ColorFixOption = Annotated[ColorFix, typer.Option("--color-fix", help="Take colours from the input.")]
TileDit = Annotated[bool, typer.Option("--tile-dit", help="Super-resolve in tiles of the source: less memory.")]
TileVae = Annotated[
    bool, typer.Option("--tile-vae/--no-tile-vae", help="Decode in tiles: less memory (the Wan decoders only).")
]
SuperResolutionTileSize = Annotated[
    int,
    typer.Option("--tile-size", help="Side of a tile in source pixels; below 128 for little memory.", min=48, max=1024),
]
Overlap = Annotated[int, typer.Option("--overlap", help="Source pixels that neighbouring tiles share.", min=0, max=512)]
SparseRatio = Annotated[
    float, typer.Option("--sparse-ratio", help="How much attention keeps; less is faster.", min=0.5, max=5)
]
KvRatio = Annotated[
    float, typer.Option("--kv-ratio", help="Slices of two latent frames that attention remembers.", min=1, max=8)
]
LocalRange = Annotated[
    int, typer.Option("--local-range", help="Windows that attention looks at around its own; odd.", min=3, max=15)
]
AttentionOption = Annotated[
    SparseAttention, typer.Option("--attention", help="block: the authors' choice; sage: the plugin's; dense: all.")
]
Quality = Annotated[float, typer.Option("--quality", help="Of the written film: 1 to 10 (best).", min=1, max=10)]
FolderFps = Annotated[
    str, typer.Option("--fps", help="Frames a second of pictures, and of a film without a rate, such as 30000/1001.")
]
DtypeOption = Annotated[
    ComputeType | None, typer.Option("--dtype", help="Precision of the networks (bf16; fp32 on a CPU).")
]
UnloadDit = Annotated[
    bool, typer.Option("--unload-dit", help="Free the transformer before decoding: less memory; latents wait on disk.")
]
Borders = Annotated[
    PictureBorders, typer.Option("--borders", help="pad keeps the whole picture, crop cuts it to multiples of 128.")
]
Resize = Annotated[PictureResize, typer.Option("--resize", help="First enlargement: on floats, or on 8 bits.")]
PostprocessingOrder = Annotated[Order, typer.Option("--order", help="What comes first.")]
