"""Answers of Gemma's chat models."""

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from safetensors.numpy import save_file
from tiny_checkpoints import GEMMA_CASE, write_gemma

from LTX_2_MLX.checkpoints.chat import _without_repeats, answer, chat_form, question
from LTX_2_MLX.checkpoints.chat_gemma4 import ChatGemma4, ChatGemma4Config
from LTX_2_MLX.checkpoints.gemma3 import Gemma
from LTX_2_MLX.checkpoints.gemma_tokenizer import GemmaTokenizer
from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError

TEXT = {
    "model_type": "gemma4_text", "hidden_size": 32, "num_hidden_layers": 6, "intermediate_size": 48,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8, "global_head_dim": 16, "vocab_size": 420,
    "vocab_size_per_layer_input": 420, "hidden_size_per_layer_input": 4, "num_kv_shared_layers": 3,
    "use_double_wide_mlp": True, "sliding_window": 8,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
}  # fmt: skip


def write_chat_gemma4(folder):
    """A small Gemma 4 chat model as its folder is published: unused projections and towers included."""
    folder.mkdir(parents=True, exist_ok=True)
    network = ChatGemma4(ChatGemma4Config(TEXT, unused=(3, 4, 5)))
    random = np.random.default_rng(4)
    arrays = {"model.vision_tower.x.weight": np.zeros((2, 2), np.float32)}
    for name, value in tree_flatten(network.parameters()):
        noise = random.normal(size=value.shape).astype(np.float32)
        is_gain = "norm" in name or "layer_scalar" in name
        published = name.replace("language.model.", "model.language_model.")
        arrays[published] = np.ones_like(noise) if is_gain else noise / np.float32(np.sqrt(value.shape[-1]))
    save_file(arrays, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma4", "text_config": TEXT}))
    text = (GEMMA_CASE / "tokenizer.json").read_text()
    text = text.replace("<start_of_turn>", "<|turn>").replace("<end_of_turn>", "<turn|>")
    (folder / "tokenizer.json").write_text(text)
    shutil.copy(GEMMA_CASE / "tokenizer_config.json", folder / "tokenizer_config.json")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    return {"gemma3": write_gemma(folder / "gemma3"), "gemma4": write_chat_gemma4(folder / "gemma4")}


def logits_of(network, ids):
    """Logits after a whole sequence, without any cache."""
    tokens = mx.array([ids])
    if isinstance(network, ChatGemma4):
        return network.language(tokens)[0, -1]
    return network.model.embed_tokens.as_linear(network.model(tokens))[0, -1]


@pytest.mark.parametrize("kind", ["gemma3", "gemma4"])
def test_answer_is_that_of_whole_passes_without_a_cache(folders, kind):
    folder = folders[kind]
    form = chat_form(folder)
    network = load(form.network, Checkpoint(folder), dtype=mx.float32)
    tokenizer = GemmaTokenizer.from_folder(folder)
    ids = question(form, tokenizer, "Rewrite it.", "a red ball")
    # More tokens than the sliding windows of the layers have.
    greedy = type(form)(form.network, form.turns, form.end, most_tokens=12, no_repeat=form.no_repeat)
    written = answer(network, greedy, tokenizer, ids, mx.random.key(1))
    wanted = list(ids)
    for _ in range(12):
        logits = logits_of(network, wanted)[None]
        if form.no_repeat:
            logits = _without_repeats(form.no_repeat)(mx.array(wanted), logits)
        token = int(mx.argmax(logits[0]))
        if token in (1, tokenizer.id_of(form.end)):
            break
        wanted.append(token)
    assert len(wanted) > len(ids) + 3
    assert written == tokenizer.text(wanted[len(ids) :])


def test_turns_are_the_published_ones(folders):
    tokenizer = GemmaTokenizer.from_folder(folders["gemma3"])
    ids = question(chat_form(folders["gemma3"]), tokenizer, "x", "y")
    start, end = tokenizer.id_of("<start_of_turn>"), tokenizer.id_of("<end_of_turn>")
    assert ids[:2] == [2, start] and ids.count(start) == 2 and ids.count(end) == 1
    form = chat_form(folders["gemma4"])
    assert (form.temperature, form.no_repeat, form.most_tokens) == (0.0, 5, 600)


def test_sampling_follows_its_key(folders):
    folder = folders["gemma3"]
    form, tokenizer = chat_form(folder), GemmaTokenizer.from_folder(folder)
    network = load(Gemma, Checkpoint(folder), dtype=mx.float32)
    ids = question(form, tokenizer, "Rewrite it.", "a red ball")
    texts = [answer(network, form, tokenizer, ids, mx.random.key(key)) for key in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]


def test_runs_of_tokens_do_not_occur_twice():
    rule_out = _without_repeats(3)
    seen = mx.array([1, 2, 3, 4, 1, 2, 5, 1, 2])
    allowed = np.isfinite(np.array(rule_out(seen, mx.zeros((1, 7)))[0]))
    assert allowed.tolist() == [True, True, True, False, True, False, True]
    assert np.isfinite(np.array(rule_out(seen[:2], mx.zeros((1, 7))))).all()


def test_text_encoder_that_does_not_chat_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders["gemma3"], tmp_path / "plain")
    text = (folder / "tokenizer.json").read_text().replace("<end_of_turn>", "<unused>")
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match="no chat model"):
        chat_form(folder)
