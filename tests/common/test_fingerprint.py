import os
import shutil

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
