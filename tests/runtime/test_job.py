import mlx.core as mx
import pytest

from LTX_2_MLX.errors import RequestError
from LTX_2_MLX.runtime.job import Job, remembered_request


def _arrays():
    return {
        "video": mx.random.normal((1, 2, 3, 5), key=mx.random.key(1)),
        "text": mx.random.normal((4, 7), key=mx.random.key(2)).astype(mx.bfloat16),
        "count": mx.array([3]),
    }


def _equal(first, second):
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and mx.array_equal(first[name], second[name]) for name in first
    )


@pytest.fixture
def kept(tmp_path):
    """A folder with one state."""
    Job(tmp_path / "job", {"prompt": "a ball"}).save("stage_1", _arrays())
    return tmp_path / "job"


def test_state_comes_back_bit_for_bit(kept):
    job = Job(kept, {"prompt": "a ball"}, resume=True)
    assert _equal(job.load("stage_1"), _arrays())


def test_a_new_run_replaces_the_states_that_are_there(kept):
    changed = {"video": mx.arange(3)}
    Job(kept, {"prompt": "a ball"}).save("stage_1", changed)
    found = Job(kept, {"prompt": "a ball"}, resume=True).load("stage_1")
    assert _equal(found, changed)


@pytest.mark.parametrize("facts", [{"prompt": "two balls"}, {}, {"prompt": "a ball", "seed": 1}])
def test_state_of_another_request_is_named_and_computed_again(kept, facts):
    notes = []
    job = Job(kept, facts, resume=True, note=notes.append)
    assert job.load("stage_1") is None
    assert "stage_1.safetensors was made from another request" in notes[0]


def test_facts_of_a_stage_count_as_well(kept):
    job = Job(kept, {"prompt": "a ball"}, resume=True)
    assert job.load("stage_1", tile_size=64) is None


def test_state_of_another_stage_under_this_name_is_not_trusted(kept):
    (kept / "stage_1.safetensors").rename(kept / "stage_2.safetensors")
    assert Job(kept, {"prompt": "a ball"}, resume=True).load("stage_2") is None


def test_every_flipped_byte_and_every_cut_is_found(kept):
    path = kept / "stage_1.safetensors"
    whole = path.read_bytes()
    places = [*range(0, len(whole), 41), len(whole) - 1]
    damaged = [whole[:n] + bytes([whole[n] ^ 0x10]) + whole[n + 1 :] for n in places]
    for content in [*damaged, *(whole[:n] for n in places), b"", whole + b"x" * 8]:
        path.write_bytes(content)
        notes = []
        found = Job(kept, {"prompt": "a ball"}, resume=True, note=notes.append).load("stage_1")
        assert (found is None and str(path) in notes[0]) or _equal(found, _arrays())
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert Job(kept, {"prompt": "a ball"}, resume=True).load("stage_1") is None


def test_half_written_states_of_an_ended_run_are_removed(kept):
    (kept / ".stage_2.safetensors.77.partial").write_bytes(b"half")
    Job(kept, {"prompt": "a ball"}, resume=True)
    assert [path.name for path in kept.iterdir()] == ["stage_1.safetensors"]


def test_resuming_where_nothing_is_says_how_to_start(tmp_path):
    with pytest.raises(RequestError, match=r"nothing to resume\. Start with --save-latents"):
        Job(tmp_path / "none", resume=True)


def test_request_is_remembered_beside_the_states(kept):
    Job(kept).remember({"prompt": "a ball", "seed": 3})
    assert remembered_request(kept) == {"prompt": "a ball", "seed": 3}


@pytest.mark.parametrize("text", ["", "[1]", "{", "[" * 100_000, "\udcff"])
def test_request_that_cannot_be_read_is_one_clear_error(kept, text):
    (kept / "request.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RequestError, match=r"request\.json"):
        remembered_request(kept)


def test_facts_that_differ_are_named(tmp_path):
    facts = {"facts": {"seed": 3, "cfg": 5.0}, "needs": {"contexts": {"facts": {"prompt": "a ball"}}}}
    Job(tmp_path / "job").save("stage_1", _arrays(), **facts)
    notes = []
    job = Job(tmp_path / "job", resume=True, note=notes.append)
    changed = {"facts": {"seed": 4, "cfg": 5.0}, "needs": {"contexts": {"facts": {"prompt": "a box"}}}}
    assert job.load("stage_1", **changed) is None
    assert "(prompt, seed)" in notes[0]


def test_partial_files_of_others_stay(tmp_path):
    names = [".notes.partial", ".x.partial"]
    (tmp_path / names[0]).touch()
    (tmp_path / names[1]).mkdir()
    stale = tmp_path / ".stage_2.safetensors.4194305.partial"
    stale.touch()
    Job(tmp_path)
    assert not stale.exists() and all((tmp_path / name).exists() for name in names)


@pytest.mark.parametrize("name", ["request.json", "stage_1.safetensors"])
def test_folder_with_files_of_the_user_is_refused(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(RequestError, match="folder of its own"):
        Job(tmp_path)
    assert (tmp_path / name).read_text() == "mine"


def test_folder_of_an_earlier_run_is_used_again(kept):
    Job(kept).remember({"prompt": "a ball"})
    Job(kept).save("stage_1", _arrays())
