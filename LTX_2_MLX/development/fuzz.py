"""Damaged and hostile files, made from good ones by chance, and what becomes of them.

Each kind of case takes dice and a folder, damages one file there and reads it as users' files are. It
ends in one of two ways: the file is refused by an error of this library, or it is accepted for what it is. Anything
else (another exception, a result that the file does not hold, a case without end) is a fault.
"""

import json
import random
import shutil
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from LTX_2_MLX.checkpoints.gemma3 import GemmaConfig
from LTX_2_MLX.checkpoints.gemma_tokenizer import GemmaTokenizer
from LTX_2_MLX.checkpoints.load import load, weights_bytes
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.development import fuzz_kinds
from LTX_2_MLX.development.full_size import models_of_file
from LTX_2_MLX.development.fuzz_damage import damaged, disturb, split_header, strange, with_header
from LTX_2_MLX.development.fuzz_kinds import Samples
from LTX_2_MLX.diffusion.state import VideoGrid
from LTX_2_MLX.errors import LTXError
from LTX_2_MLX.media.video import read_video
from LTX_2_MLX.models.interfaces import PublishedNetwork
from LTX_2_MLX.models.ltx.latent_upscaler import LatentUpscaler
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.models.ltx.video_vae import VideoDecoder
from LTX_2_MLX.pipelines.generation.decode import decode_frames
from LTX_2_MLX.pipelines.generation.denoise import Denoise
from LTX_2_MLX.pipelines.generation.options import Options
from LTX_2_MLX.pipelines.generation.record import options_from, saved_record
from LTX_2_MLX.pipelines.generation.state import GenerationState
from LTX_2_MLX.runtime.job import REQUEST_FILE, Job
from LTX_2_MLX.runtime.progress import SilentProgress
from LTX_2_MLX.shapes import Compression, LatentShape
from LTX_2_MLX.verify.case import Case

REFUSED, ACCEPTED = "refused", "accepted"
# Seconds of the process's own time after which a case counts as one without end, however busy the machine is.
PATIENCE = 60
_NETWORKS: dict[str, type[PublishedNetwork[Any]]] = {
    "transformer": Transformer,
    "decoder": VideoDecoder,
    "upscaler": LatentUpscaler,
}
_CASES = {
    "transformer": "ltx2/transformer_video_2_0",
    "decoder": "ltx2/video_vae_2_3/decode",
    "upscaler": "ltx2/temporal_upscaler_x2/v2_0",
}
_FACTS = {"prompt": "a ball"}


@dataclass(frozen=True)
class Good:
    """Good files to damage, their bytes held."""

    checkpoints: dict[str, bytes]
    state: bytes
    request: bytes
    video: bytes
    gemma: Path
    samples: Samples

    @classmethod
    def make(cls, goldens: Path, video: Path, gemma: Path, folder: Path) -> "Good":
        """From golden cases, a short video and a folder with a small text encoder; ``folder`` is for scratch."""
        checkpoints = {}
        for name, case in _CASES.items():
            path = Case.open(goldens / case, folder).write_checkpoint(f"{name}.safetensors")
            checkpoints[name] = path.read_bytes()
        job = Job(folder / "job", _FACTS)
        job.save("stage_1", _arrays())
        options = {"prompt": "a ball", "height": 64, "cfg": 3.0, "lora": ["a:0.5"], "fit": True, "weights": "auto"}
        job.remember(options)
        state = (folder / "job" / "stage_1.safetensors").read_bytes()
        samples = Samples.make(checkpoints["upscaler"], gemma, folder)
        return cls(checkpoints, state, json.dumps(options).encode(), video.read_bytes(), gemma, samples)


def _arrays() -> dict[str, mx.array]:
    return {"video": mx.random.normal((1, 2, 3, 4, 5), key=mx.random.key(0)), "audio": mx.arange(6.0)}


@contextmanager
def _limited() -> Iterator[None]:
    """An end to what would have none."""

    def give_up(*_: Any) -> None:
        raise TimeoutError("the case had no end")

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def run_fuzz(kind: str, seed: int, good: Good, folder: Path) -> str:
    """One case; ``refused`` or ``accepted``.

    Raises:
        Exception: Whatever is no error of this library's: a fault.
    """
    place = folder / "case"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    with _limited():
        try:
            KINDS[kind](random.Random(f"{kind}-{seed}"), good, place)
        except LTXError as error:
            # A user reads one line.
            assert str(error).strip(), "the refusal says nothing"
            return REFUSED
    return ACCEPTED


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    header, data = split_header(content)
    return json.loads(header), data


def _joined(header: dict[str, Any], data: bytes) -> bytes:
    return with_header(json.dumps(header).encode(), data)


def _read(place: Path, name: str, content: bytes) -> None:
    """Load a file as a network's; what is accepted has to be what the network has and the file holds."""
    path = place / "file.safetensors"
    path.write_bytes(content)
    checkpoint, network = Checkpoint(path), _NETWORKS[name]
    planned = weights_bytes(network, checkpoint)
    model: Any = load(network, checkpoint)
    held = sum(array.nbytes for array in dict(tree_flatten(model.parameters())).values())
    assert planned == held, f"planned {planned} bytes, held {held}"
    assert sum(info.num_bytes for info in checkpoint.header.tensors.values()) <= len(content)
    _RUNS[name](model, checkpoint)


def _denoise(model: Transformer, checkpoint: Checkpoint) -> None:
    grid = VideoGrid(LatentShape(1, 2, 3), Compression(8, 32, 32), 24.0)
    width = model.config.caption_channels or model.config.video.width
    models = models_of_file(checkpoint, distilled=False)
    stage = Denoise("denoise", models, grid, sigmas=(1.0, 0.0), context_size=(1, 4))
    state = GenerationState(contexts={"positive.video": mx.zeros((1, 4, width))})
    mx.eval(stage.sample(model, state=state, progress=SilentProgress()))


def _decode(model: VideoDecoder, checkpoint: Checkpoint) -> None:
    for _ in decode_frames(model, mx.random.normal((1, 2, 2, 3, model.config.latent_channels))):
        pass


def _upscale(model: LatentUpscaler, checkpoint: Checkpoint) -> None:
    mx.eval(model(mx.zeros((1, 2, 2, 3, model.config.in_channels))))


# What is accepted has to run as well, to whatever end.
_RUNS: dict[str, Callable[[Any, Checkpoint], None]] = {
    "transformer": _denoise,
    "decoder": _decode,
    "upscaler": _upscale,
}


def _flipped(dice: random.Random, good: Good, place: Path) -> None:
    name = dice.choice([*_CASES])
    _read(place, name, damaged(dice, good.checkpoints[name]))


def _header_bytes(dice: random.Random, good: Good, place: Path) -> None:
    name = dice.choice([*_CASES])
    content = good.checkpoints[name]
    (length,) = struct.unpack("<Q", content[:8])
    _read(place, name, damaged(dice, content, within=8 + length))


def _cut(dice: random.Random, good: Good, place: Path) -> None:
    name = dice.choice([*_CASES])
    content = good.checkpoints[name]
    cut = dice.choice((dice.randrange(len(content)), dice.randrange(16), len(content) - 1 - dice.randrange(64)))
    _read(place, name, content[:cut])
    raise AssertionError(f"a file cut at {cut} of {len(content)} bytes was accepted")


def _header_values(dice: random.Random, good: Good, place: Path) -> None:
    name = dice.choice([*_CASES])
    header, data = _split(good.checkpoints[name])
    for _ in range(dice.choice((1, 1, 2, 4))):
        tensor = dice.choice([key for key, value in header.items() if isinstance(value, dict) and "dtype" in value])
        match dice.randrange(6):
            case 0:
                header[tensor]["dtype"] = dice.choice(("F16", "BF16", "F64", "I8", "F8_E4M3", "F4", "", 3, None))
            case 1:
                header[tensor]["shape"] = strange(dice, [dice.randrange(2**40)], [1] * 40, [-1, 3])
            case 2:
                header[tensor]["data_offsets"] = strange(dice, [0, 4], [2**62, 2**63], [8, 4])
            case 3:
                header[dice.choice((f"{tensor}.x", "", "x" * 5000, "../../x"))] = header.pop(tensor)
            case 4:
                header[tensor] = strange(dice)
            case 5:
                del header[tensor]
    _read(place, name, _joined(header, data))


def _config(dice: random.Random, good: Good, place: Path) -> None:
    name = dice.choice([*_CASES])
    header, data = _split(good.checkpoints[name])
    config = json.loads(header["__metadata__"]["config"]) if "__metadata__" in header else {}
    for _ in range(dice.choice((1, 1, 2, 4))):
        disturb(dice, config)
    text = json.dumps(config) if dice.randrange(8) else damaged(dice, json.dumps(config).encode()).decode("latin-1")
    header["__metadata__"] = {"config": text}
    _read(place, name, _joined(header, data))


def _state(dice: random.Random, good: Good, place: Path) -> None:
    job = Job(place / "job", _FACTS)
    content = good.state[: dice.randrange(len(good.state))] if dice.randrange(4) == 0 else damaged(dice, good.state)
    (place / "job" / "stage_1.safetensors").write_bytes(content)
    found = Job(place / "job", _FACTS, resume=True).load("stage_1")
    wanted = _arrays()
    assert job.load("stage_1") is None, "a new run uses no states"
    assert found is None or (
        found.keys() == wanted.keys() and all(mx.array_equal(found[key], wanted[key]) for key in wanted)
    ), "a damaged state was trusted"


def _request(dice: random.Random, good: Good, place: Path) -> None:
    if dice.randrange(3):
        request = json.loads(good.request) | {dice.choice([*Options.__dataclass_fields__]): strange(dice)}
        disturb(dice, request)
        content = json.dumps(request).encode()
    else:
        content = damaged(dice, good.request)
    (place / REQUEST_FILE).write_bytes(content)
    options_from(saved_record(place), {"resume": place})


def _video(dice: random.Random, good: Good, place: Path) -> None:
    path = place / f"video{dice.choice(('.mp4', '.mov', '.mkv', '.avi', '.webm', '.gif', '.png', ''))}"
    cut = dice.randrange(4) == 0
    content = good.video[: dice.randrange(len(good.video))] if cut else damaged(dice, good.video)
    # Most of a container's sense stands at its ends.
    if dice.randrange(2):
        content = damaged(dice, content, within=64) + dice.randbytes(dice.randrange(16))
    path.write_bytes(content)
    stream, count = read_video(path), 0
    for chunk in stream:
        assert chunk.shape[1:] == (stream.height, stream.width, 3), "a frame of another size"
        count += len(chunk)
    assert count, "a video without a frame was accepted"


def _text_encoder(dice: random.Random, good: Good, place: Path) -> None:
    folder = place / "gemma"
    shutil.copytree(good.gemma, folder)
    path = folder / dice.choice(("config.json", "tokenizer.json", "tokenizer_config.json"))
    if dice.randrange(2) and path.name == "config.json":
        config = json.loads(path.read_text())
        disturb(dice, config)
        path.write_text(json.dumps(config))
    else:
        path.write_bytes(damaged(dice, path.read_bytes()))
    GemmaConfig.from_header(Checkpoint(folder).header)
    ids, mask = GemmaTokenizer.from_folder(folder)(["A blue ball bouncing on green grass"])
    assert ids.shape == mask.shape and mask.sum() > 0


def _of_samples(read: fuzz_kinds.Read) -> Callable[[random.Random, Good, Path], None]:
    return lambda dice, good, place: read(dice, good.samples, place)


KINDS: dict[str, Callable[[random.Random, Good, Path], None]] = {
    "bytes of a checkpoint": _flipped,
    "bytes of a header": _header_bytes,
    "values of a header": _header_values,
    "cut checkpoint": _cut,
    "config": _config,
    "state": _state,
    "request": _request,
    "video": _video,
    "text encoder": _text_encoder,
    **{name: _of_samples(read) for name, read in fuzz_kinds.kinds.items()},
}
