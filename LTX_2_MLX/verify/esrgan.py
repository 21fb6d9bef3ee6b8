"""Real-ESRGAN's golden cases: both networks, mixed checkpoints, procedures, pickled files."""

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.models.rrdbnet import RRDBNet
from LTX_2_MLX.models.srvgg import SRVGG
from LTX_2_MLX.verify import Outputs, component
from LTX_2_MLX.verify.case import Case


def _last(array: np.ndarray) -> mx.array:
    return mx.array(array.transpose(0, 2, 3, 1))


def _first(array: mx.array) -> np.ndarray:
    return np.array(array.transpose(0, 3, 1, 2))


@component("esrgan/srvgg")
@component("esrgan/rrdbnet")
def network(case: Case) -> Outputs:
    """The bare network, recognised from the file."""
    return {"y": _first(load([RRDBNet, SRVGG], case.checkpoint())(_last(case.io["input.x"])))}
