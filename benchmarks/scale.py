"""Indexes of 10,000 to 1,000,000 vectors: build, memory, speed, recall, beside bare FAISS and pyterrier_dr's FlexIndex.

    OMP_NUM_THREADS=1 python -m benchmarks.scale --folder WORK [--json FILE] [--sizes 10000 100000] [--kinds Flat SQ8]

Vectors of 384 dimensions are drawn from the normal distribution that has the mean and the covariance of embeddings of
real documents by all-MiniLM-L6-v2 (SciFact where EXPANDR_DATA names a folder with it, else the pocket collection), and
are normalised; queries are drawn likewise. They have the spectrum of real embeddings, but not their clusters, so that
recall of IVF and PQ is lower than it would be on documents.

Each cell (system, kind, size) is built in a process of its own (Linux), of which the CPU seconds and the peak of the
resident memory are taken, imported libraries included, and then searched: the systems take turns in one process (all
queries once before a graph is timed). Ours is searched from frame to frame, as a pipeline does, and from vectors to
numbers, as bare FAISS does. What is finished is kept in WORK/cells; give the command again after an interruption. The
exit status is 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.markdown import table
from benchmarks.speed import documents, machine
from pyterrier_expandr.evaluation.result_store import versions

DIM, K, QUERIES, BLOCK = 384, 100, 1000, 8192
SIZES = (10_000, 100_000, 1_000_000)
BATCHES = (1, 10, 1000)
#: searches take turns in so many rounds, or until they have taken so many seconds
ROUNDS, ENOUGH = 3, 60
LISTS = {10_000: 64, 100_000: 256, 1_000_000: 1024}
#: PQ without "np" is followed by minutes of polysemous training, which a search does not use
KINDS = ("Flat", "SQfp16", "SQ8", "IVF,PQ48np", "HNSW32")
#: what FlexIndex calls the same; FAISS 1.15 does not open its HNSW index, which leaves out the vectors
FLEX = {"Flat": "faiss_flat_retriever", "IVF,PQ48np": "faiss_ivf_retriever"}
SEARCH = {"IVF,PQ48np": "nprobe=16", "HNSW32": "efSearch=128"}
#: memory of a build: times the index, plus MB; seconds of search by those of bare FAISS; exponent of build time
TARGET_MEMORY, TARGET_SEARCH, TARGET_GROWTH = (1.2, 500), 1.10, 1.05


def factory_of(kind: str, size: int) -> str:
    """The FAISS factory of a kind of index: the number of lists grows with the size."""
    return kind.replace("IVF", f"IVF{LISTS.get(size, 64)}")


def spectrum(work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean (d,) and a square root (d, d) of the covariance of real embeddings."""
    kept = work / "spectrum.npz"
    if not kept.is_file():
        from pyterrier_expandr import ExpandREncoder
        from pyterrier_expandr.encoding import demo_encoder_folder

        _, docs = documents(1000)
        vectors = np.asarray(ExpandREncoder(demo_encoder_folder(), device="cpu").encode_docs([d["text"] for d in docs]))
        values, basis = np.linalg.eigh(np.cov(vectors, rowvar=False))
        np.savez(kept, mean=vectors.mean(axis=0), root=np.sqrt(np.maximum(values, 0))[:, None] * basis.T)
    found = np.load(kept)
    return found["mean"].astype(np.float32), found["root"].astype(np.float32)


def drawn(work: Path, number: int, seed: int) -> np.ndarray:
    """Vectors (number, d) of length 1 with that spectrum."""
    mean, root = spectrum(work)
    found = mean + np.random.default_rng([seed, number]).standard_normal((number, DIM), dtype=np.float32) @ root
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def make_vectors(work: Path, size: int) -> Path:
    """The file with `size` vectors, drawn block by block."""
    path = work / f"{size}.f32"
    if not path.is_file() or path.stat().st_size != size * DIM * 4:
        with open(path, "wb") as file:
            for start in range(0, size, BLOCK):
                file.write(drawn(work, min(BLOCK, size - start), start + 1).tobytes())
    return path


def blocks(work: Path, size: int) -> Iterator[np.ndarray]:
    """The vectors of a size, block by block, read from the file."""
    with open(work / f"{size}.f32", "rb") as file:
        while data := file.read(BLOCK * DIM * 4):
            yield np.frombuffer(data, np.float32).reshape(-1, DIM)


def build(system: str, kind: str, size: int, work: Path, target: Path) -> None:
    """Build an index in this process."""
    if system == "bare FAISS":
        import faiss

        index = faiss.index_factory(DIM, factory_of(kind, size), faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(np.concatenate(list(blocks(work, size)))[: max(65_536, 40 * LISTS.get(size, 64))])
        for block in blocks(work, size):
            index.add(block)
        target.mkdir()
        faiss.write_index(index, str(target / "index.faiss"))
        return
    docs = (
        {"docno": f"d{place * BLOCK + row}", "doc_vec": vector}
        for place, block in enumerate(blocks(work, size))
        for row, vector in enumerate(block)
    )
    if system == "ours":
        from pyterrier_expandr import FaissIndex

        FaissIndex(target, factory=factory_of(kind, size)).index(docs)
        return
    from pyterrier_dr import FlexIndex

    flex = FlexIndex(str(target), verbose=False)
    flex.index(docs)
    flex_retriever(target, kind, size)(queries_frame(work).head(1))


def flex_retriever(target: Path, kind: str, size: int) -> Any:
    """The retriever of pyterrier_dr; the first search builds what is missing on disk."""
    from pyterrier_dr import FlexIndex

    options = {"IVF,PQ48np": {"n_list": LISTS.get(size, 64), "n_probe": 16}}.get(kind, {})
    return getattr(FlexIndex(str(target), verbose=False), FLEX[kind])(**options)


def queries_frame(work: Path) -> pd.DataFrame:
    """`[qid, query_vec]` of all queries."""
    return pd.DataFrame({"qid": [f"q{i}" for i in range(QUERIES)], "query_vec": list(drawn(work, QUERIES, 7))})


def in_process(arguments: list[str]) -> dict[str, Any]:
    """What a part of the benchmark prints as JSON, run in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.scale", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_build(system: str, kind: str, size: int, work: Path, target: Path) -> dict[str, Any]:
    """Build; CPU and wall seconds, and the peak of the memory of this process."""
    import faiss

    faiss.omp_set_num_threads(1)
    shutil.rmtree(target, ignore_errors=True)
    shutil.rmtree(target.with_name(target.name + ".building"), ignore_errors=True)
    start, wall = time.process_time(), time.perf_counter()
    build(system, kind, size, work, target)
    return {
        "cpu_seconds": time.process_time() - start,
        "wall_seconds": time.perf_counter() - wall,
        "peak_MB": peak_memory() / 2**20,
        "disk_MB": sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) / 2**20,
    }


def peak_memory() -> int:
    """The most bytes that this process held; `getrusage` would begin with what its parent held."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def run_search(kind: str, size: int, work: Path) -> dict[str, Any]:
    """Queries per second of CPU time at each batch, ours and bare FAISS in turns, then FlexIndex; and recall@100."""
    import faiss

    from pyterrier_expandr import FaissIndex

    faiss.omp_set_num_threads(1)
    frame = queries_frame(work)
    matrix = np.stack(list(frame["query_vec"]))
    place = work / "indexes"
    ours = FaissIndex(place / f"ours {kind} {size}").retriever(K, search_params=SEARCH.get(kind))
    bare = faiss.read_index(str(place / f"bare FAISS {kind} {size}" / "index.faiss"))
    if kind in SEARCH:
        faiss.ParameterSpace().set_index_parameters(bare, SEARCH[kind])
    systems: dict[str, Callable[[int, int], Any]] = {
        "ours": lambda a, b: ours(frame.iloc[a:b]),
        "ours, vectors to numbers": lambda a, b: ours._search(matrix[a:b]),
        "bare FAISS": lambda a, b: bare.search(matrix[a:b], K),
    }
    if kind in FLEX:
        flex = flex_retriever(place / f"FlexIndex {kind} {size}", kind, size)
        systems["FlexIndex"] = lambda a, b: flex(frame.iloc[a:b])
    if kind.startswith("HNSW"):
        # A query touches thousands of places of a graph, and the first touch of a place brings a mapped file's page in:
        # 26 ms for each of the first queries in a million vectors. Bare FAISS has read the whole file before.
        for search in systems.values():
            search(0, QUERIES)
    rows = [row for batch in BATCHES for row in timed(systems, batch)]
    truth = np.load(work / f"{size}.truth.npy")
    numbers = ours(frame)["docno"].str[1:].astype(int).to_numpy().reshape(QUERIES, K)
    recall = {"ours": recall_at(numbers, truth), "bare FAISS": recall_at(bare.search(matrix, K)[1], truth)}
    return {"search": rows, "recall": recall}


def timed(systems: dict[str, Callable[[int, int], Any]], batch: int) -> list[dict[str, Any]]:
    """Queries per second of each system, which take turns, and the median ratio of seconds to those of bare FAISS."""
    calls = {1: 20, 10: 10}.get(batch, 1)
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for search in systems.values():
        search(0, min(batch, 10))
    for round_number in range(ROUNDS):
        if sum(map(sum, seconds.values())) > ENOUGH:
            break
        for name, search in systems.items():
            start = time.process_time()
            for call in range(calls):
                first = (round_number * calls + call) * batch % QUERIES
                search(first, first + batch)
            seconds[name].append(time.process_time() - start)
    base = seconds["bare FAISS"]
    return [
        {
            "system": name,
            "batch": batch,
            "queries/s": batch * calls / statistics.median(own),
            "ratio": statistics.median(a / b for a, b in zip(own, base, strict=True)),
            "ms_more_per_call": 1000 * statistics.median(a - b for a, b in zip(own, base, strict=True)) / calls,
        }
        for name, own in seconds.items()
    ]


def recall_at(numbers: np.ndarray, truth: np.ndarray) -> float:
    """The mean share of the true neighbours (n, k) among the numbers found (n, k)."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(numbers, truth, strict=True)]))


def make_truth(work: Path, size: int) -> None:
    """The numbers of the exact 100 nearest vectors of each query, in a file."""
    path = work / f"{size}.truth.npy"
    if path.is_file():
        return
    queries = drawn(work, QUERIES, 7)
    best, places = np.full((QUERIES, K), -np.inf, np.float32), np.full((QUERIES, K), -1)
    for number, block in enumerate(blocks(work, size)):
        scores = np.hstack([best, queries @ block.T])
        ids = np.hstack([places, np.broadcast_to(np.arange(len(block)) + number * BLOCK, (QUERIES, len(block)))])
        top = np.argpartition(-scores, K - 1, axis=1)[:, :K]
        best, places = np.take_along_axis(scores, top, axis=1), np.take_along_axis(ids, top, axis=1)
    np.save(path, places)


def cell(work: Path, kind: str, size: int) -> dict[str, Any]:
    """Build and search one kind of index at one size by all systems; from the file where it is finished."""
    path = work / "cells" / f"{kind} {size}.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    make_vectors(work, size)
    make_truth(work, size)
    built = {}
    for system in ("ours", "bare FAISS", *(["FlexIndex"] if kind in FLEX else [])):
        print(f"{kind} {size}: {system}", file=sys.stderr, flush=True)
        kept = work / "cells" / f"{system} {kind} {size}.built.json"
        if not kept.is_file():
            kept.write_text(json.dumps(in_process(["--build", system, kind, str(size), "--folder", str(work)])))
        built[system] = json.loads(kept.read_text())
    found = {"kind": kind, "factory": factory_of(kind, size), "size": size, "build": built}
    found |= in_process(["--search", kind, str(size), "--folder", str(work)])
    path.write_text(json.dumps(found) + "\n", encoding="utf-8")
    for system in built:
        shutil.rmtree(work / "indexes" / f"{system} {kind} {size}", ignore_errors=True)
    return found


def added(before: list[dict[str, Any]], cells: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The cells of earlier runs and of this one, by size and kind; a cell that was measured again is replaced."""
    found = {(one["size"], KINDS.index(one["kind"])): one for one in [*before, *cells]}
    return [found[key] for key in sorted(found)]


def growth(cells: list[dict[str, Any]], kind: str) -> float | None:
    """The exponent of our build's CPU seconds from the smallest to the largest size of a kind."""
    own = sorted((one["size"], one["build"]["ours"]["cpu_seconds"]) for one in cells if one["kind"] == kind)
    if len(own) < 2:
        return None
    return float(np.polyfit(*np.log(np.array(own).T), 1)[0])


def missed(cells: list[dict[str, Any]]) -> list[str]:
    """The targets that are missed, a sentence each."""
    problems = []
    for one in cells:
        own, name = one["build"]["ours"], f"{one['factory']} of {one['size']:,}"
        bound = TARGET_MEMORY[0] * own["disk_MB"] + TARGET_MEMORY[1]
        if own["peak_MB"] > bound:
            problems.append(f"{name}: the build takes {own['peak_MB']:.0f} MB, more than {bound:.0f}")
        for row in one["search"]:
            if row["system"] == "ours" and row["ratio"] > TARGET_SEARCH:
                problems.append(
                    f"{name}: {row['batch']} a call take {row['ratio']:.2f} times bare FAISS "
                    f"({row['ms_more_per_call']:.1f} ms more a call)"
                )
    for kind in dict.fromkeys(one["kind"] for one in cells):
        exponent = growth(cells, kind)
        if exponent is not None and exponent > TARGET_GROWTH:
            problems.append(f"{kind}: build time grows with exponent {exponent:.2f}")
    return problems


def markdown(cells: list[dict[str, Any]]) -> str:
    """The table of docs/scale.md."""
    build = ["build, CPU s", "peak MB", "disk MB"]
    heads = ["vectors", "index", "by", *build, "queries/s at 1, 10, 1,000", "recall@100"]
    lines = []
    for one in cells:
        for system, build_of in one["build"].items():
            rate = ", ".join(f"{row['queries/s']:,.0f}" for row in one["search"] if row["system"] == system)
            recall = f"{one['recall'][system]:.3f}" if system in one["recall"] else ""
            numbers = [f"{build_of[key]:,.0f}" for key in ("cpu_seconds", "peak_MB", "disk_MB")]
            lines.append([f"{one['size']:,}", one["factory"], system, *numbers, rate, recall])
    return table(heads, lines)


def main() -> int:
    """Measure, print the table, write JSON after each cell; 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="vectors, indexes and finished cells are kept here")
    parser.add_argument("--json", type=Path, help="add the results to this file")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--build", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--search", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build:
        system, kind, size = args.build
        target = args.folder / "indexes" / f"{system} {kind} {size}"
        target.parent.mkdir(parents=True, exist_ok=True)
        print(json.dumps(run_build(system, kind, int(size), args.folder, target)))
        return 0
    if args.search:
        print(json.dumps(run_search(args.search[0], int(args.search[1]), args.folder)))
        return 0
    (args.folder / "cells").mkdir(parents=True, exist_ok=True)
    cells: list[dict[str, Any]] = []
    for size in args.sizes:
        for kind in args.kinds:
            cells.append(cell(args.folder, kind, size))
            if args.json:
                before = json.loads(args.json.read_text(encoding="utf-8"))["cells"] if args.json.is_file() else []
                known = added(before, cells)
                growths = {kind: growth(known, kind) for kind in KINDS}
                report = {"machine": machine(), "versions": versions(), "threads": os.environ.get("OMP_NUM_THREADS")}
                report |= {"cells": known, "growth": growths, "missed": missed(known)}
                args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(markdown(cells))
    problems = missed(cells)
    print("\n".join(problems) or "all targets are reached")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
