"""Random numbers of a run, derived from its seed.

Each purpose has its own key, made of the seed and the purpose's name: ``stage_1.video`` and ``stage_1.audio`` (the
first noise of a stage), ``stage_1.step_3.video`` and ``stage_1.middle_3.video`` (new noise in a sampler's step). So
the noise of one stage or stream does not depend on whether another one ran, and the same seed gives the same video.
The reference draws other noise from the same seed.
"""

import hashlib
from collections.abc import Callable

import mlx.core as mx

# (purpose, shape) -> standard normal noise, float32.
Noise = Callable[[str, tuple[int, ...]], mx.array]


def key_for(seed: int, purpose: str) -> mx.array:
    """The random key of one purpose."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return mx.random.key(int.from_bytes(digest[:8], "little"))


def seeded_noise(seed: int) -> Noise:
    """Noise for every purpose of a run."""
    return lambda purpose, shape: mx.random.normal(shape, key=key_for(seed, purpose))
