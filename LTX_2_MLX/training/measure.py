"""Content of a clip, read off its pixels by plain image processing: background, colour, motion, shape, sharpness.

Knows the world's tables and nothing of the networks, so it judges their clips as it judges drawn ones.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from LTX_2_MLX.training import world

# A pixel belongs to the thing if it differs this much from the background, in units of white.
_DIFFERENCE = 0.17
_LEAST_PIXELS = 0.004
# How far silhouettes are looked at, in radii of a disc of the same area: a star reaches to 1.8.
_REACH = 1.9
# Between these radii things differ most: notches of a star, corners of a box.
_RING = (0.7, 1.6)
_SILHOUETTE_SIZE = 25
# Passes of a binomial filter over the drawn silhouettes: videos may be soft.
_SOFTNESS = (0, 5, 10, 20, 40)


@dataclass(frozen=True)
class Findings:
    """What was seen; an entry is "nothing" where no thing was found.

    Attributes:
        background, colour, motion, thing: Words of the world's tables.
    """

    background: str
    colour: str
    motion: str
    thing: str


def look_at(clip: np.ndarray) -> Findings:
    """Judge a clip ``(T, H, W, 3)`` in [0, 1]."""
    name, plain = _background(clip)
    masks = [_mask(frame, plain) for frame in clip]
    if np.mean([mask.mean() for mask in masks]) < _LEAST_PIXELS:
        return Findings(name, "nothing", "nothing", "nothing")
    return Findings(name, _colour(clip, masks), _motion(masks), _thing(clip, masks, plain))


def ground_time(clip: np.ndarray, frame_rate: float) -> float | None:
    """Seconds at which the thing of a clip ``(T, H, W, 3)`` is lowest; None where no thing was found."""
    _, plain = _background(clip)
    masks = [_mask(frame, plain) for frame in clip]
    heights = np.array([np.nonzero(mask)[0].mean() if mask.any() else -np.inf for mask in masks])
    lowest = int(heights.argmax())
    if not np.isfinite(heights[lowest]):
        return None
    around = heights[max(lowest - 1, 0) : lowest + 2]
    if len(around) < 3 or not np.isfinite(around).all():
        return lowest / frame_rate
    # Two straight paths that meet: the lower of the neighbours tells on which side of the frame.
    before, here, after = around
    share = (after - before) / (2 * max(here - min(before, after), 1e-6))
    return (lowest + float(share)) / frame_rate


def _background(clip: np.ndarray) -> tuple[str, np.ndarray]:
    """The background's name, and its image at the clip's brightness."""
    height, width = clip.shape[1:3]
    # Where the thing has passed for less than half of the time, the median over time shows what is behind it.
    still = np.median(clip, axis=0)
    best_error = np.inf
    best_name = ""
    best_plain = still
    for name in world.BACKGROUNDS:
        plain = world.plain_background(name, height, width)
        light = np.median(still.mean(-1)) / max(np.median(plain.mean(-1)), 1e-3)
        plain = np.clip(plain * np.clip(light, 0.85, 1.15), 0, 1)
        errors = np.sort(np.abs(still - plain).max(-1), axis=None)
        # The thing, and clouds that have drifted, are among the largest differences.
        error = errors[: len(errors) * 7 // 10].mean()
        if error < best_error:
            best_error = error
            best_name = name
            best_plain = plain
    return best_name, best_plain


def _mask(frame: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """The thing's pixels, ``(H, W)`` boolean: the largest connected part that differs from the background."""
    differs = _smoothed(np.abs(frame - plain).max(-1) > _DIFFERENCE)
    return _largest_part(differs)


def _smoothed(mask: np.ndarray) -> np.ndarray:
    """True where most of the 3×3 pixels around are: thin lines and specks go."""
    padded = np.pad(mask.astype(np.int32), 1)
    total = np.zeros(mask.shape, np.int32)
    for y in range(3):
        for x in range(3):
            total += padded[y : y + mask.shape[0], x : x + mask.shape[1]]
    return total >= 5


def _largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest part of a mask whose pixels touch side by side."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        around = np.maximum.reduce([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:], labels])
        grown = np.where(mask, around, 0)
        if (grown == labels).all():
            break
        labels = grown
    if not mask.any():
        return mask
    values, counts = np.unique(labels[mask], return_counts=True)
    return labels == values[counts.argmax()]


def _colour(clip: np.ndarray, masks: list[np.ndarray]) -> str:
    # Pixels at the edge are mixed with the background's.
    inner = [~_grown(~mask) for mask in masks]
    masks = inner if sum(mask.sum() for mask in inner) > 8 * len(masks) else masks
    pixels = np.concatenate([frame[mask] for frame, mask in zip(clip, masks, strict=True)])
    seen = np.median(pixels, axis=0)

    def distance(name: str) -> float:
        colour = np.asarray(world.COLOURS[name])
        # The light changes brightness, not hue.
        share = np.clip(seen @ colour / (colour @ colour), 0.6, 1.1)
        return float(np.linalg.norm(seen - share * colour))

    return min(world.COLOURS, key=distance)


def _motion(masks: list[np.ndarray]) -> str:
    height = masks[0].shape[0]
    found = [(*(axis.mean() / height for axis in np.nonzero(mask)), mask.sum()) for mask in masks if mask.any()]
    if len(found) < 3:
        return "nothing"
    y, x, area = (np.array(values, dtype=np.float64) for values in zip(*found, strict=True))
    few = max(1, len(found) // 8)
    across, down = x[-few:].mean() - x[:few].mean(), y[-few:].mean() - y[:few].mean()
    middle = y[len(y) // 2 - few : len(y) // 2 + few + 1].mean()
    dip = middle - (y[:few].mean() + y[-few:].mean()) / 2
    if area[-few:].mean() > 2.2 * area[:few].mean():
        return "grows"
    if abs(across) > 0.25 and abs(across) > abs(down):
        return "rolls right" if across > 0 else "rolls left"
    if dip > 0.14 and abs(down) < 2 * dip:
        return "bounces"
    if abs(down) > 0.18:
        return "falls" if down > 0 else "rises"
    return "stays"


def _thing(clip: np.ndarray, masks: list[np.ndarray], plain: np.ndarray) -> str:
    """The thing whose silhouette is most like the mean one of the frames in which no edge cuts it off."""
    found = []
    for frame, mask in zip(clip, masks, strict=True):
        if mask.any() and not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()):
            differs = np.linalg.norm(frame - plain, axis=-1)
            found.append(_silhouette(np.clip(differs / np.median(differs[mask]), 0, 1) * _grown(mask)))
    if not found:
        return "nothing"
    ring = _ring()
    seen = np.mean(found, axis=0)[ring]

    def likeness(name: str) -> float:
        return max(np.corrcoef(seen, drawn[ring])[0, 1] for drawn in _drawn_silhouettes(name, clip.shape[1]))

    return max(world.THINGS, key=likeness)


def _grown(mask: np.ndarray) -> np.ndarray:
    """True on the mask and on the pixels around it."""
    padded = np.pad(mask, 1)
    return np.any([padded[y : y + len(mask), x : x + mask.shape[1]] for y in range(3) for x in range(3)], axis=0)


def _ring() -> np.ndarray:
    """Where silhouettes are compared, boolean."""
    places = np.linspace(-_REACH, _REACH, _SILHOUETTE_SIZE)
    radius = np.hypot(places[:, None], places)
    return (radius >= _RING[0]) & (radius <= _RING[1])


def _silhouette(cover: np.ndarray) -> np.ndarray:
    """Coverage ``(H, W)`` moved to its centre and brought to a common area, ``(25, 25)``."""
    rows, columns = np.indices(cover.shape)
    total = cover.sum()
    y, x = (rows * cover).sum() / total, (columns * cover).sum() / total
    # 1 is the radius of a disc of the same area.
    places = np.linspace(-_REACH, _REACH, _SILHOUETTE_SIZE) * np.sqrt(total / np.pi)
    lines = _between(cover, np.clip(y + places, 0, cover.shape[0] - 1.001))
    return _between(lines.T, np.clip(x + places, 0, cover.shape[1] - 1.001)).T


def _between(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows of ``values`` at fractional ``places``, linearly interpolated."""
    low = places.astype(np.int64)
    share = (places - low)[:, None]
    return values[low] * (1 - share) + values[low + 1] * share


@lru_cache(maxsize=16)
def _drawn_silhouettes(thing: str, height: int) -> list[np.ndarray]:
    """What ``_silhouette`` gives for a drawn thing, the mean of all sizes, from sharp to soft."""
    scenes = [world.Scene(thing, "red", "stays", "grass", size=size) for size in world.SIZES]
    covers = [world.coverage(scene, 1, height, round(height * world.ASPECT))[0] for scene in scenes]
    return [np.mean([_silhouette(_blurred(cover, times)) for cover in covers], axis=0) for times in _SOFTNESS]


def _blurred(cover: np.ndarray, times: int) -> np.ndarray:
    """Coverage after ``times`` passes of the binomial filter 1, 2, 1 along both axes."""
    for _ in range(times):
        for axis in range(2):
            cover = (np.roll(cover, 1, axis) + 2 * cover + np.roll(cover, -1, axis)) / 4
    return cover


def sharpness(clip: np.ndarray) -> float:
    """Root mean square of the differences between neighbouring pixels, in 8-bit levels."""
    down, across = np.diff(clip, axis=1), np.diff(clip, axis=2)
    return float(255 * np.sqrt((down**2).mean() + (across**2).mean()))
