"""A file is known by its content, wherever it lies; names of files to write are refused before any work."""

import os

import pytest

from LTX_2_MLX import files
from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.files import check_writable, content_digest, made_folder, replaced_when_complete


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


def test_name_that_the_disk_cannot_hold_is_refused_with_its_length(tmp_path):
    most = os.pathconf(tmp_path, "PC_NAME_MAX")
    assert check_writable(tmp_path / ("a" * (most - 4) + ".mp4"))
    with pytest.raises(MediaError, match=f"has {most + 1} bytes, the disk allows {most}"):
        check_writable(tmp_path / ("a" * (most - 3) + ".mp4"))


def test_folder_that_was_made_goes_again_only_where_nothing_came_into_it(tmp_path):
    with pytest.raises(ZeroDivisionError), made_folder(tmp_path / "new"):
        1 / 0  # noqa: B018
    with made_folder(tmp_path / "kept") as folder:
        (folder / "video.mp4").touch()
    (tmp_path / "old").mkdir()
    with made_folder(tmp_path / "old"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "old"]


def test_longest_name_of_wide_letters_can_be_written(tmp_path):
    most = os.pathconf(tmp_path, "PC_NAME_MAX")
    path = tmp_path / ("🎈" * ((most - 4) // 4) + ".bin")
    with replaced_when_complete(path) as temporary:
        temporary.write_bytes(b"whole")
    assert [path] == list(tmp_path.iterdir()) and path.read_bytes() == b"whole"
