"""A hub on this machine, which sends the files that a test module publishes."""

import hashlib
import http.server
import json
import threading

import pytest

COMMIT = "c0ffee" + "0" * 34


@pytest.fixture
def hub(published, tmp_path, monkeypatch):
    """Paths of the files that were sent; the current folder is empty, but for an empty ``weights``.

    ``published`` is a fixture of the test module: content by repository and path.
    """
    sent: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.answer()

        def answer(self):
            path = self.path.split("?")[0]
            if path.startswith("/api/models/"):
                repository = "/".join(path.split("/")[3:5])
                siblings = [
                    {"rfilename": name.split("/", 2)[2], "size": len(data)}
                    for name, data in published.items()
                    if name.startswith(f"{repository}/")
                ]
                data = json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode()
                headers = {"Content-Type": "application/json"}
            else:
                name = path.strip("/").replace("resolve/main/", "")
                if name not in published:
                    self.send_error(404)
                    return
                data = published[name]
                headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
                if self.command == "GET":
                    sent.append(name)
            self.send_response(200)
            for key, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("LTX_2_MLX.cli.download_weights.weights_folder", lambda: tmp_path / "weights")
    monkeypatch.setattr("LTX_2_MLX.checkpoints.resolve.weights_folders", lambda: [tmp_path / "weights"])
    (tmp_path / "weights").mkdir()
    yield sent
    server.shutdown()
    server.server_close()
