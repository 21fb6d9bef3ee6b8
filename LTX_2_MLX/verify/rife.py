"""RIFE's golden cases: the network, the published procedure, the author's loop with duplicates and cuts."""

import re

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.media.frames import to_unit
from LTX_2_MLX.models.rife import IFNet, pad_for
from LTX_2_MLX.ops.sampling import resize, structural_similarity
from LTX_2_MLX.pipelines.interpolate import halve_gap
from LTX_2_MLX.verify.case import Case, Outputs
from LTX_2_MLX.verify.layout import channels_first, channels_last, readable

# Runs of the network: t30_s05 is fraction 0.3 at scale 0.5. Runs of the procedure: exp2, exp1_scale05.
NETWORK_RUN = re.compile(r"t(?P<fraction>\d+)_s(?P<scale>\d+)$")
PROCEDURE_RUN = re.compile(r"exp(?P<exp>\d+)(_scale(?P<scale>\d+))?$")


def _scale(digits: str) -> float:
    """A scale in a run's name: 1, 2 and 4 as they are, 05 is 0.5 and 025 is 0.25."""
    return float(f"0.{digits[1:]}") if digits.startswith("0") else float(digits)


def _runs(case: Case) -> list[str]:
    """Names of the case's runs: an output is called run.value."""
    return sorted({name.split(".")[0] for name in case.outputs()})


def ifnet(case: Case) -> Outputs:
    """The network at the fractions and scales of ``parameters.runs``, or of the output names."""
    network = load(IFNet, case.checkpoint(), dtype=case.dtype)
    frames = [channels_last(case.io[f"input.frame{i}"]) for i in (0, 1)]
    outputs: Outputs = {}
    for run in _runs(case):
        values = _network_run(network, frames, *_fraction_and_scale(case, run))
        outputs |= {f"{run}.{name}": value for name, value in values.items()}
    return outputs


def _fraction_and_scale(case: Case, run: str) -> tuple[float, float]:
    arguments = case.parameters.get("runs", {}).get(run)
    if arguments is not None:
        return arguments["fraction"], arguments["scale"]
    match = NETWORK_RUN.match(run)
    assert match is not None, run
    return int(match["fraction"]) / 100, _scale(match["scale"])


def _network_run(network: IFNet, frames: list[mx.array], fraction: float, scale: float) -> Outputs:
    first, second = (network.encode_frame(pad_for(frame, scale)) for frame in frames)
    height, width = first.shape[1:3]
    outputs = {"encode0_sub": channels_first(first[..., 3:])[:, :, 1::4, 2::4]}
    estimate = None
    for i in range(network.num_blocks):
        estimate = network.refine(estimate, i, first, second, fraction, scale)
        outputs["flow"] = channels_first(estimate.flow)
        outputs["mask"] = channels_first(resize(estimate.mask_and_features[..., :1], height, width))
        outputs |= {f"{name}{i}_sub": outputs[name][:, :, 1::4, 2::4] for name in ("flow", "mask")}
    return outputs | {"merged": channels_first(network(frames[0], frames[1], fraction, scale=scale))}


def procedure(case: Case) -> Outputs:
    """A clip interpolated as the reference does: by halving, then truncating to integers."""
    network = load(IFNet, case.checkpoint(), dtype=case.dtype)
    frames = case.io["input.frames"]
    outputs = {}
    for run in _runs(case):
        exp, scale = _exp_and_scale(case, run)
        clip = []
        for i in range(len(frames) - 1):
            new = _between(network, frames[i], frames[i + 1], exp, scale)
            clip += [frames[i : i + 1], _truncated(new)]
            outputs[f"{run}.gap{i}_float"] = new.transpose(0, 3, 1, 2)
        outputs[f"{run}.frames"] = np.concatenate([*clip, frames[-1:]])
    return outputs


def _exp_and_scale(case: Case, run: str) -> tuple[int, float]:
    arguments = case.parameters.get("runs", {}).get(run)
    if arguments is not None:
        return arguments["exp"], arguments["scale"]
    match = PROCEDURE_RUN.match(run)
    assert match is not None, run
    return int(match["exp"]), _scale(match["scale"] or "1")


def _between(network: IFNet, first: np.ndarray, second: np.ndarray, exp: int, scale: float) -> np.ndarray:
    """Frames between two, ``(T, H, W, 3)`` float32."""
    encoded_first = network.encode_frame(pad_for(to_unit(first[None]), scale))
    encoded_second = network.encode_frame(pad_for(to_unit(second[None]), scale))
    height, width = first.shape[:2]
    frames = halve_gap(network, encoded_first, encoded_second, exp, scale, (height, width))
    return np.concatenate([readable(frame) for frame in frames])


def _truncated(pixels: np.ndarray) -> np.ndarray:
    """The reference does not round."""
    return np.floor(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def procedure_scene(case: Case) -> Outputs:
    """The author's loop: a repeated frame is computed anew, across a cut the last frame is repeated."""
    network = load(IFNet, case.checkpoint(), dtype=case.dtype)
    loop = _AuthorsLoop(network, multi=case.parameter("multi"), scale=case.parameter("scale"))
    clip = np.stack(loop.run(list(case.io["input.frames"])))
    similarities = np.array(loop.similarities, np.float32)
    return {"frames": clip, "frames_sub": clip[:, 0::2, 1::2], "ssim": similarities}


class _AuthorsLoop:
    """hzwer/Practical-RIFE, inference_video.py at 17d8c7a: frames uint8 in and out, padded to 128 and more."""

    # SSIM above which a frame repeats the one before it, and below which there is a cut.
    REPEATED = 0.996
    CUT = 0.2

    def __init__(self, network: IFNet, multi: int, scale: float):
        self.network = network
        self.scale = scale
        self.fractions = [k / multi for k in range(1, multi)]
        self.similarities: list[float] = []

    def run(self, frames: list[np.ndarray]) -> list[np.ndarray]:
        self.size = frames[0].shape[:2]
        clip = []
        last = frames.pop(0)
        before = self._padded(last)
        while frames:
            frame = frames.pop(0)
            after = self._padded(frame)
            if self._similarity(before, after) > self.REPEATED:
                # The replacement is interpolated towards the next frame, which has its turn after it.
                following = frames[0] if frames else last
                after = self.network(before, self._padded(following), scale=self.scale)
                frame = self._levels(after)
                self._similarity(before, after)
            clip.append(last)
            for fraction in self.fractions:
                cut = self.similarities[-1] < self.CUT
                new = before if cut else self.network(before, after, fraction, scale=self.scale)
                clip.append(self._levels(new))
            last = frame
            before = after
        return [*clip, last]

    def _similarity(self, first: mx.array, second: mx.array) -> float:
        thumbnails = [readable(resize(frame, 32, 32)[0]) for frame in (first, second)]
        similarity = structural_similarity(thumbnails[0], thumbnails[1])
        self.similarities.append(similarity)
        return similarity

    def _padded(self, frame: np.ndarray) -> mx.array:
        multiple = max(128, int(128 / self.scale))
        below, right = (-size % multiple for size in frame.shape[:2])
        return to_unit(np.pad(frame, [(0, below), (0, right), (0, 0)])[None])

    def _levels(self, pixels: mx.array) -> np.ndarray:
        """Truncated without a clamp, padding cut off."""
        height, width = self.size
        return np.array(pixels[0, :height, :width].astype(mx.float32) * 255).astype(np.int64).astype(np.uint8)
