"""SciFact test (300 queries) with every recorded LLM passage: scores, expected scores, significance, pictures.

    EXPANDR_DATA=FOLDER python -m benchmarks.scifact [--out docs/results] [--folder KEEP]

FOLDER holds `scifact/` in BEIR format and `expansions/scifact/*.jsonl`; without `scifact/` the collection comes from
ir-datasets. `--out` writes scifact.json and the pictures; `--folder` keeps the indexes and the result set, and a rerun
computes only what is missing. The exit status is 1 if any line is not OK.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from pyterrier_expandr import ExpandREncoder, FaissIndex, RecordedExpander
from pyterrier_expandr.encoding.registry import demo_encoder_folder
from pyterrier_expandr.evaluation.beir import Collection, experiment, resolve
from pyterrier_expandr.evaluation.result_store import versions
from pyterrier_expandr.evaluation.results import Results
from pyterrier_expandr.expansion.lexical import LexicalExpander
from pyterrier_expandr.retrieval.list_fusion import hybrid
from pyterrier_expandr.retrieval.sparse import bm25

EXPECTED = json.loads(Path(__file__).with_name("scifact_expected.json").read_text())
MEASURES = ["nDCG@10", "R@100"]


def systems(data: Path, folder: Path) -> dict[str, Callable[[Collection], pt.Transformer]]:
    """The systems by name: BM25, the dense retriever, and each of them and their hybrid behind recordings."""
    encoder = ExpandREncoder(demo_encoder_folder(), max_length=EXPECTED["max_length"], device="cpu")
    index = FaissIndex(folder / "scifact.faiss")

    def dense(collection: Collection) -> pt.Transformer:
        if not index.built():
            corpus = index.remaining(collection.get_corpus_iter(verbose=True))
            (encoder.doc_encoder() >> index.indexer("resume")).index(corpus)
        return encoder.query_encoder() >> index.retriever(num_results=collection.num_results, drop_query_vec=True)

    def sparse(collection: Collection) -> pt.Transformer:
        retriever = bm25(collection.get_corpus_iter(), folder / "scifact.pisa", num_results=collection.num_results)
        return LexicalExpander() >> retriever

    def both(collection: Collection) -> pt.Transformer:
        return hybrid(sparse(collection), dense(collection), num_results=collection.num_results)

    searches = {"dense": dense, "bm25": sparse, "hybrid": both}

    def system(line: dict[str, Any]) -> Callable[[Collection], pt.Transformer]:
        search = searches[line["search"]]
        if line["expansions"] is None:
            return search
        recorded = RecordedExpander(data / "expansions" / "scifact" / line["expansions"])
        return lambda collection: recorded >> search(collection)

    return {line["name"]: system(line) for line in EXPECTED["lines"]}


def run(data: Path, folder: Path) -> Results:
    """The experiment."""
    return experiment(systems(data, folder), "SciFact", folder / "results", measures=MEASURES, data=data)


def judge(means: pd.DataFrame) -> list[dict[str, Any]]:
    """One row for each system and measure with the expected value and OK, FAIL or - (nothing expected).

    `means` is that of `Results`: system, collection, measure, value.
    """
    lines = {line["name"]: line for line in EXPECTED["lines"]}
    rows = []
    for system, _, measure, got in means.itertuples(index=False, name=None):
        want = lines[system].get(measure)
        tolerance = lines[system].get("tolerance", EXPECTED["tolerance"])
        verdict = "-" if want is None else "OK" if abs(got - want) <= tolerance else "FAIL"
        rows.append({"system": system, "measure": measure, "measured": got, "expected": want, "result": verdict})
    return rows


def with_significance(rows: list[dict[str, Any]], results: Results, baseline: str) -> list[dict[str, Any]]:
    """The rows with the difference to the baseline, its p-value, and that after Holm's correction."""
    compared = results.compare(baseline, correction="holm").set_index(["system", "measure"])
    columns = ["difference", "p_value", "p_corrected"]
    return [
        row
        | (compared.loc[key, columns].to_dict() if (key := (row["system"], row["measure"])) in compared.index else {})
        for row in rows
    ]


def draw(results: Results, data: Path, out: Path) -> None:
    """The pictures: gains and losses of the best recording by query, and the lengths of all recordings."""
    from pyterrier_expandr.analysis import change_plot, expansion_lengths, lengths_plot, per_query_change

    dense = [line for line in EXPECTED["lines"] if line["search"] == "dense" and line["expansions"]]
    recorded = {line["name"]: line["expansions"] for line in dense}
    means = results.means().query("measure == 'nDCG@10'").set_index("system")["value"]
    best = str(means[list(recorded)].idxmax())
    changes = per_query_change(results.per_query, best, EXPECTED["baseline"])
    change_plot(changes, system=best, baseline=EXPECTED["baseline"], path=out / "scifact_change.svg")
    (collection,) = resolve("SciFact", data=data)
    expansions = {
        name: RecordedExpander(data / "expansions" / "scifact" / file).transform(collection.topics)
        for name, file in recorded.items()
    }
    lengths_plot(expansion_lengths(expansions), path=out / "scifact_lengths.svg")


def main() -> int:
    """Run, print the table, write what was found; 0 if every line is OK."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write scifact.json and the pictures here")
    parser.add_argument("--folder", type=Path, help="keep indexes and results here; a temporary folder if not given")
    args = parser.parse_args()
    data = Path(os.environ.get("EXPANDR_DATA", ""))
    if not (data / "expansions" / "scifact").is_dir():
        parser.error("set EXPANDR_DATA to a folder with expansions/scifact/*.jsonl (and scifact/ in BEIR format)")
    with tempfile.TemporaryDirectory() as temporary:
        results = run(data, args.folder or Path(temporary))
        rows = with_significance(judge(results.means()), results, EXPECTED["baseline"])
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            content = {"versions": versions(), "baseline": EXPECTED["baseline"], "correction": "holm", "rows": rows}
            (args.out / "scifact.json").write_text(json.dumps(content, indent=2) + "\n")
            draw(results, data, args.out)
    print(pd.DataFrame(rows).to_string(index=False, na_rep="-", float_format="{:.4f}".format))
    return int(any(row["result"] == "FAIL" for row in rows) or not results.failures.empty)


if __name__ == "__main__":
    sys.exit(main())
