"""What a GPU computes, beside what the CPU computes of the same: each part of the package that may run on one.

    python -m benchmarks.gpu [--json FILE]

Encoding in bfloat16, exact search, one contrastive step, one step of DPO, and generation are done by both devices, each
in a process of its own, and one table says how far they are apart. Encoding is compared with float32 on the CPU; the
rest is float32 on both sides, so that a difference is rounding or a mistake. Models are that of the demo, and a Llama
of random weights. The exit status is 1 if a difference exceeds its tolerance; where there is no GPU, the script says so
and ends with 0.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.generation import build_model, requests_of
from benchmarks.speed import machine

DOCUMENTS, DIM, SEARCHES, K = 20_000, 384, 200, 100

Arrays = dict[str, np.ndarray]


def encoder_without_dropout(folder: Path) -> None:
    """The demo's encoder, whose training then depends on no device's random numbers."""
    from pyterrier_expandr.encoding.registry import demo_encoder_folder

    shutil.copytree(demo_encoder_folder(), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))


def write_preferences(path: Path, pairs: int = 8) -> None:
    """Pairs that prefer a query's own passage to the next query's."""
    from pyterrier_expandr.expansion.prompts import PROMPTS, render
    from pyterrier_expandr.training.data.examples import open_examples

    examples = list(islice(open_examples("pocket"), pairs + 1))
    with path.open("w", encoding="utf-8") as file:
        for own, other in pairwise(examples):
            row = {"query_id": own.query_id, "prompt": list(render(PROMPTS["q2d"], query=own.query))}
            for name, example in (("chosen", own), ("rejected", other)):
                row[name] = [{"role": "assistant", "content": example.positives[0]}]
            file.write(json.dumps(row) + "\n")


def encoding(folder: Path, work: Path, device: str, reduced: bool) -> Arrays:
    """Vectors of the pocket collection's documents, and of its queries fused with their expansions."""
    from sentence_transformers import SentenceTransformer

    from pyterrier_expandr import ExpandREncoder, RecordedExpander
    from pyterrier_expandr.collections import pocket

    collection = pocket()
    options = {"dtype": "bfloat16" if reduced else "float32"}
    built = SentenceTransformer(str(folder / "encoder"), device=device, model_kwargs=options)
    encoder = ExpandREncoder(built, device=device)
    docs = encoder.doc_encoder()(pd.DataFrame(collection.get_corpus_iter(verbose=False)))["doc_vec"]
    queries = (RecordedExpander(collection.expansions_path) >> encoder.query_encoder())(collection.get_topics())
    return {"documents": np.stack(docs), "fused queries": np.stack(queries["query_vec"])}


def search(folder: Path, work: Path, device: str, reduced: bool) -> Arrays:
    """The best documents of random queries: `FaissRetriever` on the CPU; else FAISS on the GPU, or torch's product."""
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((DOCUMENTS, DIM), dtype=np.float32)
    queries = rng.standard_normal((SEARCHES, DIM), dtype=np.float32)
    if not reduced:
        from pyterrier_expandr import FaissIndex

        index = FaissIndex(work / "index")
        index.index({"docno": str(i), "doc_vec": vector} for i, vector in enumerate(documents))
        frame = pd.DataFrame({"qid": [str(i) for i in range(SEARCHES)], "query_vec": list(queries)})
        found = index.retriever(num_results=K)(frame)
        return {
            "scores": found["score"].to_numpy().reshape(SEARCHES, K),
            "documents": found["docno"].astype(int).to_numpy().reshape(SEARCHES, K),
        }
    import faiss
    import torch

    if device == "cuda" and hasattr(faiss, "StandardGpuResources"):
        flat = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), DIM)
        flat.add(documents)
        scores, numbers = flat.search(queries, K)
        return {"scores": scores, "documents": numbers}
    on_device = [torch.from_numpy(array).to(device) for array in (queries, documents)]
    best = (on_device[0] @ on_device[1].T).topk(K)
    return {"scores": best.values.cpu().numpy(), "documents": best.indices.cpu().numpy()}


def contrastive_step(folder: Path, work: Path, device: str, reduced: bool) -> Arrays:
    """The loss of a batch, and what one step of `train_retriever` changes in the weights."""
    from safetensors.numpy import load_file

    from pyterrier_expandr.collections import pocket
    from pyterrier_expandr.training.retriever.train import RetrieverTrainingConfig, train_retriever

    base = folder / "encoder"
    settings = {"batch_size": 32, "epochs": 0.01, "dev_fraction": 0, "precision": "fp32", "device": device}
    recorded = str(pocket().expansions_path)
    config = RetrieverTrainingConfig(str(base), "pocket", str(work / "retriever"), expansions=recorded, **settings)  # type: ignore[arg-type]
    out = train_retriever(config)
    before, after = (load_file(place / "model.safetensors") for place in (base, out))
    change = np.concatenate([(after[name] - before[name]).ravel() for name in sorted(after)])
    [step] = json.loads((out / "steps.json").read_text())
    return {"loss": np.array([step["loss"]]), "change of weights": change}


def preference_step(folder: Path, work: Path, device: str, reduced: bool) -> Arrays:
    """What held-out pairs say of one step of `train_expander`, and the adapter that it makes."""
    from safetensors.numpy import load_file

    from pyterrier_expandr.training.expander.train import RECORD, ExpanderTrainingConfig, train_expander

    settings = {"learning_rate": 1e-3, "epochs": 1, "lora_dropout": 0.0, "eval_fraction": 0.25, "evaluations": 1}
    settings |= {"dtype": "float32", "report_prompts": 1, "report_tokens": 2}
    config = ExpanderTrainingConfig(
        str(folder / "llm"),
        str(folder / "preferences.jsonl"),
        str(work / "adapter"),
        **settings,  # type: ignore[arg-type]
    )
    out = train_expander(config)
    after = json.loads((out / RECORD).read_text())["after"]
    weights = load_file(out / "adapter_model.safetensors")
    # Of each pair A and B only B, which begins as zeros, has a gradient in the first step.
    return {
        "held-out loss": np.array([after["loss"]]),
        "adapter": np.concatenate([weights[name].ravel() for name in sorted(weights) if "lora_B" in name]),
    }


def generation(folder: Path, work: Path, device: str, reduced: bool) -> Arrays:
    """Texts of `HuggingFaceBackend`, sampled."""
    from pyterrier_expandr import HuggingFaceBackend

    with HuggingFaceBackend(folder / "llm", dtype="float32", device=device) as backend:
        texts = backend.generate(requests_of(queries=4, samples=8, tokens=32))
    return {"texts": np.array([g.text for samples in texts for g in samples])}


def angle(a: np.ndarray, b: np.ndarray) -> float:
    """1 less the least cosine between rows."""
    rows, others = (np.atleast_2d(array).astype(np.float64) for array in (a, b))
    cosines = (rows * others).sum(1) / (np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=1))
    return float(1 - cosines.min())


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference by the largest value."""
    return float(np.abs(a - b).max() / np.abs(a).max())


def unequal(a: np.ndarray, b: np.ndarray) -> float:
    """The share of places that differ."""
    return float((a != b).mean())


#: each check: what computes it, and for each array the measure of difference and its tolerance
CHECKS: dict[str, tuple[Callable[..., Arrays], dict[str, tuple[Callable[..., float], float]]]] = {
    "encoder in bfloat16": (encoding, {"documents": (angle, 5e-3), "fused queries": (angle, 5e-3)}),
    "exact search": (search, {"scores": (relative, 1e-4), "documents": (unequal, 1e-2)}),
    "contrastive step": (contrastive_step, {"loss": (relative, 1e-3), "change of weights": (angle, 2e-2)}),
    "DPO step": (preference_step, {"held-out loss": (relative, 1e-3), "adapter": (angle, 2e-2)}),
    "generation": (generation, {"texts": (unequal, 0.1)}),
}


def prepare(folder: Path) -> None:
    """The models and data of all checks."""
    encoder_without_dropout(folder / "encoder")
    build_model(folder / "llm")
    write_preferences(folder / "preferences.jsonl")


def run_side(folder: Path, side: str, device: str, *, reduced: bool) -> None:
    """All checks on one device: arrays and seconds in `folder/side`. A check that fails leaves its error."""
    for name, (compute, _) in CHECKS.items():
        work = folder / side / name
        work.mkdir(parents=True)
        start = time.perf_counter()
        try:
            np.savez(work / "arrays.npz", **compute(folder, work, device, reduced))  # type: ignore[arg-type]
            said = {"seconds": time.perf_counter() - start}
        except Exception as error:  # the other checks go on
            said = {"error": f"{type(error).__name__}: {error}"}
        (work / "said.json").write_text(json.dumps(said))


def compare(folder: Path) -> list[dict[str, Any]]:
    """A row for each array of each check, from what both sides left in `folder`."""
    rows = []
    for name, (_, measures) in CHECKS.items():
        sides = [folder / side / name for side in ("cpu", "gpu")]
        said = [json.loads((side / "said.json").read_text()) for side in sides]
        errors = [
            f"{side.parent.name}: {one['error']}" for side, one in zip(sides, said, strict=True) if "error" in one
        ]
        for array, (difference, tolerance) in measures.items():
            row: dict[str, Any] = {"check": name, "compared": array, "measure": difference.__name__}
            if errors:
                row |= {"difference": None, "tolerance": tolerance, "result": "FAIL", "error": "; ".join(errors)}
            else:
                value = difference(*(np.load(side / "arrays.npz")[array] for side in sides))
                row |= {"difference": value, "tolerance": tolerance, "result": "OK" if value <= tolerance else "FAIL"}
                row |= {"cpu_seconds": said[0]["seconds"], "gpu_seconds": said[1]["seconds"]}
            rows.append(row)
    return rows


def main() -> int:
    """Run both sides, print the table; 0 if every difference is within its tolerance, or there is no GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--side", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side, folder = args.side
        run_side(Path(folder), side, "cuda" if side == "gpu" else "cpu", reduced=side == "gpu")
        return 0
    import torch

    if not torch.cuda.is_available():
        print("There is no CUDA device here, so there is nothing to compare with the CPU.")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        prepare(Path(temporary))
        for side, hidden in (("cpu", {"CUDA_VISIBLE_DEVICES": ""}), ("gpu", {})):
            command = [sys.executable, "-m", "benchmarks.gpu", "--side", side, temporary]
            subprocess.run(command, check=True, env=os.environ | hidden)
        rows = compare(Path(temporary))
    print(torch.cuda.get_device_name())
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.2e}".format))
    if args.json:
        versions = {name: version(name) for name in ("torch", "transformers", "sentence-transformers", "trl")}
        report = {"machine": machine() | {"gpu": torch.cuda.get_device_name()}, "versions": versions, "rows": rows}
        args.json.write_text(json.dumps(report, indent=2) + "\n")
    return int(any(row["result"] == "FAIL" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
