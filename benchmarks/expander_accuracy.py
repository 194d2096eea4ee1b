"""Whether training taught an LLM to prefer the chosen texts of pairs that it was not trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.expander_laboratory import Model, Part
from pyterrier_expandr.common.files import file_sha256, write_json
from pyterrier_expandr.evaluation.significance import permutation_test
from pyterrier_expandr.training.expander.pair_tokens import held_out, tokenize_pairs
from pyterrier_expandr.training.expander.train import RECORD
from pyterrier_expandr.training.preferences.pair_files import read_pairs


def accuracy(parts: Sequence[Part], seed: int) -> dict[str, Any]:
    """In which share of held-out pairs training raised the chosen text's log-probability more; {} without pairs.

    The pairs of a query are not independent: p is that of a permutation test, and the interval of a bootstrap, over
    queries. Of a single query there is neither, and no interval where the queries do not differ.
    """
    found = [remembered(part, seed) for part in parts if part.pairs]
    if not sum(map(len, found)):
        return {}
    right, pairs = pd.concat(found).groupby("prompt")["better"].agg(["sum", "size"]).to_numpy(float).T
    said: dict[str, Any] = {"accuracy": float(right.sum() / pairs.sum())}
    if len(pairs) > 1:
        test = permutation_test(right / pairs, np.full(len(pairs), 0.5), weights=pairs / pairs.sum())
        said["accuracy p"] = test.pvalue
    if len({*(right / pairs)}) > 1:
        drawn = np.random.default_rng(0).integers(len(pairs), size=(2000, len(pairs)))
        shares = right[drawn].sum(axis=1) / pairs[drawn].sum(axis=1)
        said["accuracy interval"] = np.percentile(shares, [2.5, 97.5]).tolist()
    return said


def remembered(part: Part, seed: int) -> pd.DataFrame:
    """What `learnt` says of a part with pairs; kept beside the adapter, since it takes minutes."""
    assert part.model.adapter is not None and part.pairs is not None
    kept, made = Path(f"{part.model.adapter}.held-out.json"), file_sha256(part.model.adapter / RECORD)
    found = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    if found.get("adapter") != made:  # another one was trained since
        found = {"adapter": made, "pairs": learnt(part.model, part.pairs, seed).to_dict(orient="list")}
        write_json(kept, found)
    return pd.DataFrame(found["pairs"])


def learnt(model: Model, pairs: Path, seed: int) -> pd.DataFrame:
    """`[prompt, better]`: whether the adapter raises the chosen text's log-probability more, for each held-out pair."""
    import torch

    base = replace(model, adapter=None)
    apart = held_out(tokenize_pairs(read_pairs(pairs), base.backend(), max_length=612), 0.1, seed)[1]
    gains = []
    for side in ("chosen_ids", "rejected_ids"):
        sums = []
        for one in (model, base):
            opened = one.backend().load()
            with torch.inference_mode():
                sums.append([log_probability(opened, row["prompt_ids"], row[side]) for row in apart.rows])
        gains.append(np.subtract(*sums))
    return pd.DataFrame({"prompt": list(map(str, apart.prompts)), "better": gains[0] > gains[1]})


def log_probability(model: Any, prompt: list[int], text: list[int]) -> float:
    """The sum of the log-probabilities of a text's tokens behind a prompt."""
    import torch

    ids = torch.tensor([prompt + text], device=model.device)
    found = model(ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    return float(found.gather(1, ids[0, len(prompt) :, None]).sum())
