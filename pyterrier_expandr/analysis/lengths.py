"""How long expansions are (Fig. 5)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .figures import drawing, look
from .texts import expansion_texts

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def expansion_lengths(expansions: Mapping[str, pd.DataFrame], tokenizer: Any = None) -> pd.DataFrame:
    """The length of each expansion: `[system, qid, sample, length, unit]`.

    Args:
        expansions: system -> `[qid, query_expansions]`.
        tokenizer: a name or folder for `AutoTokenizer`, or a loaded tokenizer; lengths are then in its tokens,
            not counting special ones. None counts words separated by white space.

    Raises:
        ValueError: no expansion. OSError: there is no such tokenizer.

    Example:
        >>> frame = pd.DataFrame({"qid": ["1"], "query_expansions": [["why the sky is blue"]]})
        >>> expansion_lengths({"vanilla": frame}).values.tolist()
        [['vanilla', '1', 0, 5, 'words']]
    """
    texts = expansion_texts(expansions)
    if tokenizer is None:
        lengths, unit = [len(text.split()) for text in texts["text"]], "words"
    else:
        if isinstance(tokenizer, (str, Path)):
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(str(tokenizer), trust_remote_code=False)
        encoded = tokenizer(texts["text"].tolist(), add_special_tokens=False, verbose=False)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        name = "/".join(Path(tokenizer.name_or_path).parts[-2:])
        unit = f"tokens of {name or type(tokenizer).__name__}"
    return texts.drop(columns="text").assign(length=lengths, unit=unit)


def lengths_plot(lengths: pd.DataFrame, *, path: str | Path | None = None) -> Figure:
    """Fig. 5: the distribution of lengths as one box per system, with the mean as a diamond and a number.

    Boxes span the quartiles with a line at the median; whiskers reach the 5th and 95th percentiles.

    Args:
        lengths: what `expansion_lengths` returns.
        path: save the figure here, as .svg, .png or .pdf.

    Example:
        >>> lengths_plot(expansion_lengths(expansions), path="lengths.svg")  # doctest: +SKIP
    """
    groups = {str(system): group["length"].tolist() for system, group in lengths.groupby("system", sort=False)}
    means = [sum(values) / len(values) for values in groups.values()]
    labels = [f"{name}\nmean {mean:.1f}, {len(groups[name])} texts" for name, mean in zip(groups, means, strict=True)]
    with drawing(path, figsize=(6.4, 1.2 + 0.75 * len(groups))) as (_, axis):
        boxes = axis.boxplot(
            list(groups.values()),
            orientation="horizontal",
            widths=0.5,
            whis=(5, 95),
            showfliers=False,
            patch_artist=True,
            showmeans=True,
            meanprops={"marker": "D", "markerfacecolor": "white", "markeredgecolor": "black", "markersize": 6},
            medianprops={"color": "black", "linewidth": 2},
            tick_labels=labels,
        )
        for number, box in enumerate(boxes["boxes"]):
            box.set(**look(number))
        axis.set_xlabel(f"length of an expansion ({lengths['unit'].iloc[0]})")
        axis.set_xlim(left=0)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
    return axis.figure
