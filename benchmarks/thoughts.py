"""What does a thought before the passage cost in retrieval, where nothing takes it off?

    EXPANDR_DATA=FOLDER python -m benchmarks.thoughts [--vectors KEEP.npy] [--json docs/results/thoughts.json]

FOLDER holds `scifact/` in BEIR format and `expansions/scifact/*.jsonl`. Each recorded passage is used as it is, behind
a thought of some 100 words that names the query (with its marks, as a reasoning model writes it), and as the thought
alone, which is what remains of a text that ran into the limit of tokens while the model was thinking. all-MiniLM-L6-v2,
the 300 test queries, fused with equal weights (Eq. 8). The interval is that of a bootstrap over queries, of the
difference to the passage. The exit status is 1 if `without_thought` does not give each passage back.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pandas as pd
from ir_measures import nDCG

from benchmarks.exact_search import measured_search
from benchmarks.temperatures import interval
from pyterrier_expandr import ExpandREncoder
from pyterrier_expandr.common.jsonl import read_jsonl
from pyterrier_expandr.encoding import demo_encoder_folder
from pyterrier_expandr.evaluation.result_store import versions
from pyterrier_expandr.expansion import strip_preamble
from pyterrier_expandr.expansion.thinking import without_thought

FILES = [
    "query2doc.zs.Qwen2.5-7B-Instruct.7b422d71.5f6de3.jsonl",
    "query2doc.fs.Qwen2.5-72B-Instruct.0656857b.059e46.jsonl",
]

THOUGHT = (
    "Okay, the user wants a passage that answers this question: {query} Let me think about what I know here. First I "
    "should make sure that I understand what is claimed, and whether it is right. There may be several studies on it, "
    "and I need to recall which of them fit best. The passage should be informative, not too long, and written in a "
    "neutral tone. I should avoid stating things that I am not sure of. Alright, let me put it together step by step "
    "and then write the final answer."
)


def document_vectors(encoder: ExpandREncoder, corpus: list[dict[str, Any]], keep: Path | None) -> np.ndarray:
    """Vectors (documents, dimensions) of the corpus in its order, read from `keep` if that is there."""
    if keep is not None and keep.is_file():
        return np.load(keep)
    vectors = np.asarray(encoder.encode_docs([f"{row.get('title', '')} {row['text']}".strip() for row in corpus]))
    if keep is not None:
        np.save(keep, vectors)
    return vectors


def measure(data: Path, files: list[str], keep: Path | None) -> list[dict[str, Any]]:
    """One row for the query alone, and three for each file of recorded passages."""
    folder, encoder = data / "scifact", ExpandREncoder(demo_encoder_folder(), device="cpu")
    corpus = [row for _, row in read_jsonl(folder / "corpus.jsonl")]
    texts = {row["_id"]: row["text"] for _, row in read_jsonl(folder / "queries.jsonl")}
    judged = pd.read_csv(folder / "qrels" / "test.tsv", sep="\t", dtype={0: str, 1: str})
    qrels = [ir_measures.Qrel(*row) for row in judged.itertuples(index=False, name=None)]
    qids = list(dict.fromkeys(judged.iloc[:, 0]))
    documents, docnos = document_vectors(encoder, corpus, keep), np.array([row["_id"] for row in corpus])
    queries = np.asarray(encoder.encode_queries([texts[qid] for qid in qids]))

    def ndcg(vectors: np.ndarray) -> np.ndarray:
        return measured_search(vectors, documents, docnos, qids, qrels, [nDCG @ 10], depth=10)[0]

    def scored(passages: list[str]) -> np.ndarray:
        fused = (queries + np.asarray(encoder.encode_docs(passages))) / 2
        return ndcg(fused)

    rows = [{"passages": "none, the query alone", "nDCG@10": ndcg(queries).mean()}]
    for file in files:
        recorded = {row["query_id"]: row["passage"] for _, row in read_jsonl(data / "expansions" / "scifact" / file)}
        passages = [strip_preamble(recorded[qid]) for qid in qids]
        thoughts = [f"<think>\n{THOUGHT.format(query=texts[qid])}\n" for qid in qids]
        thought = [f"{one}</think>\n\n{passage}" for one, passage in zip(thoughts, passages, strict=True)]
        if [without_thought(text) for text in thought] != passages or any(map(without_thought, thoughts)):
            raise SystemExit("without_thought does not give the passages back")
        plain = scored(passages)
        rows.append({"passages": file, "text": "passage", "nDCG@10": plain.mean()})
        for text, given in (("thought and passage", thought), ("thought, cut", thoughts)):
            values = scored(given)
            change = {"difference": (values - plain).mean(), "interval": interval(values - plain)}
            rows.append({"passages": file, "text": text, "nDCG@10": values.mean(), **change})
    return rows


def main() -> int:
    """Measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", nargs="+", default=FILES, help="of recorded passages")
    parser.add_argument("--vectors", type=Path, help="keeps the documents' vectors between runs")
    parser.add_argument("--json", type=Path, help="write the results here")
    given = parser.parse_args()
    rows = measure(Path(os.environ["EXPANDR_DATA"]), given.files, given.vectors)
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format))
    if given.json:
        given.json.write_text(json.dumps({"rows": rows, "versions": versions()}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
