"""Answers of Gemma's chat models to an instruction, token by token, through mlx-lm's generation."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.chat_gemma4 import ChatGemma4, ChatGemma4Config
from LTX_2_MLX.checkpoints.gemma3 import Gemma, GemmaConfig
from LTX_2_MLX.checkpoints.gemma_tokenizer import GemmaTokenizer, tokenizer_of
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import CheckpointError

# Gemma 4 may put an empty thought in front of its answer.
_THOUGHT_END = "<channel|>"
Processor = Callable[[mx.array, mx.array], mx.array]


@dataclass(frozen=True)
class ChatForm:
    """How a chat model is asked, and how it answers.

    Attributes:
        network: Class of the model.
        turns: Text of a conversation up to the answer, with ``{instruction}`` and ``{request}``.
        end: Token after an answer.
        most_tokens: Length of an answer at most.
        temperature: Of sampling; 0 takes the most probable token.
        no_repeat: Runs of so many tokens do not occur twice; 0 for no limit.
    """

    network: type[Any]
    turns: str
    end: str
    most_tokens: int
    temperature: float = 0.0
    no_repeat: int = 0


# Turns of the published chat templates; the other settings are those of Lightricks/LTX-2,
# ltx_core/text_encoders/gemma/encoders/base_encoder.py at 400fd31.
_GEMMA3 = ChatForm(
    network=Gemma,
    turns="<start_of_turn>user\n{instruction}\n\n{request}<end_of_turn>\n<start_of_turn>model\n",
    end="<end_of_turn>",
    most_tokens=512,
    temperature=0.7,
)
_GEMMA4 = ChatForm(
    network=ChatGemma4,
    turns="<|turn>system\n{instruction}<turn|>\n<|turn>user\n{request}<turn|>\n<|turn>model\n",
    end="<turn|>",
    most_tokens=600,
    no_repeat=5,
)


def chat_form(folder: Path) -> ChatForm:
    """The form of the chat model in a folder.

    Raises:
        CheckpointError: If there is none, or its tokenizer has no token for the end of an answer.
    """
    checkpoint = Checkpoint(folder)
    header = checkpoint.header
    form = _GEMMA3 if GemmaConfig.from_header(header) is not None else None
    if form is None and ChatGemma4Config.from_header(header) is not None:
        form = _GEMMA4
    if form is None or not tokenizer_of(checkpoint).has(form.end):
        raise CheckpointError(f"{folder} is no chat model of the Gemma family, so it cannot rewrite a prompt.")
    return form


def question(form: ChatForm, tokenizer: GemmaTokenizer, instruction: str, request: str) -> list[int]:
    """Token ids of a conversation up to the answer."""
    return tokenizer.ids(form.turns.format(instruction=instruction, request=request))


def answer(network: Any, form: ChatForm, tokenizer: GemmaTokenizer, ids: list[int], key: mx.array) -> str:
    """The text that a chat model answers to a conversation.

    Args:
        network: A ``Gemma`` or a ``ChatGemma4`` with its weights.
        form: From ``chat_form``.
        tokenizer: Of the same folder.
        ids: From ``question``.
        key: Of the random numbers for sampling.
    """
    # mlx-lm takes seconds to import.
    from mlx_lm.generate import generate_step

    logits, cache = _with_cache(network)
    steps = generate_step(
        mx.array(ids),
        logits,
        max_tokens=form.most_tokens,
        sampler=_sampler(form.temperature, key),
        logits_processors=[_without_repeats(form.no_repeat)] if form.no_repeat else None,
        prompt_cache=cache,
    )
    end = tokenizer.id_of(form.end)
    written: list[int] = []
    for token, _ in steps:
        if int(token) in (end, tokenizer.id_of("<eos>")):
            break
        written.append(int(token))
    steps.close()
    thought_end = tokenizer.id_of(_THOUGHT_END)
    if thought_end in written:
        written = written[written.index(thought_end) + 1 :]
    return tokenizer.text(written)


def _with_cache(network: Any) -> tuple[Any, list[Any]]:
    """A function from new tokens to logits, and the empty keys and values of all layers."""
    from mlx_lm.models.cache import KVCache, RotatingKVCache

    if isinstance(network, ChatGemma4):
        return network.language, network.language.make_cache()
    body = network.model

    def logits(tokens: mx.array, cache: list[Any]) -> mx.array:
        scores: mx.array = body.embed_tokens.as_linear(body(tokens, cache))
        return scores

    sliding = [layer.self_attn.is_sliding for layer in body.layers]
    window = network.config.sliding_window
    return logits, [RotatingKVCache(max_size=window) if each else KVCache() for each in sliding]


def _sampler(temperature: float, key: mx.array) -> Callable[[mx.array], mx.array]:
    """Draws a token from log probabilities ``(B, V)``, from a sequence of keys of its own."""
    state = key

    def draw(logprobs: mx.array) -> mx.array:
        nonlocal state
        if temperature == 0:
            return mx.argmax(logprobs, axis=-1)
        state, now = mx.random.split(state)
        return mx.random.categorical(logprobs.astype(mx.float32) / temperature, key=now)

    return draw


def _without_repeats(length: int) -> Processor:
    """Rules out each token that would end a run of ``length`` tokens which occurred before."""

    def rule_out(tokens: mx.array, logits: mx.array) -> mx.array:
        seen = np.array(tokens)
        last = seen[len(seen) - length + 1 :]
        windows = np.lib.stride_tricks.sliding_window_view(seen, length) if len(seen) >= length else seen[:0, None]
        repeated = windows[(windows[:, :-1] == last).all(axis=1), -1] if len(windows) else seen[:0]
        if len(repeated):
            logits[:, mx.array(repeated)] = -mx.inf
        return logits

    return rule_out
