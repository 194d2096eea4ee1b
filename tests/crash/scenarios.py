"""What is killed at each of its file-system calls: index builds, and everything else that is published at once."""

import json
from contextlib import suppress

import numpy as np
import pyterrier as pt

from pyterrier_expandr.collections import pocket
from tests.crash.points import Scenario

#: three commits; the last one is not full
DOCUMENTS = 2500
FACTORIES = ("Flat", "IVF4,Flat", "HNSW16")


def _corpus(first):
    vectors = np.random.default_rng(first).normal(size=(DOCUMENTS, 8)).astype(np.float32)
    return ({"docno": f"d{first + number}", "doc_vec": vector} for number, vector in enumerate(vectors))


def _faiss():
    import faiss  # noqa: F401

    import pyterrier_expandr.retrieval.faiss_index  # noqa: F401


def _build(folder, factory, mode, first=0):
    from pyterrier_expandr import FaissIndex

    FaissIndex(folder / "i", factory=factory).indexer(mode).index(_corpus(first))


def _interrupted(folder, factory):
    """A build that stops in its third commit, as by Ctrl-C."""
    from itertools import islice

    from pyterrier_expandr import FaissIndex

    def stopping():
        yield from islice(_corpus(0), 2300)
        raise KeyboardInterrupt

    try:
        FaissIndex(folder / "i", factory=factory).indexer("create").index(stopping())
    except KeyboardInterrupt:
        assert (folder / "i.building").is_dir()


def _opens(folder, firsts, absent):
    """An index is there and complete, of one of the corpora, or (if it may be) there is none at all."""
    from pyterrier_expandr import FaissIndex

    index = FaissIndex(folder / "i")
    if not index.built():
        assert absent and not index.folder.exists(), "neither the old nor the new index is there"
        return
    index.verify()
    assert len(index) == DOCUMENTS and index.docnos[0].as_py() in {f"d{first}" for first in firsts}
    assert index.open().ntotal == DOCUMENTS


def _index_scenarios():
    for factory in FACTORIES:
        yield Scenario(
            f"create {factory}",
            lambda folder, factory=factory: _build(folder, factory, "resume"),
            lambda folder: _opens(folder, (0,), True),
            imports=_faiss,
        )
        yield Scenario(
            f"resume {factory}",
            lambda folder, factory=factory: _build(folder, factory, "resume"),
            lambda folder: _opens(folder, (0,), True),
            before=lambda folder, factory=factory: _interrupted(folder, factory),
            imports=_faiss,
        )
        for exchange in (True, False):
            yield Scenario(
                f"overwrite {factory}" + ("" if exchange else ", names cannot be exchanged"),
                lambda folder, factory=factory: _build(folder, factory, "overwrite", 5000),
                lambda folder: _opens(folder, (0, 5000), False),
                before=lambda folder: _build(folder, "Flat", "create"),
                imports=_faiss,
                exchange=exchange,
            )


def _words(folder, overwrite):
    from pyterrier_expandr.retrieval.sparse import LexicalIndex

    LexicalIndex(folder / "w").index(pocket().get_corpus_iter(), overwrite=overwrite)


def _words_open(folder, absent):
    from pyterrier_expandr.retrieval.sparse import LexicalIndex

    index = LexicalIndex(folder / "w")
    if absent and not index.built():
        assert not index.folder.exists()
        return
    assert len(index.docnos) == 242 and len(index.retriever(5).search("why is the sky blue")) > 0


def _pisa():
    import pyterrier_pisa  # noqa: F401


def _train(folder):
    """The folder of a training run, without the training."""
    from pyterrier_expandr.common.files import write_json
    from pyterrier_expandr.training.run_folder import claim, is_finished, one_run, publish

    out, settings = folder / "model", {"seed": 1}
    with one_run(out):
        if not is_finished(out, "record.json", settings):
            work = claim(out, settings)
            (work / "finished").mkdir(exist_ok=True)
            write_json(work / "finished" / "weights.json", list(range(100)))
            write_json(work / "finished" / "record.json", {"settings": settings})
            publish(work / "finished", out)


def _trained(folder):
    if (folder / "model").exists():
        assert {path.name for path in (folder / "model").iterdir()} == {"weights.json", "record.json"}


def _stages(folder):
    from pyterrier_expandr.common.jsonl import write_jsonl
    from pyterrier_expandr.training.stage import Stage, build

    def run(place, *_):
        return {"rows": write_jsonl(place / "rows.jsonl", [{"a": 1}, {"a": 2}])}

    first = Stage("first", {}, (), run)
    build([Stage("second", {}, (first,), run)], folder, say=lambda text: None)


def _stages_hold(folder):
    for record in folder.glob("*/stage.json"):
        assert json.loads(record.read_text())["counts"] == {"rows": 2}
        assert len((record.parent / "rows.jsonl").read_text().splitlines()) == 2


def _experiment(folder):
    from pyterrier_expandr.evaluation.beir import Collection, experiment

    collection = Collection("pocket", pocket())
    systems = {"s1": lambda _: _Fixed(1.0), "s2": lambda _: _Fixed(2.0)}
    results = experiment(systems, [collection], folder / "results", verbose=False)
    assert (results.cells["state"] == "done").all()


class _Fixed(pt.Transformer):
    """Finds one document for each query."""

    def __init__(self, score):
        self.score = score

    def transform(self, inp):
        return inp.assign(docno="sky01", score=self.score, rank=0)

    def __repr__(self):
        return f"_Fixed({self.score})"


def _results_hold(folder):
    from pyterrier_expandr.evaluation.results import Results

    if not (folder / "results" / "experiment.json").is_file():
        return
    results = Results.load(folder / "results")
    assert results.failures.empty
    for system in results.cells.loc[results.cells["state"] == "done", "system"]:
        assert len(results.run(system, "pocket")) == 37
    results.means()
    assert results.per_query.notna().all().all()


def _save(folder):
    from pyterrier_expandr import ExpandR, ExpandREncoder

    with suppress(FileExistsError):  # what a second call says of a system that is complete
        ExpandR(None, ExpandREncoder(str(folder / "bert"), device="cpu"), folder / "i").save(folder / "system")


def _to_save(folder):
    from pyterrier_expandr import ExpandREncoder, FaissIndex
    from tests.crash.stages import INPUTS

    INPUTS["bert"](folder / "bert")
    pipeline = ExpandREncoder(str(folder / "bert"), device="cpu").doc_encoder() >> FaissIndex(folder / "i")
    pipeline.index(pocket().get_corpus_iter())


def _saved(folder):
    from pyterrier_expandr import ExpandR

    if (folder / "system").exists():
        assert ExpandR.load(folder / "system", device="cpu").describe()["index"]["files"]


def _import_runs():
    import pyarrow.parquet  # noqa: F401

    import pyterrier_expandr.evaluation.beir
    import pyterrier_expandr.training.run_folder
    import pyterrier_expandr.training.stage  # noqa: F401


def _import_models():
    import sentence_transformers  # noqa: F401

    import pyterrier_expandr.cli.commands  # noqa: F401


def _publish_scenarios():
    yield Scenario("lexical index", lambda folder: _words(folder, False), lambda f: _words_open(f, True), imports=_pisa)
    for exchange in (True, False):
        yield Scenario(
            "overwrite lexical index" + ("" if exchange else ", names cannot be exchanged"),
            lambda folder: _words(folder, True),
            lambda folder: _words_open(folder, False),
            before=lambda folder: _words(folder, False),
            imports=_pisa,
            exchange=exchange,
        )
    yield Scenario("training run", _train, _trained, imports=_import_runs)
    yield Scenario("stages of a recipe", _stages, _stages_hold, imports=_import_runs)
    yield Scenario("results folder", _experiment, _results_hold, imports=_import_runs)
    yield Scenario("save a system", _save, _saved, before=_to_save, imports=_import_models)


SCENARIOS = {scenario.name: scenario for scenario in (*_index_scenarios(), *_publish_scenarios())}
