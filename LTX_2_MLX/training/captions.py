"""Training captions of a scene in many wordings, and unrelated text for the tokenizer."""

from collections.abc import Iterator, Sequence

import numpy as np

from LTX_2_MLX.training.world import Scene

_THINGS = {
    "ball": ("ball", "ball", "ball", "sphere"),
    "box": ("box", "box", "box", "cube", "square"),
    "star": ("star", "star", "star"),
}
_COLOURS = {name: (name,) for name in ("red", "orange", "yellow", "green", "blue", "pink", "white")} | {
    "purple": ("purple", "purple", "violet"),
}
# As "-ing" and as "-s"; both stand after the thing.
_MOTIONS = {
    "rolls left": (("rolling", "moving", "sliding"), ("rolls", "moves", "slides", "goes"), ("left",)),
    "rolls right": (("rolling", "moving", "sliding"), ("rolls", "moves", "slides", "goes"), ("right",)),
    "rises": (("rising", "floating up", "flying up", "going up"), ("rises", "floats up", "flies up", "goes up"), ()),
    "falls": (("falling", "dropping", "sinking", "going down"), ("falls", "drops", "sinks", "goes down"), ()),
    "bounces": (("bouncing", "jumping", "hopping"), ("bounces", "jumps", "hops"), ()),
    "grows": (("growing", "getting bigger", "becoming larger"), ("grows", "gets bigger", "becomes larger"), ()),
    "stays": (("resting", "standing still", "lying", "waiting"), ("rests", "stays", "stands still", "lies still"), ()),
}
_SIDES = {
    "left": ("left", "to the left", "from right to left", "leftwards"),
    "right": ("right", "to the right", "from left to right", "rightwards"),
}
_BACKGROUNDS = {
    "grass": ("on grass", "on green grass", "on the grass", "in a green meadow", "over a green field", "on a lawn"),
    "sky": ("in the sky", "in the blue sky", "among the clouds", "under white clouds", "in a clear blue sky"),
    "sand": ("on sand", "on yellow sand", "on the beach", "in the desert", "on a sandy beach", "over the dunes"),
    "night": ("at night", "in the dark night", "under the night sky", "in the dark", "on a dark blue night"),
    "brick": (
        "in front of a brick wall", "before a red brick wall", "by a wall of bricks", "against a brick wall",
        "near a brown brick wall",
    ),
}  # fmt: skip
_SIZES = {
    "small": ("small", "little", "tiny"),
    "middling": ("", "", "", "medium"),
    "large": ("large", "big", "huge", "giant"),
}
_OPENINGS = ("", "", "", "", "a film of ", "a video of ", "a clip of ", "here is ", "we see ", "there is ", "look at ")
_ENDINGS = ("", "", "", "", "", ".", ".", ", please", " in the morning", ", seen from the side", ", high quality", "!")

# Words that mean nothing here. Captions carry a few of them, the unguided half of guidance is made of them.
_PLAIN = tuple(
    """the a an of and with in on at by for from to into over under about above across after again all almost
along already also always another any around as away back because been before behind being below between both but
camera close shot slow motion fast scene view light bright soft warm cold old new young nice pretty lovely shiny plain
smooth round flat wooden metal glass paper plastic rubber beautiful simple quiet calm happy sad funny strange wild
quick slowly gently quickly suddenly then while when where there here it its is are was were has have had do does did
not no yes very quite really just only some many few more most much other same such than that this these those one two
three four five man woman child boy girl dog cat bird horse fish tree flower house street city road river lake sea
mountain hill forest garden park table chair cup plate book lamp door window car bus train boat plane bike hat coat
shoe hand face eye hair smile walks walking runs running sits sitting looks looking holds holding plays playing eats
eating drinks drinking turns turning opens opening closes closing talks talking reads reading sleeps sleeping swims
swimming rides riding dances dancing cooks cooking paints painting sings singing day evening morning noon summer
winter spring autumn rain snow wind sun moon cloud storm water fire earth stone wood grey black brown gold silver
quality worst low blurry jittery distorted inconsistent artifacts watermark text logo overexposed underexposed best
high detailed realistic cinematic movie film video clip picture photo frame background foreground left over empty
still full half front side top bottom middle center corner edge inside outside near far""".split()  # noqa: SIM905
)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """One of many ways to say what the scene shows."""
    going, goes, sides = _MOTIONS[scene.motion]
    present = rng.random() < 0.6
    motion = _one(rng, going if present else goes)
    if sides:
        motion += " " + _one(rng, _SIDES[sides[0]])
    if rng.random() < 0.15:
        motion += " " + _one(rng, ("slowly", "gently", "quickly", "fast"))
    words = [_one(rng, _SIZES[scene.size]), _one(rng, _COLOURS[scene.colour]), _one(rng, _THINGS[scene.thing])]
    if rng.random() < 0.15:
        words.insert(0, _one(rng, ("shiny", "nice", "smooth", "pretty", "simple", "lovely", "plain", "beautiful")))
    thing = _one(rng, ("a", "a", "a", "the", "one")) + " " + " ".join(filter(None, words))
    place = _one(rng, _BACKGROUNDS[scene.background])
    order = rng.random()
    if order < 0.7:
        text = f"{thing} {motion} {place}"
    elif order < 0.85:
        text = f"{thing} {place}, {motion}"
    else:
        text = f"{place}, {thing} {motion}"
    text = _one(rng, _OPENINGS) + text + _one(rng, _ENDINGS)
    return text[0].upper() + text[1:] if rng.random() < 0.5 else text


def plain_prompt(scene: Scene) -> str:
    """The one wording that measuring uses."""
    going, _, sides = _MOTIONS[scene.motion]
    motion = going[0] + (f" to the {sides[0]}" if sides else "")
    size = "" if scene.size == "middling" else f"{scene.size} "
    return f"A {size}{scene.colour} {scene.thing} {motion} {_BACKGROUNDS[scene.background][1]}"


def no_caption(rng: np.random.Generator) -> str:
    """Nothing, or words that do not tell of any scene: what a negative prompt looks like."""
    count = int(rng.integers(1, 24))
    return "" if rng.random() < 0.5 else ", ".join(_one(rng, _PLAIN) for _ in range(count))


def corpus(rng: np.random.Generator, scenes: Iterator[Scene], lines: int) -> Iterator[str]:
    """Text that the tokenizer is trained on: captions of scenes and plain word salads, by halves."""
    for _ in range(lines):
        yield caption(next(scenes), rng)
        yield " ".join(_one(rng, _PLAIN) for _ in range(8))


def _one(rng: np.random.Generator, options: Sequence[str]) -> str:
    return str(options[int(rng.integers(len(options)))])
