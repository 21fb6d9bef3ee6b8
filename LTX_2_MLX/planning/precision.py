"""Precision of every network: the one table of data types, by network and backend."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx

from LTX_2_MLX.ops.device import on_cpu

NetworkName = Literal[
    "text encoder", "text connectors", "duration head", "transformer", "latent upscaler", "video VAE", "sound",
    "latent statistics", "RIFE", "Real-ESRGAN", "FlashVSR",
]  # fmt: skip
Precision = Literal["fp16", "bf16", "fp32", "file"]

DTYPES = {"fp16": mx.float16, "bf16": mx.bfloat16, "fp32": mx.float32}
PRECISIONS = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Rule:
    """What a network runs in unless the user asks for another precision.

    Attributes:
        gpu: On a GPU; ``file``: the 16-bit type that most of its file is stored in.
        fp16: What ``--fp16`` gives; None where no flag changes the precision.
        reason: Why, in a few words.
    """

    gpu: Precision
    fp16: Precision | None
    reason: str


# On MLX's CPU backend all of them run in float32: 16-bit products are slow there.
RULES: dict[NetworkName, Rule] = {
    "text encoder": Rule("file", "bf16", "states of Gemma exceed float16's range"),
    "text connectors": Rule("file", "bf16", "they read these states"),
    "duration head": Rule("fp32", None, "small; seconds are an exponential"),
    "transformer": Rule("file", "fp16", "sums, norms and softmax are float32 inside"),
    "latent upscaler": Rule("file", "fp16", "group norms are float32 inside"),
    "video VAE": Rule("file", "fp16", "--decode-dtype float32 decodes in float32"),
    "sound": Rule("fp32", None, "small; the reference runs the vocoder so"),
    "latent statistics": Rule("fp32", None, "two vectors"),
    "RIFE": Rule("fp32", "fp16", "small; flow is in pixels"),
    "Real-ESRGAN": Rule("fp16", "fp16", "half the memory; --fp32 for float32"),
    "FlashVSR": Rule("bf16", "fp16", "as published; --dtype fp32 or fp16"),
}


def dtype_for(network: NetworkName, *, asked: str | None = None, stored: mx.Dtype | None = None) -> mx.Dtype:
    """The data type that a network runs in on this backend.

    Args:
        network: One of ``RULES``.
        asked: ``fp16``, ``bf16`` or ``fp32``, as the user wants it; None leaves it to the table.
        stored: Type of the file, for networks that keep it.
    """
    rule = RULES[network]
    if rule.fp16 is None:
        return mx.float32
    if asked is not None:
        return DTYPES[rule.fp16 if asked == "fp16" else asked]
    if on_cpu():
        return mx.float32
    if rule.gpu != "file":
        return DTYPES[rule.gpu]
    if stored == mx.float16:
        return DTYPES[rule.fp16]
    return stored or mx.bfloat16


def dtype_name(dtype: mx.Dtype) -> str:
    """A type's own name, such as bfloat16."""
    return str(dtype).rpartition(".")[2]


def lines() -> Iterator[str]:
    """The table in Markdown."""
    yield "| network | on a Mac or NVIDIA | with --fp16 | on a CPU | why |"
    yield "|---|---|---|---|---|"
    names: dict[str | None, str] = {"file": "the file's 16-bit type", None: "float32"}
    names |= {key: dtype_name(value) for key, value in DTYPES.items()}
    for network, rule in RULES.items():
        yield f"| {network} | {names[rule.gpu]} | {names[rule.fp16]} | float32 | {rule.reason} |"
