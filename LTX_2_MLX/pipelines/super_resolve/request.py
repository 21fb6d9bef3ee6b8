"""What a super-resolution run is asked for."""

from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.models.flashvsr.block_attention import Kind
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.pipelines.super_resolve.decoders import Mode, choose_decoder
from LTX_2_MLX.pipelines.super_resolve.lq_frames import Borders, Resizing

STAGE, LATENT_STAGE, DECODE_STAGE = "super-resolve", "super-resolve latents", "super-resolve decode"

ColorFix = Literal["wavelet", "adain", "none"]
Version = Literal["v1", "v1.1"]
Dtype = Literal["bf16", "fp16", "fp32"]

_DTYPES = {"bf16": mx.bfloat16, "fp16": mx.float16, "fp32": mx.float32}
_CHOICES = {
    "version": ("v1", "v1.1"),
    "color_fix": ("wavelet", "adain", "none"),
    "attention": ("block", "sage", "dense"),
    "dtype": (None, *_DTYPES),
    "borders": ("pad", "crop"),
    "resize": ("float", "8bit"),
}
_RANGES = {
    "scale": (1, 8),
    "tile_size": (48, 1024),
    "sparse_ratio": (0.5, 5),
    "kv_ratio": (1, 8),
    "local_range": (3, 15),
    "seed": (0, 2**32 - 1),
}


@dataclass(frozen=True)
class Request:
    """How a clip is made sharper and larger.

    Attributes:
        weights: FlashVSR's files: their folder, the transformer's file among them, or ``auto``.
        version: Which FlashVSR the files are; their tensors do not tell.
        mode: ``tiny``, ``tiny-long`` or ``full``; it decides which decoders may be used.
        vae_type: Decoder; None takes the mode's own. One that does not fit is replaced with a note.
        vae_path: The decoder's file instead of the one beside the others.
        scale: Factor of the sides, 1 to 8; the networks were trained for 4.
        color_fix: Where colours come from: ``wavelet`` and ``adain`` take them from the input.
        tile_dit: Super-resolve in tiles of the source, for less memory and without it at the whole picture at once.
        tile_vae: Decode in tiles; only the Wan decoders need it.
        tile_size: Side of a tile in source pixels.
        overlap: Source pixels that neighbouring tiles share.
        sparse_ratio: How much attention keeps, 0.5 to 5; less is faster and sharper, more is steadier.
        kv_ratio: Slices of two latent frames that attention remembers, 1 to 8 (1 keeps 2).
        local_range: Windows, of 128 pixels, that attention looks at around its own, 3 to 15 and odd.
        attention: ``block`` as its authors have it, ``sage`` as the plugin has it, ``dense`` without selection.
        dtype: ``bf16``, ``fp16`` or ``fp32``; None: bf16 on a GPU, fp32 on a CPU.
        unload_dit: Make all latents first and free the transformer before decoding; latents wait on disk.
        seed: The same seed gives the same frames.
        borders: ``pad`` keeps the whole picture, ``crop`` cuts sides to multiples of 128 as the published tools do.
        resize: Bicubic on floats, or on 8 bits as FlashVSR's authors do.
    """

    weights: str = "auto"
    version: Version = "v1.1"
    mode: Mode = "tiny"
    vae_type: str | None = None
    vae_path: str | None = None
    scale: float = 4.0
    color_fix: ColorFix = "wavelet"
    tile_dit: bool = False
    tile_vae: bool = True
    tile_size: int = 256
    overlap: int = 24
    sparse_ratio: float = 2.0
    kv_ratio: float = 3.0
    local_range: int = 11
    attention: Kind = "block"
    dtype: Dtype | None = None
    unload_dit: bool = False
    seed: int = 0
    borders: Borders = "pad"
    resize: Resizing = "float"

    def __post_init__(self) -> None:
        """Raise ``RequestError`` for values that cannot be."""
        for name, choices in _CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise RequestError(f"{name} is {value!r}, it can be {', '.join(str(c) for c in choices if c)}.")
        for name, (least, most) in _RANGES.items():
            if not least <= (value := getattr(self, name)) <= most:
                raise RequestError(f"{name} is {value:g}, it can be from {least} to {most}.")
        if self.local_range % 2 == 0:
            raise RequestError(f"local_range is {self.local_range}, it is odd: use {self.local_range - 1} or one more.")
        if not 0 <= self.overlap <= self.tile_size // 2:
            raise RequestError(
                f"overlap is {self.overlap}, it can be from 0 to {self.tile_size // 2}, half the tile size."
            )
        if self.tile_dit and self.overlap == 0 and self.scale != int(self.scale):
            raise RequestError("Tiles with overlap 0 leave gaps at a scale that is no whole number. Use overlap 24.")
        choose_decoder(self.mode, self.vae_type)

    @property
    def mlx_dtype(self) -> mx.Dtype:
        """What the networks compute in."""
        if self.dtype is None:
            return mx.float32 if on_cpu() else mx.bfloat16
        return _DTYPES[self.dtype]

    @property
    def causal(self) -> bool:
        """Whether the projector sees the frames before, as in v1.1."""
        return self.version == "v1.1"
