"""RIFE's golden cases: the network, the published procedure, the author's loop with duplicates and cuts."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.models.rife import IFNet, pad_for
from LTX_2_MLX.ops.resize import resize
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
    outputs = {"encode0_sub": _first(seen[0][..., 3:])[:, :, 1::4, 2::4]}
    for i, (flow, mask) in enumerate(network.estimates(*seen, fraction, scale)):
        outputs["flow"], outputs["mask"] = _first(flow), _first(resize(mask, *flow.shape[1:3]))
        outputs |= {f"{name}{i}_sub": outputs[name][:, :, 1::4, 2::4] for name in ("flow", "mask")}
    return outputs | {"merged": _first(network(*frames, fraction, scale=scale))}
