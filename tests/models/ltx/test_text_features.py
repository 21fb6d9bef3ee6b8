import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError, RequestError
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.verify.case import Case

GOLDENS = Path(__file__).parents[2] / "goldens/ltx2"
CASES = ["text_connector_2_0", "text_connector_2_3"]


@pytest.fixture(scope="module", params=CASES)
def network(request, tmp_path_factory):
    return load(TextFeatures, _checkpoint(request.param, tmp_path_factory.mktemp("text")), dtype=mx.float32)


def _checkpoint(case: str, folder: Path) -> Checkpoint:
    return Case.open(GOLDENS / case, folder).checkpoint()


def _states(network, batch=2, length=128):
    width = network.config.states_width // 4
    return np.random.default_rng(4).normal(size=(batch, length, width, 4)).astype(np.float32)


def _apart(states, dtype=mx.float32):
    return [mx.array(states[..., number]).astype(dtype) for number in range(states.shape[-1])]


def _close(first, second):
    return all(np.allclose(a, b, atol=1e-4) for a, b in zip(first, second, strict=True))


def test_what_stands_at_padding_does_not_matter(network):
    states, mask = _states(network), np.ones((2, 128), np.int32)
    mask[0, :70], mask[1, 30:90] = 0, 0
    rubbish = np.where(mask[..., None, None] == 0, 1e4, states).astype(np.float32)
    assert _close(network(_apart(states), mask), network(_apart(rubbish), mx.array(mask)))


def test_padding_on_the_left_equals_padding_on_the_right(network):
    states = _states(network)
    mask = np.zeros((2, 128), np.int32)
    mask[:, -5:] = 1
    rolled = _apart(np.roll(states, 5, axis=1))
    assert _close(network(_apart(states), mask), network(rolled, np.roll(mask, 5, axis=1)))


def test_prompts_of_a_batch_do_not_meet(network):
    states, mask = _states(network), np.zeros((2, 128), np.int32)
    mask[0, -3:], mask[1, -50:] = 1, 1
    together = network(_apart(states), mask)
    for number in range(2):
        row = slice(number, number + 1)
        alone = network(_apart(states[row]), mask[row])
        assert _close([context[row] for context in together], alone)


def test_registers_stand_in_for_padding_by_place(network):
    """The same prompt in a longer context: more registers, and only they and attention to them differ."""
    connector = network.video_connector
    width = connector.learnable_registers.shape[1]
    entered = []

    class Watched:
        def __call__(self, tokens, rotary):
            entered.append(tokens)
            return tokens

    original, connector.blocks = connector.blocks, [Watched()]
    try:
        connector(mx.ones((2, 3, width)), np.array([3, 1]), 256)
    finally:
        connector.blocks = original
    tokens, registers = np.array(entered[0]), np.array(connector.learnable_registers)
    assert tokens.shape == (2, 256, width)
    assert np.all(tokens[0, :3] == 1) and np.all(tokens[1, :1] == 1)
    assert np.array_equal(tokens[0, 3:], np.concatenate([registers, registers])[3:])
    assert np.array_equal(tokens[1, 1:], np.concatenate([registers, registers])[1:])


def test_length_that_registers_do_not_fill_is_refused(network):
    with pytest.raises(RequestError, match="padded to 100 tokens; expected a multiple of 128"):
        network(_apart(_states(network, length=100)), np.ones((2, 100)))


def test_states_of_another_language_model_are_refused(network):
    states = _apart(_states(network))[:3]
    with pytest.raises(CheckpointError, match="gives 3 states of width"):
        network(states, np.ones((2, 128)))


def test_bfloat16_network_gives_bfloat16_contexts(tmp_path):
    network = load(TextFeatures, _checkpoint("text_connector_2_3", tmp_path), dtype=mx.bfloat16)
    contexts = network(_apart(_states(network), mx.bfloat16), np.ones((2, 128)))
    assert [context.dtype for context in contexts] == [mx.bfloat16] * 2


def _header(case: str, folder: Path, **changes) -> Header:
    header = _checkpoint(case, folder).header
    section = {**header.config["transformer"], **changes}
    section = {field: value for field, value in section.items() if value != "absent"}
    return Header(tensors=header.tensors, config={"transformer": section})


def test_half_described_caption_projection_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="caption projection"):
        TextFeatures.Config.from_header(_header("text_connector_2_3", tmp_path, caption_proj_input_norm="absent"))
    with pytest.raises(CheckpointError, match="caption projection"):
        TextFeatures.Config.from_header(_header("text_connector_2_3", tmp_path, caption_proj_input_norm=True))


def test_config_that_does_not_fit_the_connector_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="video connector 3 layers of width 18"):
        TextFeatures.Config.from_header(_header("text_connector_2_3", tmp_path, connector_num_attention_heads=3))


def test_audio_connector_is_as_the_video_connector_unless_it_says_otherwise(tmp_path):
    config = TextFeatures.Config.from_header(_header("text_connector_2_0", tmp_path))
    assert config.audio == config.video
    config = TextFeatures.Config.from_header(_header("text_connector_2_3", tmp_path))
    assert (config.audio.head_dim, config.audio.num_layers) == (4, 3)


def test_file_without_connectors_is_not_recognised():
    assert TextFeatures.Config.from_header(Header(tensors={}, config=json.loads("{}"))) is None
