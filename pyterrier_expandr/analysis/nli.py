"""Do gold documents support what expansions say? Judged by a natural language inference model (Table 9)."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from ..common.weights import refuse_pickles, weights_options
from .texts import expansion_texts, with_reference


def entailment(
    expansions: Mapping[str, pd.DataFrame],
    references: pd.DataFrame,
    model: str = "cross-encoder/nli-deberta-v3-base",
    *,
    batch_size: int = 32,
    device: str | None = None,
    verbose: bool = False,
) -> pd.DataFrame:
    """The entailment score of each system's expansions (Table 9): `[system, entailment, length, queries, model]`.

    The score is 100 times the mean probability of "entailment" (softmax over the model's labels), with the reference
    as premise and the expansion as hypothesis: 100 means that references support everything the expansions say. If a
    query has several references or expansions, its pairs are averaged. The paper does not name its model, so its
    printed scores only rank its own systems and cannot be compared with these.

    Args:
        expansions: system -> `[qid, query_expansions]`.
        references: `[qid, text]`, one row per reference: gold documents or answers.
        model: hub name or folder of a cross-encoder for natural language inference; which of its outputs means
            entailment is read from the labels in its configuration.
        batch_size: pairs per model call.
        device: "cuda" or "cpu"; None means cuda if available.
        verbose: show progress.

    Returns:
        `length` is the mean number of words of the expansions judged.

    Raises:
        ValueError: the model has no label "entailment"; no expansion; no query with a reference.

    Example:
        >>> entailment({"ExpandR": expansions}, gold_documents(pocket()))  # doctest: +SKIP
    """
    pairs = with_reference(expansion_texts(expansions), references, "references").explode("references")
    from sentence_transformers import CrossEncoder
    from torch.nn import Softmax

    refuse_pickles(model)
    judge = CrossEncoder(model, device=device, activation_fn=Softmax(dim=-1), model_kwargs=weights_options())
    column = entailment_label(judge.config.id2label)
    scores = judge.predict(
        list(zip(pairs["references"], pairs["text"], strict=True)), batch_size=batch_size, show_progress_bar=verbose
    )
    pairs = pairs.assign(
        entailment=100 * scores[:, column].astype(float), length=[len(text.split()) for text in pairs["text"]]
    )
    per_query = pairs.groupby(["system", "qid"], sort=False)[["entailment", "length"]].mean()
    means = per_query.groupby("system", sort=False)
    return means.mean().assign(queries=means.size(), model=model).reset_index()


def entailment_label(id2label: Mapping[int, str]) -> int:
    """The index of a model's output for "entailment", by the label names in its configuration.

    Raises:
        ValueError: no label, or more than one, has that name.

    Example:
        >>> entailment_label({0: "contradiction", 1: "ENTAILMENT", 2: "neutral"})
        1
    """
    found = [int(number) for number, name in id2label.items() if str(name).lower() == "entailment"]
    if len(found) != 1:
        labels = dict(id2label)
        raise ValueError(f"the model's labels are {labels}: one must be 'entailment'; use a model trained for NLI")
    return found[0]
