"""Options of the pipelines from a video to a video: interpolation, upscaling, super-resolution, post-processing."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Literal

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.options import AUTO, Opt, check_options, refuse_without_effect

if TYPE_CHECKING:
    import mlx.core as mx

FILE_HELP = "path, catalogue name, repository id or repository:file"
MEMORY_GROUP = "Memory and precision"
HalfOrFull = Literal["fp16", "fp32"]
Precision = Literal["fp16", "bf16", "fp32"]
Order = Literal["interpolate-first", "upscale-first"]
# What is written for the rates of broadcasting, and what they are.
_BROADCAST_RATES = {
    Fraction(round(rate * 1000 / 1001, digits)).limit_denominator(1000): Fraction(rate * 1000, 1001)
    for rate in (24, 30, 48, 60, 120)
    for digits in (2, 3)
}

Seed = Annotated[
    int,
    Opt("Seed of all random numbers; the same seed gives the same output.", min=0, max=2**64 - 1),
]
MemoryLimit = Annotated[
    float | None,
    Opt(
        "Memory limit in GiB.",
        group=MEMORY_GROUP,
        metavar="GIB",
        default="detected",
        min=0.01,
        max=100_000,
    ),
]
TileSize = Annotated[
    int | None,
    Opt(
        "Side of the autoencoder's tiles in pixels.",
        group=MEMORY_GROUP,
        default="whole frames where they fit",
    ),
]
HalfOrFullPrecision = Annotated[
    HalfOrFull | None, Opt("Precision of the networks.", group=MEMORY_GROUP, default="fp16 on a GPU, fp32 on a CPU")
]
AnyPrecision = Annotated[
    Precision | None,
    Opt("Precision of the networks.", group=MEMORY_GROUP, default="bf16 on a GPU, fp32 on a CPU"),
]
EnableFrameInterpolation = Annotated[
    bool, Opt("Increase the frame rate with RIFE after decoding.", group="Post-processing")
]
FrameInterpolationExp = Annotated[
    int,
    Opt(
        "Number of frame-rate doublings.",
        group="Post-processing",
        min=0,
        max=4,
        needs=("enable_frame_interpolation",),
    ),
]
FrameInterpolationScale = Annotated[
    float,
    Opt(
        "Resolution scale for flow estimation; 0.5 suits 1080p.",
        group="Post-processing",
        choices=(0.25, 0.5, 1.0, 2.0, 4.0),
        needs=("enable_frame_interpolation",),
    ),
]
FrameInterpolationModel = Annotated[
    str,
    Opt(
        f"RIFE 4.22.lite weights: {FILE_HELP}.",
        group="Post-processing",
        is_file=True,
        needs=("enable_frame_interpolation",),
    ),
]
EnableUpscaling = Annotated[bool, Opt("Upscale the frames with Real-ESRGAN.", group="Post-processing")]
UpscalingScale = Annotated[
    float, Opt("Upscaling factor.", group="Post-processing", above=0, max=16, needs=("enable_upscaling",))
]
UpscalingModel = Annotated[
    str, Opt(f"Real-ESRGAN weights: {FILE_HELP}.", group="Post-processing", is_file=True, needs=("enable_upscaling",))
]


@dataclass(frozen=True)
class InterpolateRequest:
    """Options of frame interpolation with RIFE.

    Attributes:
        model_path: IFNet 4.22.lite.
        exp: N frames become ``(N - 1) * 2 ** exp + 1``.
        scale: Flow is estimated at this share of the resolution.
        target_fps: Output frame rate in place of ``exp``, also as ``"60000/1001"``; the duration stays. 23.976, 29.97,
            59.94 and their like mean 24000/1001 and so on, as everywhere in broadcasting.
        scene_threshold: Structural similarity of neighbours, 0 to 1, below which there is a cut; across it the
            nearer frame is repeated. 0 finds no cuts.
        precision: What the network computes in, ``fp16`` or ``fp32``; flow is float32 always.
        memory_limit_gb: GiB that the plan may take.
    """

    model_path: Annotated[str, Opt(f"RIFE 4.22.lite weights: {FILE_HELP}.", is_file=True)] = "elfgum/RIFE-4.22.lite"
    exp: Annotated[int, Opt("Number of frame-rate doublings.", min=0, max=4, replaces=("target_fps",))] = 1
    scale: Annotated[
        float,
        Opt("Resolution scale for flow estimation; 0.5 suits 1080p.", choices=(0.25, 0.5, 1.0, 2.0, 4.0)),
    ] = 1.0
    target_fps: Annotated[
        Fraction | float | str | None,
        Opt(
            "Output frame rate instead of --exp, such as 60 or 60000/1001.",
            metavar="RATE",
            is_rate=True,
            replaces=("exp",),
        ),
    ] = None
    scene_threshold: Annotated[
        float, Opt("Similarity of frames below which a scene cut is assumed; 0 disables the detection.", min=0, max=1)
    ] = 0.2
    precision: Annotated[HalfOrFull | None, Opt("Precision of the network.", group=MEMORY_GROUP, default="fp32")] = None
    memory_limit_gb: MemoryLimit = None

    def __post_init__(self) -> None:
        """Validate the fields; raises RequestError."""
        check_options(self)
        if isinstance(self.target_fps, Fraction):
            # Frozen from here on.
            object.__setattr__(self, "target_fps", _BROADCAST_RATES.get(self.target_fps, self.target_fps))
        if self.target_fps is not None and self.exp != 1:
            raise RequestError("--exp and --target-fps both set the number of frames. Give one of them.")

    @property
    def dtype(self) -> mx.Dtype:
        """What the network computes in."""
        # Imported here: `--help` and errors in the arguments need no MLX.
        from LTX_2_MLX.planning.plan import dtype_for

        return dtype_for("RIFE", asked=self.precision)


ColorFix = Literal["wavelet", "adain", "none"]


@dataclass(frozen=True)
class UpscaleRequest:
    """Options of upscaling with Real-ESRGAN.

    Attributes:
        model_path: RRDBNet or SRVGG.
        scale: Where the network's own factor differs, its result is resized (bicubic).
        tile_size: Side of a tile in input pixels; None: by memory; 0: whole frames.
        tile_overlap: Input pixels around a tile that the network reads as well; None: its whole receptive field where
            that is up to 64, so that no seam is possible, else 32.
        denoise_strength: From 0, keeping noise and texture, to 1: mixes ``model_path`` with ``weak_model_path``.
        weak_model_path: The checkpoint of strength 0; the default goes with realesr-general-x4v3.
        color_fix: ``wavelet`` and ``adain`` take the colours from the input, since networks change flat ones a little.
        precision: What the network computes in, ``fp16`` or ``fp32``.
        memory_limit_gb: GiB that the run may use, by which tiles are cut.
    """

    model_path: Annotated[str, Opt(f"Real-ESRGAN weights: {FILE_HELP}.", is_file=True)] = (
        "ai-forever/Real-ESRGAN:RealESRGAN_x4.pth"
    )
    scale: Annotated[float, Opt("Upscaling factor.", above=0, max=16)] = 4.0
    tile_size: Annotated[
        int | None,
        Opt("Side of the tiles in input pixels; 0 for whole frames.", group=MEMORY_GROUP, min=0, default="by memory"),
    ] = None
    tile_overlap: Annotated[
        int | None,
        Opt(
            "Input pixels that a tile reads beyond its border.",
            group=MEMORY_GROUP,
            min=0,
            max=4096,
            default="the receptive field, at most 32 where it is large",
        ),
    ] = None
    denoise_strength: Annotated[
        float | None,
        Opt("Denoising, from 0 (keeps noise and texture) to 1; mixes two checkpoints.", min=0, max=1),
    ] = None
    weak_model_path: Annotated[
        str, Opt(f"Weights of denoising strength 0: {FILE_HELP}.", is_file=True, needs=("denoise_strength",))
    ] = "realesr-general-wdn-x4v3"
    color_fix: Annotated[ColorFix, Opt("Color correction towards the input.")] = "none"
    precision: HalfOrFullPrecision = None
    memory_limit_gb: MemoryLimit = None

    def __post_init__(self) -> None:
        """Validate the fields; raises RequestError."""
        check_options(self)
        if self.tile_size is not None and 0 < self.tile_size < 8:
            raise RequestError(f"--tile-size is {self.tile_size}, it can be 0 (whole frames) or at least 8.")

    @property
    def dtype(self) -> mx.Dtype:
        """What the network computes in."""
        from LTX_2_MLX.planning.plan import dtype_for

        return dtype_for("Real-ESRGAN", asked=self.precision)


@dataclass(frozen=True)
class UpscaleTemporalRequest:
    """Options of doubling a clip's frame rate in latent space.

    Attributes:
        weights: LTX-2 checkpoint with the video autoencoder; ``auto`` takes what is on this machine, else the demo
            model.
        temporal_weights: Temporal upscaler of the same generation.
        precision: What the networks compute in, ``fp16``, ``bf16`` or ``fp32``.
        tile_size: Side of the autoencoder's tiles in pixels; None: whole frames wherever memory allows.
        seed: Of the noise that some decoders mix in.
        memory_limit_gb: GiB that the run may use.
    """

    weights: Annotated[str, Opt(f"LTX-2 checkpoint: {FILE_HELP}.", is_file=True)] = AUTO
    temporal_weights: Annotated[str, Opt(f"Temporal latent upscaler: {FILE_HELP}.", is_file=True)] = AUTO
    precision: AnyPrecision = None
    tile_size: TileSize = None
    seed: Seed = 0
    memory_limit_gb: MemoryLimit = None

    def __post_init__(self) -> None:
        """Validate the fields; raises RequestError."""
        check_options(self)

    @property
    def dtype(self) -> mx.Dtype:
        """What the networks compute in."""
        from LTX_2_MLX.planning.plan import dtype_for

        return dtype_for("video VAE", asked=self.precision)


@dataclass(frozen=True)
class PostprocessRequest:
    """Options of interpolation and upscaling in one run.

    Attributes:
        enable_frame_interpolation: Increase the frame rate.
        frame_interpolation_exp: Number of doublings.
        frame_interpolation_scale: Flow is estimated at this share of the resolution.
        frame_interpolation_model_path: RIFE's file.
        enable_upscaling: Increase the resolution.
        upscaling_scale: Factor of height and width.
        upscaling_model_path: Real-ESRGAN's file.
        order: Interpolating first is cheaper, and what the networks were trained for.
        memory_limit_gb: GiB that the run may use.
    """

    enable_frame_interpolation: EnableFrameInterpolation = False
    frame_interpolation_exp: FrameInterpolationExp = InterpolateRequest.exp
    frame_interpolation_scale: FrameInterpolationScale = InterpolateRequest.scale
    frame_interpolation_model_path: FrameInterpolationModel = InterpolateRequest.model_path
    enable_upscaling: EnableUpscaling = False
    upscaling_scale: UpscalingScale = UpscaleRequest.scale
    upscaling_model_path: UpscalingModel = UpscaleRequest.model_path
    order: Annotated[Order, Opt("Which step comes first.", group="Post-processing")] = "interpolate-first"
    memory_limit_gb: MemoryLimit = None

    def __post_init__(self) -> None:
        """Validate the fields; raises RequestError."""
        check_options(self)
        refuse_without_effect(self)

    @property
    def anything(self) -> bool:
        """Whether there is anything to do."""
        return self.enable_frame_interpolation or self.enable_upscaling

    @property
    def interpolation(self) -> InterpolateRequest | None:
        """The request for RIFE; None without frame interpolation."""
        if not self.enable_frame_interpolation:
            return None
        return InterpolateRequest(
            model_path=self.frame_interpolation_model_path,
            exp=self.frame_interpolation_exp,
            scale=self.frame_interpolation_scale,
            memory_limit_gb=self.memory_limit_gb,
        )

    @property
    def upscaling(self) -> UpscaleRequest | None:
        """The request for Real-ESRGAN; None without upscaling."""
        if not self.enable_upscaling:
            return None
        return UpscaleRequest(
            model_path=self.upscaling_model_path, scale=self.upscaling_scale, memory_limit_gb=self.memory_limit_gb
        )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output for those of the input."""
        return upscaled_size(height, width, self.upscaling_scale) if self.enable_upscaling else (height, width)

    def num_frames(self, num_frames: int) -> int:
        """Number of frames of the output for that of the input."""
        if not self.enable_frame_interpolation:
            return num_frames
        return (num_frames - 1) * 2**self.frame_interpolation_exp + 1


SuperResolutionMode = Literal["tiny", "tiny-long", "full"]
Version = Literal["v1", "v1.1"]
SparseAttention = Literal["block", "sage", "dense"]
Borders = Literal["pad", "crop"]
Resizing = Literal["float", "8bit"]
# Names of decoders as users type them; pipelines.super_resolve.decoders says what they are.
VAE_TYPES = (
    "wan2.1", "light", "wan2.2", "tcd", "tae-w2.1", "lighttae-w2.1", "tae-w2.2", "tae-hv", "lighttae-hy1.5",
)  # fmt: skip


@dataclass(frozen=True)
class SuperResolveRequest:
    """Options of super-resolution with FlashVSR.

    Attributes:
        weights: FlashVSR's files: their folder, the transformer's file among them, or ``auto``.
        version: Release of the weights; their tensors do not tell.
        mode: ``tiny``, ``tiny-long`` or ``full``; it decides which decoders may be used.
        vae_type: Decoder; None takes the mode's own. One that does not fit is replaced with a note.
        vae_path: The decoder's file instead of the one beside the others.
        scale: Factor of height and width; the networks were trained for 4.
        color_fix: ``wavelet`` and ``adain`` take the colours from the input.
        tile_dit: Super-resolve in tiles of the source, for less memory; without it the whole frame at once.
        tile_vae: Decode in tiles; only the Wan decoders need it.
        tile_size: Side of a tile in source pixels.
        overlap: Source pixels that neighbouring tiles share.
        sparse_ratio: Share of attention that is computed; less is faster and sharper, more is steadier.
        kv_ratio: Slices of two latent frames that attention remembers (1 keeps 2).
        local_range: Windows, of 128 pixels, that attention reads around its own; odd.
        attention: ``block`` as its authors have it, ``sage`` as the plugin has it, ``dense`` without selection.
        dtype: ``bf16``, ``fp16`` or ``fp32``.
        unload_dit: Make all latents first and free the transformer before decoding; latents wait on disk.
        seed: The same seed gives the same frames.
        borders: ``pad`` keeps the whole frame, ``crop`` cuts sides to multiples of 128 as the published tools do.
        resize: Bicubic on floats, or on 8 bits as FlashVSR's authors do.
    """

    weights: Annotated[
        str, Opt(f"Folder with FlashVSR's files, or its transformer: {FILE_HELP}.", group="Model", is_file=True)
    ] = AUTO
    version: Annotated[
        Version, Opt("FlashVSR release of the weights (cannot be detected from the files).", group="Model")
    ] = "v1.1"
    mode: Annotated[
        SuperResolutionMode,
        Opt("Decoder: tiny and tiny-long use a small one, full a Wan VAE.", group="Model"),
    ] = "tiny"
    vae_type: Annotated[
        str | None,
        Opt(
            "Decoder network: tcd, tae-w2.1 or lighttae-w2.1 in the tiny modes, wan2.1 or light in full.",
            group="Model",
            default="the mode's own",
            choices=VAE_TYPES,
        ),
    ] = None
    vae_path: Annotated[
        str | None,
        Opt(f"Weights of the decoder: {FILE_HELP}.", group="Model", default="beside the others", is_file=True),
    ] = None
    scale: Annotated[float, Opt("Upscaling factor; the networks were trained for 4.", min=1, max=8)] = 4.0
    color_fix: Annotated[ColorFix, Opt("Color correction towards the input.")] = "wavelet"
    tile_dit: Annotated[bool, Opt("Super-resolve in tiles: less memory.", group=MEMORY_GROUP)] = False
    tile_vae: Annotated[bool, Opt("Decode in tiles: less memory (Wan decoders only).", group=MEMORY_GROUP)] = True
    tile_size: Annotated[
        int,
        Opt("Side of a tile in source pixels; below 128 for little memory.", group=MEMORY_GROUP, min=48, max=1024),
    ] = 256
    overlap: Annotated[int, Opt("Source pixels that neighboring tiles share.", group=MEMORY_GROUP, min=0, max=512)] = 24
    sparse_ratio: Annotated[
        float, Opt("Density of sparse attention; less is faster.", group="Attention", min=0.5, max=5)
    ] = 2.0
    kv_ratio: Annotated[
        float, Opt("Length of the key-value cache in pairs of latent frames.", group="Attention", min=1, max=8)
    ] = 3.0
    local_range: Annotated[int, Opt("Width of local attention in windows; odd.", group="Attention", min=3, max=15)] = 11
    attention: Annotated[
        SparseAttention,
        Opt("Attention pattern: block (the authors'), sage (the ComfyUI plugin's) or dense.", group="Attention"),
    ] = "block"
    dtype: Annotated[
        Precision | None,
        Opt("Precision of the networks.", group=MEMORY_GROUP, default="bf16 on a GPU, fp32 on a CPU"),
    ] = None
    unload_dit: Annotated[
        bool,
        Opt("Free the transformer before decoding: less memory; latents wait on disk.", group=MEMORY_GROUP),
    ] = False
    seed: Seed = 0
    borders: Annotated[Borders, Opt("Reach multiples of 128 by padding (keeps the whole frame) or by cropping.")] = (
        "pad"
    )
    resize: Annotated[Resizing, Opt("Bicubic resize before the network: in float or in 8 bits.")] = "float"

    def __post_init__(self) -> None:
        """Validate the fields; raises RequestError."""
        check_options(self)
        if self.local_range % 2 == 0:
            raise RequestError(
                f"--local-range is {self.local_range}, expected an odd number: use {self.local_range - 1} or "
                f"{self.local_range + 1}."
            )
        if self.overlap > self.tile_size // 2:
            raise RequestError(
                f"--overlap is {self.overlap}, it can be from 0 to {self.tile_size // 2}, half the tile size."
            )
        if self.tile_dit and self.overlap == 0 and self.scale != int(self.scale):
            raise RequestError("Tiles without overlap leave gaps at a fractional --scale. Use --overlap 24.")

    @property
    def mlx_dtype(self) -> mx.Dtype:
        """What the networks compute in."""
        from LTX_2_MLX.planning.plan import dtype_for

        return dtype_for("FlashVSR", asked=self.dtype)

    @property
    def causal(self) -> bool:
        """Whether the projector sees the frames before, as in v1.1."""
        return self.version == "v1.1"


def upscaled_size(height: int, width: int, scale: float) -> tuple[int, int]:
    """Height and width after upscaling.

    Raises:
        RequestError: If no pixel would be left.
    """
    size = int(height * scale), int(width * scale)
    if min(size) < 1:
        raise RequestError(f"--scale {scale:g} leaves no pixels of {width} x {height}.")
    return size
