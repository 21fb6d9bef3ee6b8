"""Every random number of a run, from its seed.

There is one key for each purpose, made of the seed and the purpose's name: ``stage_1.video`` and
``stage_1.audio`` (a stage's first noise), ``stage_1.step_3.video`` and ``stage_1.middle_3.video`` (what random
samplers add in a step). So the noise of one stage or stream does not depend on whether another one ran, and the
same seed gives the same film. It is not the noise that the reference draws from the same number.
"""

import hashlib
from collections.abc import Callable

import mlx.core as mx

# (purpose, shape) -> standard normal noise, float32.
Noise = Callable[[str, tuple[int, ...]], mx.array]


def key_for(seed: int, purpose: str) -> mx.array:
    """The random key of one purpose of the run with ``seed``."""
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return mx.random.key(int.from_bytes(digest[:8], "little"))


def seeded_noise(seed: int) -> Noise:
    """Noise for every purpose of the run with ``seed``."""
    return lambda purpose, shape: mx.random.normal(shape, key=key_for(seed, purpose))
