import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.layers.streaming import StreamState
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection, LQProjectionConfig
from LTX_2_MLX.models.interfaces import Header, TensorInfo


def projection() -> LQProjection:
    mx.random.seed(3)
    network = LQProjection(LQProjectionConfig(widths=(5, 6), token_dim=7, num_layers=2))
    mx.eval(network.parameters())
    return network


def frames(count: int) -> mx.array:
    return mx.random.normal((2, count, 32, 48, 3), key=mx.random.key(4))


def tokens_of(network: LQProjection, clip: mx.array, causal: bool) -> list[np.ndarray]:
    state = StreamState()
    network(clip[:, :1], causal, state)
    return [np.array(network(clip[:, i : i + 4], causal, state)[1]) for i in range(1, clip.shape[1], 4)]


def test_four_frames_give_one_frame_of_tokens_for_every_layer():
    network, clip, state = projection(), frames(5), StreamState()
    assert [tokens.shape for tokens in network(clip[:, :1], True, state)] == [(2, 0, 2, 3, 7)] * 2
    assert [tokens.shape for tokens in network(clip[:, 1:], True, state)] == [(2, 1, 2, 3, 7)] * 2


@pytest.mark.parametrize(("causal", "reaches"), [(True, True), (False, False)])
def test_only_the_causal_version_sees_the_frames_before(causal, reaches):
    network, clip = projection(), frames(9)
    other = mx.concatenate([clip[:, :1] + 1, -clip[:, 1:5], clip[:, 5:]], axis=1)
    first, second = tokens_of(network, clip, causal), tokens_of(network, other, causal)
    assert not np.allclose(first[0], second[0])
    assert np.allclose(first[1], second[1]) != reaches


def test_file_for_other_blocks_of_pixels_is_refused():
    shapes = {"conv1": (5, 192, 4, 3, 3), "conv2": (6, 5, 4, 3, 3), "linear_layers.0": (7, 6)}
    header = Header({f"{name}.weight": TensorInfo(shape, "F32", 0) for name, shape in shapes.items()})
    with pytest.raises(CheckpointError, match="192 channels"):
        LQProjectionConfig.from_header(header)
