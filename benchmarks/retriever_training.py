"""Retriever training on SciFact: what it does to retrieval, and what it costs.

    EXPANDR_DATA=FOLDER python -m benchmarks.retriever_training quality [--seeds 42 43 44] [--json FILE]
    EXPANDR_DATA=FOLDER python -m benchmarks.retriever_training resources [--json FILE]

FOLDER holds `scifact/` in BEIR format and `expansions/scifact/*.jsonl`. `quality` writes each fold as it is done, and
goes on after the last when it is called again. It trains MiniLM on four fifths of the 300 test queries, those for which
passages of an LLM are recorded, and searches all 5,183 documents with the fifth that was left out. `resources` measures
peak memory and time of a training step, each in a process of its own, beside sentence-transformers' own cached loss.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pandas as pd
from ir_measures import R, nDCG

from benchmarks.exact_search import measured_search
from pyterrier_expandr import ExpandREncoder
from pyterrier_expandr.collections import beir_folder
from pyterrier_expandr.common.files import write_json
from pyterrier_expandr.encoding.registry import demo_encoder_folder
from pyterrier_expandr.evaluation.significance import permutation_test
from pyterrier_expandr.expansion.recorded import read_expansions
from pyterrier_expandr.training.data.examples import TrainingExample, open_examples, write_examples
from pyterrier_expandr.training.retriever.train import RetrieverTrainingConfig, train_retriever

RESULTS = Path(__file__).parents[1] / "docs" / "results" / "retriever_training.json"
EXPANSIONS = "query2doc.fs.Qwen2.5-72B-Instruct.0656857b.059e46.jsonl"
FOLDS = 5
#: chosen before the first run: nothing is tuned on queries that are evaluated; texts are short for the sake of a CPU
SETTINGS: dict[str, Any] = {"batch_size": 32, "learning_rate": 5e-5, "epochs": 3, "max_length": 64}
PEER = "CachedMultipleNegativesRankingLoss"
MEASURES = {"nDCG@10": nDCG @ 10, "R@100": R @ 100}


def examples_of(data: Path) -> list[TrainingExample]:
    """The 300 test queries with their relevant documents and a recorded passage each."""
    recorded, _ = read_expansions(data / "expansions" / "scifact" / EXPANSIONS)
    examples = open_examples(data / "scifact", "test")
    return [replace(e, expansions=tuple(recorded[e.query_id].passages)) for e in examples]


def folds_of(examples: list[TrainingExample]) -> list[list[TrainingExample]]:
    """The same five parts for every seed and stage."""
    order = list(range(len(examples)))
    random.Random(0).shuffle(order)
    return [[examples[place] for place in order[fold::FOLDS]] for fold in range(FOLDS)]


def retrieval(
    model: Path | str, test: list[TrainingExample], corpus: pd.DataFrame
) -> dict[str, dict[str, list[float]]]:
    """`{"query": {measure: values}, "fused": ...}` for each test query, over the whole corpus."""
    encoder = ExpandREncoder(model, max_length=SETTINGS["max_length"], device="cpu", batch_size=32)
    documents = _stacked(encoder.doc_encoder().transform(corpus)["doc_vec"])
    topics = pd.DataFrame({"qid": [e.query_id for e in test], "query": [e.query for e in test]})
    qids = [e.query_id for e in test]
    qrels = [ir_measures.Qrel(e.query_id, doc_id, 1) for e in test for doc_id in e.positive_ids]
    found = {}
    for name, frame in {
        "query": topics,
        "fused": topics.assign(query_expansions=[list(e.expansions) for e in test]),
    }.items():
        queries = _stacked(encoder.query_encoder().transform(frame)["query_vec"])
        values = measured_search(queries, documents, list(corpus["docno"]), qids, qrels, list(MEASURES.values()))
        found[name] = {short: of.round(6).tolist() for short, of in zip(MEASURES, values, strict=True)}
    return found


def _stacked(vectors: pd.Series) -> np.ndarray:
    return np.stack([np.asarray(vector) for vector in vectors])


def quality(data: Path, seeds: list[int], target: Path) -> None:
    """Train and evaluate what is not in `target` yet, one seed after the other, and write the summary."""
    results = json.loads(target.read_text()) if target.is_file() else {}
    part = results.setdefault("quality", {"settings": SETTINGS, "cells": {}})
    if part["settings"] != SETTINGS:
        raise ValueError(f"{target} was measured with {part['settings']}, this is {SETTINGS}: name another file")
    examples = examples_of(data)
    folds = folds_of(examples)
    corpus = pd.DataFrame(list(beir_folder(data / "scifact", "test").get_corpus_iter()))
    if "raw" not in part["cells"]:
        cells = retrieval(demo_encoder_folder(), [e for fold in folds for e in fold], corpus)
        _commit(target, results, "raw", cells | {"queries": [e.query_id for fold in folds for e in fold]})
    for seed in seeds:
        for fold in range(FOLDS):
            for stage in ("ft", "expandr"):
                name = f"{stage} seed {seed} fold {fold}"
                if name not in part["cells"]:
                    start = time.monotonic()
                    cell = _cell(stage, seed, fold, folds, corpus)
                    _commit(target, results, name, cell | {"seconds": round(time.monotonic() - start)})


def _cell(stage: str, seed: int, fold: int, folds: list[list[TrainingExample]], corpus: pd.DataFrame) -> dict[str, Any]:
    work = Path(tempfile.mkdtemp(prefix="expandr-retriever-"))
    try:
        train = [example for place, part in enumerate(folds) if place != fold for example in part]
        write_examples(work / "train.jsonl", train)
        config = RetrieverTrainingConfig(
            demo_encoder_folder(),
            str(work / "train.jsonl"),
            str(work / "model"),
            stage=stage,
            seed=seed,
            dev_fraction=0,
            evaluations=1,
            mini_batch_size=None,  # 32 queries with 128 tokens a text need no caching
            device="cpu",
            **SETTINGS,
        )
        model = train_retriever(config)
        losses = [round(entry["loss"], 4) for entry in json.loads((model / "steps.json").read_text())]
        return retrieval(model, folds[fold], corpus) | {"losses": losses}
    finally:
        shutil.rmtree(work)


def _commit(target: Path, results: dict[str, Any], name: str, cell: dict[str, Any]) -> None:
    results["quality"]["cells"][name] = cell
    results["quality"]["summary"] = summary(results["quality"]["cells"])
    results["quality"]["versions"] = {p: version(p) for p in ("torch", "transformers", "sentence-transformers")}
    write_json(target, results)
    print(name, {mode: float(np.mean(cell[mode]["nDCG@10"])) for mode in ("query", "fused")}, flush=True)


#: what is compared, each as (stage, what is searched with)
COMPARED = [
    (("expandr", "fused"), ("raw", "fused")),
    (("expandr", "fused"), ("ft", "query")),
    (("expandr", "fused"), ("ft", "fused")),
    (("ft", "query"), ("raw", "query")),
]


def summary(cells: dict[str, Any]) -> dict[str, Any]:
    """Mean over the queries of all folds, then mean and spread (standard deviation) over the complete seeds."""
    found: dict[str, Any] = {}
    per_query: dict[tuple[str, str], np.ndarray] = {}
    for stage in ("raw", "ft", "expandr"):
        for mode in ("query", "fused"):
            for measure in MEASURES:
                values = _by_seed(cells, stage, mode, measure)
                if values:
                    means = [float(value.mean()) for value in values]
                    spread = round(float(np.std(means, ddof=1)), 4) if len(means) > 1 else None
                    row = found.setdefault(f"{stage}, {mode}", {"seeds": len(values)})
                    row[measure] = {"mean": round(float(np.mean(means)), 4), "spread": spread}
                    if measure == "nDCG@10":
                        per_query[stage, mode] = np.mean(values, axis=0)
    for one, other in COMPARED:
        if one in per_query and other in per_query:
            test = permutation_test(per_query[one], per_query[other])
            found[f"{', '.join(one)} - {', '.join(other)}"] = {
                "nDCG@10": round(float(per_query[one].mean() - per_query[other].mean()), 4),
                "p": round(float(test.pvalue), 4),
            }
    return found


def _by_seed(cells: dict[str, Any], stage: str, mode: str, measure: str) -> list[np.ndarray]:
    """For each seed of which all folds are there, the values of all queries."""
    if stage == "raw":
        return [np.array(cells["raw"][mode][measure])] if "raw" in cells else []
    seeds = sorted({int(name.split()[2]) for name in cells if name != "raw"})
    whole = [[cells.get(f"{stage} seed {seed} fold {fold}") for fold in range(FOLDS)] for seed in seeds]
    return [np.concatenate([cell[mode][measure] for cell in folds]) for folds in whole if all(folds)]


def resources(target: Path, largest_plain: int) -> None:
    """Measure what is not in `target` yet, each loss and batch size in a process of its own."""
    results = json.loads(target.read_text()) if target.is_file() else {}
    settings = {"max_length": SETTINGS["max_length"], "mini_batch_size": 32}
    part = results.setdefault("resources", {**settings, "steps": {}})
    steps = part["steps"]
    for batch_size in (64, 256, 1024):
        for loss in ("ExpandRLoss", PEER, "ExpandRLoss without caching"):
            name = f"{loss}, {batch_size}"
            if name in steps or (loss.endswith("without caching") and batch_size > largest_plain):
                continue
            command = [sys.executable, "-m", "benchmarks.retriever_training", "step", loss, str(batch_size)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            steps[name] = json.loads(done.stdout.splitlines()[-1])
            part |= ratios(steps)
            write_json(target, results)
            print(name, steps[name], flush=True)


def ratios(steps: dict[str, Any]) -> dict[str, Any]:
    """Memory to that of the smallest batch, and time of a step to the peer's, where both were measured."""
    ours = {size: steps[name] for size in (64, 256, 1024) if (name := f"ExpandRLoss, {size}") in steps}
    return {
        "memory to that at 64": {size: round(own["peak_mib"] / ours[64]["peak_mib"], 3) for size, own in ours.items()},
        f"time to {PEER}": {
            size: round(own["seconds"] / steps[name]["seconds"], 3)
            for size, own in ours.items()
            if (name := f"{PEER}, {size}") in steps
        },
    }


def step(data: Path, name: str, batch_size: int) -> None:
    """Print peak memory and time of a forward and backward pass over queries, their passages and documents.

    On a GPU its memory and the wall clock; on a CPU the resident memory of the process, and the CPU time, which other
    programs on the machine disturb less.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    on_gpu = torch.cuda.is_available()
    model = SentenceTransformer(demo_encoder_folder(), device="cuda" if on_gpu else "cpu")
    model.max_seq_length = SETTINGS["max_length"]
    model.train()
    loss, features, labels = _loss_and_batch(name, model, _step_rows(data, batch_size))
    clock = time.perf_counter if on_gpu else time.process_time
    before, seconds = _peak_mib(), []
    for _ in range(3 if batch_size <= 64 else 1):
        start = clock()
        loss([dict(feature) for feature in features], labels).backward()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(clock() - start)
        model.zero_grad()
    found = {"seconds": round(min(seconds), 3), "texts": 3 * batch_size}
    print(json.dumps(found | {"peak_mib": round(_peak_mib()), "before_mib": round(before)}))


def _peak_mib() -> float:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _loss_and_batch(name: str, model: Any, rows: list[dict[str, Any]]) -> tuple[Any, list[dict[str, Any]], Any]:
    """A loss with the features and labels that it takes; both losses encode the same texts."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss
    from sentence_transformers.util import batch_to_device, dot_score

    from pyterrier_expandr.training.retriever.fused_batches import FusedBatchCollator
    from pyterrier_expandr.training.retriever.losses import ExpandRLoss

    if name.startswith("ExpandRLoss"):
        batch = FusedBatchCollator(model.preprocess)(rows)
        features = [{k[len(side) :]: v for k, v in batch.items() if k.startswith(side)} for side in ("query_", "text_")]
        loss: Any = ExpandRLoss.of_profile(model, mini_batch_size=None if "without" in name else 32)
        labels = batch_to_device(batch["label"], model.device)
    else:  # the passages are further documents
        columns = [[row[name] for row in rows] for name in ("query", "positive")]
        columns.append([row["expansions"][0] for row in rows])
        features, labels = [dict(model.preprocess(texts)) for texts in columns], None
        loss = CachedMultipleNegativesRankingLoss(model, scale=50, similarity_fct=dot_score, mini_batch_size=32)
    return loss, [batch_to_device(feature, model.device) for feature in features], labels


def _step_rows(data: Path, batch_size: int) -> list[dict[str, Any]]:
    """Rows with one passage each; there are eight recordings, so that 1,024 differ."""
    examples = list(open_examples(data / "scifact", "test"))
    rows = []
    for file in sorted((data / "expansions" / "scifact").glob("*.jsonl")):
        recorded, _ = read_expansions(file)
        for e in examples:
            rows.append({"query": e.query, "positive": e.positives[0], "expansions": recorded[e.query_id].passages[:1]})
    random.Random(0).shuffle(rows)
    return rows[:batch_size]


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["quality", "resources", "step"])
    parser.add_argument("arguments", nargs="*")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--largest-plain", type=int, default=256, help="largest batch measured without caching")
    options = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    data = Path(os.environ["EXPANDR_DATA"])
    if options.part == "quality":
        quality(data, options.seeds, options.json)
    elif options.part == "resources":
        resources(options.json, options.largest_plain)
    else:
        step(data, options.arguments[0], int(options.arguments[1]))


if __name__ == "__main__":
    main()
