"""Query expansion: `[qid, query]` -> `query_expansions`, written by an LLM or replayed from a file."""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..common.frames import check_single, query_texts, records_frame
from .backends.base import Backend, Generation, Request, Sampling
from .cache import GenerationCache
from .cleaning import strip_preamble
from .context import with_context
from .prompts import requests_for, resolve_prompts
from .recorded import Record, read_expansions

logger = logging.getLogger(__name__)

HELP_URL = "https://pyterrier.readthedocs.io/en/latest/"


class _Expander(pt.Transformer):
    """What both expanders share: checks, cleaning, the new column, drawing and equality by settings."""

    LABEL: str
    clean: bool

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """`[qid, query]` -> the same rows with `query_expansions`, a list of str in each (empty if there is none).

        Raises:
            ValueError: a query is missing or empty, or a qid is missing. TypeError: a query or qid is no string.
        """
        pt.validate.query_frame(inp, ["query"], context=self)
        if inp.empty:
            return inp.assign(query_expansions=pd.Series(dtype=object))
        check_single(inp, "query_expansions")
        contexts = list(inp["query_context"]) if "query_context" in inp else [""] * len(inp)
        raw = self._raw_expansions([str(qid) for qid in inp["qid"]], query_texts(inp), contexts)
        tidy: Callable[[str], str] = strip_preamble if self.clean else str
        lists = [[text for text in map(tidy, texts) if text.strip()] for texts in raw]
        return inp.assign(query_expansions=pd.Series(lists, index=inp.index, dtype=object))

    def transform_iter(self, inp: Iterable[dict[str, Any]]) -> list[dict[Any, Any]]:
        """`transform` on records."""
        return self.transform(records_frame(inp)).to_dict(orient="records")

    def _raw_expansions(self, qids: list[str], queries: list[str], contexts: list[str]) -> list[list[str]]:
        raise NotImplementedError(f"{type(self).__name__} must give the raw texts of each row")

    def _key(self) -> tuple[Any, ...]:
        raise NotImplementedError(f"{type(self).__name__} must say what decides its texts")

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """The node that PyTerrier draws."""
        return {"label": self.LABEL, "help_url": HELP_URL}

    def subtransformers(self) -> dict[str, pt.Transformer]:
        """None: an expander contains a backend, no transformer."""
        return {}


class LLMExpander(_Expander):
    """Adds `query_expansions`: passages that an LLM writes for each query (Eq. 3).

    Columns: `[qid, query]` -> adds `query_expansions` (list of str, cleaned, empty ones removed); `query` is unchanged.
    Each distinct query is sent once; what the cache holds is not generated again, and every finished batch is stored at
    once. A query that is too long for the model's context is cut at its end. One warning counts the queries that were
    cut and the generations that came back empty or were truncated.

    Args:
        backend: the backend, e.g. `HuggingFaceBackend`.
        prompt: "q2d" (a passage), "q2q" (a rewrite), "q2e" (keywords), "q2c" (reasoning first), "q2d_context" (a
            passage after seeing search results), or a template with `{query}`. With `{context}` in it, the input is a
            ranking `[qid, query, docno, text, rank]` (+ `title`), and the output has a row for each of its queries.
            Several prompts give `n` expansions each, in their order.
        n: expansions for each query and prompt.
        context_documents: documents that `{context}` stands for.
        temperature, top_p, max_new_tokens, seed: see `Sampling`; the defaults are the paper's evaluation setting.
        cache: a path or a `GenerationCache`; None keeps generations in memory as long as this object lives.
        clean: remove introductory phrases with `strip_preamble`.
        verbose: show a progress bar.

    Raises:
        TypeError: `backend` is no backend of this package.
        ValueError: settings out of range, or a template without `{query}`.

    Example:
        >>> from pyterrier_expandr import HuggingFaceBackend
        >>> expander = LLMExpander(HuggingFaceBackend("Qwen/Qwen2.5-0.5B-Instruct"), n=2)
        >>> expander.search("why is the sky blue")  # doctest: +SKIP
    """

    LABEL = "LLM Expander"

    def __init__(
        self,
        backend: Backend,
        *,
        prompt: str | Sequence[str] = "q2d",
        n: int = 1,
        context_documents: int = 10,
        temperature: float = 1.0,
        top_p: float = 0.9,
        max_new_tokens: int = 512,
        seed: int = 42,
        cache: str | Path | GenerationCache | None = None,
        clean: bool = True,
        verbose: bool = False,
    ) -> None:
        if not isinstance(backend, Backend):
            raise TypeError(
                f"backend must be a Backend of this package such as HuggingFaceBackend, got {type(backend).__name__}: "
                "a backend of another package takes no seed for each request, so its texts could not be repeated; "
                "name its model to HuggingFaceBackend, or subclass pyterrier_expandr.expansion.backends.base.Backend"
            )
        if n < 1:
            raise ValueError(f"n, the number of expansions for each query, must be 1 or more, got {n}")
        self.backend, self.prompt, self.n = backend, prompt, n
        self.temperature, self.top_p, self.max_new_tokens, self.seed = temperature, top_p, max_new_tokens, seed
        self._sampling = Sampling(temperature, top_p, max_new_tokens, seed)
        if context_documents < 1:
            raise ValueError(f"context_documents must be 1 or more, got {context_documents}")
        self._templates, self.context_documents = resolve_prompts(prompt), context_documents
        self._shows_context = any("{context}" in template for template in self._templates)
        if isinstance(cache, (str, Path)):
            cache = GenerationCache(cache)
        self.cache = GenerationCache() if cache is None else cache
        self.clean, self.verbose = clean, verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """`[qid, query]` -> adds `query_expansions`; where a prompt shows search results, a ranking -> its queries."""
        if self._shows_context:
            pt.validate.result_frame(inp, extra_columns=["query", "text", "rank"], context=self)
            return super().transform(with_context(inp, self.context_documents)).drop(columns="query_context")
        return super().transform(inp)

    def _raw_expansions(self, qids: list[str], queries: list[str], contexts: list[str]) -> list[list[str]]:
        rows = list(zip(queries, contexts, strict=True))
        requests, cut = requests_for(self._templates, rows, self._sampling, self.n, self.backend)
        generations = generate_cached(self.backend, list(requests.values()), self.cache, verbose=self.verbose)
        texts = dict(zip(requests, generations, strict=True))
        self._warn(cut, [g for group in generations for g in group])
        return [[g.text for template in self._templates for g in texts[template, *row]] for row in rows]

    def _warn(self, cut: int, generations: list[Generation]) -> None:
        empty = sum(not g.text.strip() for g in generations)
        truncated = sum(g.truncated for g in generations)
        counts = [
            (cut, "queries were cut to fit the model's context"),
            (empty, "expansions came back empty"),
            (truncated, f"expansions were truncated at {self.max_new_tokens} tokens"),
        ]
        said = [f"{count} {what}" for count, what in counts if count]
        if said:
            warnings.warn(f"of {len(generations)} expansions: {'; '.join(said)}", stacklevel=4)

    def describe(self) -> dict[str, Any]:
        """What decides the texts, as JSON values: model, prompt, sampling, cleaning, versions."""
        return {
            "model": self.backend.fingerprint(),
            # A single prompt is told as ever: what was computed with it stays known.
            "prompt": self._templates[0] if len(self._templates) == 1 else list(self._templates),
            **({"context_documents": self.context_documents} if self._shows_context else {}),
            "n": self.n,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
            "cleaning": "strip_preamble" if self.clean else None,
            "versions": {name: version(name) for name in ("pyterrier_expandr", "transformers", "torch")},
        }

    def _key(self) -> tuple[Any, ...]:
        return (self.backend, self._templates, self.context_documents, self.n, self._sampling, self.clean)

    def __repr__(self) -> str:
        return f"LLMExpander({self.backend!r}, prompt={self.prompt!r}, n={self.n}, seed={self.seed})"


def generate_cached(
    backend: Backend, requests: list[Request], cache: GenerationCache, *, verbose: bool = False
) -> list[list[Generation]]:
    """All samples of all requests, in order; only what the cache lacks is generated, and stored as it comes.

    Equal requests are generated once.
    """
    fingerprint = backend.fingerprint()
    places: dict[str, int] = {}  # each distinct request -> where it first stands
    first = [
        places.setdefault(json.dumps([r.messages, asdict(r.sampling), r.samples]), i) for i, r in enumerate(requests)
    ]
    known = {i: cache.get(fingerprint, requests[i]) for i in places.values()}
    absent = {i: tuple(s for s in requests[i].samples if s not in known[i]) for i in known}
    missing = [
        (i, Request(requests[i].messages, requests[i].sampling, part))
        for i in known
        for part in ([(s,) for s in absent[i]] if backend.samples_apart else [absent[i]])
        if part
    ]
    unit = "sample" if backend.samples_apart else "query"
    with (
        closing(backend.stream([request for _, request in missing])) as stream,
        pt.tqdm(total=len(missing), desc="Generating", unit=unit, disable=not verbose) as progress,
    ):
        for place, generations in stream:
            i, request = missing[place]
            fresh = dict(zip(request.samples, generations, strict=True))
            cache.put(fingerprint, request, fresh)
            known[i].update(fresh)
            progress.update()
    return [[known[i][sample] for sample in request.samples] for i, request in zip(first, requests, strict=True)]


class RecordedExpander(_Expander):
    """Adds `query_expansions` that were recorded before, from a JSONL file.

    Columns: `[qid, query]` -> adds `query_expansions` (list of str). A line of the file has `query_id` and/or `query`,
    and `passage` or `passages`; lines of one query add up in their order. Rows are joined by qid where the line has
    one, else by the exact query text, never by position. Where a line has both, its query must be the frame's, apart
    from white space and letter case: so qids of another collection are noticed.

    Args:
        records: the file, or dicts like its lines.
        on_missing: "error" refuses queries that the file lacks; "query-only" gives them an empty list.
        n: only the first expansions of each query; None for all.
        clean: remove introductory phrases with `strip_preamble`.

    Raises:
        ValueError: a line is broken or lacks fields (file and line are named), a query is missing, or a qid is recorded
            with another query text.
        FileNotFoundError: there is no such file.

    Example:
        >>> expander = RecordedExpander([{"query": "why is the sky blue", "passage": "Air scatters short waves."}])
        >>> expander.search("why is the sky blue")["query_expansions"][0]
        ['Air scatters short waves.']
    """

    LABEL = "Recorded Expander"

    def __init__(
        self,
        records: str | Path | list[dict[str, Any]],
        *,
        on_missing: str = "error",
        n: int | None = None,
        clean: bool = True,
    ) -> None:
        if on_missing not in ("error", "query-only"):
            raise ValueError(f'on_missing must be "error" or "query-only", got {on_missing!r}')
        self.records, self.on_missing, self.n, self.clean = records, on_missing, n, clean
        self._by_qid, self._by_query = read_expansions(records)

    def _raw_expansions(self, qids: list[str], queries: list[str], contexts: list[str]) -> list[list[str]]:
        found = [self._find(qid, query) for qid, query in zip(qids, queries, strict=True)]
        missing = [qid for qid, record in zip(qids, found, strict=True) if record is None]
        if missing and self.on_missing == "error":
            raise ValueError(
                f"no expansions are recorded for {len(missing)} of {len(qids)} queries, e.g. qids {missing[:5]}: "
                'record them, or allow it with on_missing="query-only"'
            )
        return [record.passages[: self.n] if record is not None else [] for record in found]

    def _find(self, qid: str, query: str) -> Record | None:
        record = self._by_qid.get(qid)
        if record is not None and record.query is not None and _folded(record.query) != _folded(query):
            raise ValueError(
                f"qid {qid!r} is recorded for the query {record.query!r}, but the frame has {query!r}: "
                "these expansions belong to another set of queries"
            )
        return record if record is not None else self._by_query.get(query)

    def describe(self) -> dict[str, Any]:
        """What decides the texts, as JSON values: a hash of the records, and how they are used."""
        return {
            "records_sha256": hashlib.sha256(self._content().encode()).hexdigest(),
            "on_missing": self.on_missing,
            **({} if self.n is None else {"n": self.n}),
            "cleaning": "strip_preamble" if self.clean else None,
        }

    def _content(self) -> str:
        return json.dumps([[r.qid, r.query, r.passages] for r in self._all()])

    def _key(self) -> tuple[Any, ...]:
        return (self._content(), self.on_missing, self.n, self.clean)

    def _all(self) -> list[Record]:
        return [*self._by_qid.values(), *(r for r in self._by_query.values() if r.qid is None)]

    def __repr__(self) -> str:
        where = repr(str(self.records)) if isinstance(self.records, (str, Path)) else f"<{len(self.records)} records>"
        return f"RecordedExpander({where})"


def _folded(query: str) -> str:
    """A query without white-space and case differences, in which copies of one collection differ."""
    return " ".join(query.split()).casefold()
