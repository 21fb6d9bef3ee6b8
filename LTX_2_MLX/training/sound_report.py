"""Quality of the demo model's sound: a knock with each bounce that is seen, a hum that follows the size."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from LTX_2_MLX.media.audio import Waveform
from LTX_2_MLX.pipelines.generate import generate
from LTX_2_MLX.training import world
from LTX_2_MLX.training.bundle import FRAME_RATE
from LTX_2_MLX.training.captions import plain_prompt
from LTX_2_MLX.training.clips import scene_of
from LTX_2_MLX.training.measure import ground_time
from LTX_2_MLX.training.report import files_of
from LTX_2_MLX.training.sound_measure import Sounds, listen, share_in_time

# Options of the ways that are compared.
SOUND_WAYS: dict[str, dict[str, Any]] = {
    "two-stage": {"pipeline": "two-stage"},
    "one-stage, guided": {"pipeline": "one-stage"},
    "distilled": {"pipeline": "distilled"},
}
WITHIN_SECONDS = 0.1


@dataclass(frozen=True)
class SoundQuality:
    """Figures of one way to generate.

    Attributes:
        bounces: Share of bounces with the onset of a knock within 0.1 s.
        others: The same with the sounds of other clips, of any motion.
        silent: Share of clips without a bounce, among these, in which nothing knocks.
        hum_hz: Median height of the hum of bouncing things of each size.
    """

    bounces: float
    others: float
    silent: float
    hum_hz: dict[str, float]


def bouncing_scenes(count: int) -> list[world.Scene]:
    """Scenes of combinations that no training clip shows, in which the thing bounces."""
    found: list[world.Scene] = []
    number = 0
    while len(found) < count:
        scene = scene_of(number, held_out=True)
        if scene.motion == "bounces":
            found.append(scene)
        number += 1
    return found


def sounded(folder: Path, scene: world.Scene, seed: int, **options: Any) -> tuple[float | None, Sounds]:
    """When the thing of a generated clip is seen on the ground, and what its sound holds."""
    files = files_of(folder, options["pipeline"])
    video = generate(plain_prompt(scene), seed=seed, cache=False, **files, **options)
    assert isinstance(video.audio, Waveform)
    content = listen(video.audio.samples, video.audio.sample_rate)
    seen = ground_time(video.array().astype(np.float32) / 255, FRAME_RATE) if scene.motion == "bounces" else None
    return seen, content


def sound_quality(folder: Path, count: int, **options: Any) -> SoundQuality:
    """Measure ``count`` unseen prompts of bouncing things, and as many of any motion."""
    scenes, others = bouncing_scenes(count), [scene_of(number, held_out=True) for number in range(count)]
    found: dict[str, list[tuple[float | None, Sounds]]] = {"bouncing": [], "any": []}
    for name, group in (("bouncing", scenes), ("any", others)):
        for seed, scene in enumerate(group):
            found[name].append(sounded(folder, scene, seed, **options))
    seen, sounds = (list(values) for values in zip(*found["bouncing"], strict=True))
    other_knocks = [content.knocks for _, content in found["any"]]
    quiet = [not knocks for knocks, scene in zip(other_knocks, others, strict=True) if scene.motion != "bounces"]
    hums: dict[str, list[float]] = {}
    for scene, content in zip(scenes, sounds, strict=True):
        hums.setdefault(scene.size, []).append(float(np.median(content.hum_hz[content.hum_hz > 0])))
    return SoundQuality(
        bounces=share_in_time(seen, [content.knocks for content in sounds], WITHIN_SECONDS),
        others=share_in_time(seen, other_knocks, WITHIN_SECONDS),
        silent=float(np.mean(quiet)),
        hum_hz={size: float(np.median(hums[size])) for size in world.SIZES if size in hums},
    )
