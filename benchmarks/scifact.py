"""SciFact test (300 queries) with recorded LLM passages: measured scores against the expected ones.

    EXPANDR_DATA=FOLDER python -m benchmarks.scifact [--json FILE]

FOLDER holds `scifact/` in BEIR format and `expansions/scifact/*.jsonl`; without `scifact/` the collection comes from
ir-datasets. The exit status is 1 if any line is not OK.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from pyterrier_expandr import ExpandREncoder, FaissIndex, RecordedExpander
from pyterrier_expandr.collections import beir_folder
from pyterrier_expandr.demo import demo_encoder_folder
from pyterrier_expandr.sparse import bm25

EXPECTED = Path(__file__).with_name("scifact_expected.json")
COLUMNS = {"ndcg_cut_10": "nDCG@10", "recall_100": "R@100"}


def open_scifact(data: Path) -> Any:
    """The collection: a BEIR folder where there is one, else ir-datasets."""
    return (
        beir_folder(data / "scifact", "test")
        if (data / "scifact").is_dir()
        else pt.get_dataset("irds:beir/scifact/test")
    )


def run(data: Path, folder: Path) -> pd.DataFrame:
    """The experiment: one row for each system, columns name, ndcg_cut_10, recall_100."""
    expected = json.loads(EXPECTED.read_text())
    dataset = open_scifact(data)
    encoder = ExpandREncoder(demo_encoder_folder(), max_length=expected["max_length"], device="cpu")
    index = FaissIndex(folder / "scifact.faiss")
    if not index.built():
        corpus = pt.tqdm(dataset.get_corpus_iter(), desc="Indexing SciFact", unit="doc")
        (encoder.doc_encoder() >> index).index(corpus)
    dense = encoder.query_encoder() >> index.retriever(num_results=1000)
    systems = {}
    for line in expected["lines"]:
        if line["expansions"] == "bm25":
            systems[line["name"]] = bm25(dataset.get_corpus_iter(), folder / "scifact.pisa")
        elif line["expansions"] is None:
            systems[line["name"]] = dense
        else:
            recorded = data / "expansions" / "scifact" / line["expansions"]
            systems[line["name"]] = RecordedExpander(recorded) >> dense
    topics = dataset.get_topics()
    if "query" not in topics:
        topics = topics.rename(columns={"text": "query"})
    return pt.Experiment(list(systems.values()), topics, dataset.get_qrels(), list(COLUMNS), names=list(systems))


def judge(table: pd.DataFrame) -> list[dict[str, Any]]:
    """One row for each system and measure with the expected value and OK, FAIL or - (nothing expected)."""
    expected = json.loads(EXPECTED.read_text())
    rows = []
    for line in expected["lines"]:
        measured = table[table["name"] == line["name"]].iloc[0]
        for measure, title in COLUMNS.items():
            want, got = line.get(measure), float(measured[measure])
            verdict = "-" if want is None else "OK" if abs(got - want) <= expected["tolerance"] else "FAIL"
            rows.append(
                {"system": line["name"], "measure": title, "measured": got, "expected": want, "result": verdict}
            )
    return rows


def main() -> int:
    """Run, print the table, write JSON; 0 if every line is OK."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--folder", type=Path, help="keep the indexes here; a temporary folder if not given")
    args = parser.parse_args()
    data = Path(os.environ.get("EXPANDR_DATA", ""))
    if not (data / "expansions" / "scifact").is_dir():
        parser.error("set EXPANDR_DATA to a folder with expansions/scifact/*.jsonl (and scifact/ in BEIR format)")
    with tempfile.TemporaryDirectory() as temporary:
        rows = judge(run(data, args.folder or Path(temporary)))
    print(pd.DataFrame(rows).to_string(index=False, na_rep="-", float_format="{:.4f}".format))
    if args.json:
        packages = ["pyterrier", "sentence-transformers", "torch", "faiss-cpu", "pyterrier-pisa"]
        versions = {name: version(name) for name in packages}
        args.json.write_text(json.dumps({"versions": versions, "rows": rows}, indent=2) + "\n")
    return int(any(row["result"] == "FAIL" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
