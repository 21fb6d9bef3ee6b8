import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.layers.transformer import Attention


@pytest.fixture
def attention():
    mx.random.seed(3)
    return Attention(10, heads=3, head_dim=4, context_width=7, gated=True)


def _random(*shape):
    return mx.array(np.random.default_rng(2).normal(size=shape).astype(np.float32))


def _formula(attention, tokens, context):
    """The same in plain steps, one head at a time, in float64."""

    def linear(layer, x):
        return x @ np.array(layer.weight, np.float64).T + np.array(layer.bias, np.float64)

    def normed(layer, x):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + layer.eps) * np.array(layer.weight, np.float64)

    tokens, context = np.array(tokens, np.float64), np.array(context, np.float64)
    queries = normed(attention.q_norm, linear(attention.to_q, tokens))
    keys = normed(attention.k_norm, linear(attention.to_k, context))
    values, gates = linear(attention.to_v, context), linear(attention.to_gate_logits, tokens)
    heads = []
    for head in range(3):
        features = slice(4 * head, 4 * head + 4)
        logits = queries[..., features] @ keys[..., features].swapaxes(1, 2) / 2
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        heads.append(weights @ values[..., features] * 2 / (1 + np.exp(-gates[..., head : head + 1])))
    return linear(attention.to_out, np.concatenate(heads, axis=-1))


def test_attention_agrees_with_its_formula(attention):
    tokens, context = _random(2, 5, 10), _random(2, 6, 7)
    attention.q_norm.weight = _random(12)
    assert np.allclose(attention(tokens, context), _formula(attention, tokens, context), atol=1e-5)


def test_masked_context_equals_shorter_context(attention):
    tokens, context = _random(2, 5, 10), _random(2, 6, 7)
    mask = mx.array([1, 1, 0, 1, 0, 1]).astype(mx.bool_)[None, None, None]
    shorter = context[:, mx.array([0, 1, 3, 5])]
    assert np.allclose(attention(tokens, context, mask=mask), attention(tokens, shorter), atol=1e-5)


def test_bypass_passes_values_on_for_those_samples_alone():
    attention = Attention(10, heads=3, head_dim=4)
    tokens = _random(2, 5, 10)
    half = attention(tokens, bypass=np.array([True, False]))
    assert np.allclose(half[:1], attention.to_out(attention.to_v(tokens[:1])), atol=1e-6)
    assert np.allclose(half[1:], attention(tokens[1:]), atol=1e-5)
    assert np.allclose(half[:1], attention(tokens[:1], bypass=np.array([True])), atol=1e-6)
    assert not np.allclose(half[:1], attention(tokens[:1]), atol=1e-3)
