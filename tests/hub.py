"""A stand-in for the Hugging Face hub on the loopback: models in folders, each at commits of its own; uploads are kept."""

import base64
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
        self.created: dict[str, dict] = {}
        self.branches: set[str] = set()
        self.uploaded: dict[str, dict[str, bytes]] = {}

    def commit(self, repo: str, lines: list[dict]) -> None:
        """Take over the files of a commit, as the hub's API tells them."""
        files = self.uploaded.setdefault(repo, {})
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])

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

    def do_POST(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        path, body = self.path.strip("/").split("/"), self._body()
        if path[1:] == ["repos", "create"]:
            asked = json.loads(body)
            repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            kind = "datasets/" if asked.get("type") == "dataset" else ""
            if repo in self.hub.created:
                return self._json({"error": f"You already created this {asked.get('type', 'model')} repo"}, 409)
            self.hub.created[repo] = asked
            return self._json({"url": f"http://{self.headers['Host']}/{kind}{repo}"})
        if path[1] == "validate-yaml":
            return self._json({"errors": [], "warnings": []})
        repo = "/".join(path[2:4])
        if path[4] == "branch":
            self.hub.branches.add("/".join(path[5:]))
            return self._json({})
        if path[4] == "preupload":
            files = json.loads(body)["files"]
            # "regular" puts a file into the commit itself; the other way is the hub's own binary protocol.
            answer = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            return self._json({"files": answer})
        self.hub.commit(repo, [json.loads(line) for line in body.splitlines() if line.strip()])
        commit = sha1(body).hexdigest()
        self._json({"commitUrl": f"http://{self.headers['Host']}/{repo}/commit/{commit}", "commitOid": commit})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _json(self, answer: dict, status: int = 200) -> None:
        self._send(status, json.dumps(answer).encode(), {"Content-Type": "application/json"}, True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0].strip("/").split("/")
        self.hub.asked.append(f"{self.command} {self.path}")
        if path[0] == "datasets":
            body = self.hub.uploaded.get("/".join(path[1:3]), {}).get("/".join(path[5:]))
            found = {"X-Repo-Commit": "0" * 40, "ETag": f'"{sha1(body or b"").hexdigest()}"'}
            missing = {"X-Error-Code": "EntryNotFound"}
            return self._send(404 if body is None else 200, body or b"", missing if body is None else found, with_body)
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
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(cache), raising=False)  # of 4 too
    fingerprint._hub_commit.cache_clear()
    getattr(utils, "reset_sessions", lambda: None)()  # older releases keep a session that was opened offline
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        fingerprint._hub_commit.cache_clear()
