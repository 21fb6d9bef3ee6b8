import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.flashvsr.block_attention import Sparsity
from LTX_2_MLX.models.flashvsr.transformer import TransformerStream, WindowMemory, from_windows, to_windows
from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.wan.transformer import WanTransformer, WanTransformerConfig, rotary_tables


def transformer(seed: int = 1) -> WanTransformer:
    mx.random.seed(seed)
    config = WanTransformerConfig(
        dim=28, in_dim=3, ffn_dim=40, out_dim=3, text_dim=9, freq_dim=8, num_heads=2, num_layers=2
    )
    network = WanTransformer(config)
    mx.eval(network.parameters())
    return network


def stream(network: WanTransformer, sparsity: Sparsity, kv_ratio: float = 3) -> TransformerStream:
    return TransformerStream(network, mx.random.normal((5, 9), key=mx.random.key(2)), sparsity, kv_ratio)


def chunk(frames: int, height: int = 16, width: int = 32, seed: int = 3) -> tuple[mx.array, list[mx.array]]:
    noise = mx.random.normal((1, frames, height, width, 3), key=mx.random.key(seed))
    tokens = mx.random.normal((1, frames, height // 2, width // 2, 28), key=mx.random.key(seed + 1))
    return noise, [tokens]


def test_windows_and_back_is_the_identity():
    tokens = mx.random.normal((4, 8, 24, 3))
    np.testing.assert_array_equal(np.array(from_windows(to_windows(tokens), (4, 8, 24))), np.array(tokens))


def test_a_window_is_two_frames_of_eight_by_eight():
    tokens = mx.arange(2 * 16 * 8).reshape(2, 16, 8, 1)
    first = np.array(to_windows(tokens))[:128, 0]
    np.testing.assert_array_equal(first, np.concatenate([np.arange(64), np.arange(128, 192)]))


def test_stream_with_a_covering_ratio_equals_dense_attention():
    network = transformer()
    sparse = stream(network, Sparsity("block", topk_ratio=1000, local_range=15))
    dense = stream(network, Sparsity("dense"))
    for frames in (6, 2):
        noise, tokens = chunk(frames)
        got, wanted = sparse.step(noise, tokens), dense.step(noise, tokens)
        np.testing.assert_allclose(np.array(got), np.array(wanted), atol=1e-6)


def test_result_is_noise_minus_prediction():
    network = transformer()
    noise, tokens = chunk(6)
    one, two = (stream(network, Sparsity()) for _ in range(2))
    np.testing.assert_allclose(
        np.array(one.step(noise, tokens)), np.array(noise - two.predict(noise, tokens)), atol=1e-6
    )


@pytest.mark.parametrize(("kv_ratio", "held"), [(1, [2, 2, 2]), (3, [3, 3, 3]), (5.7, [3, 4, 5])])
def test_memory_drops_at_most_one_slice_a_chunk(kv_ratio, held):
    run = stream(transformer(), Sparsity(), kv_ratio)
    counts = []
    for frames in (6, 2, 2):
        run.step(*chunk(frames))
        counts.append({len(memory.keys) for memory in run.memories})
    assert counts == [{n} for n in held]


def test_memory_does_not_hold_the_array_its_slices_were_cut_from():
    memory = WindowMemory()
    for _ in range(3):
        keys = mx.random.normal((2, 300, 64))
        memory.extend(keys, keys, 3)
        memory.forget(2)
    held = mx.get_active_memory()
    memory.keys, memory.values = [], []
    # Nine came and three went: six slices of 100 tokens, each a buffer of its own.
    assert held - mx.get_active_memory() == pytest.approx(2 * 6 * 2 * 100 * 64 * 4, rel=0.05)


def test_latent_that_makes_no_whole_windows_is_refused():
    run = stream(transformer(), Sparsity())
    with pytest.raises(RequestError, match="multiples of 128 pixels"):
        run.step(*chunk(6, height=16, width=24))


def test_head_that_cannot_be_dealt_in_pairs_is_refused():
    with pytest.raises(CheckpointError, match="16 features"):
        rotary_tables(16, np.zeros((1, 3)))


def header(**config) -> Header:
    shapes = {
        "patch_embedding.weight": (256, 16, 1, 2, 2),
        "head.head.weight": (64, 256),
        "blocks.0.ffn.0.weight": (99, 256),
        "blocks.0.modulation": (1, 6, 256),
        "text_embedding.0.weight": (256, 20),
        "time_embedding.0.weight": (256, 32),
    }
    return Header({name: TensorInfo(shape, "F32", 0) for name, shape in shapes.items()}, config=config)


def test_config_comes_from_shapes_and_metadata():
    config = WanTransformerConfig.from_header(header(num_heads=4, eps=1e-5, dim=256, patch_size=[1, 2, 2]))
    assert (config.num_heads, config.eps, config.out_dim, config.num_layers) == (4, 1e-5, 16, 1)
    assert WanTransformerConfig.from_header(header()).num_heads == 2


@pytest.mark.parametrize("config", [{"dim": 128}, {"qk_norm": False}, {"sliding": 3}, {"num_heads": 3}])
def test_config_that_contradicts_the_network_is_refused(config):
    with pytest.raises(CheckpointError):
        WanTransformerConfig.from_header(header(**config))
