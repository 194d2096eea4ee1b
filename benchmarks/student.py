"""Students on SciFact: what is left of the gain of an LLM's passages when a query encoder has learnt it.

    EXPANDR_DATA=FOLDER python -m benchmarks.student [--folder KEEP] [--json FILE] [--expansions FILE.jsonl]
        [--pseudo FILE.jsonl] [CELL ...]
    EXPANDR_DATA=FOLDER python -m benchmarks.student --write-pseudo FILE.jsonl

FOLDER holds `scifact/`, `vaswani/` and `pubmedqa_pqal/` in BEIR format and `expansions/scifact/*.jsonl`. Students of
MiniLM learn from four fifths of the 300 test queries (or the first 60 or 120 of these), for which eight LLMs have
written passages, and are evaluated on the fifth that was left out. `--expansions` adds one that learns from SciFact's
809 training queries with these passages, `--pseudo` one that learns from pseudo-queries (titles and first sentences of
documents) with these. Each cell is written as soon as it is done, and a rerun goes on after the last; CELL names the
cells to do.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pandas as pd
from ir_measures import R, nDCG

from benchmarks.exact_search import measured_search
from benchmarks.markdown import table
from pyterrier_expandr import ExpandREncoder, FaissIndex, HuggingFaceBackend, LLMExpander, RecordedExpander
from pyterrier_expandr.collections import beir_folder
from pyterrier_expandr.common.files import write_json
from pyterrier_expandr.common.frames import document_text
from pyterrier_expandr.common.jsonl import write_jsonl
from pyterrier_expandr.encoding.registry import demo_encoder_folder
from pyterrier_expandr.evaluation.significance import permutation_test
from pyterrier_expandr.expansion.recorded import read_expansions, write_expansions
from pyterrier_expandr.training.data.examples import TrainingExample, open_examples, write_examples
from pyterrier_expandr.training.student import StudentConfig, train_student

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "student.json"
COLLECTIONS = {"SciFact": "scifact", "Vaswani": "vaswani", "PubMedQA": "pubmedqa_pqal"}
MEASURES = {"nDCG@10": nDCG @ 10, "R@100": R @ 100}
FOLDS, SIZES = 5, (60, 120, 240)
#: the defaults, chosen before the first run: nothing is tuned on queries that are evaluated
SETTINGS: dict[str, Any] = {"batch_size": 32, "learning_rate": 1e-4, "epochs": 3}
#: what a student learns from: the fused vectors alone, and judgments beside them
LOSSES: dict[str, dict[str, Any]] = {"distance": {"contrastive_weight": 0.0}, "distance + judgments": {}}
#: the student that the table of the choice shows
KEPT = "distance + judgments, 240"
#: documents that give pseudo-queries: two each, the title and the first sentence
PSEUDO_DOCUMENTS = 150


class Bench:
    """The collections, their indexes, the teacher, and what its students are measured by."""

    def __init__(self, data: Path, folder: Path) -> None:
        self.data, self.folder = data, folder
        self.teacher = ExpandREncoder(demo_encoder_folder(), max_length=256, device="cpu", batch_size=16)

    def examples(self, name: str, split: str = "test") -> list[TrainingExample]:
        """The judged queries of a collection."""
        return list(open_examples(self.data / COLLECTIONS[name], split))

    def index(self, name: str) -> FaissIndex:
        """The teacher's index, built once."""
        index = FaissIndex(self.folder / f"{COLLECTIONS[name]}.faiss")
        if not index.built():
            corpus = index.remaining(beir_folder(self.data / COLLECTIONS[name]).get_corpus_iter())
            (self.teacher.doc_encoder() >> index.indexer("resume")).index(corpus)
        return index

    @cached_property
    def recorded(self) -> list[TrainingExample]:
        """SciFact's test queries, in a random order, each with the passages of all LLMs."""
        examples = self.examples("SciFact")
        random.Random(0).shuffle(examples)
        return with_passages(examples, sorted((self.data / "expansions" / "scifact").glob("*.jsonl")))

    @cached_property
    def documents(self) -> pd.DataFrame:
        """SciFact's documents; the teacher is given their vectors, which the index has."""
        index, found = self.index("SciFact"), pd.DataFrame(list(beir_folder(self.data / "scifact").get_corpus_iter()))
        place = {docno: number for number, docno in enumerate(index.docnos.to_pylist())}
        vectors = index.open().reconstruct_n(0, len(index))[[place[docno] for docno in found["docno"]]]
        self.know([document_text(*both) for both in zip(found["title"], found["text"], strict=True)], vectors)
        return found

    def apart(self) -> dict[str, list[bool]]:
        """Which test queries have no relevant document in common with a query that the student learns from."""
        train = {doc_id for e in self.examples("SciFact", "train") for doc_id in e.positive_ids}
        found: dict[str, list[bool]] = {"fold": [], "training": []}
        for place, example in enumerate(self.recorded):
            others = [e for number, e in enumerate(self.recorded) if number % FOLDS != place % FOLDS]
            found["fold"].append(not {d for e in others for d in e.positive_ids} & set(example.positive_ids))
            found["training"].append(not train & set(example.positive_ids))
        return found

    def remember(self, name: str, texts: Iterable[str]) -> None:
        """Give the teacher the vectors of passages, which are encoded once and kept in the folder."""
        distinct, file = list(dict.fromkeys(texts)), self.folder / f"passages.{name}.npy"
        if not file.is_file():
            np.save(file, np.asarray(self.teacher.encode_expansions(distinct)))
        self.know(distinct, np.load(file))

    def know(self, texts: list[str], vectors: np.ndarray) -> None:
        """Give the teacher vectors of passages that it need not encode again."""
        if len(texts) != len(vectors):
            raise ValueError(f"{len(vectors)} vectors are kept for {len(texts)} passages: remove the files of passages")
        self.teacher._memo.update((("document", text), vector) for text, vector in zip(texts, vectors, strict=True))

    def search(self, name: str, vectors: np.ndarray, test: list[TrainingExample]) -> dict[str, list[float]]:
        """Each measure for each query, by exact search over the whole collection."""
        index = self.index(name)
        documents, docnos = index.open().reconstruct_n(0, len(index)), index.docnos.to_pylist()
        qrels = [ir_measures.Qrel(e.query_id, doc_id, 1) for e in test for doc_id in e.positive_ids]
        qids = [e.query_id for e in test]
        values = measured_search(vectors, documents, docnos, qids, qrels, list(MEASURES.values()))
        return {short: of.round(6).tolist() for short, of in zip(MEASURES, values, strict=True)}

    def measured(self, encoder: ExpandREncoder, test: list[TrainingExample], *others: str) -> dict[str, Any]:
        """What queries alone find, for SciFact's queries `test` and for all of other collections."""
        found = {}
        for name, queries in {"SciFact": test, **{name: self.examples(name) for name in others}}.items():
            if queries:
                vectors = np.asarray(encoder.encode_queries([e.query for e in queries]))
                found[name] = self.search(name, vectors, queries)
        return found

    def student(
        self, train: list[TrainingExample], test: list[TrainingExample], loss: str, *others: str
    ) -> dict[str, Any]:
        """Train a student, and measure it."""
        _ = self.documents
        work, start = Path(tempfile.mkdtemp(prefix="expandr-student-")), time.process_time()
        try:
            write_examples(work / "log.jsonl", [replace(e, expansions=()) for e in train])
            passages = ({"query_id": e.query_id, "query": e.query, "passages": e.expansions} for e in train)
            write_jsonl(work / "passages.jsonl", passages)
            files = {"queries": str(work / "log.jsonl"), "expansions": str(work / "passages.jsonl")}
            config = StudentConfig(
                self.teacher.model_name, out=str(work / "out"), checkpoints=1, device="cpu",
                **files, **SETTINGS, **LOSSES[loss],
            )  # fmt: skip
            out = train_student(config, teacher=(self.teacher, self.index("SciFact")))
            record = json.loads((out / "student.json").read_text())
            seconds = round(time.process_time() - start)
            encoder = ExpandREncoder(out, device="cpu", batch_size=16)
            if not test and not others:
                return cost(self, encoder)
            kept = {"closeness": record["closeness"], "data": record["data"], "cpu_seconds": seconds}
            return {**self.measured(encoder, test, *others), **kept}
        finally:
            shutil.rmtree(work)


def with_passages(examples: list[TrainingExample], files: Iterable[Path]) -> list[TrainingExample]:
    """The examples that have passages, with those of all files."""
    topics = pd.DataFrame({"qid": [e.query_id for e in examples], "query": [e.query for e in examples]})
    found: list[list[str]] = [[] for _ in examples]
    for file in files:
        recorded = RecordedExpander(file, on_missing="query-only").transform(topics)["query_expansions"]
        found = [[*before, *texts] for before, texts in zip(found, recorded, strict=True)]
    return [replace(e, expansions=tuple(texts)) for e, texts in zip(examples, found, strict=True) if texts]


def pseudo_queries(documents: pd.DataFrame, count: int) -> list[TrainingExample]:
    """Titles and first sentences of documents as queries, each with its document as its passage."""
    found = []
    for row in documents.sample(count, random_state=0).itertuples(index=False):
        whole = document_text(row.title, row.text)
        for kind, text in (("title", row.title), ("sentence", row.text.split(". ")[0])):
            if text.strip():
                found.append(TrainingExample(f"{row.docno}-{kind}", text.strip(), (), (), expansions=(whole,)))
    return found


def write_pseudo(documents: pd.DataFrame, path: Path) -> None:
    """Let SmolLM2 write a passage for each pseudo-query; `PATH.sqlite` keeps what an interrupted run has written."""
    queries = pseudo_queries(documents, PSEUDO_DOCUMENTS)
    topics = pd.DataFrame({"qid": [e.query_id for e in queries], "query": [e.query for e in queries]})
    backend = HuggingFaceBackend("smollm2", dtype="bfloat16", batch_size=64)
    expander = LLMExpander(backend, max_new_tokens=96, cache=path.with_suffix(".sqlite"))
    start = time.process_time()
    write_expansions(path, expander.transform(topics))
    print(f"{len(topics)} passages in {time.process_time() - start:.0f} s of CPU", flush=True)


def cells_of(bench: Bench, expansions: Path | None, pseudo: Path | None) -> dict[str, Callable[[], dict[str, Any]]]:
    """Everything that is measured, by name."""
    transfer = ("Vaswani", "PubMedQA")
    cells: dict[str, Callable[[], dict[str, Any]]] = {
        "query": lambda: bench.measured(bench.teacher, bench.recorded),
        "elsewhere": lambda: bench.measured(bench.teacher, [], *transfer),
        "fused": lambda: fused(bench),
        "cost": lambda: bench.student(bench.recorded[:32], [], "distance"),
    }
    for loss in LOSSES:
        for size in reversed(SIZES):
            for fold in range(FOLDS):
                cells[f"{loss}, {size}, fold {fold}"] = lambda a=loss, b=size, c=fold: folded(bench, a, b, c)
        cells[f"{loss}, all 300"] = lambda loss=loss: bench.student(bench.recorded, [], loss, *transfer)
    test = bench.recorded
    if expansions is not None:
        for loss in LOSSES:
            cells[f"{loss}, training queries"] = lambda loss=loss: bench.student(
                with_passages(bench.examples("SciFact", "train"), [expansions]), test, loss, *transfer
            )
    cells["pseudo-queries, documents"] = lambda: itself(bench, test)
    if pseudo is not None:
        queries = pseudo_queries(bench.documents, PSEUDO_DOCUMENTS)
        cells["pseudo-queries, SmolLM2"] = lambda: bench.student(with_passages(queries, [pseudo]), test, "distance")
    return cells


def fused(bench: Bench) -> dict[str, Any]:
    """Search with the fused vectors, all LLMs' passages at once: what the students learn."""
    bench.remember("recorded", (text for e in bench.recorded for text in e.expansions))
    frame = pd.DataFrame({"qid": [e.query_id for e in bench.recorded], "query": [e.query for e in bench.recorded]})
    frame["query_expansions"] = [list(e.expansions) for e in bench.recorded]
    vectors = np.stack([np.asarray(v) for v in bench.teacher.query_encoder().transform(frame)["query_vec"]])
    return {"SciFact": bench.search("SciFact", vectors, bench.recorded)}


def folded(bench: Bench, loss: str, size: int, fold: int) -> dict[str, Any]:
    """A student of `size` queries outside a fold, measured on the fold."""
    bench.remember("recorded", (text for e in bench.recorded for text in e.expansions))
    rest = [e for place, e in enumerate(bench.recorded) if place % FOLDS != fold]
    return bench.student(rest[:size], bench.recorded[fold::FOLDS], loss)


def itself(bench: Bench, test: list[TrainingExample]) -> dict[str, Any]:
    """A student of pseudo-queries whose passage is their own document, of which the index has the vector."""
    return bench.student(pseudo_queries(bench.documents, PSEUDO_DOCUMENTS), test, "distance")


def cost(bench: Bench, student: ExpandREncoder, repeats: int = 60, written: int = 2) -> dict[str, Any]:
    """Milliseconds of one core per query, one at a time; `LLM` is SmolLM2 writing 96 tokens."""
    passages, _ = read_expansions(sorted((bench.data / "expansions" / "scifact").glob("*.jsonl"))[0])
    queries = [e.query for e in bench.recorded[:repeats]]
    both = [(e.query, passages[e.query_id].passages[0]) for e in bench.recorded[:repeats]]
    expander = LLMExpander(HuggingFaceBackend("smollm2", dtype="bfloat16"), max_new_tokens=96)
    topics = pd.DataFrame({"qid": list(map(str, range(written + 1))), "query": queries[: written + 1]})
    expander.transform(topics.tail(1))  # loads the model
    return {
        "query": _milliseconds(lambda text: bench.teacher.encode([text], "query"), queries),
        "fused, passage cached": _milliseconds(
            lambda pair: [bench.teacher.encode([pair[0]], "query"), bench.teacher.encode([pair[1]], "document")], both
        ),
        "student": _milliseconds(lambda text: student.encode([text], "query"), queries),
        "LLM": _milliseconds(lambda place: expander.transform(topics.iloc[[place]]), list(range(written))),
    }


def _milliseconds(work: Callable[[Any], Any], items: list[Any]) -> float:
    work(items[0])
    start = time.process_time()
    for item in items:
        work(item)
    return round((time.process_time() - start) / len(items) * 1000, 1)


def summary(cells: dict[str, Any], apart: dict[str, list[bool]]) -> dict[str, Any]:
    """Means over the queries, differences from the query alone with p-values, and the share of the fused gain.

    `apart` is the same difference for the queries that share no relevant document with those that were learnt from.
    """
    if "query" not in cells or "fused" not in cells:
        return {}
    rows: dict[str, Any] = {}
    for name in ("SciFact", "Vaswani", "PubMedQA"):
        for system in systems_of(cells):
            values = per_query(cells, system, name)
            if values is not None and (name == "SciFact" or "elsewhere" in cells):
                rows[f"{system} / {name}"] = _row(cells, values, name)
                kind = "training" if system.endswith("training queries") else "fold"
                if name == "SciFact" and (f"{system}, fold 0" in cells or kind == "training"):
                    rows[f"{system} / {name}"]["apart"] = _apart(cells, values, np.array(apart[kind]))
    return rows


def systems_of(cells: dict[str, Any]) -> list[str]:
    """The cells, with folds as one."""
    return [name for name in dict.fromkeys(name.partition(", fold")[0] for name in cells) if name != "cost"]


def per_query(cells: dict[str, Any], system: str, name: str) -> dict[str, np.ndarray] | None:
    """Each measure's values in the order of the test queries, or None where a fold or the collection is missing."""
    if system in cells:
        found = cells[system].get(name)
        return {m: np.array(found[m]) for m in MEASURES} if found else None
    folds = [cells.get(f"{system}, fold {fold}") for fold in range(FOLDS)]
    if name != "SciFact" or not all(folds):
        return None
    values = {m: np.empty(len(cells["query"]["SciFact"][m])) for m in MEASURES}
    for fold, cell in enumerate(folds):
        for m in MEASURES:
            values[m][fold::FOLDS] = cell["SciFact"][m]  # type: ignore[index]
    return values


def _row(cells: dict[str, Any], values: dict[str, np.ndarray], name: str) -> dict[str, Any]:
    row: dict[str, Any] = {}
    base = cells["query" if name == "SciFact" else "elsewhere"][name]
    best = cells["fused"].get(name)
    for m in MEASURES:
        alone = np.array(base[m])
        row[m] = round(float(values[m].mean()), 4)
        if np.array_equal(alone, values[m]):
            continue
        gain = float(values[m].mean() - alone.mean())
        row[f"{m} - query"] = round(gain, 4)
        row[f"{m} p"] = round(float(permutation_test(values[m], alone).pvalue), 4)
        if best:
            row[f"{m} share of the fused gain"] = round(gain / float(np.mean(best[m]) - alone.mean()), 3)
    return row


def _apart(cells: dict[str, Any], values: dict[str, np.ndarray], chosen: np.ndarray) -> dict[str, Any]:
    mine, alone = (v[chosen] for v in (values["nDCG@10"], np.array(cells["query"]["SciFact"]["nDCG@10"])))
    gain = float(np.mean(np.array(cells["fused"]["SciFact"]["nDCG@10"])[chosen] - alone))
    return {
        "queries": int(chosen.sum()),
        "nDCG@10 - query": round(float(np.mean(mine - alone)), 4),
        "nDCG@10 p": round(float(permutation_test(mine, alone).pvalue), 4),
        "nDCG@10 share of the fused gain": round(float(np.mean(mine - alone)) / gain, 3),
    }


def markdown(results: dict[str, Any]) -> list[str]:
    """The table of the choice, and that of all systems on all collections."""
    return [choice(results), measured_table(results["summary"])]


def choice(results: dict[str, Any]) -> str:
    """The three ways to have an expanded query, beside the query alone."""
    cells, summary = results["cells"], results["summary"]
    ms, fused_ms = cells["cost"], cells["cost"]["fused, passage cached"]
    student = summary[f"{KEPT} / SciFact"]
    rows = {
        "ms of one core per query": [ms["query"], ms["LLM"] + fused_ms, fused_ms, ms["student"]],
        "asks the LLM": ["never", "at every query", "once for each distinct query", "once for a log of queries"],
        "a query never seen before": ["is searched", "waits for the LLM", "waits for the LLM", "is searched"],
        **{f"{m}, SciFact": [summary[f"{name} / SciFact"][m] for name in ("query", "fused", "fused")] + [student[m]]
           for m in MEASURES},
    }  # fmt: skip
    heads = ["", "query alone", "LLM at query time", "passages cached", "student"]
    return table(heads, [[name, *(_shown(name, value) for value in values)] for name, values in rows.items()])


def _shown(row: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if row.startswith("ms") else f"{value:.4f}"


def measured_table(summary: dict[str, Any]) -> str:
    """One line for each system and collection."""
    heads = ["collection", "system", "nDCG@10", "R@100", "against the query alone", "p", "share of the gain", "apart"]
    lines = []
    for key, row in summary.items():
        system, _, collection = key.rpartition(" / ")
        system = "query" if system == "elsewhere" else system
        compared = ["", "", "", ""]
        if "nDCG@10 - query" in row:
            share = row.get("nDCG@10 share of the fused gain")
            apart = (
                f"{row['apart']['nDCG@10 - query']:+.4f} (p {row['apart']['nDCG@10 p']:.4f})" if "apart" in row else ""
            )
            of_gain = "" if share is None else f"{share:.2f}"
            compared = [f"{row['nDCG@10 - query']:+.4f}", f"{row['nDCG@10 p']:.4f}", of_gain, apart]
        lines.append([collection, system, f"{row['nDCG@10']:.4f}", f"{row['R@100']:.4f}", *compared])
    return table(heads, lines)


def main() -> int:
    """Measure what is missing, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="*", help="the cells to do, by the beginning of their names; all by default")
    parser.add_argument("--folder", type=Path, help="keep indexes and passages' vectors here")
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--expansions", type=Path, help="passages for SciFact's training queries")
    parser.add_argument("--pseudo", type=Path, help="passages for pseudo-queries")
    parser.add_argument("--write-pseudo", type=Path, help="write passages for pseudo-queries, and nothing else")
    args = parser.parse_args()
    data = Path(os.environ.get("EXPANDR_DATA", ""))
    if not (data / "expansions" / "scifact").is_dir():
        parser.error("set EXPANDR_DATA to a folder with scifact/ in BEIR format and expansions/scifact/*.jsonl")
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(data, args.folder or Path(temporary))
        if args.write_pseudo:
            write_pseudo(bench.documents, args.write_pseudo)
            return 0
        measure(cells_of(bench, args.expansions, args.pseudo), bench.apart, args.cells, args.json)
    return 0


def measure(
    cells: dict[str, Callable[[], dict[str, Any]]],
    apart: Callable[[], dict[str, list[bool]]],
    wanted: list[str],
    target: Path,
) -> None:
    """Run the cells that are not in `target` yet, and write each as it is done."""
    results = (
        json.loads(target.read_text()) if target.is_file() else {"settings": SETTINGS, "losses": LOSSES, "cells": {}}
    )
    if results["settings"] != SETTINGS:
        raise ValueError(f"{target} was measured with {results['settings']}, this is {SETTINGS}: name another file")
    for name, run in cells.items():
        if name in results["cells"] or (wanted and not any(name.startswith(one) for one in wanted)):
            continue
        results["cells"][name] = run()
        results.setdefault("apart", apart())
        results["summary"] = summary(results["cells"], results["apart"])
        results["versions"] = {p: version(p) for p in ("torch", "transformers", "sentence-transformers")}
        write_json(target, results)
        short = results["cells"][name].get("SciFact", {}).get("nDCG@10", [0])
        print(time.strftime("%H:%M:%S"), name, round(float(np.mean(short or [0])), 4), flush=True)


if __name__ == "__main__":
    sys.exit(main())
