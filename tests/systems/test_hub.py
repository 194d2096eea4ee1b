"""What is shared arrives whole and with a card that is true; the hub is a real HTTP server on the loopback."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import lz4.frame
import pytest
from huggingface_hub import RepoCard

from pyterrier_expandr import ExpandR, ExpandREncoder, FaissIndex, RecordedExpander
from pyterrier_expandr.systems import push_to_hub
from tests.hub import serve

BEFORE = Path(__file__).parent.parent / "fixtures" / "written_before_rooms"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    with serve(monkeypatch, tmp_path / "cache") as hub:
        yield hub


def card_of(hub, repo):
    return RepoCard(hub.uploaded[repo]["README.md"].decode())


def test_recorded_expansions_come_back_as_they_went(hub, tmp_path):
    file = tmp_path / "mine.jsonl"
    rows = [{"query_id": str(n), "query": f"why {n}", "passages": [f"because {n}", "so"]} for n in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    about = {"model": {"model": "/home/me/secret/llm", "dtype": "float32"}, "prompt": "q2d\nof two | lines"}
    address = push_to_hub(file, "me/passages", license="cc-by-4.0", private=True, about=about)
    assert address.endswith("/datasets/me/passages")
    assert "private" in str(hub.created["me/passages"])
    card = card_of(hub, "me/passages")
    assert card.data.license == "cc-by-4.0" and card.data.size_categories == ["n<1K"]
    assert "| passages | 6 |" in card.text and "| mean words | 1.5 |" in card.text
    assert "| model | llm |" in card.text and "/home/me" not in card.text, "no path of this machine"
    assert r"| prompt | q2d of two \| lines |" in card.text
    back = RecordedExpander.from_hub("me/passages")
    assert back == RecordedExpander(file)
    assert 'RecordedExpander.from_hub("me/passages")' in card.text


def test_pairs_are_a_data_set_without_the_raw_texts(hub):
    push_to_hub(BEFORE / "pairs", "me/pairs", revision="v1")
    files = hub.uploaded["me/pairs"]
    assert files["pairs.jsonl"] == (BEFORE / "pairs" / "pairs.jsonl").read_bytes()
    assert "candidates.jsonl" in files and "generations.sqlite" not in files
    assert hub.branches == {"v1"} and any("commit/v1" in asked for asked in hub.asked)
    card = card_of(hub, "me/pairs")
    assert card.data.configs[0]["data_files"] == [{"split": "train", "path": "pairs.jsonl"}]
    assert "| pairs | 3 |" in card.text and "| mean words, rejected | 2.333 |" in card.text
    assert "/tmp/" not in card.text


def test_an_adapter_is_a_model_with_the_card_of_its_training(hub, tmp_path):
    folder = shutil.copytree(BEFORE / "adapter", tmp_path / "adapter")
    (folder / ".hidden").write_text("not for others")
    assert "/datasets/" not in push_to_hub(folder, "me/adapter")
    files = hub.uploaded["me/adapter"]
    assert files["adapter_model.safetensors"] == (folder / "adapter_model.safetensors").read_bytes()
    assert files["README.md"] == (folder / "README.md").read_bytes() and ".hidden" not in files


def test_a_retriever_is_a_model_with_all_its_files(hub, tmp_path):
    folder = shutil.copytree(BEFORE / "system" / "encoder", tmp_path / "retriever")
    (folder / "README.md").write_text("# Dense retriever")
    (folder / "retriever.json").write_text("{}")
    (folder / "checkpoint-4").mkdir()
    (folder / "checkpoint-4" / "optimizer.pt").write_bytes(b"half of the bytes, and of no use")
    push_to_hub(folder, "me/retriever")
    sent = hub.uploaded["me/retriever"]
    assert sorted(sent) == sorted(path.name for path in folder.iterdir() if path.is_file())
    assert hub.created["me/retriever"].get("type", "model") == "model"


def test_an_index_opens_from_the_package_that_was_uploaded(hub, tmp_path):
    index = FaissIndex(BEFORE / "index")
    push_to_hub(index, "me/index", license="mit")
    card = card_of(hub, "me/index")
    assert "| count | 8 |" in card.text and "| dim | 32 |" in card.text and "sha256" not in card.text
    assert "pyterrier-artifact.dense_index.expandr_faiss" in card.data.tags
    package = lz4.frame.open(io.BytesIO(hub.uploaded["me/index"]["artifact.tar.lz4"]))
    with package, tarfile.open(fileobj=package, mode="r|") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    opened = FaissIndex(tmp_path / "unpacked")
    assert len(opened) == 8 and opened.describe() == index.describe()


def test_a_system_is_shared_whole(hub, tmp_path):
    push_to_hub(BEFORE / "system", "me/system")
    card = card_of(hub, "me/system").text
    assert "# Retrieval system (ExpandR)" in card and "| expander: kind | recorded |" in card
    assert "/tmp/" not in card and "Made with pyterrier_expandr 0.1.0" in card
    assert hub.uploaded["me/system"]["artifact.tar.lz4"]
    system = ExpandR(None, ExpandREncoder(BEFORE / "system" / "encoder"), BEFORE / "index")
    with pytest.raises(ValueError, match="in memory only: save it with ExpandR.save"):
        push_to_hub(system, "me/unsaved")
    assert "me/unsaved" not in hub.created


@pytest.mark.parametrize("repo", ["passages", "/passages", "a/b/c", "me/"])
def test_a_repository_needs_its_owner(repo):
    with pytest.raises(ValueError, match='must be named "owner/name"'):
        push_to_hub(BEFORE / "pairs", repo)


def test_what_cannot_be_shared_is_said_before_a_repository_is_created(hub, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        push_to_hub(tmp_path / "nothing", "me/x")
    with pytest.raises(ValueError, match=r"nothing that can be shared: .*pairs\.json"):
        push_to_hub(tmp_path, "me/x")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "no query"}\n')
    with pytest.raises(ValueError, match=r"broken\.jsonl:1 needs query_id or query"):
        push_to_hub(broken, "me/x")
    assert not hub.created


def test_a_data_set_that_is_not_there(hub):
    with pytest.raises(OSError, match="me/none|404|Entry|not found|Not Found"):
        RecordedExpander.from_hub("me/none")
