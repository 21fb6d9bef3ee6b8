"""The world the model in the box knows: one thing that moves before one background, drawn in NumPy.

A scene is described in units of the frame's height, so every size in pixels shows the same thing.
``u`` is the time within a clip, 0 at its first frame and 1 at its last. Knows nothing of networks.
"""

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Colour = tuple[float, float, float]

THINGS = ("ball", "box", "star")
COLOURS = {
    "red": (0.86, 0.10, 0.12),
    "orange": (0.98, 0.50, 0.06),
    "yellow": (0.98, 0.90, 0.15),
    "green": (0.14, 0.80, 0.26),
    "blue": (0.12, 0.26, 0.92),
    "purple": (0.52, 0.16, 0.74),
    "pink": (0.99, 0.50, 0.74),
    "white": (0.96, 0.96, 0.96),
}
MOTIONS = ("rolls left", "rolls right", "rises", "falls", "bounces", "grows", "stays")
BACKGROUNDS = ("grass", "sky", "sand", "night", "brick")
# Radius of the circle around the thing.
SIZES = {"small": 0.2, "middling": 0.22, "large": 0.245}
ASPECT = 1.5
# One combination of thing, colour, motion and background in eight is never trained on.
_HELD_OUT_SHARE = 8


@dataclass(frozen=True)
class Scene:
    """Everything a clip shows.

    Attributes:
        thing, colour, motion, background, size: Words of this module's tables.
        x, y: How far the path is moved, in frame heights.
        turn: Angle of the thing, radians.
        zoom: Factor on the size's radius.
        light: Factor on the background's brightness.
        drift: How far clouds and bricks are moved sideways, in frame heights.
    """

    thing: str
    colour: str
    motion: str
    background: str
    size: str = "middling"
    x: float = 0.0
    y: float = 0.0
    turn: float = 0.0
    zoom: float = 1.0
    light: float = 1.0
    drift: float = 0.0


@dataclass(frozen=True)
class Path:
    """Where the thing is: arrays ``(T,)`` of centre, radius (frame heights) and angle (radians)."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray


def is_held_out(thing: str, colour: str, motion: str, background: str) -> bool:
    """Whether this combination is kept for measuring."""
    return zlib.crc32(f"{thing}/{colour}/{motion}/{background}".encode()) % _HELD_OUT_SHARE == 0


def sample_scene(rng: np.random.Generator, held_out: bool = False) -> Scene:
    """A random scene, of the trained combinations or of those held out."""
    while True:
        thing = str(rng.choice(THINGS))
        colour = str(rng.choice(list(COLOURS)))
        motion = str(rng.choice(MOTIONS))
        scenery = str(rng.choice(BACKGROUNDS))
        if is_held_out(thing, colour, motion, scenery) == held_out:
            break
    side = 0.04 if motion.startswith("rolls") else 0.12
    return Scene(
        thing=thing,
        colour=colour,
        motion=motion,
        background=scenery,
        size=str(rng.choice(list(SIZES))),
        x=rng.uniform(-side, side),
        y=rng.uniform(-0.025, 0.025),
        turn=rng.uniform(-0.08, 0.08),
        zoom=rng.uniform(0.98, 1.02),
        light=rng.uniform(0.96, 1.04),
        drift=rng.uniform(-0.05, 0.05),
    )


def path(scene: Scene, u: np.ndarray) -> Path:
    """Where the thing is at times ``u`` ``(T,)``."""
    u = np.asarray(u, dtype=np.float64)
    one = np.ones_like(u)
    x, y, growth = 0.75 * one, 0.62 * one, one
    if scene.motion in ("rolls left", "rolls right"):
        x = 0.75 + (0.42 if scene.motion == "rolls right" else -0.42) * (2 * u - 1)
    elif scene.motion == "rises":
        y = 0.76 - 0.52 * u
    elif scene.motion == "falls":
        y = 0.24 + 0.52 * u
    elif scene.motion == "bounces":
        # Two parabolas that meet on the ground at half time, the second a little lower.
        down = 1 - (2 * u) ** 2
        up = 0.9 * (1 - (2 - 2 * u) ** 2)
        y = 0.74 - 0.45 * np.where(u < 0.5, down, up)
    elif scene.motion == "grows":
        growth = 0.45 + 0.85 * u
        y = 0.55 * one
    radius = SIZES[scene.size] * scene.zoom * growth
    return Path(x=x + scene.x, y=y + scene.y, radius=radius, angle=scene.turn * one)


def draw(
    scene: Scene,
    num_frames: int,
    height: int,
    width: int,
    window: tuple[int, int, int, int, int, int] | None = None,
) -> np.ndarray:
    """The clip, ``(T, H, W, 3)`` float32 in [0, 1].

    Args:
        scene: What to show.
        num_frames: Frames of the whole clip; they cover u from 0 to 1.
        height: Pixels of the whole frame.
        width: Pixels of the whole frame.
        window: Only frames ``a:b``, rows ``c:d``, columns ``e:f`` of it, as ``(a, b, c, d, e, f)``.
    """
    first, last, top, bottom, left, right = window or (0, num_frames, 0, height, 0, width)
    y, x = _grid(height, width, top, bottom, left, right)
    back = background(scene, y, x)
    place = path(scene, np.arange(first, last) / max(num_frames - 1, 1))
    frames = [_frame(scene, back, y, x, height, *values) for values in zip(*vars(place).values(), strict=True)]
    return np.stack(frames).astype(np.float32)


def coverage(scene: Scene, num_frames: int, height: int, width: int) -> np.ndarray:
    """How much of each pixel the thing covers, ``(T, H, W)`` float32 in [0, 1]."""
    y, x = _grid(height, width, 0, height, 0, width)
    place = path(scene, np.arange(num_frames) / max(num_frames - 1, 1))
    return np.stack([_cover(scene, y, x, height, *v)[0] for v in zip(*vars(place).values(), strict=True)])


def thing_cells(scene: Scene, num_frames: int, rows: int, columns: int, *, time: int = 4) -> np.ndarray:
    """Which latent cells the thing touches, ``(T', rows, columns)`` float32: 1 where it does, 0 elsewhere."""
    # Four probes a side in each cell are enough for things larger than a cell.
    cover = coverage(scene, num_frames, rows * 4, columns * 4)
    cells = cover.reshape(num_frames, rows, 4, columns, 4).max((2, 4))
    cells = np.concatenate([cells[:1]] * (time - 1) + [cells])
    return (cells.reshape(-1, time, rows, columns).max(1) > 0).astype(np.float32)


def _grid(height: int, width: int, top: int, bottom: int, left: int, right: int) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the pixels in frame heights: a column of y and a row of x, float32."""
    y = ((np.arange(top, bottom) + 0.5) / height).astype(np.float32)[:, None]
    # The frame's middle stays the scene's middle, whatever the proportions.
    x = ((np.arange(left, right) + 0.5 - width / 2) / height + ASPECT / 2).astype(np.float32)[None, :]
    return y, x


def _cover(
    scene: Scene,
    y: np.ndarray,
    x: np.ndarray,
    height: int,
    centre_x: float,
    centre_y: float,
    radius: float,
    angle: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Coverage ``(H, W)`` and the thing's own coordinates in units of its radius."""
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    dx, dy = (x - np.float32(centre_x)) / np.float32(radius), (y - np.float32(centre_y)) / np.float32(radius)
    across, down = dx * cos + dy * sin, dy * cos - dx * sin
    distance = _DISTANCES[scene.thing](across, down)
    return np.clip(0.5 - distance * np.float32(radius * height), 0, 1), dx, dy, across, down, distance


def _ball(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    return np.sqrt(across**2 + down**2) - 0.92


def _box(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(across), np.abs(down)) - 0.78


def _star(across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Distance to the edge of a five-pointed star with one point up."""
    reach, sector = np.sqrt(across**2 + down**2), 2 * np.pi / 5
    fold = np.abs((np.arctan2(across, -down) + sector / 2) % sector - sector / 2)
    outer, inner = 1.4, 0.46
    # The edge from the point (outer, 0) to the notch (inner at half a sector), and its normal.
    notch_x, notch_y = inner * np.cos(sector / 2), inner * np.sin(sector / 2)
    length = np.hypot(notch_x - outer, notch_y)
    return ((reach * np.cos(fold) - outer) * notch_y + reach * np.sin(fold) * (outer - notch_x)) / length


_DISTANCES = {"ball": _ball, "box": _box, "star": _star}


def _frame(
    scene: Scene,
    back: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    height: int,
    centre_x: float,
    centre_y: float,
    radius: float,
    angle: float,
) -> np.ndarray:
    cover, dx, dy, across, down, distance = _cover(scene, y, x, height, centre_x, centre_y, radius, angle)
    colour = np.asarray(COLOURS[scene.colour], dtype=np.float32)
    shade, gloss = _shading(scene.thing, dx, dy, across, down, distance)
    surface = np.clip(colour * shade[..., None] + gloss[..., None], 0, 1)
    return back + (surface - back) * cover[..., None]


def _shading(
    thing: str, dx: np.ndarray, dy: np.ndarray, across: np.ndarray, down: np.ndarray, distance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Factor and gloss on the thing's colour, both ``(H, W)``. The light comes from the upper left."""
    # A darker rim, so that a thing stands out from a background of its own colour.
    rim = 0.62 + 0.38 * np.clip(-distance / 0.14, 0, 1)
    if thing == "ball":
        lift = np.sqrt(np.clip(1 - (dx**2 + dy**2) / 0.85, 0, 1))
        light = np.clip(-0.45 * dx - 0.55 * dy + 0.7 * lift, 0, 1)
        return (0.55 + 0.5 * light) * rim, 0.28 * light**8
    slope = 1 - 0.16 * (dx + dy)
    if thing == "box":
        slope = slope * np.where(np.abs(np.abs(across) - np.abs(down)) < 0.07, 0.86, 1.0)
    return slope * rim, np.zeros_like(dx + dy)


def background(scene: Scene, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The scene without its thing at rows ``y`` and columns ``x``, ``(H, W, 3)`` float32 in [0, 1]."""
    return np.clip(_BACKGROUNDS[scene.background](y, x, scene.drift) * np.float32(scene.light), 0, 1)


def _mix(low: Colour, high: Colour, share: np.ndarray) -> np.ndarray:
    start = np.asarray(low, dtype=np.float32)
    end = np.asarray(high, dtype=np.float32)
    return start + (end - start) * np.clip(share, 0, 1)[..., None].astype(np.float32)


def _sine(turns: np.ndarray) -> np.ndarray:
    return np.sin(2 * np.pi * turns)


def _below(y: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Share of each pixel that lies below ``line``, softly, ``(H, W, 1)``."""
    return np.clip(0.5 + 80 * (y - line), 0, 1)[..., None].astype(np.float32)


def _grass(y: np.ndarray, x: np.ndarray, drift: float) -> np.ndarray:
    blades = _sine(12 * x + 0.35 * _sine(4 * y) + 2 * y) * _sine(6 * y + 0.3 * _sine(4 * x))
    field = _mix((0.16, 0.34, 0.12), (0.30, 0.50, 0.18), 0.5 + 0.35 * blades + 0.3 * (y - 0.6) + 0 * x)
    horizon = 0.22 + 0.012 * _sine(0.7 * (x + drift))
    air = _mix((0.62, 0.80, 0.92), (0.86, 0.92, 0.94), y / 0.22 + 0 * x)
    return air + (field - air) * _below(y, horizon)


def _sky(y: np.ndarray, x: np.ndarray, drift: float) -> np.ndarray:
    clear = _mix((0.33, 0.60, 0.90), (0.66, 0.84, 0.97), y + 0 * x)
    moved = x + drift
    cloud = _sine(0.9 * moved + 0.2 * _sine(1.3 * y)) + 0.7 * _sine(2.1 * y + 0.3 * _sine(1.1 * moved))
    share = np.clip((cloud - 0.55) / 0.9, 0, 1)
    return clear + (np.float32(0.93) - clear) * (0.7 * share)[..., None].astype(np.float32)


def _sand(y: np.ndarray, x: np.ndarray, drift: float) -> np.ndarray:
    ripples = _sine(9 * y + 0.5 * _sine(1.2 * (x + drift))) * (0.3 + 0.7 * np.clip(y, 0, 1))
    dunes = _sine(0.8 * (x + drift) + 1.2 * y)
    return _mix((0.72, 0.60, 0.40), (0.90, 0.80, 0.58), 0.5 + 0.22 * ripples + 0.25 * dunes)


def _night(y: np.ndarray, x: np.ndarray, drift: float) -> np.ndarray:
    dark = _mix((0.03, 0.03, 0.12), (0.12, 0.10, 0.28), y + 0 * x)
    # Faint lights on a lattice whose rows are moved against one another.
    across, down = 4 * x + 0.37 * np.floor(4 * y), 4 * y
    spot = (across % 1 - 0.5) ** 2 + (down % 1 - 0.5) ** 2
    dark = dark + (0.35 * np.exp(-spot / 0.006) * (y < 0.78))[..., None].astype(np.float32)
    hills = _below(y, 0.84 + 0.03 * _sine(0.9 * (x + drift)))
    return dark + (np.float32(0.02) - dark) * hills


def _brick(y: np.ndarray, x: np.ndarray, drift: float) -> np.ndarray:
    row = np.floor(8 * y)
    across = 4 * x + 0.5 * (row % 2)
    tone = 0.5 + 0.35 * _sine(0.37 * np.floor(across) + 0.71 * row)
    # Distance to the nearest joint, in frame heights; joints are about 0.02 wide and softly edged.
    joint = np.minimum(np.abs((across + 0.5) % 1 - 0.5) / 4, np.abs((8 * y + 0.5) % 1 - 0.5) / 8)
    bricks = _mix((0.47, 0.20, 0.15), (0.63, 0.31, 0.24), tone)
    share = np.clip((0.018 - joint) / 0.012, 0, 1)[..., None].astype(np.float32)
    return bricks + (np.float32(0.66) - bricks) * share * np.float32(0.8)


_BACKGROUNDS = {"grass": _grass, "sky": _sky, "sand": _sand, "night": _night, "brick": _brick}


@lru_cache(maxsize=8)
def plain_background(name: str, height: int, width: int) -> np.ndarray:
    """A background in its middle state, ``(H, W, 3)``: what measuring compares frames with."""
    y, x = _grid(height, width, 0, height, 0, width)
    return background(Scene(THINGS[0], "red", "stays", name), y, x)
