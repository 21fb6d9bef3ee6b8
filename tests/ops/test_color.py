import mlx.core as mx
import numpy as np
import pytest

from LTX_2_MLX.ops.color import adain_transfer, wavelet_transfer


def noise(seed: int, scale: float = 1.0) -> mx.array:
    return mx.random.normal((2, 3, 37, 50, 3), key=mx.random.key(seed)) * scale


@pytest.mark.parametrize("transfer", [wavelet_transfer, adain_transfer])
def test_frames_with_their_own_colours_stay_as_they_are(transfer):
    frames = noise(1)
    np.testing.assert_allclose(np.array(transfer(frames, frames)), np.array(frames), atol=2e-6)


def test_wavelet_takes_a_shift_of_colour_away():
    frames = noise(1)
    shifted = frames + mx.array([0.3, -0.2, 0.1])
    np.testing.assert_allclose(np.array(wavelet_transfer(shifted, frames)), np.array(frames), atol=2e-6)


def test_adain_takes_mean_and_spread_of_each_frame_and_channel():
    reference = noise(2, 0.3) + 0.1
    fixed = np.array(adain_transfer(noise(1, 5.0) - 2, reference))
    wanted = np.array(reference)
    np.testing.assert_allclose(fixed.mean((2, 3)), wanted.mean((2, 3)), atol=1e-5)
    np.testing.assert_allclose(fixed.std((2, 3)), wanted.std((2, 3)), atol=1e-3)


def test_adain_of_a_plain_frame_is_finite():
    fixed = adain_transfer(mx.full((1, 1, 8, 9, 3), 0.5), noise(2)[:1, :1, :8, :9])
    assert mx.isfinite(fixed).all().item()


def test_sixteen_bit_frames_are_fixed_in_float32():
    assert wavelet_transfer(noise(1).astype(mx.bfloat16), noise(2)).dtype == mx.float32
    assert adain_transfer(noise(1).astype(mx.float16), noise(2)).dtype == mx.float32
