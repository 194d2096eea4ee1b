"""The averages of the BEIR protocol: which collections each covers, and when it may be reported."""

from __future__ import annotations

from collections.abc import Container

#: the 12 sub-forums of CQADupStack, each a collection with its own corpus
FORUMS = tuple(
    f"CQADupStack/{forum}"
    for forum in (
        "android english gaming gis mathematica physics programmers stats tex unix webmasters wordpress".split()
    )
)

#: the 15 collections in the order of the paper's tables
COLLECTIONS = (
    "MS MARCO",
    "TREC-COVID",
    "NFCorpus",
    "NQ",
    "HotpotQA",
    "FiQA",
    "ArguAna",
    "Touche-2020",
    "CQADupStack",
    "Quora",
    "DBPedia",
    "SCIDOCS",
    "FEVER",
    "Climate-FEVER",
    "SciFact",
)

#: the members of each arithmetic mean, by name
AVERAGES = {"CQADupStack": FORUMS, "Avg.BEIR14": COLLECTIONS[1:], "Avg.All": COLLECTIONS}


def parts_of(name: str, available: Container[str]) -> dict[str, float] | None:
    """The weight of each available collection in the mean called `name`, or None if one of them is missing.

    Weights sum to 1; a collection that is available itself is its own mean.

    Example:
        >>> parts_of("SciFact", {"SciFact"})
        {'SciFact': 1.0}
        >>> round(parts_of("Avg.All", {*COLLECTIONS[:8], *FORUMS, *COLLECTIONS[9:]})["CQADupStack/tex"], 6)
        0.005556
    """
    if name in available:
        return {name: 1.0}
    if name not in AVERAGES:
        return None
    weights: dict[str, float] = {}
    for member in AVERAGES[name]:
        inner = parts_of(member, available)
        if inner is None:
            return None
        weights |= {part: weight / len(AVERAGES[name]) for part, weight in inner.items()}
    return weights
