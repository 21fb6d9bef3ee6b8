import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.models.ltx.video_vae import LatentStatistics, LatentStatisticsConfig
from LTX_2_MLX.training import bundle, upscaler

RNG = np.random.default_rng(0)


def latents(clips: int) -> np.ndarray:
    """Latents whose first channels have a mean of their own in each clip, as those of the closed-form encoder do."""
    means = RNG.standard_normal((clips, 1, 1, 1, bundle.CHANNELS)) * (np.arange(bundle.CHANNELS) < 16)
    return (means + 0.5 * RNG.standard_normal((clips, 4, 4, 6, bundle.CHANNELS))).astype(np.float32)


def statistics() -> LatentStatistics:
    found = LatentStatistics(LatentStatisticsConfig(bundle.CHANNELS))
    found.mean = mx.array(RNG.standard_normal(bundle.CHANNELS).astype(np.float32))
    found.std = mx.array(RNG.uniform(0.3, 3, bundle.CHANNELS).astype(np.float32))
    return found


def doubled_in_space(small: np.ndarray) -> np.ndarray:
    return small.repeat(2, axis=2).repeat(2, axis=3)


def doubled_in_time(small: np.ndarray) -> np.ndarray:
    large = small.repeat(2, axis=1)[:, 1:]
    large[:, 1::2] = (small[:, :-1] + small[:, 1:]) / 2
    return large


@pytest.mark.parametrize(("temporal", "enlarged"), [(False, doubled_in_space), (True, doubled_in_time)])
def test_the_closed_form_start_is_the_linear_map_that_fits_its_pairs(temporal, enlarged):
    fitted, unseen = latents(60), latents(8)
    network = upscaler.start(bundle.new_upscaler(temporal=temporal), found := statistics(), fitted, enlarged(fitted))
    made, wanted = np.array(network.upscale(mx.array(unseen), found)), enlarged(unseen)
    assert made.shape == wanted.shape
    assert np.mean((made - wanted) ** 2) < 0.05 * np.var(wanted)
