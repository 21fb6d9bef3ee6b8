"""A video VAE that is a principal-component transform, in closed form: where training begins.

The encoder maps each block of ``compression`` pixels to its first principal components, and the decoder maps
them back, through the published layers themselves. Residual blocks begin as the identity. Constants beside
the features keep the norm in front of the last convolutions nearly still, the activation there is made linear by
pairs of opposite features or by a distance from zero, and least squares takes care of what remains.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

# Blocks cover four frames of sixteen by sixteen pixels, patches one frame of eight by eight.
PATCH, CELL, SPAN, COLOURS = 8, 2, 4, 3
# How far the encoder's last features are moved from zero, in units of their own spread.
_OFFSET = 8.0
# How many of the decoder's last features hold a constant, and the share of the norm that is theirs,
# in units of the others' spread.
_CONSTANTS, _STRENGTH = 4, 2.5
_EPS = 1e-8
# Spread of channel k of the normalised latent is its true spread to this power: 0 would whiten it and give
# fine detail the weight of the whole, 1 would leave detail below the noise until the last steps.
_FLATTENING = 0.5

VAE_CONFIG: dict[str, Any] = {
    "_class_name": "CausalVideoAutoencoder",
    "dims": 3,
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 48,
    "encoder_base_channels": 48,
    "decoder_base_channels": 48,
    "patch_size": PATCH,
    "norm_layer": "pixel_norm",
    "latent_log_var": "uniform",
    "causal_decoder": False,
    "timestep_conditioning": False,
    "spatial_padding_mode": "zeros",
    "encoder_spatial_padding_mode": "zeros",
    "normalize_latent_channels": False,
    "scaling_factor": 1.0,
    "use_quant_conv": False,
    "encoder_blocks": [["compress_all_res", {"multiplier": 2}], ["compress_time_res", {"multiplier": 2}]],
    "decoder_blocks": [
        ["res_x", {"num_layers": 2}],
        ["compress_all", {"multiplier": 2}],
        ["res_x", {"num_layers": 1}],
        ["compress_time", {"multiplier": 1}],
    ],
}


def linear_start(clips: Iterable[tuple[np.ndarray, np.ndarray]], seed: int = 0) -> dict[str, np.ndarray]:
    """Tensors of the VAE by published name, for the networks of ``VAE_CONFIG``.

    Args:
        clips: ``(T, H, W, 3)`` in [-1, 1], T of the form 4k + 1, H and W multiples of 16; the components are theirs.
            With each, what its blocks count, ``(T / 4, H / 16, W / 16)`` whole numbers; 0 leaves a block out.
        seed: Of the residual blocks' first convolutions.
    """
    patches = np.concatenate([np.repeat(_blocks(clip), counts.ravel(), axis=0) for clip, counts in clips])
    patches = patches.astype(np.float64)
    basis = _components(patches.reshape(-1, patches.shape[-1]), VAE_CONFIG["latent_channels"])
    encoder, latent = _encoder(patches, basis)
    decoder = _decoder(patches, latent, np.random.default_rng(seed))
    statistics = {
        "per_channel_statistics.mean-of-means": latent.mean(0),
        "per_channel_statistics.std-of-means": latent.std(0) / _spread(latent),
    }
    named = {f"encoder.{name}": value for name, value in encoder.items()}
    named |= {f"decoder.{name}": value for name, value in decoder.items()} | statistics
    return {f"vae.{name}": value.astype(np.float32) for name, value in named.items()}


def _spread(latent: np.ndarray) -> np.ndarray:
    """Spread that each channel of the normalised latent shall have; its mean square is one."""
    spread = latent.std(0) ** _FLATTENING
    return spread / np.sqrt(np.mean(spread**2))


def _blocks(clip: np.ndarray) -> np.ndarray:
    """A clip's blocks as their patches, ``(blocks, frame, row, column, 192)``.

    The encoder is causal: its first block repeats the first frame.
    """
    clip = np.concatenate([clip[:1]] * (SPAN - 1) + [clip])
    t, h, w, _ = clip.shape
    side = PATCH * CELL
    parts = clip.reshape(t // SPAN, SPAN, h // side, CELL, PATCH, w // side, CELL, PATCH, COLOURS)
    # In a patch the colour is slowest and the row fastest, as published.
    parts = parts.transpose(0, 2, 5, 1, 3, 6, 8, 7, 4)
    return parts.reshape(-1, SPAN, CELL, CELL, COLOURS * PATCH * PATCH)


def _components(samples: np.ndarray, count: int) -> np.ndarray:
    """The first ``count`` principal directions, ``(features, count)``."""
    centred = samples - samples.mean(0)
    return np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :count]


def _convolution(matrix: np.ndarray, bias: np.ndarray, *, causal: bool) -> tuple[np.ndarray, np.ndarray]:
    """Weight ``(out, in, 3, 3, 3)`` that applies ``matrix`` ``(out, in)`` to each cell by itself, and its bias."""
    weight = np.zeros((*matrix.shape, 3, 3, 3))
    weight[:, :, 2 if causal else 1, 1, 1] = matrix
    return weight, bias


def _signs(count: int) -> np.ndarray:
    return np.where(np.arange(count) % 2 == 0, 1.0, -1.0)


def _activated(features: np.ndarray) -> np.ndarray:
    normed = features / np.sqrt(np.mean(features**2, axis=-1, keepdims=True) + _EPS)
    return normed / (1 + np.exp(-normed))


def _least_squares(features: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matrix ``(out, in)`` and bias that map features to targets best."""
    centre, aim = features.mean(0), targets.mean(0)
    x, y = features - centre, targets - aim
    gram = x.T @ x
    matrix = np.linalg.solve(gram + 1e-9 * np.trace(gram) / len(gram) * np.eye(len(gram)), x.T @ y).T
    return matrix, aim - matrix @ centre


def _encoder(patches: np.ndarray, basis: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The encoder's tensors and the latent it gives to each block, ``(blocks, channels)``."""
    width = basis.shape[1]
    kept = width * 2 // 8
    mean = patches.reshape(-1, patches.shape[-1]).mean(0)
    entered = (patches - mean) @ basis
    # compress_all_res on two frames: the leading components of each patch, plus means of all over the cell.
    pairs = entered.reshape(len(entered), SPAN // 2, 2, CELL, CELL, width)
    laid = pairs.transpose(0, 1, 5, 2, 3, 4)
    halves = laid[:, :, :kept].reshape(*laid.shape[:2], -1)
    halves = halves + laid.reshape(*laid.shape[:2], width * 2, CELL * CELL).mean(-1)
    # compress_time_res, channel slowest and time fastest, moved away from zero by its convolution's bias.
    trunk = halves.transpose(0, 2, 1).reshape(len(halves), -1)
    offset = _OFFSET * trunk.std() * _signs(trunk.shape[1] // 2)
    features = _activated(trunk + np.repeat(offset, 2))
    whole = patches.reshape(len(patches), -1)
    matrix, bias = _least_squares(features, _coordinates(whole, features, width))
    conv_in = _convolution(basis.T, -mean @ basis, causal=True)
    leading = _convolution(np.eye(kept, width), np.zeros(kept), causal=True)
    still = _convolution(np.zeros((2 * width, 2 * width)), offset, causal=True)
    # The last row is the log-variance that every published encoder has; nothing reads it.
    conv_out = _convolution(np.vstack([matrix, 0 * matrix[:1]]), np.append(bias, -6.0), causal=True)
    convolutions = {
        "conv_in": conv_in, "down_blocks.0.conv": leading, "down_blocks.1.conv": still, "conv_out": conv_out,
    }  # fmt: skip
    return _named(convolutions), features @ matrix.T + bias


def _coordinates(whole: np.ndarray, features: np.ndarray, count: int) -> np.ndarray:
    """The part of ``whole`` that is linear in the features, in its first ``count`` principal coordinates."""
    matrix, bias = _least_squares(features, whole)
    linear = features @ matrix.T + bias
    return (linear - linear.mean(0)) @ _components(linear, count)


@dataclass(frozen=True)
class _TwoHalves:
    """A linear map from the latent to both halves of a block in time, as the decoder's layers hold it.

    One matrix, ``left``, serves both halves; each half enters it through coordinates of its own,
    ``entries[half] @ latent + shifts[half]``.
    """

    left: np.ndarray
    bias: np.ndarray
    entries: list[np.ndarray]
    shifts: list[np.ndarray]

    @classmethod
    def fitted(cls, latent: np.ndarray, targets: np.ndarray) -> "_TwoHalves":
        """The least-squares map to ``targets`` ``(blocks, 2, features)``."""
        channels = latent.shape[1]
        first, first_bias = _least_squares(latent, targets[:, 0])
        second, second_bias = _least_squares(latent, targets[:, 1])
        left, scale, right = np.linalg.svd(np.column_stack([first, second]), full_matrices=False)
        root = np.sqrt(scale)
        left = left * root
        entries = [root[:, None] * right[:, :channels], root[:, None] * right[:, channels:]]
        bias = np.mean((first_bias, second_bias), axis=0)
        shifts = [np.linalg.lstsq(left, own - bias, rcond=None)[0] for own in (first_bias, second_bias)]
        return cls(left, bias, entries, shifts)

    def features(self, latent: np.ndarray) -> np.ndarray:
        """Features ``(blocks, 2, features)`` of latents ``(blocks, channels)``."""
        coordinates = [latent @ entry.T + shift for entry, shift in zip(self.entries, self.shifts, strict=True)]
        return np.stack(coordinates, axis=1) @ self.left.T + self.bias

    def in_time(self) -> tuple[np.ndarray, np.ndarray]:
        """Matrix and bias from the first half's coordinates to those of both."""
        recover = np.linalg.pinv(self.entries[0])
        width = len(recover.T)
        matrix = np.stack([entry @ recover for entry in self.entries], axis=1).reshape(2 * width, width)
        return matrix, np.stack(self.shifts, axis=1).reshape(-1)


def _decoder(patches: np.ndarray, latent: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The decoder's tensors: the latent to components of each patch, and by least squares to its pixels."""
    base = VAE_CONFIG["decoder_base_channels"]
    targets = _signed_components(patches, base)
    halves = _TwoHalves.fitted(latent, targets)
    # Features that are constant fix the scale of the norm in front of the last convolution.
    constants = np.zeros(base)
    constants[:_CONSTANTS] = _STRENGTH * targets.std() * np.sqrt(base / _CONSTANTS)
    features = halves.features(latent).reshape(-1, base) + constants
    matrix, bias = _least_squares(_activated(features), patches.reshape(-1, patches.shape[-1]))
    # Channel slowest, then frame, row and column of the patch.
    order = np.arange(len(halves.left)).reshape(2, CELL, CELL, base).transpose(3, 0, 1, 2).reshape(-1)
    offset = np.repeat(constants, 2 * CELL * CELL)
    entry = halves.entries[0]
    # conv_in gives the latent's coordinates of the first half; compress_time computes those of both.
    convolutions = {
        "conv_in": _convolution(entry, np.zeros(len(entry)), causal=False),
        "up_blocks.0.conv": _convolution(*halves.in_time(), causal=False),
        "up_blocks.2.conv": _convolution(halves.left[order], halves.bias[order] + offset, causal=False),
        "conv_out": _convolution(matrix, bias, causal=False),
    }
    return _named(convolutions | _residual_blocks(base, rng))


def _signed_components(patches: np.ndarray, base: int) -> np.ndarray:
    """The decoder's last features of each block's halves, ``(blocks, 2, features)``.

    Zeros where constants will be, then leading components of the patches with either sign: silu(x) - silu(-x) is x.
    """
    flat = patches.reshape(-1, patches.shape[-1])
    components = _components(flat, (base - _CONSTANTS) // 2)
    basis = np.column_stack([np.zeros((len(components), _CONSTANTS)), components, -components])
    return ((flat - flat.mean(0)) @ basis).reshape(len(patches), 2, -1)


def _residual_blocks(base: int, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Convolutions of the residual blocks, random ones followed by zeros: each block begins as the identity."""
    convolutions = {}
    for block, num_layers, size in ((1, 1, 2 * base), (3, 2, base)):
        for layer in range(num_layers):
            first = rng.standard_normal((size, size, 3, 3, 3)) / np.sqrt(27 * size)
            if block == 3:
                # Beside the constants the norm leaves the features small; they are enlarged again.
                first[:, _CONSTANTS:] *= _STRENGTH
                first[:, :_CONSTANTS] = 0
            name = f"up_blocks.{block}.res_blocks.{layer}"
            convolutions[f"{name}.conv1"] = first, np.zeros(size)
            convolutions[f"{name}.conv2"] = np.zeros_like(first), np.zeros(size)
    return convolutions


def _named(convolutions: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    tensors = {}
    for name, (weight, bias) in convolutions.items():
        tensors[f"{name}.conv.weight"] = weight
        tensors[f"{name}.conv.bias"] = bias
    return tensors
