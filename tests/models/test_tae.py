from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import save_file

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.layers.streaming import StreamState
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.tae import ConditionalConfig, ConditionalDecoder, TinyAutoencoder, TinyConfig
from LTX_2_MLX.shapes import Compression

SMALL = TinyConfig(latent_channels=5, patch_size=2, encoder_width=4, decoder_widths=(8, 6, 4, 3))


def tiny() -> TinyAutoencoder:
    mx.random.seed(1)
    network = TinyAutoencoder(SMALL)
    mx.eval(network.parameters())
    return network


def conditional() -> ConditionalDecoder:
    mx.random.seed(2)
    network = ConditionalDecoder(ConditionalConfig(latent_channels=5, widths=(8, 6, 4, 3)))
    mx.eval(network.parameters())
    return network


def test_streamed_pieces_equal_the_whole():
    network, latent = tiny(), mx.random.normal((2, 4, 2, 3, 5), key=mx.random.key(1))
    pieces = mx.concatenate(list(network.stream([latent[:, :3], latent[:, 3:]])), axis=1)
    whole = network(latent)
    assert pieces.shape == (2, 13, 32, 48, 3)
    np.testing.assert_allclose(np.array(pieces), np.array(whole), atol=1e-6)


def published(network) -> dict[str, np.ndarray]:
    """The tensors of a network under their published names, in published axis order."""
    weights = {}
    for name, value in tree_flatten(network.parameters()):
        array = np.array(value)
        weights[name] = np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array
    return weights


def decoded_as_published(weights: dict, frames: np.ndarray, strides: tuple[int, ...], patch: int) -> np.ndarray:
    """What taehv.py's ``decode_video`` gives for frames ``(T, C, H, W)``, in NumPy: ``(T, 3, H, W)`` in [0, 1]."""

    def conv(x, name):
        kernel = weights[f"{name}.weight"]
        side = kernel.shape[-1] // 2
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(x, [(0, 0), (0, 0), (side, side), (side, side)]), kernel.shape[2:], axis=(2, 3)
        )
        y = np.einsum("tihwkl,oikl->tohw", windows, kernel)
        return y + weights[f"{name}.bias"][:, None, None] if f"{name}.bias" in weights else y

    def memory(x, name):
        y = np.concatenate([x, np.concatenate([0 * x[:1], x[:-1]])], axis=1)
        for place in (0, 2, 4):
            y = conv(np.maximum(y, 0) if place else y, f"{name}.conv.{place}")
        return np.maximum(y + x, 0)

    x = np.maximum(conv(np.tanh(frames / 3) * 3, "decoder.1"), 0)
    for level, stride in enumerate(strides):
        first = 3 + 6 * level
        for place in range(first, first + 3):
            x = memory(x, f"decoder.{place}")
        x = x.repeat(2, axis=2).repeat(2, axis=3)
        x = conv(x, f"decoder.{first + 4}.conv")
        x = conv(x.reshape(-1, x.shape[1] // stride, *x.shape[2:]), f"decoder.{first + 5}")
    x = conv(np.maximum(x, 0), "decoder.22")
    count, _, height, width = x.shape
    x = x.reshape(count, 3, patch, patch, height, width).transpose(0, 1, 4, 2, 5, 3)
    return np.clip(x.reshape(count, 3, height * patch, width * patch), 0, 1)[np.prod(strides) - 1 :]


def test_latents_of_ltx_2_hold_eight_frames_as_published(tmp_path):
    mx.random.seed(4)
    network = TinyAutoencoder(replace(SMALL, patch_size=4, time=8))
    # Away from the values at which pixels are clipped.
    network.decoder[22].bias = network.decoder[22].bias + 0.5
    network.decoder[22].weight = 8 * network.decoder[22].weight
    weights = published(network)
    save_file(weights, str(tmp_path / "taeltx2_3.safetensors"))
    loaded = load(TinyAutoencoder, Checkpoint(tmp_path / "taeltx2_3.safetensors"))
    assert loaded.config == network.config and loaded.compression == Compression(8, 32, 32)
    latent = mx.random.normal((1, 2, 2, 3, 5), key=mx.random.key(1))
    wanted = decoded_as_published(weights, np.array(latent)[0].transpose(0, 3, 1, 2), (2, 2, 2), 4)
    found = np.array(loaded.decode(latent))[0].transpose(0, 3, 1, 2)
    assert found.shape == (9, 3, 64, 96) and found.std() > 0.01
    np.testing.assert_allclose((found + 1) / 2, wanted, atol=1e-5)
    assert loaded.encode(mx.zeros((1, 9, 64, 96, 3))).shape == (1, 2, 2, 3, 5)


def test_lacking_frames_are_copies_of_the_last():
    network, frames = tiny(), mx.random.normal((1, 6, 32, 48, 3), key=mx.random.key(1))
    filled = mx.concatenate([frames, frames[:, -1:], frames[:, -1:]], axis=1)
    np.testing.assert_array_equal(np.array(network.encode(frames)), np.array(network.encode(filled)))


def test_larger_published_kernels_are_cut_to_their_last_rows(tmp_path):
    network = tiny()
    weights = published(network)
    latent = mx.random.normal((1, 2, 2, 2, 5), key=mx.random.key(1))
    wanted = np.array(network.decode(latent))
    grown = weights["decoder.7.conv.weight"]
    weights["decoder.7.conv.weight"] = np.concatenate([np.full_like(grown, 9.0), grown])
    save_file(weights, str(tmp_path / "tae.safetensors"))
    loaded = load(TinyAutoencoder, Checkpoint(tmp_path / "tae.safetensors"))
    np.testing.assert_allclose(np.array(loaded.decode(latent)), wanted, atol=1e-6)


def test_conditional_pieces_equal_the_whole():
    network = conditional()
    latent = mx.random.normal((2, 4, 2, 3, 5), key=mx.random.key(1))
    lq_frames = mx.random.normal((2, 13, 16, 24, 3), key=mx.random.key(2))
    whole = network(latent, lq_frames)
    state = StreamState()
    pieces = [network(latent[:, :1], lq_frames[:, :1], state), network(latent[:, 1:], lq_frames[:, 1:], state)]
    np.testing.assert_allclose(np.array(mx.concatenate(pieces, axis=1)), np.array(whole), atol=1e-6)


def test_frames_that_do_not_belong_to_the_latent_are_refused():
    with pytest.raises(RequestError, match="expected 5"):
        conditional()(mx.zeros((1, 2, 2, 2, 5)), mx.zeros((1, 8, 16, 16, 3)))


def test_decoder_without_room_for_a_latent_is_refused():
    shapes = {1: (8, 768, 3, 3), 10: (6, 8, 3, 3), 16: (4, 6, 3, 3), 22: (3, 4, 3, 3), 26: (3, 3, 3, 3)}
    header = Header({f"decoder.{i}.weight": TensorInfo(shape, "F32", 0) for i, shape in shapes.items()})
    with pytest.raises(CheckpointError, match="768 channels"):
        ConditionalConfig.from_header(header)


@pytest.mark.parametrize(("make", "channels"), [(tiny, 12), (conditional, 4)])
def test_layers_at_full_size_run_in_bands_where_the_device_holds_no_more(make, channels, monkeypatch):
    network = make()
    latent = mx.random.normal((1, 2, 3, 5, 5), key=mx.random.key(3))
    frames = mx.random.normal((1, 5, 24, 40, 3), key=mx.random.key(4))
    inputs = (latent, frames) if isinstance(network, ConditionalDecoder) else (latent,)
    whole = network(*inputs)
    # Two frames of 24×40 pixels are made together: 16 rows of them.
    limit = 16 * 40 * 2 * channels * 4
    monkeypatch.setattr("LTX_2_MLX.models.tae.largest_array_bytes", lambda item_bytes: limit)
    largest = []
    own = mx.conv2d

    def recorded(x, *rest):
        result = own(x, *rest)
        if x.shape[2] == 40:
            largest.append(max(x.nbytes, result.nbytes))
        return result

    monkeypatch.setattr(mx, "conv2d", recorded)
    state = StreamState()
    state.last = True
    banded = network(*inputs, state)
    assert max(largest) <= limit
    np.testing.assert_allclose(np.array(banded), np.array(whole), atol=1e-5)
