"""Documents per second and nDCG@10 of each way to encode on a CPU: float32, bfloat16, and int8 by OpenVINO.

    taskset -c 1 env OMP_NUM_THREADS=1 EXPANDR_DATA=FOLDER python -m benchmarks.encoding --folder WORK [--json FILE]

SciFact, Vaswani and PubMedQA in BEIR format lie in FOLDER. The ways take turns on blocks of 256 documents, so that
other work on the machine moves all of them; a speed is documents per second of CPU time over all blocks, and a ratio
the median over the blocks. Only float32 and int8 encode whole collections and have an nDCG@10; the other ways, and the
bare `SentenceTransformer.encode`, encode the first blocks. Queries and documents of one way are encoded by that way.
Finished blocks are kept in WORK: give the command again after an interruption. The exit status is 1 if int8 is below
its targets.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
from ir_measures import nDCG

from benchmarks.exact_search import measured_search
from benchmarks.markdown import table
from benchmarks.speed import machine, torch_threads
from pyterrier_expandr import ExpandREncoder
from pyterrier_expandr.collections import beir_folder
from pyterrier_expandr.common.hardware import has_bfloat16, has_integers
from pyterrier_expandr.encoding import demo_encoder_folder, quantize
from pyterrier_expandr.evaluation.result_store import versions

COLLECTIONS = {"SciFact": "scifact", "Vaswani": "vaswani", "PubMedQA": "pubmedqa_pqal"}
BLOCK = 256
BASE, BARE, FAST = "float32", "SentenceTransformer.encode", "int8"
#: int8 must be so many times as fast as float32, and lose at most so much nDCG@10 on each collection
TARGET_RATIO, TARGET_LOSS = 2.5, 0.002

Encode = Callable[[Sequence[str]], np.ndarray]


def ways(work: Path) -> dict[str, ExpandREncoder]:
    """The encoders by name, each computed in another way."""
    small = work / "int8"
    if not small.is_dir():
        quantize(demo_encoder_folder(), small)
    found = {BASE: ExpandREncoder(demo_encoder_folder(), device="cpu"), FAST: ExpandREncoder(small)}
    if has_bfloat16("cpu"):
        found["bfloat16"] = ExpandREncoder(demo_encoder_folder(), device="cpu", dtype="bfloat16")
        found["int8, the rest in bfloat16"] = ExpandREncoder(small, dtype="bfloat16")
    return found


def encode_block(kept: Path, texts: Sequence[str], encode: Encode) -> tuple[np.ndarray, float]:
    """Vectors of a block and the CPU seconds that they took, from the file `kept` if it is there."""
    if not kept.is_file():
        start = time.process_time()
        vectors = encode(texts)
        seconds = time.process_time() - start
        kept.parent.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(".part.npz")
        np.savez(part, vectors=np.asarray(vectors), seconds=seconds)
        part.replace(kept)
    found = np.load(kept)
    return found["vectors"], float(found["seconds"])


def measure(
    name: str, data: Path, work: Path, encoders: dict[str, ExpandREncoder], blocks_of_others: int
) -> dict[str, Any]:
    """Speed and nDCG@10 of each way on one collection."""
    collection = beir_folder(data / COLLECTIONS[name])
    documents = list(collection.get_corpus_iter())
    texts = [f"{document['title']} {document['text']}".strip() for document in documents]
    bare = encoders[BASE].model
    systems: dict[str, Encode] = {way: encoder.encode_docs for way, encoder in encoders.items()}
    systems[BARE] = lambda block: np.asarray(bare.encode(list(block), show_progress_bar=False))
    for encode in systems.values():
        encode(texts[:8])  # loads and warms
    order, blocks = list(systems), range(0, len(texts), BLOCK)
    vectors: dict[str, list[np.ndarray]] = {way: [] for way in systems}
    seconds: dict[str, list[float]] = {way: [] for way in systems}
    for number, start in enumerate(blocks):
        for way in order[number % len(order) :] + order[: number % len(order)]:
            if way not in (BASE, FAST) and number >= blocks_of_others:
                continue
            kept = work / COLLECTIONS[name] / way / f"{number}.npz"
            block, spent = encode_block(kept, texts[start : start + BLOCK], systems[way])
            vectors[way].append(block)
            seconds[way].append(spent)
        print(f"{name}: block {number + 1} of {len(blocks)}", file=sys.stderr, flush=True)
    topics = collection.get_topics()
    qrels = [ir_measures.Qrel(row.qid, row.docno, row.label) for row in collection.get_qrels().itertuples()]
    docnos, qids = [document["docno"] for document in documents], topics["qid"].tolist()
    rows = []
    for way in systems:
        row = {"way": way, "docs/s": sum(map(len, vectors[way])) / sum(seconds[way])}
        row["ratio"] = statistics.median(a / b for a, b in zip(seconds[BASE], seconds[way], strict=False))
        own = np.concatenate(vectors[way])
        row["cosine to float32"] = float(np.sum(own * np.concatenate(vectors[BASE])[: len(own)], axis=1).mean())
        if way in (BASE, FAST):
            queries = np.asarray(encoders[way].encode_queries(topics["query"].tolist()))
            (values,) = measured_search(queries, own, docnos, qids, qrels, [nDCG @ 10])
            row["nDCG@10"] = float(values.mean())
        rows.append(row)
    return {"documents": len(texts), "queries": len(qids), "rows": rows}


def missed(found: dict[str, Any]) -> list[str]:
    """What int8 does not reach, a sentence each."""
    problems = []
    for name, one in found.items():
        by = {row["way"]: row for row in one["rows"]}
        loss, ratio = by[BASE]["nDCG@10"] - by[FAST]["nDCG@10"], by[FAST]["ratio"]
        if ratio < TARGET_RATIO:
            problems.append(f"{name}: int8 is {ratio:.2f} times as fast as float32, not {TARGET_RATIO}")
        if loss > TARGET_LOSS:
            problems.append(f"{name}: int8 loses {100 * loss:.2f} points of nDCG@10, more than {100 * TARGET_LOSS}")
    return problems


def added(before: dict[str, Any], kind: str, report: dict[str, Any]) -> dict[str, Any]:
    """The results with those of one more run: what it did not measure of its kind of processor stays."""
    found = before.get(kind, {}).get("collections", {}) | report["collections"]
    return before | {kind: report | {"collections": found, "missed": missed(found)}}


def processor() -> str:
    """The kind of processor, by what decides the speed of integers."""
    return "with VNNI" if has_integers() else "without VNNI"


def markdown(reports: dict[str, Any]) -> str:
    """The table of docs/scale.md: what was measured on each kind of processor."""
    lines = []
    for kind, report in reports.items():
        for name, one in report["collections"].items():
            for row in one["rows"]:
                quality = [f"{row[key]:.4f}" if key in row else "" for key in ("nDCG@10", "cosine to float32")]
                lines.append([kind, name, row["way"], f"{row['docs/s']:.1f}", f"{row['ratio']:.2f}", *quality])
    heads = ["processor", "collection", "way", "docs/s", "times float32", "nDCG@10", "cosine to float32"]
    return table(heads, lines)


def main() -> int:
    """Measure, print the table, write JSON; 1 if int8 is below its targets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="finished blocks and the int8 model are kept here")
    parser.add_argument("--json", type=Path, help="write the results here, beside those of the other processors")
    parser.add_argument("--only", choices=list(COLLECTIONS), action="append", help="these collections alone")
    parser.add_argument("--blocks-of-others", type=int, default=2, help="blocks of the ways without nDCG")
    args = parser.parse_args()
    data = Path(os.environ.get("EXPANDR_DATA", ""))
    names = args.only or list(COLLECTIONS)
    if lacking := [COLLECTIONS[name] for name in names if not (data / COLLECTIONS[name]).is_dir()]:
        parser.error(f"set EXPANDR_DATA to a folder with {', '.join(lacking)}")
    encoders = ways(args.folder)
    found = {name: measure(name, data, args.folder, encoders, args.blocks_of_others) for name in names}
    report = {"machine": machine(), "threads": torch_threads(), "versions": versions(), "collections": found}
    print(markdown({processor(): report}))
    problems = missed(found)
    print("\n".join(problems) or "int8 reaches its targets")
    if args.json:
        before = json.loads(args.json.read_text(encoding="utf-8")) if args.json.is_file() else {}
        merged = json.dumps(added(before, processor(), report), indent=1)
        args.json.write_text(merged + "\n", encoding="utf-8")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
