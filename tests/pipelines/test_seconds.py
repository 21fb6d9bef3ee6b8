"""Time of denoising against published measurements."""

import gzip
import json
from pathlib import Path

import mlx.core as mx
import pytest

from LTX_2_MLX.models.interfaces import Header, TensorInfo
from LTX_2_MLX.models.ltx.transformer import TransformerConfig
from LTX_2_MLX.pipelines.seconds import denoising_seconds, transformer_operations

MANIFEST = Path(__file__).parents[1] / "manifests" / "ltx-2-19b-distilled.safetensors.transformer.json.gz"


@pytest.fixture(scope="module")
def config():
    spec = json.loads(gzip.decompress(MANIFEST.read_bytes()))
    tensors = {name: TensorInfo(tuple(shape), dtype, 0) for name, (shape, dtype) in spec["tensors"].items()}
    given = spec["metadata"]["config"]
    given = json.loads(given) if isinstance(given, str) else given
    return TransformerConfig.from_header(Header(tensors, config=given))


# Seconds of a step on an M1 Max, dmlsrc/LTX-2-MLX, docs/PERFORMANCE.md.
@pytest.mark.parametrize(("tokens", "seconds"), [(8784, 45.5), (35136, 313.5)])
def test_published_steps_come_out_within_ten_percent(config, tokens, seconds):
    operations = transformer_operations(config, tokens=tokens, audio_tokens=501, text_tokens=1024)
    assert denoising_seconds(operations, 1, "Apple M1 Max") == pytest.approx(seconds, rel=0.1)
    assert denoising_seconds(operations, 30, "Apple M1 Max") == pytest.approx(30 * seconds, rel=0.1)


def test_unknown_machine_is_not_guessed_at(config):
    operations = transformer_operations(config, tokens=64, audio_tokens=1, text_tokens=8)
    assert denoising_seconds(operations, 1, "some other chip") is None
    if mx.default_device() == mx.Device(mx.cpu):
        assert denoising_seconds(operations, 1) is None


def test_operations_grow_with_every_length(config):
    given = {"tokens": 100, "audio_tokens": 20, "text_tokens": 30}
    base = transformer_operations(config, **given)
    for name, value in given.items():
        assert transformer_operations(config, **given | {name: 2 * value}) > base
