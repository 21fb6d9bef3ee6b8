"""Prompt enhancement: a chat model rewrites the prompt before the text encoder reads it."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from LTX_2_MLX.checkpoints.chat import answer, chat_form, question
from LTX_2_MLX.checkpoints.gemma3 import GemmaConfig
from LTX_2_MLX.checkpoints.gemma_tokenizer import tokenizer_of
from LTX_2_MLX.checkpoints.load import load, quantization_for
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.checkpoints.resolve import DOWNLOAD, entries_for_role, installed_path
from LTX_2_MLX.errors import OutputError, RequestError
from LTX_2_MLX.pipelines.generation.files import Models
from LTX_2_MLX.pipelines.generation.request import Request
from LTX_2_MLX.planning.plan import Estimate, largest_tensor_bytes, network_weights_bytes
from LTX_2_MLX.runtime import launch
from LTX_2_MLX.runtime.runner import StageRunner

# The same prompt is rewritten to the same text, whatever the seed of the video.
_KEY = 10
# Arrays ``(N, D)`` of one layer that live at once while the question is read, and bytes of keys and values for each
# token and layer in 16 bit, beside the scores over the vocabulary.
_HIDDEN_ARRAYS = 16
_FORM = (
    "Answer with the rewritten prompt alone: one paragraph of plain English, at most 200 words, no heading, no list, "
    "no quotation marks around it and no remark of your own. If the request cannot be carried out, repeat it unchanged."
)
_RULES = (
    "Keep every element of the request, and add none that contradicts it. Where the request is vague, choose concrete "
    "details. Tell what happens in the order in which it happens, in the present continuous. Describe only what a "
    "camera and a microphone record, in sober words: plain colours, ordinary light, no superlatives. Let sounds come "
    "where they belong in the action: surroundings, footsteps, speech, music if it is wanted. Characters speak only if "
    "the request has them speak; then quote their words exactly and say how they sound. Move the camera only if the "
    "request says so. Name no times, cuts or scenes. Begin with the style or with the action itself."
)
TEXT_INSTRUCTION = (
    "You write prompts for a model that makes a video with sound from a description. Turn the request of the user into "
    f"such a prompt: who or what is there and how it looks, the place, the light, the movement, the sound. {_RULES} "
    f"{_FORM}"
)
IMAGE_INSTRUCTION = (
    "You write prompts for a model that continues a given still image into a video with sound. You do not see the "
    "image, which is the first frame; so do not describe how things look, but only what changes from there on: "
    f"movement, action, sound. {_RULES} {_FORM}"
)
IMAGE_NOTE = "The chat model does not see --image: the prompt is rewritten for what moves and sounds after that frame."


def chat_model(models: Models) -> Path:
    """Folder of the chat model that belongs to a model: its text encoder, or for LTX-2.5 a Gemma 4 of its own.

    Raises:
        RequestError: If it is not on this machine.
        CheckpointError: If the text encoder is no chat model.
    """
    encoder = models.text_encoder_files
    if encoder.is_dir() or GemmaConfig.from_header(Checkpoint(encoder).header) is not None:
        chat_form(encoder)
        return encoder
    entries = entries_for_role("prompt-enhancer")
    for entry in entries:
        path = installed_path(entry)
        if path is not None:
            chat_form(path)
            return path
    raise RequestError(
        f"The text encoder of LTX-2.5 does not chat, and {entries[0].name} is not on this machine. Leave out "
        f"--enhance-prompt, or get it: {DOWNLOAD} {entries[0].name}"
    )


def most_tokens(folder: Path) -> int:
    """Tokens of a rewritten prompt at most."""
    return chat_form(folder).most_tokens


@dataclass(frozen=True)
class EnhancePrompt:
    """Chat model: the prompt to a more detailed one. Runs before the stages of the pipeline."""

    request: Request
    name = "prompt_enhancer"

    def estimate(self) -> Estimate:
        """The model, and keys and values of the question and of the longest answer."""
        form = chat_form(self._folder)
        checkpoint = Checkpoint(self._folder)
        config: Any = form.network.Config.from_header(checkpoint.header)
        sizes = config.text if hasattr(config, "text") else vars(config)
        tokens = len(self._question()) + form.most_tokens
        dtype = self.request.models.text_dtype
        cached = 2 * sizes["num_hidden_layers"] * sizes["num_key_value_heads"] * sizes["head_dim"]
        each = (cached + _HIDDEN_ARRAYS * sizes["hidden_size"]) * dtype.size
        logits = len(self._question()) * sizes["vocab_size"] * dtype.size
        return Estimate(
            name=self.name,
            work=f"up to {form.most_tokens} tokens",
            file=self._folder,
            weights_bytes=network_weights_bytes([form.network], checkpoint, **self._load_options(checkpoint)),
            activation_bytes=tokens * each + logits,
            array_bytes=max(largest_tensor_bytes(form.network, checkpoint, dtype), logits),
        )

    def run(self, runner: StageRunner, value: None = None) -> str:
        """The rewritten prompt.

        Raises:
            OutputError: If the model answers nothing.
        """
        form = chat_form(self._folder)
        checkpoint = Checkpoint(self._folder)
        tokenizer = tokenizer_of(Checkpoint(self._folder))
        text = runner.run(
            self.name,
            partial(load, form.network, checkpoint, **self._load_options(checkpoint)),
            lambda network: answer(network, form, tokenizer, self._question(), mx.random.key(_KEY)),
        )
        text = " ".join(text.split())
        if not text:
            raise OutputError("The chat model answered nothing. Leave out --enhance-prompt, or word the prompt anew.")
        return text

    @property
    def _folder(self) -> Path:
        assert self.request.enhancer is not None
        return self.request.enhancer

    def _question(self) -> list[int]:
        form = chat_form(self._folder)
        instruction = IMAGE_INSTRUCTION if self.request.images else TEXT_INSTRUCTION
        tokenizer = tokenizer_of(Checkpoint(self._folder))
        return question(form, tokenizer, instruction, f"The request: {self.request.prompt.strip()}")

    def _load_options(self, checkpoint: Checkpoint) -> dict[str, Any]:
        models = self.request.models
        network = chat_form(self._folder).network
        bits = models.quantize if hasattr(network, "quantizes") else None
        quantize = None if bits is None else quantization_for(network, checkpoint, bits)
        return {"dtype": models.text_dtype, "quantize": quantize}


def _answer(request: Request, runner: StageRunner) -> str:
    """The rewritten prompt; of several machines the first one asks."""
    if launch.RANK is None:
        return EnhancePrompt(request).run(runner)
    from LTX_2_MLX.pipelines.generation.sharing import answer_of_first

    return answer_of_first(lambda: EnhancePrompt(request).run(runner))


def enhanced(request: Request, runner: StageRunner) -> Request:
    """The request with its prompt rewritten and noted; as it is where that is not asked for."""
    if request.enhancer is None:
        return request
    if request.images:
        runner.progress.note(IMAGE_NOTE)
    text = _answer(request, runner)
    runner.progress.note(f"Prompt: {text}")
    return replace(request, prompt=text, enhancer=None)
