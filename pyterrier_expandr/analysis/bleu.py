"""How much of an answer's or a gold document's wording the expansions share (Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..common.extras import needed_for
from .figures import drawing, look
from .texts import expansion_texts, with_reference

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def bleu_against(expansions: Mapping[str, pd.DataFrame], references: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """BLEU of each system's expansions against each kind of reference, computed by sacreBLEU (Fig. 3).

    A query's expansions are compared with all references of that query; queries without one are left out, with a
    warning in the log.

    Args:
        expansions: system -> `[qid, query_expansions]`.
        references: kind ("answers", "gold documents") -> `[qid, text]`, one row per reference.

    Returns:
        `[system, against, corpus_bleu, sentence_bleu, queries, signature]`: corpus BLEU, and the mean of sentence BLEU
        (effective order), both from 0 to 100; the number of queries; sacreBLEU's signature for corpus BLEU.

    Raises:
        ImportError: sacrebleu is missing. ValueError: no expansion, or no query with a reference.

    Example:
        >>> expansions = pd.DataFrame({"qid": ["1"], "query_expansions": [["the cat sat on the mat"]]})
        >>> gold = pd.DataFrame({"qid": ["1"], "text": ["the cat sat on the mat"]})
        >>> bleu_against({"vanilla": expansions}, {"gold": gold})[["against", "corpus_bleu", "queries"]].values.tolist()
        [['gold', 100.0, 1]]
    """
    with needed_for("BLEU", "analysis"):
        from sacrebleu.metrics import BLEU
    texts = expansion_texts(expansions)
    if not references:
        raise ValueError("no references were given: pass {kind: frame of [qid, text]}")
    rows = []
    for kind, frame in references.items():
        for system, own in with_reference(texts, frame, kind).groupby("system", sort=False):
            corpus, sentence = BLEU(), BLEU(effective_order=True)
            hypotheses, lists = own["text"].tolist(), own["references"].tolist()
            # sacreBLEU expects the k-th references of all texts together; None if a text has fewer.
            streams: Any = [[each[k] if k < len(each) else None for each in lists] for k in range(max(map(len, lists)))]
            score = corpus.corpus_score(hypotheses, streams).score
            single = [sentence.sentence_score(text, each).score for text, each in zip(hypotheses, lists, strict=True)]
            mean = sum(single) / len(single)
            rows.append((system, kind, score, mean, own["qid"].nunique(), str(corpus.get_signature())))
    columns = ["system", "against", "corpus_bleu", "sentence_bleu", "queries", "signature"]
    return pd.DataFrame(rows, columns=columns).round({"corpus_bleu": 6, "sentence_bleu": 6})


def bleu_plot(scores: pd.DataFrame, *, path: str | Path | None = None) -> Figure:
    """Fig. 3: corpus BLEU, one panel per kind of reference, one bar per system.

    Each panel has its own scale.

    Args:
        scores: what `bleu_against` returns.
        path: save the figure here, as .svg, .png or .pdf.

    Example:
        >>> bleu_plot(bleu_against(expansions, references), path="bleu.svg")  # doctest: +SKIP
    """
    systems, kinds = list(scores["system"].unique()), list(scores["against"].unique())
    size = (1.5 + 3.2 * len(kinds), 1.0 + 0.45 * len(systems))
    with drawing(path, ncols=len(kinds), figsize=size, sharey=True, squeeze=False) as (figure, axes):
        for axis, kind in zip(axes[0], kinds, strict=True):
            panel = scores[scores["against"] == kind].set_index("system")["corpus_bleu"]
            for number, system in enumerate(systems):
                bar = axis.barh(system, panel[system], height=0.7, **look(number))
                axis.bar_label(bar, fmt="%.2f", padding=3, fontsize=9)
            axis.set_xlabel(f"corpus BLEU (0 to 100)\nagainst {kind}")
            axis.grid(axis="y", visible=False)
            axis.margins(x=0.22)
        axes[0][0].invert_yaxis()
    return figure
