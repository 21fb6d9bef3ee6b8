"""The diffusion decoder's plan beside what it takes."""

import json
from pathlib import Path

import pytest

from LTX_2_MLX.development.decoder_memory import decoder_peak
from LTX_2_MLX.errors import MemoryBudgetError
from LTX_2_MLX.models.interfaces import Header
from LTX_2_MLX.models.ltx import diffusion_decoder_memory
from LTX_2_MLX.models.ltx.diffusion_decoder import DiffusionVideoDecoder
from LTX_2_MLX.models.ltx.diffusion_decoder_config import DiffusionDecoderConfig
from LTX_2_MLX.shapes import VideoShape

CASE = Path(__file__).parents[2] / "goldens/ltx25/video_vae_file/roundtrip/case.json"
# Pieces of a few frames even of these small videos, as large ones have them.
PIECE_TOKENS = 2048
SIZES = [(25, 128, 192), (65, 96, 160), (9, 96, 288), (49, 64, 128), (17, 160, 96)]
TOLERANCE = 0.15
PLENTY = 2**40


@pytest.fixture(scope="module")
def decoder() -> DiffusionVideoDecoder:
    metadata = json.loads(CASE.read_text())["metadata"]
    return DiffusionVideoDecoder(DiffusionDecoderConfig.from_header(Header(tensors={}, config=metadata["config"])))


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_plan_is_within_15_percent_of_the_measured_peak(decoder, size, monkeypatch):
    monkeypatch.setattr(diffusion_decoder_memory, "PIECE_TOKENS", PIECE_TOKENS)
    decoder.piece_tokens = PIECE_TOKENS
    diffusion_decoder_memory.decoding_plan.cache_clear()
    peak = decoder_peak(decoder, VideoShape(*size), "chunked", budget=PLENTY)
    diffusion_decoder_memory.decoding_plan.cache_clear()
    assert abs(peak.planned / peak.measured - 1) < TOLERANCE


def test_less_memory_means_smaller_tiles_or_a_refusal(decoder):
    config = decoder.config
    latent = VideoShape(97, 256, 384).latent(config.compression)
    dtype = decoder.conv_in.weight.dtype
    whole = diffusion_decoder_memory.decoding_plan(config, latent, budget=PLENTY, dtype=dtype)
    assert (whole.tiling.height.size, whole.tiling.width.size) == (256, 384)
    less = diffusion_decoder_memory.decoding_plan(config, latent, budget=whole.num_bytes // 2, dtype=dtype)
    assert less.num_bytes <= whole.num_bytes // 2
    assert less.tiling != whole.tiling
    with pytest.raises(MemoryBudgetError, match="--video-decoder conv"):
        diffusion_decoder_memory.decoding_plan(config, latent, budget=2**20, dtype=dtype)
