"""What a hybrid search costs beside the sum of its two searches, over 1,000 queries in one process.

    OMP_NUM_THREADS=1 EXPANDR_DATA=FOLDER python -m benchmarks.hybrid_cost [--folder KEEP] [--json FILE]

SciFact with recorded passages; both indexes are built in `--folder` first, where they are missing. Queries are those of
the test split, again and again under new qids, and each text is encoded once. Two ratios are shown: of searches by
text, as a pipeline runs them, which has the target; and of searches by vectors that are there, where nothing hides the
fusion. CPU seconds of one thread count, so that neighbours do not; searches alternate, and the median of each is taken.
The exit status is 1 where the ratio is above its target.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from pyterrier_expandr import ExpandREncoder, FaissIndex, RecordedExpander
from pyterrier_expandr.cli.demo import demo_encoder_folder
from pyterrier_expandr.evaluation.beir import resolve
from pyterrier_expandr.evaluation.result_store import versions
from pyterrier_expandr.expansion.lexical import LexicalExpander
from pyterrier_expandr.retrieval.list_fusion import hybrid
from pyterrier_expandr.retrieval.sparse import bm25

TARGET = 1.1
REPEATS = 5
RECORDING = "query2doc.zs.Qwen2.5-7B-Instruct.7b422d71.5f6de3.jsonl"


def seconds_of(pipeline: pt.Transformer, queries: pd.DataFrame) -> float:
    start = time.process_time()
    pipeline(queries)
    return time.process_time() - start


def measure(data: Path, folder: Path, number: int) -> dict[str, Any]:
    """Seconds of both searches and of the hybrid, and the ratio."""
    (collection,) = resolve("SciFact", data=data)
    lexical = LexicalExpander() >> bm25(collection.get_corpus_iter(), folder / "scifact.pisa")
    encoder = ExpandREncoder(demo_encoder_folder(), max_length=256, device="cpu")
    index = FaissIndex(folder / "scifact.faiss")
    if not index.built():
        corpus = index.remaining(collection.get_corpus_iter(verbose=True))
        (encoder.doc_encoder() >> index.indexer("resume")).index(corpus)
    dense = index.retriever(drop_query_vec=True)
    recorded = RecordedExpander(data / "expansions" / "scifact" / RECORDING)
    start = time.process_time()
    queries = (recorded >> encoder.query_encoder())(collection.topics)
    encoding = time.process_time() - start
    queries = pd.concat([queries] * -(-number // len(queries)), ignore_index=True).head(number)
    queries = queries.assign(qid=[str(place) for place in range(len(queries))])
    found: dict[str, list[float]] = {"lexical": [], "dense": [], "hybrid": []}
    for _ in range(REPEATS):
        # A new hybrid each time: one that has seen a query does not search for it again.
        for name, pipeline in (("lexical", lexical), ("dense", dense), ("hybrid", hybrid(lexical, dense))):
            found[name].append(seconds_of(pipeline, queries))
    medians = {name: statistics.median(values) for name, values in found.items()}
    both, fused = medians["lexical"] + medians["dense"], medians["hybrid"]
    return {
        "queries": number,
        "seconds": {"encoding": encoding, **medians},
        "ratio": (encoding + fused) / (encoding + both),
        "ratio_by_vectors": fused / both,
        "target": TARGET,
        "versions": versions(),
    }


def main() -> int:
    """Measure, print, write JSON; 1 if the ratio is above its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="keep indexes here; a temporary folder if not given")
    parser.add_argument("--json", type=Path, help="write the results here")
    args = parser.parse_args()
    data = Path(os.environ.get("EXPANDR_DATA", ""))
    if not (data / "expansions" / "scifact").is_dir():
        parser.error("set EXPANDR_DATA to a folder with scifact/ and expansions/scifact/*.jsonl")
    with tempfile.TemporaryDirectory() as temporary:
        measured = measure(data, args.folder or Path(temporary), args.queries)
    for name, value in measured["seconds"].items():
        print(f"{name:8} {value:8.3f} s")
    print(f"ratio    {measured['ratio']:8.3f}   (target {TARGET}); by vectors {measured['ratio_by_vectors']:.3f}")
    if args.json:
        args.json.write_text(json.dumps(measured, indent=2) + "\n")
    return int(measured["ratio"] > TARGET)


if __name__ == "__main__":
    sys.exit(main())
