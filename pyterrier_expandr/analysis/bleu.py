"""How much of an answer's or a gold document's wording the expansions share (Fig. 3)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .figures import drawing, look
from .texts import expansion_texts, with_reference

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def bleu_against(expansions: Mapping[str, pd.DataFrame], references: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """BLEU of each system's expansions against each kind of reference, by sacreBLEU (Fig. 3).

    A query's expansions are compared with all references of that query; queries without one are left out, with a
    warning in the log.

    Args:
        expansions: system -> `[qid, query_expansions]`.
        references: kind ("answers", "gold documents") -> `[qid, text]`, one row for each reference.

    Returns:
        `[system, against, corpus_bleu, sentence_bleu, queries, signature]`: corpus BLEU, and the mean of sentence BLEU
        (effective order), both from 0 to 100; the number of queries; sacreBLEU's signature of the former.

    Raises:
        ImportError: sacrebleu is missing. ValueError: no expansion, or no query with a reference.

    Example:
        >>> expansions = pd.DataFrame({"qid": ["1"], "query_expansions": [["the cat sat on the mat"]]})
        >>> gold = pd.DataFrame({"qid": ["1"], "text": ["the cat sat on the mat"]})
        >>> bleu_against({"vanilla": expansions}, {"gold": gold})[["against", "corpus_bleu", "queries"]].values.tolist()
        [['gold', 100.0, 1]]
    """
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise ImportError('BLEU needs sacrebleu: pip install "pyterrier_expandr[analysis]"') from error
    texts = expansion_texts(expansions)
    if not references:
        raise ValueError("there are no references: give {kind: frame of [qid, text]}")
    rows = []
    for kind, frame in references.items():
        for system, own in with_reference(texts, frame, kind).groupby("system", sort=False):
            corpus, sentence = BLEU(), BLEU(effective_order=True)
            hypotheses, lists = own["text"].tolist(), own["references"].tolist()
            # sacreBLEU wants the k-th references of all texts together; where a text has fewer, None.
            streams: Any = [[each[k] if k < len(each) else None for each in lists] for k in range(max(map(len, lists)))]
            score = corpus.corpus_score(hypotheses, streams).score
            single = [sentence.sentence_score(text, each).score for text, each in zip(hypotheses, lists, strict=True)]
            mean = sum(single) / len(single)
            rows.append((system, kind, score, mean, own["qid"].nunique(), str(corpus.get_signature())))
    columns = ["system", "against", "corpus_bleu", "sentence_bleu", "queries", "signature"]
    return pd.DataFrame(rows, columns=columns).round({"corpus_bleu": 6, "sentence_bleu": 6})


def bleu_plot(scores: pd.DataFrame, *, path: str | Path | None = None) -> Figure:
    """Fig. 3: corpus BLEU as bars, one group for each kind of reference, one kind of bar for each system.

    Args:
        scores: what `bleu_against` returns.
        path: save the picture here, as .svg, .png or .pdf.

    Example:
        >>> bleu_plot(bleu_against(expansions, references), path="bleu.svg")  # doctest: +SKIP
    """
    table = scores.pivot(index="against", columns="system", values="corpus_bleu")
    table = table.loc[scores["against"].unique(), scores["system"].unique()]
    width = 0.8 / table.shape[1]
    with drawing(path, figsize=(max(4.5, 1.1 * table.size + 1.5), 3.6)) as (_, axis):
        for number, system in enumerate(table.columns):
            places = [group + (number - (table.shape[1] - 1) / 2) * width for group in range(len(table))]
            bars = axis.bar(places, table[system].tolist(), width * 0.92, label=system, **look(number))
            axis.bar_label(bars, fmt="%.1f", padding=2, fontsize=9)
        axis.set_xticks(range(len(table)), [f"against {kind}" for kind in table.index])
        axis.set_ylabel("corpus BLEU (0 to 100)")
        axis.grid(axis="x", visible=False)
        axis.margins(y=0.15)
        axis.figure.legend(loc="outside upper center", ncols=min(4, table.shape[1]))
    return axis.figure
