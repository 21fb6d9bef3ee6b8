"""Fetching published files, from a hub on this machine that misbehaves."""

import hashlib
import http.server
import json
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from LTX_2_MLX.checkpoints import transfer
from LTX_2_MLX.checkpoints.catalog import Entry, PublishedFile
from LTX_2_MLX.checkpoints.download import entry_for, fetch, free_bytes, is_here, look_up
from LTX_2_MLX.checkpoints.resolve import entry_by_name
from LTX_2_MLX.errors import DownloadError

CONTENT = np.random.default_rng(1).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "c0ffee" + "0" * 34


class Hub:
    """What the server does; tests change it.

    Attributes:
        files: Content by path.
        sent: Bytes that a transfer carries before the line breaks; None: all.
        broken: How many transfers break; later ones go through.
        busy: How many requests for content are put off.
        status: Answer to everything, where it is not 200.
        resumes: Whether the server can go on in the middle.
        starts: Where each transfer began.
        tokens: The authorization that came with each transfer.
    """

    def __init__(self):
        self.files = {"model.safetensors": CONTENT, "config.json": b"{}"}
        self.tags: dict[str, str] = {}
        self.sent, self.broken, self.status, self.headers, self.resumes = None, 10**9, 200, {}, True
        self.busy = 0
        self.starts: list[int] = []
        self.tokens: list[str | None] = []
        self.calls = Counter()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    state = Hub()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer(head=True)

        def do_GET(self):
            self.answer(head=False)

        def answer(self, head):
            state.calls[self.command, self.path.split("/")[1]] += 1
            if state.busy and self.command == "GET":
                state.busy -= 1
                self.begin(503, 0, {})
            elif state.status != 200:
                self.begin(state.status, 0, state.headers)
            elif self.path.startswith("/api/models/"):
                self.listing()
            else:
                self.file(state.files.get(self.path.split("/resolve/main/")[-1].removeprefix("/plain/")), head)

        def begin(self, status, length, headers):
            self.send_response(status)
            for name, value in {"Content-Length": str(length), **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def listing(self):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in state.files.items()]
            for sibling in siblings:
                name, data = sibling["rfilename"], state.files[sibling["rfilename"]]
                if name.endswith(".safetensors"):
                    sha256 = state.tags.get(name, hashlib.sha256(data).hexdigest())
                    sibling["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 9}
            text = json.dumps({"id": "someone/model", "sha": COMMIT, "siblings": siblings}).encode()
            self.begin(200, len(text), {"Content-Type": "application/json"})
            self.wfile.write(text)

        def file(self, data, head):
            if data is None:
                return self.begin(404, 0, {"X-Error-Code": "EntryNotFound"})
            asked = self.headers.get("Range", "bytes=0-") if state.resumes else "bytes=0-"
            start = 0 if head else int(asked.removeprefix("bytes=").split("-")[0])
            if start >= len(data) > 0 and not head:
                return self.begin(416, 0, {})
            tag = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
            self.begin(206 if start else 200, len(data) - start, tag)
            if head:
                return None
            state.starts.append(start)
            state.tokens.append(self.headers.get("Authorization"))
            rest = data[start:]
            if state.sent is not None and state.broken > 0 and len(rest) > state.sent:
                state.broken -= 1
                self.wfile.write(rest[: state.sent])
                self.wfile.flush()
                self.connection.close()
            else:
                self.wfile.write(rest)
            return None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    state.endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield state
    server.shutdown()
    server.server_close()


ENTRY = Entry(
    "model", "model", (PublishedFile("model.safetensors"),), "somewhere", "free", ("network",), "someone/model"
)


@pytest.fixture
def get(hub, tmp_path):
    """``get(entry)`` fetches all files of an entry without waiting, and gives their places."""

    def run(entry=ENTRY, advance=lambda *_: None):
        return [
            fetch(entry, remote, tmp_path / "weights", advance, endpoint=hub.endpoint, pause=0)
            for remote in look_up(entry, endpoint=hub.endpoint)
        ]

    return run


def parts(folder):
    return list(Path(folder).rglob("*.part"))


def test_a_file_goes_into_the_cache_and_is_linked(get, hub, tmp_path):
    heard = []
    (place,) = get(advance=lambda *told: heard.append(told))
    assert place == tmp_path / "weights/somewhere/model.safetensors" and place.is_symlink()
    assert place.read_bytes() == CONTENT and place.resolve().is_relative_to(tmp_path / "hub")
    assert heard[-1] == ("model.safetensors (checking)", len(CONTENT), len(CONTENT))
    assert ("model.safetensors", len(CONTENT), len(CONTENT)) in heard
    assert is_here(ENTRY, look_up(ENTRY, endpoint=hub.endpoint)[0]) and not parts(tmp_path)


def test_what_is_here_is_not_fetched_again(get, hub):
    get()
    get()
    assert hub.starts == [0]


def test_a_broken_transfer_goes_on_where_it_stopped(get, hub):
    hub.sent = 70_000
    (place,) = get()
    assert place.read_bytes() == CONTENT
    assert len(hub.starts) == 5 and hub.starts == sorted(set(hub.starts)) and hub.starts[1] > 0


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(get, hub, tmp_path):
    hub.sent = 70_000

    def stop(path, done, total):
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(advance=stop)
    (part,) = parts(tmp_path)
    kept = part.stat().st_size
    assert 100_000 < kept < len(CONTENT)
    hub.sent = None
    hub.starts.clear()
    assert get()[0].read_bytes() == CONTENT
    assert len(hub.starts) == 1 and hub.starts[0] == kept


def test_a_transfer_that_never_gets_on_is_given_up_and_keeps_what_came(get, hub, tmp_path):
    hub.sent = 0
    with pytest.raises(DownloadError, match=r"keeps failing .*run the command again"):
        get()
    assert len(hub.starts) == transfer.ATTEMPTS and not (tmp_path / "weights/somewhere/model.safetensors").exists()


def test_a_server_that_cannot_go_on_in_the_middle_starts_over(get, hub):
    hub.sent, hub.broken, hub.resumes = 70_000, 2, False
    assert get()[0].read_bytes() == CONTENT
    assert hub.starts == [0, 0, 0]


def test_wrong_bytes_are_thrown_away_and_said(get, hub, tmp_path):
    hub.tags["model.safetensors"] = "0" * 64
    with pytest.raises(DownloadError, match=f"differs from the published file: SHA-256 {SHA256}, expected 0000"):
        get()
    assert not parts(tmp_path) and not (tmp_path / "weights/somewhere/model.safetensors").exists()
    assert not list((tmp_path / "hub").rglob("blobs/*"))


def test_a_published_file_that_changed_is_not_taken_for_the_known_one(get, hub):
    known = Entry(
        "model", "model", (PublishedFile("model.safetensors", sha256="f" * 64),), "x", "free", ("n",), "someone/model"
    )
    with pytest.raises(DownloadError, match=r"another model\.safetensors than the one"):
        get(known)


def test_only_the_files_that_are_needed_are_fetched(get, hub, tmp_path):
    hub.files |= {
        "model-2.safetensors": b"2" * 50,
        "sub/other.safetensors": b"3",
        "readme.md": b"4",
        "tokenizer.json": b"5",
    }
    entry = Entry(
        "folder", "text-encoder",
        (PublishedFile("config.json"), PublishedFile("*.safetensors"), PublishedFile("x.json", optional=True)),
        "gemma/folder", "free", ("Gemma 3",), "someone/model",
    )  # fmt: skip
    assert {path.name for path in get(entry)} == {"config.json", "model.safetensors", "model-2.safetensors"}
    assert {path.name for path in (tmp_path / "weights/gemma/folder").iterdir()} == {
        "config.json", "model.safetensors", "model-2.safetensors",
    }  # fmt: skip


def test_a_file_that_is_no_longer_published_is_said(get, hub):
    hub.files.clear()
    with pytest.raises(DownloadError, match=r"someone/model has no file model\.safetensors now"):
        get()


def test_a_gated_repository_says_how_to_log_in(get, hub):
    hub.status, hub.headers = 403, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access denied"}
    with pytest.raises(DownloadError, match=r"google/gemma-3-12b-it needs a login: accept its licence .*hf auth login"):
        get(entry_by_name("gemma-3-12b-it"))


def test_a_refusal_in_the_middle_is_not_tried_again(get, hub):
    def refuse(path, done, total):
        hub.status, hub.headers = 403, {"X-Error-Code": "GatedRepo"}

    hub.sent = 70_000
    with pytest.raises(DownloadError, match="needs a login"):
        get(advance=refuse)
    assert len(hub.starts) == 1


def test_a_busy_server_is_asked_again(get, hub):
    def busy(path, done, total):
        # Once, when the line breaks for the first time.
        hub.busy, hub.sent = (2, None) if hub.sent else (hub.busy, None)

    hub.sent, hub.broken = 70_000, 1
    assert get(advance=busy)[0].read_bytes() == CONTENT
    assert hub.starts == [0, 70_000]


def test_a_part_that_is_longer_than_the_file_starts_over(get, hub, tmp_path):
    target = tmp_path / "weights/esrgan/.model.safetensors.part"
    target.parent.mkdir(parents=True)
    target.write_bytes(CONTENT + b"more")
    (place,) = get(plain(hub, num_bytes=len(CONTENT), sha256=SHA256))
    assert place.read_bytes() == CONTENT and hub.starts == [0]


def test_a_repository_that_is_not_there_is_said(get, hub):
    hub.status, hub.headers = 404, {"X-Error-Code": "RepoNotFound"}
    with pytest.raises(DownloadError, match="is not on the hub, or is private"):
        get()


def test_a_hub_that_fails_or_is_away_is_one_line(get, hub):
    hub.status = 500
    with pytest.raises(DownloadError) as caught:
        get()
    assert "\n" not in str(caught.value)
    hub.endpoint = "http://127.0.0.1:9"
    with pytest.raises(DownloadError, match="cannot be reached"):
        get()


def plain(hub, **more):
    return Entry(
        "plain",
        "upscaler",
        (PublishedFile("model.safetensors", **more),),
        "esrgan",
        "free",
        ("n",),
        url=f"{hub.endpoint}/plain",
    )


def test_a_file_that_is_not_on_the_hub_is_fetched_into_its_folder(get, hub, tmp_path):
    hub.sent = 70_000
    (place,) = get(plain(hub, sha256=SHA256, num_bytes=len(CONTENT)))
    assert place.read_bytes() == CONTENT and not place.is_symlink() and not parts(tmp_path)
    assert len(hub.starts) == 5
    get(plain(hub, sha256=SHA256))
    assert len(hub.starts) == 5
    assert hub.tokens == [None] * 5


@pytest.mark.parametrize("more", [{"sha256": "1" * 64}, {"num_bytes": 17}, {"num_bytes": 400_000}])
def test_a_plain_file_of_another_size_or_content_is_thrown_away(get, hub, tmp_path, more):
    with pytest.raises(DownloadError):
        get(plain(hub, **more))
    assert not (tmp_path / "weights/esrgan/model.safetensors").exists()


def test_a_file_of_the_users_own_is_never_replaced(get, tmp_path):
    own = tmp_path / "weights/somewhere/model.safetensors"
    own.parent.mkdir(parents=True)
    own.write_text("mine")
    with pytest.raises(DownloadError, match="not a link"):
        get()
    assert own.read_text() == "mine"


def test_a_full_disk_is_said(get, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transfer, "_receive", full)
    with pytest.raises(DownloadError, match="model cannot be stored: No space left on device"):
        get()


def test_names_lead_to_entries():
    assert entry_for("ltx-2-19b-dev").repository == "Lightricks/LTX-2"
    assert entry_for("RealESRGAN_x4plus.pth").url.endswith("v0.1.0")
    assert entry_for("owner/repo:sub/file.safetensors").files[0].path == "sub/file.safetensors"
    with pytest.raises(DownloadError, match="comes with the code"):
        entry_for("demo-dev")
    with pytest.raises(DownloadError, match="not in the catalogue"):
        entry_for("nothing")


def test_free_disk_is_that_of_the_nearest_folder(tmp_path):
    assert free_bytes(tmp_path / "not/yet/there") == pytest.approx(free_bytes(tmp_path), rel=0.1)
