"""Memory of the video autoencoder: estimates of a run beside the weights.

Computed from the config and sizes alone; nothing is loaded.
"""

import math
from dataclasses import dataclass

from LTX_2_MLX.models.ltx.video_vae import (
    KEPT_FRAMES,
    LayerMemory,
    VideoVAEConfig,
    decoder_layers,
    default_piece_bytes,
    frames_at_once,
)
from LTX_2_MLX.models.ltx.video_vae_encoder import encoder_layers
from LTX_2_MLX.ops.conv import conv3d_scratch_bytes
from LTX_2_MLX.ops.device import on_cpu
from LTX_2_MLX.shapes import LatentShape, VideoShape

# Copies of the largest array that live at once: on a GPU counted from the arrays of a residual block; on the CPU, which
# unfolds the input of a convolution 27 times, measured.
_COPIES = 8
_CPU_COPIES = 60

# On the CPU: copies of a convolution's input, padded in time and in space.
_INPUT_COPIES = 2
# Slices in time that Metal's Winograd takes a kernel in.
_SLICES = 3
# Arrays that live beside it, in units of its channels: a residual block's shortcut, window, activation and sum; an
# upsampler's spread result.
_RESIDUAL_ARRAYS = 4
_SHUFFLED_ARRAYS = 2

# Values that Metal's Winograd makes of a tile of so many pixels, and for tiles that reach over the border.
_WINOGRAD_VALUES = 64
_WINOGRAD_PIXELS = 36
_WINOGRAD_MARGIN = 1.25


def run_bytes(
    layers: list[LayerMemory], shape: tuple[int, ...], item_bytes: int, piece_bytes: int | None = None
) -> int:
    """About what a run over ``(B, T, H, W, C)`` takes beside the weights, for any T.

    What the layers keep between pieces, and the copies of the largest piece.
    """
    value_bytes = shape[0] * shape[2] * shape[3] * item_bytes
    copies = _CPU_COPIES if on_cpu() else _COPIES
    kept = int(_kept_values(layers) * value_bytes)
    return kept + copies * largest_array(layers, shape, item_bytes, piece_bytes)


def _kept_values(layers: list[LayerMemory]) -> float:
    """Values that all layers keep between two pieces, per row and column of the network's input."""
    kept = 0.0
    for layer in layers:
        kept += layer.kept
    return kept


def largest_array(
    layers: list[LayerMemory], shape: tuple[int, ...], item_bytes: int, piece_bytes: int | None = None
) -> int:
    """Bytes of the largest array of a run over ``(B, T, H, W, C)``, for any T."""
    value_bytes = shape[0] * shape[2] * shape[3] * item_bytes
    largest = 0.0
    for layer in layers:
        # A piece, two frames more of the kernel and those that the last piece brings.
        frames = frames_at_once(layer, shape, item_bytes, piece_bytes) + KEPT_FRAMES + layer.frames_late
        largest = max(largest, frames * layer.widest)
    return int(largest * value_bytes)


def decoder_bytes(config: VideoVAEConfig, latent: LatentShape, *, item_bytes: int, winograd: bool = False) -> int:
    """What decoding a latent piece by piece takes beside the weights, for whole frames or for one tile.

    With ``winograd`` a GPU holds the transformed arrays of one convolution as well.
    """
    layers = decoder_layers(config)
    value_bytes = latent.height * latent.width * item_bytes
    kept = int(_kept_values(layers) * value_bytes)
    if not on_cpu():
        transformed = max(map(_winograd_bytes, _widest_convolutions(config, latent, item_bytes))) if winograd else 0
        return kept + transformed + int(_COPIES * max(_largest_piece(layer, value_bytes) for layer in layers))
    return kept + max(map(_convolution_bytes, _widest_convolutions(config, latent, item_bytes)))


def encoder_bytes(config: VideoVAEConfig, video: VideoShape, *, item_bytes: int) -> int:
    """What encoding a clip piece by piece takes beside the weights, its frames included."""
    layers = encoder_layers(config)
    value_bytes = video.height * video.width * item_bytes
    if not on_cpu():
        return run_bytes(layers, (1, 1, video.height, video.width, 3), item_bytes)
    kept = int(_kept_values(layers) * value_bytes)
    return kept + max(map(_convolution_bytes, _encoder_convolutions(config, video, item_bytes)))


def _largest_piece(layer: LayerMemory, value_bytes: int) -> float:
    frame_bytes = layer.widest * value_bytes
    return max(default_piece_bytes(), frame_bytes) + (KEPT_FRAMES + layer.frames_late) * frame_bytes


@dataclass(frozen=True)
class _Convolution:
    """The widest convolution of a layer.

    Attributes:
        frames: Of the whole clip.
        frame_bytes: Of one channel of a frame.
        channels_in, channels_out: Of the convolution.
        beside: Channels of the arrays that live beside it.
        item_bytes: Of one value.
    """

    frames: int
    frame_bytes: int
    channels_in: int
    channels_out: int
    beside: int
    item_bytes: int


def _convolution_bytes(convolution: _Convolution) -> int:
    """What a convolution takes on the CPU, of frames whose widest array keeps within the default bound."""
    channels_in = convolution.channels_in
    channels_out = convolution.channels_out
    widest = max(channels_in, channels_out) * convolution.frame_bytes
    # Fractions of a frame count: a number of whole ones would fall where a frame grows a little.
    frames = min(convolution.frames, max(1.0, default_piece_bytes() / widest))
    channels = _INPUT_COPIES * channels_in + channels_out + convolution.beside
    pixels = convolution.frame_bytes / convolution.item_bytes
    return int(frames * convolution.frame_bytes * channels) + conv3d_scratch_bytes(
        frames, pixels, channels_in, channels_out
    )


def _winograd_bytes(convolution: _Convolution) -> int:
    """What Metal's Winograd form of a convolution holds: transformed kernel, input and products, of every slice.

    Source: ml-explore/mlx, mlx/backend/metal/conv.cpp at 846d176 (winograd_conv_2D_gpu, small_kd_conv_3D_gpu).
    """
    # One frame at a time. Tiles of 6×6 pixels become 64 values, and so does the kernel of each pair of channels.
    channels = convolution.channels_in + convolution.channels_out
    image = _WINOGRAD_VALUES / _WINOGRAD_PIXELS * channels + convolution.channels_in
    kernel = _WINOGRAD_VALUES * convolution.channels_in * convolution.channels_out * convolution.item_bytes
    results = KEPT_FRAMES * default_piece_bytes()
    return int(_SLICES * (_WINOGRAD_MARGIN * convolution.frame_bytes * image + kernel)) + results


def _widest_convolutions(config: VideoVAEConfig, latent: LatentShape, item_bytes: int) -> list[_Convolution]:
    """That of every decoder layer after ``conv_in``, which is smaller than the others."""
    width = config.bottleneck_channels
    frames = latent.num_frames
    frame_bytes = latent.height * latent.width * item_bytes
    convolutions = []
    for block in reversed(config.decoder_blocks):
        if block.stride is None:
            convolutions.append(_Convolution(frames, frame_bytes, width, width, _RESIDUAL_ARRAYS * width, item_bytes))
            continue
        wide = math.prod(block.stride) * (width // block.multiplier)
        convolutions.append(_Convolution(frames, frame_bytes, width, wide, _SHUFFLED_ARRAYS * wide, item_bytes))
        frames = (frames - 1) * block.stride[0] + 1
        frame_bytes *= math.prod(block.stride[1:])
        width //= block.multiplier
    written = config.out_channels * config.patch_size**2
    convolutions.append(_Convolution(frames, frame_bytes, width, written, width + written, item_bytes))
    return convolutions


def _encoder_convolutions(config: VideoVAEConfig, video: VideoShape, item_bytes: int) -> list[_Convolution]:
    """The widest convolution of every encoder layer before ``conv_out``, which is smaller than the others."""
    width = config.latent_channels
    frames = video.num_frames
    frame_bytes = video.height * video.width // config.patch_size**2 * item_bytes
    read = config.in_channels * config.patch_size**2
    # Beside the first one the frames are held as they come, as cells of the patch size, and padded in time and space.
    convolutions = [_Convolution(frames, frame_bytes, read, width, 5 * read, item_bytes)]
    for block in config.encoder_blocks:
        if block.stride is None:
            convolutions.append(_Convolution(frames, frame_bytes, width, width, _RESIDUAL_ARRAYS * width, item_bytes))
            continue
        made = width * block.multiplier // math.prod(block.stride)
        convolutions.append(_Convolution(frames, frame_bytes, width, made, 2 * width, item_bytes))
        frames = (frames - 1) // block.stride[0] + 1
        frame_bytes //= math.prod(block.stride[1:])
        width *= block.multiplier
    return convolutions
