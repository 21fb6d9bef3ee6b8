"""Generation options that take less memory.

Nearest is what changes the video least: fewer bits for the weights or blocks on disk, smaller tiles for the decoder,
and only then fewer frames.
"""

import math
from collections.abc import Callable
from fractions import Fraction

from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.planning.fit import Change, Fitted, longest, nearest
from LTX_2_MLX.planning.plan import Plan

# Bits of the large layers and whether blocks stay on disk, nearest first.
_WEIGHTS = ((None, False), (8, False), (None, True), (8, True), (4, False), (4, True))
_FULL_BITS = 16
# Sides of the decoder's tiles in pixels: multiples of every published compression.
_TILES = (512, 384, 256, 192, 128)
_FRAMES_STEP = 8


def nearest_options(
    options: Options,
    num_frames: int,
    plan_of: Callable[[Options], Plan],
    budget: int,
    open_at: Fraction | None = None,
) -> Fitted[Options] | None:
    """The nearest options whose plan fits; None where only a smaller size would help.

    Args:
        options: Options that do not fit.
        num_frames: Their frames, also where ``options`` leave them to the model.
        plan_of: The plan of options.
        budget: Bytes that a stage may take.
        open_at: The frame rate where a duration head decides the length: then its limit is lowered.
    """
    ladders = _ladders(options)
    fitted = nearest(options, ladders, plan_of, budget)
    if fitted is not None:
        return fitted

    def fitted_at(frames: int) -> Fitted[Options] | None:
        length: Change = {"frames": frames, "duration": None}
        if open_at is not None:
            # Rounded up in text that users type; the frames between are no 8k + 1.
            length = {"max_duration": math.ceil(100 * frames / open_at) / 100}
        shorter = [[{**change, **length} for change in ladder] for ladder in ladders]
        return nearest(options, shorter, plan_of, budget)

    return longest(num_frames, _FRAMES_STEP, fitted_at)


def _ladders(options: Options) -> list[list[Change]]:
    """For each way to hold the weights, tiles from whole frames to the smallest; never larger than asked for."""
    bits = options.quantize or _FULL_BITS
    tiles = [options.tile_size]
    tiles += [side for side in _TILES if options.tile_size is None or side < options.tile_size]
    return [
        [{"quantize": quantize, "low_ram": low_ram, "tile_size": side} for side in tiles]
        for quantize, low_ram in _WEIGHTS
        if (quantize or _FULL_BITS) <= bits and low_ram >= options.low_ram
    ]
