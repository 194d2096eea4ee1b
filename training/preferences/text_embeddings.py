"""Encodes many texts with almost no padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ...encoding.encoder import ExpandREncoder, Side
from ...encoding.models.library import preprocess

#: number of texts that are tokenised together for counting
COUNTED = 256

#: most tokens in a batch, padding included, per text of the encoder's `batch_size`
TOKENS = 256


def embed(encoder: ExpandREncoder, texts: Sequence[str], side: Side) -> np.ndarray:
    """Embeddings (n, d), float32, in the order of `texts`: each distinct text once, similar lengths together.

    Texts are sorted by tokens, not characters: since one word may be one token and the next seven, texts with equal
    numbers of characters differ so much that a tenth of each batch would be padding. A batch takes as many texts as
    fit into `TOKENS` x `encoder.batch_size` tokens: short texts keep all threads busy, long ones stay in the cache.

    Example:
        >>> embed(ExpandREncoder("facebook/contriever"), ["Air scatters."], "document").shape  # doctest: +SKIP
        (1, 768)
    """
    distinct = list(dict.fromkeys(texts))
    place = {text: number for number, text in enumerate(distinct)}
    counts = token_counts(encoder, distinct, side)
    parts, order = [], []
    for batch in batches(counts, TOKENS * encoder.batch_size):
        parts.append(np.asarray(encoder.encode([distinct[number] for number in batch], side, len(batch))))
        order += batch
    vectors = np.concatenate(parts)
    vectors[order] = vectors.copy()
    return vectors[[place[text] for text in texts]]


def token_counts(encoder: ExpandREncoder, texts: Sequence[str], side: Side) -> np.ndarray:
    """Tokens (n,), int64, that the model reads of each text; characters if it has no attention mask."""
    prompt = encoder.source["query_prompt" if side == "query" else "doc_prompt"]
    counts: list[int] = []
    for start in range(0, len(texts), COUNTED):
        some = list(texts[start : start + COUNTED])
        mask = preprocess(encoder.model, some, prompt or "", side).get("attention_mask")
        counts += map(len, some) if mask is None else mask.sum(dim=1).tolist()
    return np.array(counts, dtype=np.int64)


def batches(counts: np.ndarray, budget: int) -> Iterator[list[int]]:
    """Yield the text indices of each batch, longest first; a batch's size times its longest text is at most `budget`.

    A text longer than `budget` gets a batch of its own.

    Example:
        >>> list(batches(np.array([2, 9, 3, 4]), budget=8))
        [[1], [3, 2], [0]]
    """
    batch: list[int] = []
    for number in np.argsort(-counts, kind="stable").tolist():
        if batch and (len(batch) + 1) * counts[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch
