"""A stand-in for the Hugging Face hub on the loopback: models in folders, each at commits of its own."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


class Hub:
    """Serves `commits[name]`, a list of (commit, folder), of which the last one is the branch main."""

    def __init__(self) -> None:
        self.commits: dict[str, list[tuple[str, Path]]] = {}
        self.asked: list[str] = []

    def push(self, name: str, folder: str | Path) -> str:
        commit = sha1(f"{name} {len(self.commits.get(name, []))}".encode()).hexdigest()
        self.commits.setdefault(name, []).append((commit, Path(folder)))
        return commit

    def find(self, name: str, revision: str) -> tuple[str, Path] | None:
        known = self.commits.get(name, [])
        return known[-1] if known and revision == "main" else next((c for c in known if c[0] == revision), None)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0].strip("/").split("/")
        self.hub.asked.append(f"{self.command} {self.path}")
        if path[0] == "api":
            found = None if "tree" in path else self.hub.find("/".join(path[2:4]), path[5] if len(path) > 5 else "main")
            if found is None:  # no folder of these models has what is asked for by tree
                return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"}, with_body)
            body = json.dumps({"id": "/".join(path[2:4]), "sha": found[0], "siblings": []}).encode()
            return self._send(200, body, {"Content-Type": "application/json"}, with_body)
        found = self.hub.find("/".join(path[:2]), path[3])
        file = found[1].joinpath(*path[4:]) if found else None
        if found is None or file is None or not file.is_file():
            code = "EntryNotFound" if found else "RepoNotFound"
            commit = {"X-Repo-Commit": found[0]} if found else {}
            return self._send(404, b"", {"X-Error-Code": code, **commit}, with_body)
        body = file.read_bytes()
        return self._send(200, body, {"X-Repo-Commit": found[0], "ETag": f'"{sha1(body).hexdigest()}"'}, with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve(monkeypatch, cache: Path) -> Iterator[Hub]:
    """A hub that huggingface_hub asks in this process, with a local cache of its own."""
    from huggingface_hub import constants, file_download, hf_api, utils

    from pyterrier_expandr.common import fingerprint

    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(hf_api.api, "endpoint", endpoint)  # made when the module was imported
    for module in (constants, file_download):  # older releases have a copy of it
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("transformers.utils.hub._is_offline_mode", False, raising=False)  # transformers 4 has its own
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    fingerprint._hub_commit.cache_clear()
    getattr(utils, "reset_sessions", lambda: None)()  # older releases keep a session that was opened offline
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        fingerprint._hub_commit.cache_clear()
