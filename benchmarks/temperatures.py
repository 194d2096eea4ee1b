"""How near are an LLM's passages to the relevant document, by the temperature at which they are drawn?

    EXPANDR_DATA=FOLDER python -m benchmarks.temperatures --llm "smollm2?dtype=bfloat16" --cache temperatures.sqlite

Training queries of SciFact, prompt q2d; similarity is the cosine of all-MiniLM-L6-v2 between a passage and the first
relevant document, or the query. `truncated` is the share of passages that ran into the limit of tokens. The interval is
that of a bootstrap over queries. A run goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pyterrier_expandr import ExpandREncoder, GenerationCache, LLMExpander, open_backend
from pyterrier_expandr.encoding import demo_encoder_folder
from pyterrier_expandr.evaluation.result_store import versions
from pyterrier_expandr.expansion import strip_preamble
from pyterrier_expandr.expansion.backends import Backend, Request, Sampling
from pyterrier_expandr.expansion.generation import generate_cached
from pyterrier_expandr.expansion.prompts import PROMPTS, render
from pyterrier_expandr.training.data import TrainingExample, open_examples

#: passages drawn before the next are asked for, so that progress is seen
CHUNK = 32


def interval(values: np.ndarray, *, draws: int = 2000, seed: int = 0) -> list[float]:
    """The 95 % bootstrap interval of the mean of `values` (n,).

    Example:
        >>> interval(np.array([1.0, 1.0, 1.0]))
        [1.0, 1.0]
    """
    chosen = np.random.default_rng(seed).integers(len(values), size=(draws, len(values)))
    return [float(x) for x in np.percentile(values[chosen].mean(axis=1), [2.5, 97.5])]


def measure(
    examples: list[TrainingExample],
    backend: Backend,
    encoder: ExpandREncoder,
    sampling: Sampling,
    temperatures: list[float],
    samples: int,
    cache: GenerationCache,
) -> list[dict[str, Any]]:
    """One row for each temperature."""
    queries = np.asarray(encoder.encode_queries([example.query for example in examples]))
    gold = np.asarray(encoder.encode_docs([example.positives[0] for example in examples]))
    rows = []
    for temperature in temperatures:
        drawn = replace(sampling, temperature=temperature)
        requests = [
            Request(render(PROMPTS["q2d"], query=example.query), drawn, tuple(range(samples))) for example in examples
        ]
        found = []
        for start in range(0, len(requests), CHUNK):
            found += generate_cached(backend, requests[start : start + CHUNK], cache, verbose=True)
        texts = [[strip_preamble(one.text) for one in group] for group in found]
        vectors = np.asarray(encoder.encode_docs([text for group in texts for text in group]))
        vectors = vectors.reshape(len(examples), samples, -1)
        to_gold = np.einsum("nd,nmd->nm", gold, vectors).mean(axis=1)
        rows.append(
            {
                "temperature": temperature,
                "similarity to gold": float(to_gold.mean()),
                "interval": interval(to_gold),
                "similarity to query": float(np.einsum("nd,nmd->nm", queries, vectors).mean()),
                "words": float(np.mean([len(text.split()) for group in texts for text in group])),
                "truncated": float(np.mean([one.truncated for group in found for one in group])),
            }
        )
    return rows


def main() -> int:
    """Draw, measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", default="smollm2?dtype=bfloat16")
    parser.add_argument("--queries", type=int, default=320)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.3, 0.6, 0.9, 1.2])
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--cache", type=Path, help="keeps what was drawn between runs")
    parser.add_argument("--json", type=Path, help="write the results here")
    given = parser.parse_args()
    examples = list(islice(open_examples(Path(os.environ["EXPANDR_DATA"]) / "scifact", "train"), given.queries))
    encoder = ExpandREncoder(demo_encoder_folder())
    with open_backend(given.llm) as backend:
        sampling = Sampling(max_new_tokens=given.max_new_tokens)
        cache = LLMExpander(backend, cache=given.cache).cache
        rows = measure(examples, backend, encoder, sampling, given.temperatures, given.samples, cache)
        model = backend.fingerprint()
    queries = np.asarray(encoder.encode_queries([example.query for example in examples]))
    gold = np.asarray(encoder.encode_docs([example.positives[0] for example in examples]))
    alone = float(np.einsum("nd,nd->n", queries, gold).mean())
    settings = {"queries": len(examples), "samples": given.samples, "max_new_tokens": given.max_new_tokens}
    result = {"model": model, "settings": settings, "query to gold": alone, "rows": rows, "versions": versions()}
    print(f"similarity of the query itself to the relevant document: {alone:.4f}")
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format))
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
