"""RIFE's golden cases: the network, the published procedure, the author's loop with duplicates and cuts."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.media.frames import to_unit
from LTX_2_MLX.models.rife import IFNet, pad_for
from LTX_2_MLX.ops.resize import resize
from LTX_2_MLX.ops.similarity import structural_similarity
from LTX_2_MLX.ops.streams import finished
from LTX_2_MLX.pipelines.interpolate import halved
from LTX_2_MLX.verify import Outputs, component
from LTX_2_MLX.verify.case import Case


def _first(array: mx.array) -> np.ndarray:
    """``(B, H, W, C)`` to ``(B, C, H, W)``, as the references store frames."""
    return np.array(array.transpose(0, 3, 1, 2))


@component("rife/ifnet")
def ifnet(case: Case) -> Outputs:
    """The network at the places and scales that the output names say: t30_s05 is fraction 0.3 at scale 0.5."""
    network = load(IFNet, case.checkpoint())
    frames = [mx.array(case.io[f"input.frame{i}"].transpose(0, 2, 3, 1)) for i in (0, 1)]
    outputs = {}
    for run in sorted({name.split(".")[0] for name in case.outputs()}):
        fraction, scale = int(run[1:3]) / 100, {"s1": 1.0, "s05": 0.5, "s025": 0.25, "s2": 2.0, "s4": 4.0}[run[4:]]
        outputs |= {f"{run}.{name}": value for name, value in _run(network, frames, fraction, scale).items()}
    return outputs


def _run(network: IFNet, frames: list[mx.array], fraction: float, scale: float) -> Outputs:
    seen = [network.seen(pad_for(frame, scale)) for frame in frames]
    outputs = {"encode0_sub": np.array(seen[0][0][:, 3:])[:, :, 1::4, 2::4]}
    for i, (flow, mask) in enumerate(finished(network.estimating(*seen, fraction, scale))):
        larger = resize(mask.transpose(0, 2, 3, 1), *flow.shape[2:])
        outputs["flow"], outputs["mask"] = np.array(flow), _first(larger)
        outputs |= {f"{name}{i}_sub": outputs[name][:, :, 1::4, 2::4] for name in ("flow", "mask")}
    return outputs | {"merged": _first(network(*frames, fraction, scale=scale))}


@component("rife/procedure")
def procedure(case: Case) -> Outputs:
    """A clip made smoother as the reference does: by halving, then truncating to integers."""
    network, frames = load(IFNet, case.checkpoint()), case.io["input.frames"]
    outputs = {}
    for run in sorted({name.split(".")[0] for name in case.outputs()}):
        exp, scale = int(run[3]), 0.5 if run.endswith("scale05") else 1.0
        gaps = [_gap(network, *frames[i : i + 2], exp, scale) for i in range(len(frames) - 1)]
        clip = [piece for i, gap in enumerate(gaps) for piece in (frames[i : i + 1], _truncated(gap))]
        outputs[f"{run}.frames"] = np.concatenate([*clip, frames[-1:]])
        outputs |= {f"{run}.gap{i}_float": gap.transpose(0, 3, 1, 2) for i, gap in enumerate(gaps)}
    return outputs


def _gap(network: IFNet, first: np.ndarray, second: np.ndarray, exp: int, scale: float) -> np.ndarray:
    """Frames made between two, ``(T, H, W, 3)`` float32."""
    seen = [network.seen(pad_for(to_unit(frame[None]), scale)) for frame in (first, second)]
    return np.concatenate([np.array(made) for made in halved(network, [seen], exp, scale, first.shape[:2])])


def _truncated(pixels: np.ndarray) -> np.ndarray:
    """The reference does not round."""
    return np.floor(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


@component("rife/procedure_scene")
def procedure_scene(case: Case) -> Outputs:
    """The author's loop: a doubled frame is made anew, across a cut the last frame is repeated."""
    loop = _AuthorsLoop(load(IFNet, case.checkpoint()), **case.parameters)
    clip = np.stack(loop.run(list(case.io["input.frames"])))
    return {"frames": clip, "frames_sub": clip[:, 0::2, 1::2], "ssim": np.array(loop.similarities, np.float32)}


class _AuthorsLoop:
    """hzwer/Practical-RIFE, inference_video.py at 17d8c7a: frames uint8 in and out, padded to 128 and more."""

    def __init__(self, network: IFNet, multi: int = 2, scale: float = 1.0):
        self.network, self.scale = network, scale
        self.places = [k / multi for k in range(1, multi)]
        self.similarities: list[float] = []

    def run(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        self.size = frames[0].shape[:2]
        last, clip = frames.pop(0), []
        before = self._padded(last)
        while frames:
            frame = frames.pop(0)
            after = self._padded(frame)
            if self._similarity(before, after) > 0.996:
                # What the double is replaced by looks one frame ahead; that frame has its turn after it.
                following = frames[0] if frames else last
                after = self.network(before, self._padded(following), scale=self.scale)
                frame = self._levels(after)
                self._similarity(before, after)
            cut = self.similarities[-1] < 0.2
            made = [before if cut else self.network(before, after, t, scale=self.scale) for t in self.places]
            clip += [last, *map(self._levels, made)]
            last, before = frame, after
        return [*clip, last]

    def _similarity(self, first: mx.array, second: mx.array) -> float:
        similarity = structural_similarity(resize(first, 32, 32)[0], resize(second, 32, 32)[0]).item()
        self.similarities.append(similarity)
        return similarity

    def _padded(self, frame: np.ndarray) -> mx.array:
        multiple = max(128, int(128 / self.scale))
        below, right = (-size % multiple for size in frame.shape[:2])
        return to_unit(np.pad(frame, [(0, below), (0, right), (0, 0)])[None])

    def _levels(self, pixels: mx.array) -> np.ndarray:
        """Truncated without a clamp, padding cut off."""
        height, width = self.size
        return np.array(pixels[0, :height, :width] * 255).astype(np.int64).astype(np.uint8)
