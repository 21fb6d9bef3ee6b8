"""Stand-in files are to the loader what the published ones are."""

import pytest

from LTX_2_MLX.bench.flashvsr import write_files
from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.models.flashvsr.lq_projection import LQProjection
from LTX_2_MLX.models.wan.transformer import WanTransformer
from LTX_2_MLX.pipelines.super_resolve import Request
from LTX_2_MLX.pipelines.super_resolve.decoders import DECODERS
from LTX_2_MLX.pipelines.super_resolve.files import open_files


@pytest.mark.parametrize(("options", "decoder"), [({}, "tcd"), ({"mode": "full", "vae_type": "light"}, "light")])
def test_every_stand_in_file_is_found_and_loads(options, decoder, tmp_path):
    write_files(tmp_path, dim=128, layers=2, widths=8)
    files = open_files(Request(weights=str(tmp_path), **options))
    assert files.decoder_name == decoder and files.read_prompt().shape == (512, 64)
    network = load(WanTransformer, files.transformer)
    assert len(network.blocks) == 2 and network.config.dim == 128
    assert load(LQProjection, files.projector).config.token_dim == 128
    load(DECODERS[decoder].network, files.decoder)
