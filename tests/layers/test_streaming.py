import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from LTX_2_MLX.layers.streaming import (
    CausalConv3d,
    Padding,
    convolve_each,
    convolve_zero_padded,
    stream_layer,
    take_frames,
)
from LTX_2_MLX.ops.conv import conv3d_3x3x3
from LTX_2_MLX.ops.device import as_backend


def _padded_by_hand(x, causal, mode):
    x = np.array(x)
    x = np.pad(x, ((0, 0), (2, 0) if causal else (1, 1), (0, 0), (0, 0), (0, 0)), mode="edge")
    space = ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0))
    return mx.array(np.pad(x, space, mode="constant" if mode == "zeros" else "reflect"))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_padding_repeats_frames_in_time_and_follows_its_mode_in_space(causal, mode):
    conv = CausalConv3d(3, 5, Padding(causal, mode))
    x = mx.random.normal((2, 4, 5, 6, 3))
    wanted = mx.conv3d(_padded_by_hand(x, causal, mode), conv.conv.weight) + conv.conv.bias
    assert np.allclose(np.array(conv(x)), np.array(wanted), atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("lengths", [(7,), (1, 1, 1, 1, 1, 1, 1), (2, 4, 1), (1, 6)])
@pytest.mark.parametrize("most", [1, 2, 3, 100])
def test_frame_by_frame_equals_whole(causal, lengths, most):
    conv = CausalConv3d(3, 5, Padding(causal, "reflect"))
    x = mx.random.normal((2, 7, 4, 3, 3))
    stops = np.cumsum(lengths)
    chunks = [x[:, stop - length : stop] for stop, length in zip(stops, lengths, strict=True)]
    pieces = list(stream_layer(conv, chunks, most))
    assert max(piece.shape[1] for piece in pieces) <= most + 1
    assert np.allclose(np.array(mx.concatenate(pieces, axis=1)), np.array(conv(x)), atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_clip_of_one_frame_stays_one(causal):
    conv = CausalConv3d(3, 5, Padding(causal, "zeros"))
    assert conv(mx.ones((1, 1, 4, 5, 3))).shape == (1, 1, 4, 5, 5)


def test_convolution_of_nothing_is_nothing():
    assert list(stream_layer(CausalConv3d(1, 1, Padding(False, "zeros")), [], 3)) == []


def test_three_slices_in_time_equal_one_convolution():
    conv = CausalConv3d(4, 6, Padding(True, "zeros")).conv
    window = mx.random.normal((2, 6, 5, 7, 4))
    wanted = mx.conv3d(window, conv.weight, padding=(0, 1, 1)) + conv.bias
    convolved = conv3d_3x3x3(window, conv.weight, conv.bias, spatial_padding=1)
    assert np.allclose(np.array(convolved), np.array(wanted), atol=1e-5)
    wanted = mx.conv3d(window, conv.weight, padding=1) + conv.bias
    assert np.allclose(np.array(convolve_zero_padded(conv, window)), np.array(wanted), atol=1e-5)


def test_convolution_can_be_trained_through():
    conv = CausalConv3d(2, 2, Padding(False, "reflect"))
    x = mx.random.normal((1, 3, 4, 4, 2))
    _, gradients = nn.value_and_grad(conv, lambda x: mx.square(conv(x)).sum())(x)
    assert mx.abs(gradients["conv"]["weight"]).max().item() > 0


def test_frames_are_taken_in_order_and_the_rest_waits():
    waiting = [mx.arange(start, stop).reshape(1, -1, 1, 1, 1) for start, stop in ((0, 3), (3, 4), (4, 8))]
    taken = [take_frames(waiting, count).flatten().tolist() for count in (2, 5, 1)]
    assert taken == [[0, 1], [2, 3, 4, 5, 6], [7]]
    assert waiting == []


def test_a_long_convolution_runs_frame_by_frame_on_a_gpu(monkeypatch):
    conv = nn.Conv2d(3, 5, 3, padding=1)
    x = mx.random.normal((1, 3, 7, 9, 3), key=mx.random.key(0))
    whole = convolve_each(conv, x)
    batches = []
    own = mx.conv2d
    monkeypatch.setattr(mx, "conv2d", lambda images, *rest: batches.append(len(images)) or own(images, *rest))
    monkeypatch.setattr("LTX_2_MLX.layers.streaming._LAUNCH_OPERATIONS", 2 * 7 * 9 * 3 * 5 * 9)
    with as_backend("gpu"):
        pieces = convolve_each(conv, x)
    assert batches == [1, 1, 1]
    np.testing.assert_allclose(pieces, whole, atol=1e-6)
