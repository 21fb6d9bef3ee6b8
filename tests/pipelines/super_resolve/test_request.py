import pytest

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.pipelines.super_resolve import Request


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.5}, "scale is 0.5, it can be from 1 to 8"),
        ({"sparse_ratio": 6}, "from 0.5 to 5"),
        ({"kv_ratio": 0.5}, "from 1 to 8"),
        ({"local_range": 17}, "from 3 to 15"),
        ({"local_range": 10}, "odd"),
        ({"tile_size": 20}, "from 48 to 1024"),
        ({"overlap": 200}, "from 0 to 128"),
        ({"tile_dit": True, "overlap": 0, "scale": 1.5}, "gaps"),
        ({"version": "v2"}, "v1, v1.1"),
        ({"color_fix": "yes"}, "wavelet, adain, none"),
        ({"attention": "flash"}, "block, sage, dense"),
        ({"dtype": "int8"}, "fp16, bf16, fp32"),
        ({"mode": "long"}, "tiny, tiny-long, full"),
        ({"vae_type": "sd"}, "wan2.1"),
        ({"borders": "stretch"}, "pad, crop"),
        ({"resize": "nearest"}, "float, 8bit"),
        ({"seed": -1}, "seed is -1"),
        ({"scale": float("nan")}, "scale is nan"),
    ],
)
def test_values_that_cannot_be_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        Request(**options)
