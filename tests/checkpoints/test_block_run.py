"""Blocks of a network divided among processes: each weight has the processes that need it, each block one."""

import mlx.core as mx
import pytest
import tiny_checkpoints

from LTX_2_MLX.checkpoints.block_run import BlockRun
from LTX_2_MLX.checkpoints.load import load, weights_bytes
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.models.ltx.transformer import Transformer
from LTX_2_MLX.ops.collective import Group


@pytest.mark.parametrize(("size", "blocks"), [(1, 3), (2, 3), (3, 3), (3, 7)])
def test_every_block_has_one_process(size, blocks):
    runs = [BlockRun(Group(rank, size)) for rank in range(size)]
    assert [number for run in runs for number in run.owned(blocks)] == list(range(blocks))
    for rank, run in enumerate(runs):
        assert all(runs[0].owner(number, blocks) == rank for number in run.owned(blocks))


def test_more_processes_than_blocks_are_refused():
    with pytest.raises(RequestError, match="3 machines cannot share 2 blocks"):
        BlockRun(Group(0, 3)).owned(2)


def test_two_processes_hold_half_of_the_network_each(tmp_path):
    checkpoint = Checkpoint(tiny_checkpoints.write_weights(tmp_path / "model.safetensors"))
    whole = weights_bytes(Transformer, checkpoint, dtype=mx.float32)
    halves = [BlockRun(Group(rank, 2)) for rank in range(2)]
    planned = [weights_bytes(Transformer, checkpoint, dtype=mx.float32, run=run) for run in halves]
    assert max(planned) < 0.62 * whole
    for run, num_bytes in zip(halves, planned, strict=True):
        network = load(Transformer, checkpoint, dtype=mx.float32, run=run)
        from mlx.utils import tree_flatten

        assert sum(array.nbytes for _, array in tree_flatten(network.parameters())) == num_bytes
