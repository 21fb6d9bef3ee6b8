"""A file is known by its content, wherever it lies and whatever its size."""

import os

from LTX_2_MLX import files
from LTX_2_MLX.files import content_digest


def test_copies_have_the_same_digest_and_changes_another(tmp_path):
    first, copy = tmp_path / "first", tmp_path / "copy"
    first.write_bytes(b"weights")
    copy.write_bytes(b"weights")
    os.utime(copy, (1, 1))
    assert content_digest(first) == content_digest(copy)
    copy.write_bytes(b"weighty")
    assert content_digest(first) != content_digest(copy)


def test_large_files_are_sampled_to_both_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_WHOLE_BYTES", 1000)
    monkeypatch.setattr(files, "_SAMPLE_BYTES", 10)
    content = bytearray(range(256)) * 8
    path = tmp_path / "large"
    path.write_bytes(content)
    digests = {content_digest(path)}
    for changed in (0, len(content) - 1, 5):
        other = bytearray(content)
        other[changed] ^= 1
        path.write_bytes(other)
        digests.add(content_digest(path))
    path.write_bytes(content + b"x")
    digests.add(content_digest(path))
    assert len(digests) == 5


def test_folders_count_with_the_names_of_their_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"weights")
    assert content_digest(tmp_path / "one") == content_digest(tmp_path / "two")
    (tmp_path / "two" / "._model.safetensors").write_bytes(b"AppleDouble")
    assert content_digest(tmp_path / "one") == content_digest(tmp_path / "two")
    (tmp_path / "two" / "model.safetensors").rename(tmp_path / "two" / "other.safetensors")
    assert content_digest(tmp_path / "one") != content_digest(tmp_path / "two")
