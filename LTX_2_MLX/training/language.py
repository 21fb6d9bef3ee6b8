"""The text side of the model in the box: a tiny Gemma 3 folder, and features trained to tell scenes apart.

The language model keeps its random weights: distinct tokens in order are all that is needed of it. What a caption
means is learned by the aggregate projection and the connector, from probes that read the scene off their context.
The transformer is trained afterwards on contexts that no longer change.
"""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from safetensors.numpy import save_file

from LTX_2_MLX.checkpoints.gemma3 import TextEncoder, encode_prompts
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.training import world
from LTX_2_MLX.training.captions import caption, corpus, no_caption
from LTX_2_MLX.training.loop import Batch, Batches, Settings, train

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Tokens of a padded prompt, and rows of the connector's registers.
LENGTH = 32
VOCABULARY = 1200
GEMMA: dict[str, Any] = {
    "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 24, "query_pre_attn_scalar": 24, "sliding_window": 1024,
    "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6, "model_type": "gemma3_text",
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
}  # fmt: skip
CONTEXT_WIDTH = 128
# What the probes read off a context.
ASPECTS = {
    "thing": world.THINGS,
    "colour": tuple(world.COLOURS),
    "motion": world.MOTIONS,
    "background": world.BACKGROUNDS,
    "size": tuple(world.SIZES),
}


def write_gemma(folder: Path, seed: int = 0) -> None:
    """A folder in the form of google/gemma-3: config, tokenizer trained on plain captions, random weights."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    config = {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "eos_token_id": [1],
        "text_config": GEMMA, "torch_dtype": "bfloat16",
    }  # fmt: skip
    _write_json(folder / "config.json", config)
    tokens = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    _write_json(
        folder / "tokenizer_config.json",
        {"add_bos_token": True, "add_eos_token": False, **tokens, "model_max_length": LENGTH,
         "tokenizer_class": "GemmaTokenizer"},
    )  # fmt: skip
    _write_json(folder / "special_tokens_map.json", tokens)
    _train_tokenizer(rng).save(str(folder / "tokenizer.json"))
    save_file(_gemma_weights(rng), str(folder / "model.safetensors"), metadata={"format": "pt"})


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _train_tokenizer(rng: np.random.Generator) -> "Tokenizer":
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Punctuation()]
    )
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, show_progress=False)
    scenes = iter(lambda: world.sample_scene(rng), None)
    tokenizer.train_from_iterator(corpus(rng, scenes, 8000), trainer)
    # Bytes are ordinary tokens to everyone but the trainer: "<0x41>" in a prompt is text.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", 2)]
    )
    return tokenizer


def _gemma_weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    width, inner = GEMMA["hidden_size"], GEMMA["intermediate_size"]
    queries = GEMMA["num_attention_heads"] * GEMMA["head_dim"]
    keys = GEMMA["num_key_value_heads"] * GEMMA["head_dim"]
    matrices = {
        "self_attn.q_proj": (queries, width), "self_attn.k_proj": (keys, width), "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries), "mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }  # fmt: skip
    # The network multiplies embeddings by the root of its width.
    shapes = {"embed_tokens": (VOCABULARY, width)}
    norms = {"norm": width}
    for layer in range(GEMMA["num_hidden_layers"]):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in matrices.items()}
        for place in ("input", "post_attention", "pre_feedforward", "post_feedforward"):
            norms[f"layers.{layer}.{place}_layernorm"] = width
        norms |= {f"layers.{layer}.self_attn.{name}_norm": GEMMA["head_dim"] for name in "qk"}
    tensors = {name: rng.standard_normal(shape) / math.sqrt(shape[1]) for name, shape in shapes.items()}
    tensors |= {name: np.zeros(size) for name, size in norms.items()}
    return {f"language_model.model.{name}.weight": value.astype(np.float16) for name, value in tensors.items()}


class Probed(nn.Module):
    """Text features with linear probes of every aspect on the mean of their context."""

    def __init__(self, features: TextFeatures):
        super().__init__()
        self.features = features
        self.probes = {name: nn.Linear(CONTEXT_WIDTH, len(values)) for name, values in ASPECTS.items()}


def _loss(network: Probed, batch: Batch, key: mx.array) -> tuple[mx.array, dict[str, mx.array]]:
    states = [batch[f"state_{number}"] for number in range(GEMMA["num_hidden_layers"] + 1)]
    context, _ = network.features(states, batch["mask"])
    mean = context.mean(axis=1)
    total, figures = mx.array(0.0), {}
    for name in ASPECTS:
        logits = network.probes[name](mean)
        total = total + nn.losses.cross_entropy(logits, batch[name], reduction="mean")
        figures[name] = (logits.argmax(axis=-1) == batch[name]).mean()
    return total, figures


def caption_batches(encoder: TextEncoder) -> Batches:
    """Batches of captions as the language model's states, and what the captions say."""

    def batches(rng: np.random.Generator, count: int) -> Batch:
        scenes = [world.sample_scene(rng) for _ in range(count)]
        states, mask = encode_prompts(encoder, [caption(scene, rng) for scene in scenes])
        batch = {f"state_{number}": state for number, state in enumerate(states)} | {"mask": mask}
        for name, values in ASPECTS.items():
            batch[name] = mx.array([values.index(getattr(scene, name)) for scene in scenes])
        return batch

    return batches


def train_features(encoder: TextEncoder, features: TextFeatures, settings: Settings, folder: Path) -> TextFeatures:
    """Train projection and connector until the probes read every aspect."""
    features.unfreeze()
    return train(Probed(features), _loss, caption_batches(encoder), settings, folder).features


def contexts(encoder: TextEncoder, features: TextFeatures, prompts: list[str]) -> np.ndarray:
    """The video contexts of prompts, ``(prompts, 32, 128)`` float32."""
    parts = []
    for start in range(0, len(prompts), 256):
        states, mask = encode_prompts(encoder, prompts[start : start + 256])
        parts.append(np.array(features(states, mask)[0]))
    return np.concatenate(parts)


__all__ = ["contexts", "no_caption", "train_features", "write_gemma"]
