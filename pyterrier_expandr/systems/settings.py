"""The tunable parameters of a system, as one value that can be saved to a file and loaded again."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyterrier as pt

from ..common.files import path_of, write_json
from ..common.utf8 import read_utf8
from ..encoding.fusion import Fusion, check_fusion
from ..expansion.lexical import LexicalExpander, Repeats
from ..retrieval.list_fusion import ListFusion, Method

FORMAT_VERSION = 1


@dataclass(frozen=True)
class HybridSettings:
    """How a system searches with words and vectors and fuses the two lists.

    Args:
        method: "sum", "rrf" or "zscore", see `ListFusion`.
        weight: of the lexical list, in [0, 1].
        repeats: how often the query is repeated before its passages for the lexical engine, see `LexicalExpander`.
        depth: minimum number of documents in each list, however few are requested.

    Raises:
        ValueError: a value is out of range.
    """

    method: Method = "sum"
    weight: float = 0.5
    repeats: Repeats = 5
    depth: int = 1000

    def __post_init__(self) -> None:
        ListFusion(self.method, weight=self.weight, num_results=self.depth)
        LexicalExpander(self.repeats)


def hybrid_settings(lexical: Any, hybrid: HybridSettings | Method | None) -> HybridSettings | None:
    """The settings that a system's arguments mean; None without a lexical index.

    Raises:
        ValueError: a hybrid without a lexical index. TypeError: `hybrid` is neither a method nor settings.
    """
    if lexical is None and hybrid is not None:
        raise ValueError('a hybrid needs a lexical index: give lexical="pisa" too')
    if isinstance(hybrid, str):
        return HybridSettings(hybrid)
    if not isinstance(hybrid, HybridSettings | None):
        raise TypeError(f"hybrid must be a method or HybridSettings, got {hybrid!r:.80}")
    return hybrid if hybrid is not None or lexical is None else HybridSettings()


@dataclass(frozen=True)
class TunedSettings:
    """The settings that `tune` chooses and `ExpandR.with_settings` applies.

    Args:
        n: expansions per query; 0 for none at all.
        fusion: of the query encoder: a weight for the query, or a name.
        hybrid: None for a system without a lexical index.
        source: what they were tuned on, for human readers.

    Raises:
        ValueError: a value is out of range. TypeError: a fusion that is a function.

    Example:
        >>> TunedSettings(n=2, fusion=0.7).hybrid is None
        True
    """

    n: int
    fusion: Fusion = "average"
    hybrid: HybridSettings | None = None
    source: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        if isinstance(self.n, bool) or not isinstance(self.n, int) or self.n < 0:
            raise ValueError(f"n must be a whole number of 0 or more, got {self.n!r}")
        if callable(check_fusion(self.fusion)):
            raise TypeError("a fusion that is a function cannot be written down: give a name or a weight")

    def save(self, path: str | Path) -> None:
        """Write them to a JSON file, which appears only when complete."""
        write_json(path_of(path), {"format_version": FORMAT_VERSION, **asdict(self)})

    @classmethod
    def load(cls, path: str | Path) -> TunedSettings:
        """The settings in a file.

        Raises:
            FileNotFoundError: there is no such file. ValueError: it holds something else, or is from a newer release.
        """
        text = read_utf8(path_of(path))
        try:
            values = json.loads(text)
            version = values.pop("format_version")
            if version > FORMAT_VERSION:
                raise ValueError(f"format {version}, this release reads up to {FORMAT_VERSION}: upgrade")
            hybrid = values.pop("hybrid")
            return cls(**values, hybrid=None if hybrid is None else HybridSettings(**hybrid))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{str(path)!r} does not contain settings written by `expandr tune`: {error}") from error


def with_n(expander: pt.Transformer | None, n: int) -> pt.Transformer:
    """The expander with `n` expansions per query; texts it holds in memory are shared."""
    if expander is None or not hasattr(expander, "n"):
        raise ValueError(f"these settings take {n} expansions of each query: give an expander, not {expander!r:.80}")
    changed = copy.copy(expander)
    changed.n = n
    return changed
