import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.layers.streaming import StreamState
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.tae import ConditionalConfig, ConditionalDecoder, TinyAutoencoder, TinyConfig

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


def test_lacking_frames_are_copies_of_the_last():
    network, frames = tiny(), mx.random.normal((1, 6, 32, 48, 3), key=mx.random.key(1))
    filled = mx.concatenate([frames, frames[:, -1:], frames[:, -1:]], axis=1)
    np.testing.assert_array_equal(np.array(network.encode(frames)), np.array(network.encode(filled)))


def test_larger_published_kernels_are_cut_to_their_last_rows(tmp_path):
    network = tiny()
    weights = {}
    for name, module in network.named_modules():
        if "weight" in module:
            weights[f"{name}.weight"] = np.ascontiguousarray(np.array(module.weight).transpose(0, 3, 1, 2))
            if "bias" in module:
                weights[f"{name}.bias"] = np.array(module.bias)
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
