"""Expansions for engines that match words: `query_expansions` become part of the query text, or weighted words."""

from __future__ import annotations

import unicodedata
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

import pandas as pd
import pyterrier as pt

from ..common.frames import expansion_lists, query_texts

HELP_URL = "https://pyterrier.readthedocs.io/en/latest/rewrite.html"

#: how often the query is repeated before its passages: a number, or MuGI's rule
Repeats = int | Literal["mugi"]
#: the form of the query that the engine receives, see `LexicalExpander`
Form = Literal["words", "toks", "matchop"]

FORMS = ("words", "toks", "matchop")
#: MuGI's constant: the query contributes about a quarter of the words (Zhang et al., Findings of EMNLP 2024)
MUGI_BETA = 4


class _WordCharacters(dict[int, Any]):
    """A table for `str.translate` that turns everything except letters, marks and digits into spaces."""

    def __missing__(self, code: int) -> int | str:
        self[code] = code if unicodedata.category(chr(code))[0] in "LMN" else " "
        return self[code]


_WORD_CHARACTERS = _WordCharacters()


def words_of(text: str) -> list[str]:
    """The words of a text: runs of letters, marks and digits, none of which is an operator of any query language.

    Example:
        >>> words_of('#combine:0=2(naïve) "IL-2"^3')
        ['combine', '0', '2', 'naïve', 'IL', '2', '3']
    """
    return text.translate(_WORD_CHARACTERS).split()


def mugi_repeats(query: str, passages: list[str], beta: int = MUGI_BETA) -> int:
    """How often MuGI repeats a query: words of all passages / (words of the query * beta), rounded down, at least 1.

    Example:
        >>> mugi_repeats("blue sky", ["word " * 50, "word " * 30])
        10
    """
    length = len(words_of(query)) * beta
    return max(1, sum(len(words_of(text)) for text in passages) // length) if length else 1


def _matchop(word: str, weight: int) -> str:
    """A weighted word in Terrier's operators, as `pt.terrier.Retriever.matchop` writes it, without starting Java."""
    safe = word if word.isascii() else f"#base64({b64encode(word.encode()).decode()})"
    return safe if weight == 1 else f"#combine:0={weight}({safe})"


class LexicalExpander(pt.Transformer):
    """Puts the expansions into the query, for BM25 and other engines that match words.

    Columns: `[qid, query]` (+ `query_expansions`, a list of str) -> `query`, in which the original query is repeated
    `repeats` times, followed by all of its passages; the original query is kept as `query_0`, as in PyTerrier's
    rewriters. A query without expansions is unchanged. Keywords (`LLMExpander(prompt="q2e")`) are treated like any
    other expansions.

    Passages are treated as plain text: quotes, colons and query language operators in them have no effect. If neither
    the query nor its passages contain a word, `query` is empty, and engines find nothing for it.

    Args:
        repeats: how often the query is repeated. 5 is the value of query2doc (Wang et al., EMNLP 2023); "mugi" uses
            `mugi_repeats`, which grows with the length of the passages.
        form: what the engine receives. "words": only letters and digits; works for every engine, including Terrier's
            parser. "toks": `query_toks`, a dict from each lower-case word to its weight, in addition to the unchanged
            `query`; for PISA and Terrier. PISA does not remove stop words from it: list them in `stops`. "matchop":
            `query` in Terrier's operators, each distinct word once with its weight.
        stops: lower-case words to leave out of "toks" and "matchop".

    Raises:
        ValueError: `repeats` below 1, or an unknown name.

    Example:
        >>> frame = pd.DataFrame({"qid": ["1"], "query": ["blue sky"], "query_expansions": [["Air scatters: light."]]})
        >>> LexicalExpander(repeats=2)(frame)["query"][0]
        'blue sky blue sky Air scatters light'
    """

    def __init__(self, repeats: Repeats = 5, *, form: Form = "words", stops: Iterable[str] = ()) -> None:
        if form not in FORMS:
            raise ValueError(f"form must be one of {FORMS}, got {form!r}")
        self.repeats = repeats
        self.form, self.stops = form, frozenset(stops)

    @property
    def repeats(self) -> Repeats:
        """How often the query is repeated before its passages; assigning a value out of range raises immediately."""
        return self._repeats

    @repeats.setter
    def repeats(self, value: Repeats) -> None:
        if value != "mugi" and (isinstance(value, (str, bool)) or not hasattr(value, "__index__") or value < 1):
            raise ValueError(f'repeats must be a whole number of 1 or more, or "mugi", got {value!r}')
        self._repeats = value

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """`[qid, query]` (+ `query_expansions`) -> the same rows with the expanded query.

        Raises:
            ValueError: a query is missing or empty. TypeError: a query or an expansion is not a string.
        """
        pt.validate.query_frame(inp, ["query"], context=self)
        texts, lists = query_texts(inp), expansion_lists(inp)
        made = [self._expanded(query, passages) for query, passages in zip(texts, lists, strict=True)]
        if self.form == "toks":
            return inp.assign(query_toks=pd.Series(made, index=inp.index, dtype=object))
        # Python strings are shared by the rows of a ranking; Arrow strings would be copied into each of them.
        return pt.model.push_queries(inp).assign(query=pd.Series(made, index=inp.index, dtype=object))

    def _expanded(self, query: str, passages: list[str]) -> str | dict[str, float]:
        repeats = mugi_repeats(query, passages) if self.repeats == "mugi" else int(self.repeats)
        parts = [query] * (repeats if passages else 1) + passages
        words = [word for part in parts for word in words_of(part)]
        if self.form == "words":
            return " ".join(words)
        weights = Counter(word for word in map(str.lower, words) if word not in self.stops)
        if self.form == "toks":
            return {word: float(weight) for word, weight in weights.items()}
        return " ".join(_matchop(word, weight) for word, weight in weights.items())

    def _key(self) -> tuple[Any, ...]:
        return (self.repeats, self.form, self.stops)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, LexicalExpander) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        stops = f", stops={sorted(self.stops)}" if self.stops else ""
        return f"LexicalExpander({self.repeats!r}, form={self.form!r}{stops})"

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The node that PyTerrier draws for this transformer."""
        return {"label": "Lexical Expander", "help_url": HELP_URL}

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """Empty: this transformer contains no others."""
        return {}
