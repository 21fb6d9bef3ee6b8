"""Files with damage in their structure, each read in the ways in which a command reads it."""

import copy
import json
import pickletools
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from LTX_2_MLX.checkpoints.contents import inspect
from LTX_2_MLX.checkpoints.convert import convert
from LTX_2_MLX.checkpoints.gemma_tokenizer import GemmaTokenizer
from LTX_2_MLX.checkpoints.torch_file import read_torch_file
from LTX_2_MLX.development import fuzz_files
from LTX_2_MLX.development.fuzz_damage import (
    damaged,
    disturb,
    nested,
    renumbered,
    restructured,
    split_header,
    strange,
    with_header,
)
from LTX_2_MLX.development.fuzz_structures import ZIP, format_of
from LTX_2_MLX.errors import LTXError
from LTX_2_MLX.media.image import is_image, read_header, read_image, write_image
from LTX_2_MLX.media.video import read_video, write_video
from LTX_2_MLX.media.writer import read_run_record
from LTX_2_MLX.pipelines.generate import decode_saved
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.record import options_from, saved_record
from LTX_2_MLX.pipelines.generation.recorded_files import files_outside
from LTX_2_MLX.runtime.job import REQUEST_FILE, Job
from LTX_2_MLX.runtime.runner import StageRunner

__all__ = ["Samples", "kinds"]

# Names in an index, and steps of a pickle, that no good file has.
_SHARDS = (
    "model-2.safetensors", "../x.safetensors", "/etc/hosts", "/dev/zero", "a/../model-2.safetensors", "\0", "x" * 300,
)  # fmt: skip
_STEPS = (b"cos\nsystem\n", b"(", b"t", b"2", b"R", b"}", b"l", b"\x85" * 3000)


@dataclass(frozen=True)
class Samples:
    """Good files, their bytes held."""

    images: dict[str, bytes]
    videos: dict[str, bytes]
    weights: dict[str, np.ndarray]
    state_dict: bytes
    checkpoint: bytes
    tokenizer: dict[str, Any]
    request: dict[str, Any]

    @classmethod
    def make(cls, checkpoint: bytes, gemma: Path, folder: Path) -> "Samples":
        """Files of every kind; the checkpoint and the tokenizer are given, ``folder`` is for scratch."""
        weights = fuzz_files.weights()
        tokenizer = json.loads((gemma / "tokenizer.json").read_text(encoding="utf-8"))
        request = {"prompt": "a ball", "height": 64, "width": 64, "frames": 9, "fps": "24", "cfg": 3.0, "seed": 4}
        request |= {"weights": "auto", "lora": ["a:0.5"], "image": "b.png", "negative_prompt": "dull"}
        state_dict = fuzz_files.state_dict(weights)
        return cls(fuzz_files.images(), fuzz_files.videos(folder), weights, state_dict, checkpoint, tokenizer, request)


def _image(dice: random.Random, samples: Samples, place: Path) -> None:
    suffix = dice.choice([*samples.images])
    path = place / f"file{dice.choice((suffix, suffix, '.png', ''))}"
    path.write_bytes(restructured(dice, samples.images[suffix], format_of(suffix)))
    is_image(path)
    header = read_header(path)
    image = read_image(path)
    assert image.pixels.shape == (header.height, header.width, 3), "the header has another size"
    if not dice.randrange(4):
        write_image(image.without_metadata() if dice.randrange(2) else image, place / "written.png")


def _video(dice: random.Random, samples: Samples, place: Path) -> None:
    suffix = dice.choice([*samples.videos])
    path = place / f"file{suffix}"
    path.write_bytes(restructured(dice, samples.videos[suffix], format_of(suffix)))
    stream, count = read_video(path, repair=not dice.randrange(4)), 0
    if not dice.randrange(4):
        write_video(stream, place / f"written{dice.choice(('.mkv', '.mp4'))}")
        return
    for chunk in stream:
        assert chunk.shape[1:] == (stream.height, stream.width, 3), "a frame of another size"
        count += len(chunk)
    assert count, "a video without a frame was accepted"


def _record(dice: random.Random, samples: Samples, place: Path) -> None:
    """A record inside a video, as ``--replay`` reads it."""
    suffix = dice.choice((".mp4", ".mkv", ".avi", ".webm"))
    facts = json.loads(fuzz_files.record(copy.deepcopy(samples.request)))
    for _ in range(dice.choice((1, 1, 2, 4))):
        disturb(dice, facts["request"])
    if dice.randrange(2):
        facts["request"][dice.choice([*Options.__dataclass_fields__])] = strange(dice)
    if not dice.randrange(4):
        disturb(dice, facts)
    text = json.dumps(facts).encode()
    if not dice.randrange(8):
        text = dice.choice((damaged(dice, text), text[:-1] + b', "request": ' + nested(dice, b"[", b"]")))
    path = place / f"file{suffix}"
    path.write_bytes(fuzz_files.with_record(samples.videos[suffix], text))
    record = read_run_record(path, "generate")
    files_outside(record, {})
    options_from(record, {})


def _job(dice: random.Random, samples: Samples, place: Path) -> None:
    """A job folder, as ``--resume`` and ``decode`` read it."""
    folder = place / "job"
    folder.mkdir()
    request = json.loads(fuzz_files.record(copy.deepcopy(samples.request)))
    disturb(dice, request if dice.randrange(2) else request["request"])
    text = json.dumps(request if dice.randrange(2) else request.get("request")).encode()
    (folder / REQUEST_FILE).write_bytes(text if dice.randrange(4) else damaged(dice, text))
    state = folder / f"{dice.choice(('text', 'stage_1', 'latent', 'upscaled'))}.safetensors"
    match dice.randrange(4):
        case 0:
            state.mkdir()
        case 1:
            state.symlink_to(dice.choice(("/dev/zero", "/etc/hosts", state.name, "nowhere")))
        case _:
            state.write_bytes(_with_damaged_header(dice, samples.checkpoint))
    for use in (partial(decode_saved, folder, StageRunner()), partial(Job, folder), partial(_resumed, folder)):
        with suppress(LTXError):
            use()
    options_from(saved_record(folder), {"resume": folder})


def _resumed(folder: Path) -> None:
    job = Job(folder, {}, resume=True)
    for path in sorted(folder.glob("*.safetensors")):
        assert job.load(path.stem) is None, "a foreign state was trusted"


def _with_damaged_header(dice: random.Random, content: bytes) -> bytes:
    header, data = split_header(content)
    facts = json.loads(header)
    for _ in range(dice.choice((1, 1, 2, 4))):
        match dice.randrange(5):
            case 0 | 1:
                disturb(dice, facts)
            case 2:
                tensor = dice.choice([*facts])
                facts[tensor] = {"dtype": dice.choice(("F32", "I8", "F8_E4M3")), "shape": [2**40, 2**40]}
                facts[tensor]["data_offsets"] = [0, dice.choice((0, 4, 2**63))]
            case 3:
                facts[dice.choice(("x" * 5000, "", "../../x", "\x1b[2J"))] = strange(dice)
            case 4:
                facts["__metadata__"] = {"config": nested(dice, b'{"a":', b"}").decode()}
    header = json.dumps(facts).encode()
    if not dice.randrange(6):
        header = dice.choice((damaged(dice, header), nested(dice, b"[", b"]"), nested(dice, b'{"a":', b"}")))
    return with_header(header, data)


def _safetensors(dice: random.Random, samples: Samples, place: Path) -> None:
    path = place / "file.safetensors"
    path.write_bytes(_with_damaged_header(dice, samples.checkpoint))
    inspect(path)
    if not dice.randrange(4):
        convert(path, place / "written.safetensors")


def _index(dice: random.Random, samples: Samples, place: Path) -> None:
    """A folder of shards with an index."""
    header, data = split_header(samples.checkpoint)
    for name in ("model-1.safetensors", "model-2.safetensors"):
        (place / name).write_bytes(samples.checkpoint if name.startswith("model-1") else with_header(b"{}", b""))
    tensors = [name for name in json.loads(header) if name != "__metadata__"]
    index: dict[str, Any] = {
        "metadata": {"total_size": len(data)},
        "weight_map": dict.fromkeys(tensors, "model-1.safetensors"),
    }
    index["weight_map"]["other"] = dice.choice(_SHARDS)
    if dice.randrange(2):
        disturb(dice, index)
    text = json.dumps(index).encode()
    if not dice.randrange(6):
        text = dice.choice((damaged(dice, text), nested(dice, b"[", b"]")))
    (place / "model.safetensors.index.json").write_bytes(text)
    inspect(place)


def _restaged(dice: random.Random, pickled: bytes) -> bytes:
    """A pickle with some of its steps changed, left out, doubled or exchanged."""
    starts = [at for _, _, at in pickletools.genops(pickled) if at is not None] + [len(pickled)]
    steps = [pickled[start:end] for start, end in pairwise(starts)]
    for _ in range(dice.choice((1, 1, 2, 5))):
        place = dice.randrange(len(steps))
        match dice.randrange(6):
            case 0 | 1:
                steps[place] = steps[place][:1] + renumbered(dice, steps[place][1:])
            case 2:
                del steps[place]
            case 3:
                steps[place:place] = [dice.choice(steps)] * dice.choice((1, 2, 2000))
            case 4:
                other = dice.randrange(len(steps))
                steps[place], steps[other] = steps[other], steps[place]
            case 5:
                steps[place:place] = [dice.choice(_STEPS)]
    return b"".join(steps)


def _pth(dice: random.Random, samples: Samples, place: Path, *, legacy: bool) -> None:
    main = samples.state_dict if not dice.randrange(4) else _restaged(dice, samples.state_dict)
    content = (fuzz_files.torch_legacy if legacy else fuzz_files.torch_zip)(main, samples.weights)
    if main is samples.state_dict and not legacy and dice.randrange(2):
        content = restructured(dice, content, ZIP)
    elif main is samples.state_dict:
        # Numbers of the archive's own directory stand at its end.
        tail = dice.choice((0, -200, -600))
        content = content[:tail] + renumbered(dice, content[tail:]) if tail else renumbered(dice, content)
    path = place / "file.pth"
    path.write_bytes(content)
    inspect(path) if dice.randrange(2) else read_torch_file(path)


def _tokenizer(dice: random.Random, samples: Samples, place: Path) -> None:
    facts = dict(samples.tokenizer)
    part = dice.choice([*facts])
    facts[part] = copy.deepcopy(facts[part]) if part != "model" else dict(facts[part])
    if part == "model":
        field = dice.choice([*facts[part]])
        facts[part][field] = strange(dice) if dice.randrange(2) else copy.deepcopy(facts[part][field])
    if isinstance(facts[part], dict | list) and facts[part]:
        disturb(dice, facts[part])
    else:
        facts[part] = strange(dice)
    (place / "tokenizer.json").write_text(json.dumps(facts))
    settings = {"model_max_length": strange(dice)} if dice.randrange(2) else strange(dice)
    (place / "tokenizer_config.json").write_text(json.dumps(settings))
    ids, mask = GemmaTokenizer.from_folder(place)(["A blue ball bouncing on green grass"])
    assert ids.shape == mask.shape


Read = Callable[[random.Random, Samples, Path], None]
kinds: dict[str, Read] = {
    "pieces of a video": _video,
    "pieces of an image": _image,
    "record in a video": _record,
    "job folder": _job,
    "structure of a header": _safetensors,
    "index of shards": _index,
    "pickle in a zip": partial(_pth, legacy=False),
    "pickles in a row": partial(_pth, legacy=True),
    "tokenizer": _tokenizer,
}
