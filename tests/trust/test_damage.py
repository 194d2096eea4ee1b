"""A damaged copy of anything this package wrote is noticed: at opening where sizes or records tell, else by a check."""

import gzip
import json
import shutil

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_expandr import ExpandR, FaissIndex, beir
from pyterrier_expandr.cli.verify import verified as verify
from pyterrier_expandr.collections import beir_folder
from pyterrier_expandr.common.records.manifest import sealed
from pyterrier_expandr.evaluation import Results
from tests.encoders_tiny import build_bert
from tests.trust.damage import artefacts, try_damage
from tests.trust.small import WRITTEN, small_index, small_results, small_system

COPIES = 12


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, tiny_llama):
    return artefacts(tmp_path_factory.mktemp("whole"), tiny_llama)


@pytest.fixture(scope="module")
def system(kinds):
    return next(kind.folder for kind in kinds if kind.name.startswith("system"))


def test_damaged_copies_are_noticed(kinds, tmp_path):
    for kind in kinds:
        found = try_damage(kind, tmp_path / kind.name.replace(":", ""), COPIES)
        assert found["raw errors"] == 0, found
        if kind.verified:
            assert found["noticed by verify"] == COPIES, found
        if kind.verified and kind.name not in ("index: vectors", "preference pairs", "adapter: weights"):
            assert found["noticed at opening"] == COPIES, found


def test_whole_artefacts_are_as_they_were_written(kinds):
    for kind in kinds:
        if kind.verified:
            kind.open(kind.folder)
            assert verify(kind.folder).problems == []


def test_the_command_names_what_is_damaged(system, tmp_path, here):
    copy = tmp_path / "system"
    shutil.copytree(system, copy)
    assert "records of" in here("verify", copy)
    weights = copy / "encoder" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    said = here("verify", copy, status=2)
    assert "1 problem(s)" in said and "encoder/model.safetensors' has changed since it was written" in said


def test_a_system_s_content_is_read_once_at_each_place(system, tmp_path, monkeypatch):
    monkeypatch.setenv("EXPANDR_CACHE", str(tmp_path / "cache"))
    copy = shutil.copytree(system, tmp_path / "copied")
    ExpandR.load(copy, device="cpu")
    vectors = copy / "index" / "index.faiss"
    data = vectors.read_bytes()
    vectors.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    ExpandR.load(copy, device="cpu")  # its size is right, and its content was read before
    with pytest.raises(ValueError, match=r"index.faiss' has changed since it was written"):
        ExpandR.load(shutil.copytree(copy, tmp_path / "elsewhere"), device="cpu")


def test_an_index_that_pyterrier_downloaded_is_read_completely(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTERRIER_HOME", str(tmp_path / "home"))
    here = small_index(tmp_path / "i").folder
    vectors = bytearray((here / "index.faiss").read_bytes())
    vectors[-1] ^= 1
    (here / "index.faiss").write_bytes(vectors)
    assert len(FaissIndex(here)) == 40  # sizes are right
    there = shutil.copytree(here, tmp_path / "home" / "artifacts" / "abc")
    with pytest.raises(ValueError, match=r"index.faiss' has changed since it was written: index again, or download"):
        len(FaissIndex(there))


@pytest.mark.parametrize(
    ("name", "value"), [("count", False), ("count", float("inf")), ("dim", 0), ("encoder", "`"), ("factory", None)]
)
def test_an_index_with_a_record_that_cannot_be_is_refused(tmp_path, name, value):
    index = FaissIndex(tmp_path / "i")
    index.index([{"docno": "d", "doc_vec": np.ones(4, np.float32)}])
    record = index.folder / "expandr_faiss.json"
    record.write_text(json.dumps(sealed(json.loads(record.read_text()) | {name: value})))
    with pytest.raises(ValueError, match=f"is damaged \\({name} cannot be"):
        _ = FaissIndex(tmp_path / "i").metadata


@pytest.mark.parametrize("emptied", [b"", gzip.compress(b"", mtime=0)], ids=["empty", "a gzip of nothing"])
@pytest.mark.parametrize("older", [False, True], ids=["with hashes", "written before"])
def test_an_emptied_ranking_is_never_scored(tmp_path, emptied, older):
    collection = beir.Collection("eight", beir_folder(WRITTEN / "beir"))
    rows = [
        (q, d, 1.0 / n) for q in collection.topics["qid"] for n, d in enumerate(collection.qrels["docno"].unique(), 1)
    ]
    frame = pd.DataFrame(rows, columns=["qid", "docno", "score"])
    systems = {"all": lambda _: _Fixed(frame)}
    first = beir.experiment(systems, [collection], tmp_path, measures=["nDCG@10"], verbose=False)
    cell = tmp_path / "all" / "eight"
    if older:
        record = json.loads((cell / "cell.json").read_text())
        (cell / "cell.json").write_text(json.dumps({k: v for k, v in record.items() if k not in ("files", "seal")}))
    (cell / "run.res.gz").write_bytes(emptied)
    if not older or not emptied:
        failures = Results.load(tmp_path).failures
        assert "run.res.gz" in failures["error"].item() and "run the experiment again" in failures["error"].item()
        assert Results.load(tmp_path).means().empty
    with pytest.raises(ValueError, match=r"run\.res\.gz"):
        Results.load(tmp_path).run("all", "eight")
    again = beir.experiment(systems, [collection], tmp_path, measures=["nDCG@10", "R@100"], verbose=False)
    assert again.failures.empty and (again.means()["value"] > 0).all()
    assert again.means().iloc[0]["value"] == first.means().iloc[0]["value"]


class _Fixed(pt.Transformer):
    """Always the same ranking."""

    def __init__(self, frame):
        self.frame = frame

    def transform(self, inp):
        return self.frame

    def __repr__(self):
        return "_Fixed()"


def test_results_made_elsewhere_are_read_completely(tmp_path):
    folder = shutil.copytree(small_results(tmp_path / "here"), tmp_path / "there")
    path = folder / "two" / "eight" / "per_query.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:100] + bytes([data[100] ^ 4]) + data[101:])
    results = Results.load(folder)
    assert results.cells["state"].tolist() == ["done", "failed"]
    assert "per_query.parquet' has changed since it was written" in results.failures["error"].item()
    assert set(results.means()["system"]) == set(results.per_query["system"]) == {"one"}


@pytest.mark.parametrize("name", ["../index.faiss", "/etc/passwd", "a/../../x", ""])
def test_records_that_point_outside_are_refused(tmp_path, name):
    folder = small_index(tmp_path / "i").folder
    record = json.loads((folder / "expandr_faiss.json").read_text())
    record["files"][name] = {"bytes": 1, "sha256": "0" * 64}
    (folder / "expandr_faiss.json").write_text(json.dumps(sealed(record)))
    with pytest.raises(ValueError, match="not inside that folder: refused"):
        len(FaissIndex(folder))


def test_links_and_encoders_outside_are_refused(tmp_path, system):
    secret = tmp_path / "secret"
    secret.write_text("x")
    copy = shutil.copytree(system, tmp_path / "system")
    (copy / "encoder" / "extra.txt").symlink_to(secret)
    with pytest.raises(ValueError, match="is a symbolic link to .*secret', outside its folder, and is refused"):
        ExpandR.load(copy, device="cpu")
    folder = small_index(tmp_path / "i").folder
    (folder / "docnos.arrow").rename(tmp_path / "docnos.arrow")
    (folder / "docnos.arrow").symlink_to(tmp_path / "docnos.arrow")
    with pytest.raises(ValueError, match="is a symbolic link"):
        len(FaissIndex(folder))
    copy = shutil.copytree(system, tmp_path / "another")
    record = json.loads((copy / "expandr_system.json").read_text())
    shutil.rmtree(copy / "encoder")
    for place in (str(build_bert(tmp_path / "bert")), "../bert", "./bert", "~/bert"):
        record["encoder"]["model"] = place
        record["files"] = {name: value for name, value in record["files"].items() if not name.startswith("encoder/")}
        (copy / "expandr_system.json").write_text(json.dumps(sealed(record)))
        with pytest.raises(ValueError, match="a folder outside it, which is refused"):
            ExpandR.load(copy, device="cpu")


def test_a_saved_system_holds_files_and_no_links(tmp_path):
    system = small_system(tmp_path / "system", build_bert(tmp_path / "bert"))
    index = tmp_path / "system.faiss" / "index.faiss"
    index.rename(tmp_path / "big.faiss")
    assert not [path for path in system.rglob("*") if path.is_symlink()]


def test_files_that_are_not_utf8_are_named_by_line(tmp_path):
    from pyterrier_expandr.systems.settings import TunedSettings
    from pyterrier_expandr.training.recipe.recipe import read_recipe

    folder = shutil.copytree(WRITTEN / "beir", tmp_path / "beir")
    (folder / "qrels" / "test.tsv").write_bytes(b"query-id\tcorpus-id\tscore\nq\xe9\td1\t1\n")
    with pytest.raises(ValueError, match=r"test\.tsv:2 is not UTF-8: it has the byte 0xe9 after 'q'; save the file"):
        beir_folder(folder).get_qrels()
    (folder / "qrels" / "test.tsv").write_bytes("q1\td1\t1\n".encode("utf-16"))
    with pytest.raises(ValueError, match=r"test\.tsv:1 is not UTF-8: it begins as UTF-16 does"):
        beir_folder(folder).get_qrels()
    (folder / "qrels" / "test.tsv").write_bytes("\ufeffq1\td1\t1\n".encode())
    assert beir_folder(folder).get_qrels()["qid"].tolist() == ["q1"]
    (folder / "queries.jsonl").write_bytes(b'{"_id": "q1", "text": "x"}\n{"_id": "q2", "text": "na\xefve"}\n')
    with pytest.raises(ValueError, match=r"queries\.jsonl:2 is not UTF-8: it has the byte 0xef after .*na"):
        beir_folder(folder).get_topics()
    for read, name in ((read_recipe, "r.yaml"), (TunedSettings.load, "s.json")):
        (tmp_path / name).write_bytes(b"a: 1\nb: caf\xe9\n")
        with pytest.raises(ValueError, match=rf"{name}:2 is not UTF-8: it has the byte 0xe9 after 'b: caf'"):
            read(tmp_path / name)


def test_a_published_collection_that_was_cut_at_a_line_is_named(tmp_path, caplog):
    folder = tmp_path / "scifact"
    shutil.copytree(WRITTEN / "beir", folder)
    (collection,) = beir.resolve("SciFact", data=tmp_path)
    judged, documents = len(collection.qrels), len(list(collection.get_corpus_iter()))
    assert f"SciFact has {judged} of 339 judgments" in caplog.text
    assert f"SciFact has {documents} of 5183 documents" in caplog.text
