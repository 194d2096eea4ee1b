"""How fast the package encodes, searches and is imported, beside the bare libraries under it.

    python -m benchmarks.speed [--json FILE] [--only encode|retrieve|import] [--docs N] [--repeats N] [--threads N]

The systems of a comparison take turns, round by round, each round in another order, and a figure is the median over the
rounds of the ratio within a round, so that other work on the machine moves both sides. Documents are SciFact's where
EXPANDR_DATA names a folder that has it, else the pocket collection. The exit status is 1 if any line is not OK.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

DIM, CORPUS, QUERIES, K = 384, 100_000, 1000, 1000
FAISS_BATCHES = (64, 256, 1000)

Times = dict[str, list[float]]


class Sink(pt.Indexer):
    """The end of an indexing pipeline that throws vectors away, so that only encoding is timed."""

    def index(self, iter: Iterable[dict[str, Any]], **kwargs: Any) -> int:
        """Count the documents."""
        return sum(1 for _ in iter)


def take_turns(
    systems: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> Times:
    """Seconds of each system in each round; an untimed first call loads and warms everything."""
    names = list(systems)
    for name in names:
        systems[name]()
    times: Times = {name: [] for name in names}
    for number in range(repeats):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start = clock()
            systems[name]()
            times[name].append(clock() - start)
    return times


def ratio(times: Times, over: str, under: str) -> float:
    """Median over the rounds of seconds of `over` by seconds of `under`."""
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))


def line(what: str, unit: str, ours: float, theirs: float, value: float, target: str) -> dict[str, Any]:
    """A row of the table; `target` is such as ">= 1.0"."""
    sign, bound = target.split()
    met = value >= float(bound) if sign == ">=" else value <= float(bound)
    result = "OK" if met else "FAIL"
    return {
        "what": what,
        "unit": unit,
        "ours": ours,
        "theirs": theirs,
        "ratio": value,
        "target": target,
        "result": result,
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {"cpus": os.cpu_count(), "processor": platform.machine(), "python": platform.python_version()}


def documents(limit: int) -> tuple[str, list[dict[str, str]]]:
    """The collection's name and its first documents, titles put before the texts."""
    from pyterrier_expandr.collections import beir_folder, pocket

    scifact = Path(os.environ.get("EXPANDR_DATA") or "/nonexistent") / "scifact"
    name, collection = ("scifact", beir_folder(scifact)) if scifact.is_dir() else ("pocket", pocket())
    docs = islice(collection.get_corpus_iter(verbose=False), limit)
    return name, [{"docno": d["docno"], "text": f"{d.get('title', '')} {d['text']}".strip()} for d in docs]


def measure_encoding(limit: int, batch_size: int, repeats: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Documents per second through an indexing pipeline, against the model's own `encode` on a list of texts.

    Once with the batch size that each side takes by itself, and once with the same for both: then the same model does
    the same work, and all that can be asked of the pipeline is that it costs nothing beyond the noise of the clock.
    """
    from pyterrier_dr import SBertBiEncoder
    from sentence_transformers import SentenceTransformer

    from pyterrier_expandr import ExpandREncoder
    from pyterrier_expandr.encoding.registry import demo_encoder_folder

    folder, (name, docs) = demo_encoder_folder(), documents(limit)
    model, texts = SentenceTransformer(folder, device="cpu"), [doc["text"] for doc in docs]
    default = ExpandREncoder(folder, device="cpu")
    same = ExpandREncoder(folder, device="cpu", batch_size=batch_size)
    pipelines = {
        "ours": default.doc_encoder() >> Sink(),
        "ours, same batch": same.doc_encoder() >> Sink(),
        "sbert": SBertBiEncoder(folder, device="cpu").doc_encoder() >> Sink(),
    }
    systems: dict[str, Callable[[], Any]] = {
        system: (lambda pipeline=pipeline: pipeline.index(docs)) for system, pipeline in pipelines.items()
    }
    systems["bare"] = lambda: model.encode(texts, show_progress_bar=False)
    systems["bare, same batch"] = lambda: model.encode(texts, batch_size=batch_size, show_progress_bar=False)
    times = take_turns(systems, repeats)
    speed = {system: len(docs) / statistics.median(seconds) for system, seconds in times.items()}
    rows = []
    for what, ours, theirs, target in (
        ("encode / SentenceTransformer.encode", "ours", "bare", ">= 1.0"),
        (f"the same, {batch_size} a batch on both sides", "ours, same batch", "bare, same batch", ">= 0.97"),
        ("encode / pyterrier_dr.SBertBiEncoder", "ours", "sbert", ">= 1.0"),
    ):
        rows.append(line(what, "docs/s", speed[ours], speed[theirs], ratio(times, theirs, ours), target))
    batches = {"default_batch_size": default.batch_size, "same_batch_size": batch_size}
    return rows, {"collection": name, "documents": len(docs), "threads": torch_threads(), "seconds": times} | batches


def torch_threads() -> int:
    """Threads that PyTorch computes with."""
    import torch

    return torch.get_num_threads()


def measure_retrieval(folder: Path, repeats: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Seconds for all queries over random vectors: frames in and out, against FAISS on arrays, and FlexIndex."""
    import faiss
    from pyterrier_dr import FlexIndex

    from pyterrier_expandr import FaissIndex

    rng = np.random.default_rng(0)
    corpus = rng.standard_normal((CORPUS, DIM), dtype=np.float32)
    queries = rng.standard_normal((QUERIES, DIM), dtype=np.float32)
    frame = pd.DataFrame({"qid": [f"q{i}" for i in range(QUERIES)], "query_vec": list(queries)})
    docs = [{"docno": f"doc{i}", "doc_vec": vector} for i, vector in enumerate(corpus)]
    ours = FaissIndex(folder / "ours").index(docs).retriever(num_results=K)
    flex_index = FlexIndex(str(folder / "flex.flex"), verbose=False)
    flex_index.index(docs)
    flex = flex_index.faiss_flat_retriever()  # its num_results is 1000
    bare = faiss.IndexFlatIP(DIM)
    bare.add(corpus)

    def search(batch: int) -> None:
        for start in range(0, QUERIES, batch):
            bare.search(queries[start : start + batch], K)

    systems: dict[str, Callable[[], Any]] = {"ours": lambda: ours(frame), "flex": lambda: flex(frame)}
    systems |= {f"faiss {batch}": (lambda batch=batch: search(batch)) for batch in FAISS_BATCHES}
    times = take_turns(systems, repeats)
    seconds = {system: statistics.median(values) for system, values in times.items()}
    best = min((f"faiss {batch}" for batch in FAISS_BATCHES), key=seconds.__getitem__)
    rate = {system: QUERIES / value for system, value in seconds.items()}
    against_bare, against_flex = ratio(times, "ours", best), ratio(times, "flex", "ours")
    rows = [
        line(f"search / bare FAISS ({best[6:]} a call)", "s", seconds["ours"], seconds[best], against_bare, "<= 1.15"),
        line("search / faiss_flat_retriever", "queries/s", rate["ours"], rate["flex"], against_flex, ">= 3.0"),
    ]
    settings = {"documents": CORPUS, "queries": QUERIES, "dim": DIM, "k": K, "threads": faiss.omp_get_max_threads()}
    return rows, settings | {"seconds": times}


def import_seconds(statement: str) -> float:
    """Seconds that `statement` takes in a new interpreter, its start not counted."""
    code = f"import time; start = time.perf_counter(); {statement}; print(time.perf_counter() - start)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def measure_import(repeats: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Seconds of the first import, in new interpreters."""
    statements = {
        "pyterrier": "import pyterrier",
        "package": "import pyterrier_expandr",
        "index": "from pyterrier_expandr import FaissIndex, FaissRetriever",
    }
    times: Times = {name: [] for name in statements}
    for number in range(repeats + 1):
        for name, statement in statements.items():
            seconds = import_seconds(statement)
            if number:  # the first round fills the disk's cache
                times[name].append(seconds)
    median = {name: statistics.median(seconds) for name, seconds in times.items()}
    rows = []
    for name, what in (("package", "import pyterrier_expandr / pyterrier"), ("index", "import FaissIndex / pyterrier")):
        value = ratio(times, name, "pyterrier")
        rows.append(line(what, "s", median[name], median["pyterrier"], value, "<= 1.15"))
    return rows, {"seconds": times}


def main() -> int:
    """Measure, print the table, write JSON; 0 if every line is OK."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--only", choices=["encode", "retrieve", "import"], help="one part alone")
    parser.add_argument("--docs", type=int, default=256, help="documents to encode at most")
    parser.add_argument("--batch-size", type=int, default=32, help="texts per model call, where it is the same")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--threads", type=int, help="threads of torch and FAISS")
    args = parser.parse_args()
    if args.threads:
        import faiss
        import torch

        torch.set_num_threads(args.threads)
        faiss.omp_set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        parts: dict[str, Callable[[], tuple[list[dict[str, Any]], dict[str, Any]]]] = {
            "import": lambda: measure_import(args.repeats),
            "retrieve": lambda: measure_retrieval(Path(folder), args.repeats),
            "encode": lambda: measure_encoding(args.docs, args.batch_size, args.repeats),
        }
        measured = {name: part() for name, part in parts.items() if args.only in (None, name)}
    rows = [row for part, _ in measured.values() for row in part]
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format))
    if args.json:
        packages = ["pyterrier", "pyterrier-dr", "sentence-transformers", "torch", "faiss-cpu", "pandas", "pyarrow"]
        report = {
            "machine": machine(),
            "versions": {name: version(name) for name in packages},
            "settings": {name: settings for name, (_, settings) in measured.items()},
            "rows": rows,
        }
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return int(any(row["result"] == "FAIL" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
