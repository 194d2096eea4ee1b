import builtins
import json
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import faiss
import numpy as np
import pyterrier as pt
import pytest

from pyterrier_expandr import FaissIndex
from pyterrier_expandr.common.locks import InUseError
from pyterrier_expandr.encoding.vectors import with_source
from pyterrier_expandr.retrieval import factories
from pyterrier_expandr.retrieval import faiss_build as layout
from pyterrier_expandr.retrieval.spool import CHUNK, SeenDocnos, Spool
from tests.common.test_locks import held

SOURCE = {
    "type": "ExpandREncoder",
    "model": "tiny",
    "fingerprint": {"sha256": "a"},
    "pooling": "mean",
    "normalize": True,
}


def vectors(n: int, dim: int = 16, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


def corpus(n: int, dim: int = 16, seed: int = 0):
    for i, vector in enumerate(vectors(n, dim, seed)):
        yield {"docno": f"d{i}", "doc_vec": vector}


def small_chunks(monkeypatch, size: int = 10) -> None:
    monkeypatch.setattr("pyterrier_expandr.retrieval.spool.CHUNK", size)
    monkeypatch.setattr("pyterrier_expandr.retrieval.faiss_build.CHUNK", size)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def failing_after(docs, n: int):
    for i, doc in enumerate(docs):
        if i == n:
            raise KeyboardInterrupt
        yield doc


class TestIndexCase(pt.testing.TransformerTestCase):
    """PyTerrier's own checks."""

    @staticmethod
    def get_transformer():
        return FaissIndex("nowhere")

    test_inspect_io = None  # an indexer transforms nothing; its inputs are tested below


def test_metadata_and_artefact_of_a_finished_index(tmp_path):
    index = FaissIndex(tmp_path / "i")
    assert not index.built() and bool(index)
    assert index.index({"docno": d["docno"], "doc_vec": with_source(d["doc_vec"], SOURCE)} for d in corpus(25)) is index
    assert index.built() and len(index) == 25 and index.dim == 16 and index.encoder == SOURCE and index.exact
    assert index.metadata["factory"] == "Flat" and index.metadata["metric"] == "ip"
    assert index.metadata["versions"]["faiss"] == faiss.__version__
    assert index.docnos.to_pylist() == [f"d{i}" for i in range(25)]
    assert np.array_equal(index.open().reconstruct_n(0, 25), vectors(25))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i"], "nothing is left beside the index"
    assert json.loads((tmp_path / "i" / "pt_meta.json").read_text()) == layout.ARTEFACT
    assert pt.Artifact.load(str(tmp_path / "i")) == FaissIndex(tmp_path / "i")
    index.verify()
    again = pickle.loads(pickle.dumps(index))
    assert again == index and len(again) == 25
    assert pt.inspect.indexer_inputs(index) == [["docno", "doc_vec"]] == pt.inspect.indexer_inputs(index.indexer())
    assert pt.inspect.subtransformers(index.indexer()) == {}
    assert index.indexer("resume") == FaissIndex(tmp_path / "i").indexer("resume") != index.indexer()


def test_flat_file_is_what_faiss_writes_itself(tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    for metric, code in (("ip", faiss.METRIC_INNER_PRODUCT), ("l2", faiss.METRIC_L2)):
        FaissIndex(tmp_path / metric, metric=metric).index(corpus(33))
        own = faiss.index_factory(16, "Flat", code)
        own.add(vectors(33))
        faiss.write_index(own, str(tmp_path / "own"))
        assert (tmp_path / metric / "index.faiss").read_bytes() == (tmp_path / "own").read_bytes()


def test_flat_falls_back_to_memory_where_the_layout_is_another(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(layout, "_with_counts", lambda empty, *_: empty)
    index = FaissIndex(tmp_path / "i")
    index.index(corpus(33))
    assert "another layout" in caplog.text
    assert np.array_equal(index.open().reconstruct_n(0, 33), vectors(33))


@pytest.mark.parametrize("factory", ["HNSW8", "IVF4,Flat", "SQ8", "SQfp16", "IVF4,PQ4x4", "OPQ4,IVF4,PQ4x4"])
def test_any_factory_is_built_and_mapped(tmp_path, monkeypatch, factory):
    small_chunks(monkeypatch, 64)
    index = FaissIndex(tmp_path / "i", factory=factory)
    index.index(corpus(700))
    assert index.open().ntotal == 700 and not index.exact
    found = index.open().search(vectors(700)[:50], 10)[1]
    recalled = (found == np.arange(50)[:, None]).any(axis=1).mean()
    assert recalled > 0.5, "most vectors are among their own neighbours"
    assert FaissIndex(tmp_path / "i").metadata["factory"] == factory


def test_training_sample_is_bounded_seeded_and_grows_with_the_lists(tmp_path, monkeypatch):
    monkeypatch.setattr(factories, "TRAIN_SAMPLE", 100)
    assert factories.sample_size(faiss.index_factory(16, "IVF4,Flat")) == 160
    assert factories.sample_size(faiss.index_factory(16, "PQ4x4")) == 100
    assert factories.sample_size(faiss.index_factory(16, "HNSW8")) == 0
    small_chunks(monkeypatch, 64)
    spool = Spool(tmp_path / "i")
    spool.start()
    matrix = vectors(1000)
    for start in range(0, 1000, 64):
        docnos = [f"d{i}" for i in range(start, min(start + 64, 1000))]
        spool.append(docnos, matrix[start : start + 64], None)
    sample = layout._training_sample(160, spool)
    assert sample.shape == (160, 16) and np.array_equal(sample, layout._training_sample(160, spool))
    places = [int(np.flatnonzero((matrix == row).all(axis=1))[0]) for row in sample]
    assert places == sorted(set(places)) and places[0] < 100 < 900 < places[-1]
    assert np.array_equal(layout._training_sample(1000, spool), matrix)


@pytest.mark.skipif(not hasattr(faiss, "IO_FLAG_MMAP_IFC"), reason="older FAISS maps inverted lists only")
def test_opening_maps_the_file_and_takes_no_memory(tmp_path):
    FaissIndex(tmp_path / "i").index(corpus(20_000, dim=256))  # 20 MB
    code = """
        import sys, faiss
        from pyterrier_expandr import FaissIndex
        private = lambda: int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1])
        index = FaissIndex(sys.argv[1]); index.metadata
        before = private(); index.open()
        print(private() - before)
    """
    if not os.path.exists("/proc/self/status"):
        pytest.skip("needs /proc to see how memory is used")
    out = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "i")], capture_output=True, text=True, check=True
    )
    assert int(out.stdout) < 5_000, "kilobytes of private memory for 20 MB of vectors"


# modes


def test_create_refuses_what_exists_and_overwrite_replaces_it(tmp_path):
    index = FaissIndex(tmp_path / "i")
    index.index(corpus(5))
    before = contents(tmp_path / "i")
    with pytest.raises(FileExistsError, match="overwrite"):
        index.index(corpus(7))
    assert contents(tmp_path / "i") == before
    index.indexer("overwrite").index(corpus(7, dim=8))
    assert len(index) == 7 and index.dim == 8 and index.open().ntotal == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i"]


def test_failed_overwrite_keeps_the_old_index_and_resume_completes_it(tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    index = FaissIndex(tmp_path / "i")
    index.index(corpus(5))
    with pytest.raises(KeyboardInterrupt):
        index.indexer("overwrite").index(failing_after(corpus(40, seed=1), 25))
    assert len(FaissIndex(tmp_path / "i")) == 5
    index.indexer("resume").index(index.remaining(corpus(40, seed=1)))
    assert len(index) == 40 and np.array_equal(index.open().reconstruct_n(0, 40), vectors(40, seed=1))


@pytest.mark.parametrize("mode", ["create", "overwrite", "resume"])
def test_nothing_foreign_is_ever_touched(tmp_path, mode):
    file, folder, mixed = tmp_path / "file", tmp_path / "folder", tmp_path / "mixed"
    file.write_text("x")
    folder.mkdir()
    (folder / "thesis.tex").write_text("x")
    FaissIndex(mixed).index(corpus(3))
    (mixed / "thesis.tex").write_text("x")
    for path, match in ((file, "is a file"), (folder, "not an index of this package"), (mixed, "thesis.tex")):
        with pytest.raises(FileExistsError, match=match):
            FaissIndex(path).indexer(mode).index(corpus(3))
    assert file.read_text() == (folder / "thesis.tex").read_text() == (mixed / "thesis.tex").read_text() == "x"
    (tmp_path / "i.building").mkdir()
    (tmp_path / "i.building" / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="move it away"):
        FaissIndex(tmp_path / "i").indexer(mode).index(corpus(3))
    assert (tmp_path / "i.building" / "thesis.tex").read_text() == "x"


def test_unknown_mode_metric_and_factory_are_refused(tmp_path):
    with pytest.raises(ValueError, match="mode"):
        FaissIndex(tmp_path / "i").indexer("append")
    with pytest.raises(ValueError, match="metric"):
        FaissIndex(tmp_path / "i", metric="cosine")
    with pytest.raises(ValueError, match="factory"):
        FaissIndex(tmp_path / "i", factory=" ")

    def untouched():
        raise AssertionError("the corpus must not be read")
        yield

    with pytest.raises(ValueError, match="could not parse"):
        FaissIndex(tmp_path / "i", factory="Nonsense").index(untouched())
    with pytest.raises(ValueError, match="16 dimensions"):  # known only once there is a vector
        FaissIndex(tmp_path / "i", factory="PQ7").index(corpus(3))
    assert list(tmp_path.iterdir()) == []


def test_factory_or_metric_other_than_built_is_refused(tmp_path):
    FaissIndex(tmp_path / "i", factory="SQ8", metric="l2").index(corpus(50))
    assert FaissIndex(tmp_path / "i").metadata["metric"] == "l2"
    assert len(FaissIndex(tmp_path / "i", factory="SQ8", metric="l2")) == 50
    with pytest.raises(ValueError, match="factory='SQ8', not 'Flat'"):
        len(FaissIndex(tmp_path / "i", factory="Flat"))
    with pytest.raises(ValueError, match="metric='l2', not 'ip'"):
        len(FaissIndex(tmp_path / "i", metric="ip"))


# resume


@pytest.mark.parametrize("stop", [1, 10, 25, 40])
def test_resumed_index_equals_an_uninterrupted_one(tmp_path, monkeypatch, stop):
    small_chunks(monkeypatch)
    FaissIndex(tmp_path / "whole", factory="IVF2,Flat").index(corpus(87))
    index = FaissIndex(tmp_path / "i", factory="IVF2,Flat")
    with pytest.raises(KeyboardInterrupt):
        index.index(failing_after(corpus(87), stop))
    assert not index.built()
    if stop >= 10:
        with pytest.raises(FileExistsError, match="resume"):
            index.index(corpus(87))
        with pytest.raises(FileNotFoundError, match="resume"):
            len(index)
    rest = list(index.remaining(corpus(87)))
    assert len(rest) == 87 - stop // 10 * 10
    index.indexer("resume").index(rest)
    assert contents(tmp_path / "i") == contents(tmp_path / "whole")
    assert list(index.remaining(corpus(87))) == []
    assert index.indexer("resume").index(corpus(87)) is index, "a finished index is left alone"


def test_one_process_builds_in_a_folder(tmp_path):
    index = FaissIndex(tmp_path / "i")
    with held(index.folder) as other:
        for mode in ("create", "overwrite", "resume"):
            with pytest.raises(InUseError, match=f"i' is being written by process {other.pid} on host"):
                index.indexer(mode).index(corpus(5))
    index.index(corpus(5))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i"]


def test_what_a_kill_in_the_last_moments_left_is_removed(tmp_path):
    index = FaissIndex(tmp_path / "i")
    index.index(corpus(5))
    (tmp_path / "i.building").mkdir()
    (tmp_path / "i.building" / "docnos.utf8").touch()
    index.indexer("resume").index([])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i"]


def test_a_link_to_an_index_outlives_a_second_finish(tmp_path):
    """Saved systems link to an index's files; a rerun after a kill must not write into them."""
    index = FaissIndex(tmp_path / "i")
    index.index(corpus(5))
    with pytest.raises(KeyboardInterrupt):
        index.indexer("overwrite").index(failing_after(corpus(2000, seed=1), 1500))
    finished = tmp_path / "i.building" / "finished"
    finished.mkdir()
    os.link(tmp_path / "i" / layout.VECTORS, finished / layout.VECTORS)
    os.link(tmp_path / "i" / layout.VECTORS, tmp_path / "saved")
    before = (tmp_path / "saved").read_bytes()
    index.indexer("resume").index(corpus(2000, seed=1))
    assert (tmp_path / "saved").read_bytes() == before and len(FaissIndex(tmp_path / "i")) == 2000


def test_resume_takes_the_whole_corpus_too(tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    index = FaissIndex(tmp_path / "i")
    with pytest.raises(KeyboardInterrupt):
        index.index(failing_after(corpus(87), 25))
    index.indexer("resume").index(corpus(87))
    assert np.array_equal(index.open().reconstruct_n(0, 87), vectors(87))


def test_resume_refuses_another_corpus_or_encoder(tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    index = FaissIndex(tmp_path / "i")
    docs = [d | {"doc_vec": with_source(d["doc_vec"], SOURCE)} for d in corpus(50)]
    with pytest.raises(KeyboardInterrupt):
        index.index(failing_after(docs, 25))
    swapped = [docs[0], docs[2], docs[1], *docs[3:]]
    for documents, match in (
        (swapped, "document 1 is 'd2'.*'d1'"),
        (docs[:15], "document 15 is the end of the corpus"),
    ):
        with pytest.raises(ValueError, match=match):
            list(index.remaining(documents))
        with pytest.raises(ValueError, match=match):
            index.indexer("resume").index(documents)
    with pytest.raises(ValueError, match="same order"):
        index.indexer("resume").index(docs[5:])
    other = [d | {"doc_vec": with_source(np.asarray(d["doc_vec"]), SOURCE | {"pooling": "cls"})} for d in docs]
    with pytest.raises(ValueError, match="the same encoder"):
        index.indexer("resume").index(other)
    with pytest.raises(ValueError, match=r"8 dimensions.*16 and come from 'tiny'"):
        index.indexer("resume").index(list(corpus(50, dim=8))[20:])
    index.indexer("resume").index(docs)  # after all these refusals nothing is lost
    assert np.array_equal(index.open().reconstruct_n(0, 50), vectors(50))


def test_pipeline_encodes_only_what_is_missing(tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    encoded: list[str] = []

    def encode(frame):
        encoded.extend(frame["docno"])
        return frame.assign(doc_vec=[vectors(1, seed=int(d[1:]))[0] for d in frame["docno"]])

    documents = [{"docno": f"d{i}", "text": "x"} for i in range(330)]
    index = FaissIndex(tmp_path / "i")
    pipeline = pt.apply.generic(encode)
    with pytest.raises(KeyboardInterrupt):
        (pipeline >> index).index(failing_after(documents, 250))
    committed = len(Spool(tmp_path / "i").docnos())
    assert committed == 200
    encoded.clear()
    (pipeline >> index.indexer("resume")).index(index.remaining(documents))
    assert encoded == [f"d{i}" for i in range(200, 330)]
    assert np.array_equal(index.open().reconstruct(300), vectors(1, seed=300)[0])


def test_killed_build_leaves_nothing_that_opens_and_is_resumed(tmp_path):
    code = """
        import os, signal, sys
        sys.path.insert(0, sys.argv[2])
        from tests.retrieval.test_faiss_index import corpus
        from pyterrier_expandr import FaissIndex
        from pyterrier_expandr.retrieval import faiss_build
        faiss_build.CHUNK = 10
        append = faiss_build.Spool.append
        def torn(self, *args):
            append(self, *args)
            if self.state()["count"] == 30:  # as if killed while the next chunk is written
                for path in self.folder.iterdir():
                    if path.name != "state.json":
                        with open(path, "ab") as file: file.write(b"torn")
                os.kill(os.getpid(), signal.SIGKILL)
        faiss_build.Spool.append = torn
        FaissIndex(sys.argv[1]).index(corpus(87))
    """
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "i"), root])
    assert done.returncode == -9
    index = FaissIndex(tmp_path / "i")
    assert not index.built()
    with pytest.raises(FileNotFoundError, match="resume"):
        index.open()
    rest = list(index.remaining(corpus(87)))
    assert [d["docno"] for d in rest] == [f"d{i}" for i in range(30, 87)]
    index.indexer("resume").index(rest)
    FaissIndex(tmp_path / "whole").index(corpus(87))
    assert contents(tmp_path / "i") == contents(tmp_path / "whole")


# bad input


@pytest.mark.parametrize("docno", [None, "", float("nan"), 7])
def test_docno_that_is_none_is_refused(tmp_path, docno):
    with pytest.raises(ValueError, match="docno"):
        FaissIndex(tmp_path / "i").index([*corpus(3), {"docno": docno, "doc_vec": vectors(1)[0]}])
    assert list(tmp_path.iterdir()) == []


def test_missing_columns_are_named(tmp_path):
    with pytest.raises(ValueError, match="doc_encoder"):
        FaissIndex(tmp_path / "i").index([{"docno": "d1", "text": "x"}])
    with pytest.raises(ValueError, match="docno"):
        FaissIndex(tmp_path / "i").index([{"doc_vec": vectors(1)[0]}])


@pytest.mark.parametrize("bad", [np.array([np.nan] * 16), np.ones(15), np.ones((1, 16)), None, "abc"])
def test_bad_vector_names_its_document_and_loses_nothing(tmp_path, monkeypatch, bad):
    small_chunks(monkeypatch)
    index = FaissIndex(tmp_path / "i")
    docs = list(corpus(40))
    with pytest.raises(ValueError, match="d33"):
        index.index([*docs[:33], {"docno": "d33", "doc_vec": bad}, *docs[34:]])
    assert Spool(tmp_path / "i").state()["count"] == 30
    index.indexer("resume").index(docs)
    assert np.array_equal(index.open().reconstruct_n(0, 40), vectors(40))


@pytest.mark.parametrize("place", [3, 15, 38])
def test_repeated_docno_is_found_across_chunks(tmp_path, monkeypatch, place):
    small_chunks(monkeypatch)
    docs = list(corpus(40))
    docs[place] = docs[place] | {"docno": "d1"}
    with pytest.raises(ValueError, match="'d1' is repeated"):
        FaissIndex(tmp_path / "i").index(docs)


def test_equal_hashes_are_no_repeat(tmp_path, monkeypatch):
    monkeypatch.setattr("pyterrier_expandr.retrieval.spool._hashes", lambda docnos: np.zeros(len(docnos), np.int64))
    small_chunks(monkeypatch)
    FaissIndex(tmp_path / "i").index(corpus(40))
    assert len(FaissIndex(tmp_path / "i")) == 40


def test_seen_docnos_keep_few_sorted_runs(tmp_path):
    seen = SeenDocnos(Spool(tmp_path / "i"))
    for start in range(0, 6400, 100):
        assert seen.add([f"d{i}" for i in range(start, start + 100)]) is None
    assert [len(run) for run in seen._runs] == [6400]


def test_empty_corpus_is_refused_and_leaves_nothing(tmp_path):
    index = FaissIndex(tmp_path / "i")
    with pytest.raises(ValueError, match="no documents"):
        index.index([])
    assert list(tmp_path.iterdir()) == []
    index.index(corpus(3))
    with pytest.raises(ValueError, match="no documents"):
        index.indexer("overwrite").index([])
    assert len(FaissIndex(tmp_path / "i")) == 3


def test_too_few_vectors_to_train_keep_the_spool(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"20 vectors are too few to train 'IVF32,Flat', which needs at least 32; they are kept.*resume",
    ):
        FaissIndex(tmp_path / "i", factory="IVF32,Flat").index(corpus(20))
    index = FaissIndex(tmp_path / "i", factory="IVF2,Flat")
    index.indexer("resume").index([])
    assert len(index) == 20 and index.metadata["factory"] == "IVF2,Flat"


def test_docnos_of_any_unicode(tmp_path):
    names = ["é", "日本語", "🙂", "a\nb", " ", "x" * 5000, "e\u0301", "\u202eabc"]
    index = FaissIndex(tmp_path / "i")
    index.index({"docno": n, "doc_vec": v} for n, v in zip(names, vectors(len(names)), strict=True))
    assert FaissIndex(tmp_path / "i").docnos.to_pylist() == names


def test_half_characters_and_nul_in_a_docno_are_replaced_and_logged(tmp_path, caplog):
    names = ["whole", "half\ud800", "nul\0"]
    FaissIndex(tmp_path / "i").index({"docno": n, "doc_vec": v} for n, v in zip(names, vectors(3), strict=True))
    assert FaissIndex(tmp_path / "i").docnos.to_pylist() == ["whole", "half\ufffd", "nul\ufffd"]
    assert "2 document(s) contain a lone surrogate" in caplog.text


@pytest.mark.parametrize("name", ["index.faiss", "docnos.arrow"])
def test_damaged_file_is_refused(tmp_path, name):
    FaissIndex(tmp_path / "i").index(corpus(50))
    path = tmp_path / "i" / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=f"damaged: {name} has {len(whole) - 5} bytes instead of {len(whole)}"):
        len(FaissIndex(tmp_path / "i"))
    path.write_bytes(b"\0" * 64 + whole[64:] if name == "index.faiss" else whole[:-64] + b"\0" * 64)
    index = FaissIndex(tmp_path / "i")
    with pytest.raises(ValueError, match="damaged"):
        _ = index.open(), index.docnos
    path.write_bytes(whole[:-200] + bytes([whole[-200] ^ 1]) + whole[-199:])
    with pytest.raises(ValueError, match="has changed since it was written"):
        FaissIndex(tmp_path / "i").verify()
    path.unlink()
    with pytest.raises(ValueError, match="is missing"):
        FaissIndex(tmp_path / "i").open()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "\udcff", '{"format_version": "x"}', '{"format_version": 1, "files": 3}']
)
def test_damaged_metadata_is_refused(tmp_path, text):
    FaissIndex(tmp_path / "i").index(corpus(3))
    (tmp_path / "i" / layout.METADATA).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match="damaged"):
        len(FaissIndex(tmp_path / "i"))


def test_index_of_a_newer_release_is_refused(tmp_path):
    FaissIndex(tmp_path / "i").index(corpus(3))
    path = tmp_path / "i" / layout.METADATA
    path.write_text(json.dumps({"format_version": layout.FORMAT_VERSION + 1}))
    with pytest.raises(ValueError, match="upgrade pyterrier_expandr"):
        len(FaissIndex(tmp_path / "i"))


def test_without_faiss_the_extras_are_named(tmp_path, monkeypatch):
    index = FaissIndex(tmp_path / "i")
    index.index(corpus(3))
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "faiss":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    other = FaissIndex(tmp_path / "j")
    for use in (lambda: other.index(corpus(3)), lambda: FaissIndex(tmp_path / "i").open()):
        with pytest.raises(ImportError, match="pip install faiss-cpu"):
            use()
    assert len(FaissIndex(tmp_path / "i")) == 3, "what needs no FAISS works without it"


def test_constructing_imports_no_faiss():
    code = (
        "import sys; from pyterrier_expandr import FaissIndex; i = FaissIndex('x'); i.retriever(); i.indexer();"
        "assert not {'faiss', 'torch', 'pyterrier_dr'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def server(tmp_path):
    """The URL of a web server for `tmp_path`: PyTerrier unpacks packages from http only."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_package_round_trip(tmp_path, monkeypatch, server):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(pt.io, "pyterrier_home", lambda: str(tmp_path / "home"))
    index = FaissIndex(tmp_path / "i")
    index.index({"docno": d["docno"], "doc_vec": with_source(d["doc_vec"], SOURCE)} for d in corpus(50))
    index.build_package(str(tmp_path / "p.tar.lz4"), verbose=False)
    loaded = pt.Artifact.from_url(f"{server}/p.tar.lz4")
    assert isinstance(loaded, FaissIndex) and loaded.folder != index.folder
    assert contents(loaded.folder) == contents(index.folder)
    assert loaded.encoder == SOURCE and len(loaded) == 50
    loaded.verify()


def test_query_encoder_comes_back_from_the_index(tmp_path, encoder):
    index = FaissIndex(tmp_path / "i")
    (encoder.doc_encoder() >> index).index(
        [{"docno": "1", "text": "The sky is blue."}, {"docno": "2", "text": "Cats purr."}]
    )
    back = FaissIndex(tmp_path / "i")
    assert back.encoder == encoder.source
    found = (back.query_encoder(device="cpu") >> back.retriever())(pt.new.queries(["purring cat"]))
    assert list(found["docno"]) == ["2", "1"]
    FaissIndex(tmp_path / "j").index(corpus(3))
    with pytest.raises(ValueError, match="do not record"):
        FaissIndex(tmp_path / "j").query_encoder()


def test_chunk_is_what_the_docstring_says():
    assert f"{CHUNK:,}" in (FaissIndex.__doc__ or "")
