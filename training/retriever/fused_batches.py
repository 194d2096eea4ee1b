"""Batches for `ExpandRLoss`: ragged lists of expansions and negatives become two tables of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def key_of(text: str) -> int:
    """A 64-bit hash of a text, the same in every process; used to recognise false negatives."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


@dataclass
class FusedBatchCollator:
    """Turns rows into the two features and the layout that `ExpandRLoss` takes.

    A row has `query` and `positive`, and may have `positive_id`, lists `negatives` and `expansions` of any length, and
    `relevant`, the keys (`key_of`) of further ids and texts that are relevant to the query. Expansions are read as
    documents are, by the document's prompt. The batch contains

    - `query_*` and `text_*`: tokens of the queries, and of positives, negatives and expansions; each sorted by length,
      so that a mini-batch has little padding; and, as `task`, the encoder side, "query" or "document";
    - `label`: `query_order` (n,) and `text_order` (n + k + e,), each text's place after sorting; `expansion_counts`
      (n,); `document_keys` (n + k, 2), hashes of id and text; `relevant_keys` (n, r), hashes of the ids and texts that
      are relevant to each query: its positive, those of equal queries in the batch, and `relevant`.

    Args:
        preprocess: the model's tokenisation, `model.preprocess`.
        query_prompt: text put before each query.
        doc_prompt: text put before each document and expansion.

    Example:
        >>> collate = FusedBatchCollator(model.preprocess, query_prompt="query: ")  # doctest: +SKIP
    """

    preprocess: Callable[..., Mapping[str, Any]]
    query_prompt: str = ""
    doc_prompt: str = ""
    #: read by the trainer: columns that do not hold texts; there are none
    valid_label_columns: tuple[str, ...] = ()

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The batch of `rows`."""
        expansions = [[text for text in row.get("expansions") or () if text.strip()] for row in rows]
        negatives = [text for row in rows for text in row.get("negatives") or ()]
        texts = [row["positive"] for row in rows] + negatives + [text for own in expansions for text in own]
        query_features, query_order = self._tokenized([row["query"] for row in rows], "query")
        text_features, text_order = self._tokenized(texts, "document")
        own_keys = [self._keys(row) for row in rows]
        label = {
            "query_order": query_order,
            "text_order": text_order,
            "expansion_counts": torch.tensor([len(own) for own in expansions]),
            "document_keys": torch.tensor(own_keys + [(key_of(text),) * 2 for text in negatives]),
            "relevant_keys": self._relevant_keys(rows, own_keys),
        }
        batch = {f"query_{name}": value for name, value in query_features.items()}
        return batch | {f"text_{name}": value for name, value in text_features.items()} | {"label": label}

    def _tokenized(self, texts: list[str], side: str) -> tuple[Mapping[str, Any], Tensor]:
        """Tokens of the texts, longest first, and the position of each text among them.

        The tokens also name the encoder side, for models with separate encoders for queries and documents.
        """
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        prompt = self.query_prompt if side == "query" else self.doc_prompt
        features = self.preprocess([texts[place] for place in order], prompt=prompt or None, task=side)
        return {**features, "task": side}, torch.tensor(order).argsort()

    @staticmethod
    def _keys(row: dict[str, Any]) -> tuple[int, int]:
        text = key_of(row["positive"])
        return (key_of(f"id:{row['positive_id']}") if row.get("positive_id") else text), text

    @staticmethod
    def _relevant_keys(rows: list[dict[str, Any]], own_keys: list[tuple[int, int]]) -> Tensor:
        known: dict[str, set[int]] = {}
        for row, keys in zip(rows, own_keys, strict=True):
            known.setdefault(row["query"], set()).update(keys, row.get("relevant") or ())
        lists = [sorted(known[row["query"]]) for row in rows]
        width = max(map(len, lists))
        return torch.tensor([keys + keys[:1] * (width - len(keys)) for keys in lists])
