import os
import shutil
import socket
import subprocess
import sys

import pytest

from pyterrier_expandr.common.fingerprint import WHOLE_FILE, model_fingerprint


def test_a_folder_is_its_content_and_not_its_place(minilm, tmp_path):
    first = model_fingerprint(minilm)
    copy = shutil.copytree(minilm, tmp_path / "elsewhere")
    assert model_fingerprint(copy) == first
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    assert model_fingerprint(copy) != first


def test_a_change_inside_a_large_file_is_noticed(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(os.urandom(WHOLE_FILE + 1))
    before = model_fingerprint(tmp_path)
    weights.write_bytes(os.urandom(WHOLE_FILE + 1))
    assert model_fingerprint(tmp_path) != before


def test_a_hub_name_before_any_download():
    assert model_fingerprint("no/such-model", "v1") == {"model": "no/such-model", "revision": "v1"}


def test_a_cached_snapshot_gives_its_commit(tmp_path, monkeypatch):
    commit = "a" * 40
    snapshot = tmp_path / "models--org--name" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = tmp_path / "models--org--name" / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert model_fingerprint("org/name") == {"model": "org/name", "commit": commit}


@pytest.mark.parametrize("answers", [False, True], ids=["closed", "silent"])
def test_a_hub_that_cannot_be_asked_costs_seconds(tmp_path, answers):
    """A closed port, and one that takes the question and never answers, as behind some firewalls."""
    code = (
        "import time; from pyterrier_expandr.common import fingerprint; fingerprint.HUB_TIMEOUT = 0.5\n"
        "import huggingface_hub.file_download; start = time.monotonic()\n"
        "print(fingerprint.model_fingerprint('org/name'), fingerprint.pinned_revision('org/name', 'v1'))\n"
        "print(time.monotonic() - start)"
    )
    with socket.socket() as hub:
        hub.bind(("127.0.0.1", 0))
        if answers:
            hub.listen()
        endpoint = f"http://127.0.0.1:{hub.getsockname()[1]}"
        environment = {"HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ | environment
        )
    said, seconds = done.stdout.splitlines()
    assert said == "{'model': 'org/name', 'revision': None} v1"
    assert float(seconds) < 20  # the download alone tries again for 26 s
