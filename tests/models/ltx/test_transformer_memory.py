from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.bench.workloads import PUBLISHED, stand_in, transformer_config
from LTX_2_MLX.models.ltx.config import transformer_bytes
from LTX_2_MLX.models.ltx.transformer import StreamInput, Transformer
from LTX_2_MLX.ops.device import on_cpu

TEXT_TOKENS = 128
SIGMA = mx.array([0.7])


def stream(features, positions):
    """Random tokens and text of one stream."""
    count = positions.shape[2]
    latent, context = mx.random.normal((1, count, 128)), mx.random.normal((1, TEXT_TOKENS, features))
    mx.eval(latent, context)
    return StreamInput(latent, SIGMA, positions, context)


@pytest.mark.skipif(not on_cpu(), reason="the arrays of a GPU are counted, not measured")
@pytest.mark.parametrize(
    ("heads", "shape", "audio"),
    [(2, (5, 12, 18), 0), (2, (5, 12, 18), 40), (4, (9, 16, 22), 40)],
    ids=["silent", "with audio", "in two runs of tokens"],
)
def test_planned_memory_of_a_pass_is_above_the_measured_one_and_near_it(heads, shape, audio):
    flags = {"gated_attention": True, "text_modulation": True, "prompt_modulation": True, "caption_channels": None}
    config = replace(transformer_config(replace(PUBLISHED, heads=heads, layers=2), audio=bool(audio)), **flags)
    network = stand_in(Transformer(config), mx.float32)
    places = np.indices(shape, dtype=np.float32).reshape(1, 3, -1, 1)
    inputs = [stream(config.video.width, np.concatenate([places, places + 1], axis=-1)), None]
    if config.audio is not None:
        times = np.arange(audio, dtype=np.float32).reshape(1, 1, -1, 1)
        inputs[1] = stream(config.audio.width, np.concatenate([times, times + 1], axis=-1))
    mx.eval(network.parameters())
    tokens = int(np.prod(shape))
    planned = transformer_bytes(
        config, tokens=tokens, audio_tokens=audio, text_tokens=TEXT_TOKENS, prompts=1, dtype=mx.float32
    )
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(network(*inputs, evaluate_blocks=True))
    measured = mx.get_peak_memory() - before
    assert measured <= planned < 1.25 * measured
