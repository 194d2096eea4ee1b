"""Do the rewards find the passages that help retrieval? On SciFact test, among recorded passages of real LLMs.

    EXPANDR_DATA=FOLDER python -m benchmarks.reward_validity [--json FILE] [--folder FOLDER]

For each query a reward chooses and rejects one of its recorded passages; the query is fused with each of them (Eq. 8),
and nDCG@10 says what that was worth, beside the mean over all its passages (what a random choice gives). Encoder of
reward and search: all-MiniLM-L6-v2.

The self reward needs an answer that an LLM wrote with the relevant document before it (prompt q2a), and no such answer
is recorded. Two stand-ins err on opposite sides, and neither is that answer:

- `without document`: the passage of one of the LLMs (gpt-4.1-nano, zero-shot), which had not seen the document. It is
  left out of the candidates, for all rewards. It knows too little.
- `extract`: the three sentences of the relevant document that are most similar to the query, in their order. It has
  seen the document, but no LLM wrote it.

The retriever reward looks at the relevant document itself, which nDCG counts: it is favoured by construction, and so is
in part whatever is combined with it, and the self reward with the extract.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
from ir_measures import nDCG
from scipy.stats import spearmanr

from benchmarks.markdown import table
from benchmarks.scifact import EXPECTED
from pyterrier_expandr import ExpandREncoder, FaissIndex, RecordedExpander
from pyterrier_expandr.encoding.registry import demo_encoder_folder
from pyterrier_expandr.evaluation.beir import resolve
from pyterrier_expandr.evaluation.significance import permutation_test
from pyterrier_expandr.training.data.examples import open_examples
from pyterrier_expandr.training.preferences.candidates import CandidateSet
from pyterrier_expandr.training.preferences.choice import compare
from pyterrier_expandr.training.preferences.rewards import (
    Candidates,
    MeasureGain,
    combined_reward,
    retriever_reward,
    self_reward,
)

#: the recorded passages that stand in for an answer, and are no candidates then
WITHOUT_DOCUMENT = "query2doc.zs.gpt-4.1-nano.a5413fcf.13dccc.jsonl"


def extract(query: str, document: str, encoder: ExpandREncoder, sentences: int = 3) -> str:
    """The sentences of `document` that are most similar to `query`, in their order."""
    parts = [part for part in re.split(r"(?<=[.?!])\s+", document) if part.strip()]
    similarity = encoder.encode(parts, "document") @ encoder.encode([query], "query")[0]
    return " ".join(parts[place] for place in sorted(np.argsort(-similarity)[:sentences]))


def read_sets(data: Path, encoder: ExpandREncoder) -> dict[str, list[CandidateSet]]:
    """The recorded passages of each query, once for each stand-in of the answer."""
    files = sorted((data / "expansions" / "scifact").glob("*.jsonl"))
    topics = pd.DataFrame([(e.query_id, e.query) for e in _examples(data)], columns=["qid", "query"])
    passages = {file.name: RecordedExpander(file)(topics)["query_expansions"].str[0].tolist() for file in files}
    answers = passages.pop(WITHOUT_DOCUMENT)
    sets: dict[str, list[CandidateSet]] = {"without document": [], "extract": []}
    for place, example in enumerate(_examples(data)):
        texts = tuple(passages[name][place] for name in passages)
        gold = example.positives[0]
        one = CandidateSet(example.query_id, example.query, example.positive_ids[0], gold, answers[place], texts)
        sets["without document"].append(one)
        sets["extract"].append(replace(one, answer=extract(example.query, gold, encoder)))
    return sets


def _examples(data: Path) -> list[Any]:
    source = data / "scifact" if (data / "scifact").is_dir() else "irds:beir/scifact/test"
    return list(open_examples(source, "test"))


def ndcg(
    candidates: Candidates, encoder: ExpandREncoder, index: FaissIndex, qrels: pd.DataFrame
) -> tuple[np.ndarray, np.ndarray]:
    """nDCG@10 (n,) of the queries alone, and (n, m) fused with each candidate."""
    retriever = index.retriever(num_results=10)
    topics = pd.DataFrame({"qid": candidates.query_ids, "query": candidates.queries})
    measured = pt.Experiment([encoder.query_encoder() >> retriever], topics, qrels, [nDCG @ 10], perquery=True)
    alone = measured.set_index("qid")["value"].loc[candidates.query_ids].to_numpy()
    return alone, alone[:, None] + MeasureGain(retriever, qrels)(candidates)


def judge(rewards: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    """nDCG@10 of the chosen, a random and the rejected passage, with p-values, and how reward and nDCG@10 agree."""
    rows = np.arange(len(values))
    chosen, rejected = values[rows, rewards.argmax(1)], values[rows, rewards.argmin(1)]
    random = values.mean(axis=1)
    varied = [row for row in rows if np.ptp(values[row]) > 0]
    return {
        "chosen": float(chosen.mean()),
        "random": float(random.mean()),
        "rejected": float(rejected.mean()),
        "p chosen, random": permutation_test(chosen, random).pvalue,
        "p chosen, rejected": permutation_test(chosen, rejected).pvalue,
        "p random, rejected": permutation_test(random, rejected).pvalue,
        "rank correlation": float(np.mean([spearmanr(rewards[row], values[row]).statistic for row in varied])),
        "queries that differ": len(varied),
    }


def run(data: Path, folder: Path) -> dict[str, Any]:
    """One row for each reward and stand-in, and the queries alone."""
    (collection,) = resolve("SciFact", data=data)
    encoder = ExpandREncoder(demo_encoder_folder(), max_length=EXPECTED["max_length"], device="cpu")
    index = FaissIndex(folder / "scifact.faiss")
    if not index.built():
        (encoder.doc_encoder() >> index).index(collection.get_corpus_iter(verbose=True))
    compared = {name: compare(sets, encoder) for name, sets in read_sets(data, encoder).items()}
    bare, knowing = compared["without document"], compared["extract"]
    alone, values = ndcg(bare, encoder, index, collection.qrels)
    rewards = {
        ("retriever", "-"): retriever_reward(bare.to_gold),
        ("self", "without document"): self_reward(bare.to_answer),
        ("self", "extract"): self_reward(knowing.to_answer),
    }
    for name in ("without document", "extract"):
        rewards["both", name] = combined_reward([rewards["self", name], rewards["retriever", "-"]])
    rows = [{"reward": reward, "answer": answer} | judge(r, values) for (reward, answer), r in rewards.items()]
    best = float(values.max(axis=1).mean())
    counts = {"queries": len(alone), "candidates": values.shape[1]}
    return counts | {"query alone": float(alone.mean()), "best passage": best, "rows": rows}


def markdown(result: dict[str, Any]) -> str:
    """The table of docs/expander_training.md."""
    names = ("chosen", "random", "rejected", "p chosen, random", "p chosen, rejected")
    lines = [
        [row["reward"], row["answer"], *(f"{row[name]:.{4 if name.startswith('p ') else 3}f}" for name in names)]
        for row in result["rows"]
    ]
    return table(["reward", "answer", *names], lines)


def main() -> int:
    """Run, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--folder", type=Path, help="keep the index here; a temporary folder if not given")
    args = parser.parse_args()
    data = Path(os.environ.get("EXPANDR_DATA", ""))
    if not (data / "expansions" / "scifact").is_dir():
        parser.error("set EXPANDR_DATA to a folder with expansions/scifact/*.jsonl (and scifact/ in BEIR format)")
    with tempfile.TemporaryDirectory() as temporary:
        result = run(data, args.folder or Path(temporary))
    print(pd.DataFrame(result["rows"]).to_string(index=False, float_format="{:.4f}".format))
    print({name: value for name, value in result.items() if name != "rows"}, markdown(result), sep="\n")
    if args.json:
        versions = {name: version(name) for name in ("pyterrier", "sentence-transformers", "torch", "faiss-cpu")}
        args.json.write_text(json.dumps({"versions": versions} | result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
