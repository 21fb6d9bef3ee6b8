"""Weights read into the file cache before they are loaded."""

from itertools import pairwise

import mlx.core as mx
import numpy as np
import tiny_checkpoints

from LTX_2_MLX.checkpoints.load import parameter_names
from LTX_2_MLX.checkpoints.read_ahead import FileSpan, Reading, StoredNetwork
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.models.ltx.transformer import Transformer


def test_spans_hold_the_bytes_of_the_networks_tensors_and_no_others(tmp_path):
    checkpoint = Checkpoint(tiny_checkpoints.write_weights(tmp_path / "ltx.safetensors"))
    stored = StoredNetwork(checkpoint, Transformer)
    spans = stored.spans()
    data = (tmp_path / "ltx.safetensors").read_bytes()
    found = b"".join(data[span.start : span.stop] for span in spans)
    names = parameter_names(Transformer, checkpoint)
    in_order = [name for name in checkpoint.header.tensors if name in names]
    arrays = checkpoint.arrays(in_order)
    expected = b"".join(np.array(arrays[name].astype(mx.float32)).tobytes() for name in in_order)
    assert {checkpoint.header.tensors[name].dtype for name in in_order} == {"F32"}
    assert found == expected and stored.num_bytes == len(expected)
    # Joined, wherever neighbours belong to the network.
    assert all(after.start > before.stop for before, after in pairwise(spans))
    assert 0 < len(spans) < len(in_order)


def test_without_a_network_all_tensors_of_all_files_are_meant(tmp_path):
    paths = []
    for number, sizes in enumerate([(3, 5), (7,)]):
        paths.append(tmp_path / f"{number}.safetensors")
        mx.save_safetensors(str(paths[-1]), {f"{number}.{size}": mx.ones((size, 4)) for size in sizes})
    stored = StoredNetwork(Checkpoint(paths))
    sizes = {span.path: span.stop - span.start for span in stored.spans()}
    assert sizes == {paths[0]: 8 * 4 * 4, paths[1]: 7 * 4 * 4} and stored.num_bytes == 15 * 16
    assert all(span.stop == span.path.stat().st_size for span in stored.spans())


def test_all_bytes_are_read(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(20 * 2**20))
    reading = Reading([FileSpan(path, 5, 19 * 2**20), FileSpan(path, 19 * 2**20 + 3, 20 * 2**20)])
    reading.wait()
    assert reading.read_bytes == 20 * 2**20 - 8


def test_reading_stops_where_it_is_stopped(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(2**20))

    def endless():
        while True:
            yield FileSpan(path, 0, 2**20)

    reading = Reading(endless())
    reading.stop()
    stopped_at = reading.read_bytes
    reading.wait()
    assert reading.read_bytes == stopped_at


def test_a_file_that_has_gone_is_left_to_loading(tmp_path):
    reading = Reading([FileSpan(tmp_path / "gone", 0, 10)])
    reading.wait()
    assert reading.read_bytes == 0
