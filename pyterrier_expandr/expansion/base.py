"""What both expanders share: checking the frame, cleaning with a warning, and equality by settings."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import pandas as pd
import pyterrier as pt

from ..common.frames import check_single, query_texts, records_frame
from ..common.notebook import Shown
from .cleaning.passage import passages_in

HELP_URL = "https://pyterrier.readthedocs.io/en/latest/"
LEFT_OUT = "were refusals and were left out"


class BaseExpander(Shown, pt.Transformer):
    """What both expanders share: checks, cleaning, the new column, drawing, and equality by settings."""

    LABEL: str
    cleaning: str | None
    keep_refusals: bool

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """`[qid, query]` -> the same rows with `query_expansions`, a list of str in each (empty if there are none).

        Raises:
            ValueError: a query is missing or empty, or a qid is missing. TypeError: a query or qid is not a string.
        """
        pt.validate.query_frame(inp, ["query"], context=self)
        if inp.empty:
            return inp.assign(query_expansions=pd.Series(dtype=object))
        check_single(inp, "query_expansions")
        contexts = list(inp["query_context"]) if "query_context" in inp else [""] * len(inp)
        lists = self._expansions([str(qid) for qid in inp["qid"]], query_texts(inp), contexts)
        return inp.assign(query_expansions=pd.Series(lists, index=inp.index, dtype=object))

    def transform_iter(self, inp: Iterable[dict[str, Any]]) -> list[dict[Any, Any]]:
        """`transform` on records."""
        return self.transform(records_frame(inp)).to_dict(orient="records")

    def _expansions(self, qids: list[str], queries: list[str], contexts: list[str]) -> list[list[str]]:
        raise NotImplementedError(f"{type(self).__name__} must give the passages of each row")

    def _passages(self, texts: list[str], prompt: str | None = None) -> tuple[list[str], int]:
        """The passages left after cleaning raw texts, and the number of refusals that were dropped."""
        return passages_in(texts, prompt, cleaning=self.cleaning, keep_refusals=self.keep_refusals)

    def _key(self) -> tuple[Any, ...]:
        raise NotImplementedError(f"{type(self).__name__} must say what decides its texts")

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The node that PyTerrier draws for this transformer."""
        return {"label": self.LABEL, "help_url": HELP_URL}

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Empty: an expander contains a backend but no other transformers."""
        return {}


def warn_of(of: str, *counts: tuple[int, str]) -> None:
    """Issue one warning, attributed to the caller of `transform`, that lists every count above zero."""
    if said := [f"{count} {what}" for count, what in counts if count]:
        warnings.warn(f"{of}: {'; '.join(said)}", stacklevel=4)
