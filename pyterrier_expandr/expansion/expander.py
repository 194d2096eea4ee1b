"""Query expansion: `[qid, query]` -> `query_expansions`, written by an LLM or replayed from a file."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from .backends.base import Backend, Sampling
from .base import LEFT_OUT, BaseExpander, warn_of
from .cache import GenerationCache
from .cleaning.passage import cleaning_name, cleaning_record
from .context import with_context
from .generation import generate_cached
from .prompts import requests_for, resolve_prompts
from .recorded import Record, read_expansions
from .thinking import without_thought

logger = logging.getLogger(__name__)


class LLMExpander(BaseExpander):
    """Adds `query_expansions`: passages that an LLM writes for each query (Eq. 3).

    Columns: `[qid, query]` -> adds `query_expansions` (list of str, cleaned, empty ones removed); `query` is unchanged.
    Each distinct query is sent once; generations found in the cache are not repeated, and every finished batch is
    stored immediately. The reasoning of a thinking model is removed from its texts (the cache keeps it); if the
    reasoning never ends, the expansion is empty. A query that is too long for the model's context is truncated at the
    end. A single warning counts the queries that were truncated and the generations that came back empty or were cut
    off; texts from the cache are not warned of again.

    Args:
        backend: the backend, e.g. `HuggingFaceBackend`.
        prompt: "q2d" (a passage), "q2q" (a rewrite), "q2e" (keywords), "q2c" (reasoning first), "q2d_context" (a
            passage written after seeing search results), or a template with `{query}`. If the template contains
            `{context}`, the input is a ranking `[qid, query, docno, text, rank]` (+ `title`), and the output has one
            row per query. Several prompts give `n` expansions each, in the order of the prompts.
        n: expansions for each query and prompt.
        context_documents: number of documents that `{context}` is filled with.
        temperature, top_p, max_new_tokens, seed: see `Sampling`; the defaults are the paper's evaluation setting.
        thinking: let the model reason first. If False, reasoning is switched off in the chat template where the
            template allows it (gpt-oss has no such switch and is asked for low effort). For a server, set the switch
            through its own fields, e.g. `extra_body={"chat_template_kwargs": {"enable_thinking": False}}`.
        cache: a path or a `GenerationCache`; None keeps generations in memory for the lifetime of this object.
        clean: remove what does not belong to the passage and drop refusals; see `cleaning_name`.
        keep_refusals: keep texts that are only a refusal ("I'm sorry, but I can't ...").
        verbose: show a progress bar.

    Raises:
        TypeError: `backend` is not a backend of this package.
        ValueError: settings out of range, or a template without `{query}`.

    Example:
        >>> from pyterrier_expandr import HuggingFaceBackend
        >>> expander = LLMExpander(HuggingFaceBackend("Qwen/Qwen2.5-0.5B-Instruct"), n=2)
        >>> expander.search("why is the sky blue")  # doctest: +SKIP
    """

    LABEL = "LLM Expander"
    SHOWN = (
        "backend",
        "prompt",
        "n",
        "temperature",
        "top_p",
        "max_new_tokens",
        "seed",
        "thinking",
        "cache",
        "cleaning",
    )

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
        thinking: bool = False,
        cache: str | Path | GenerationCache | None = None,
        clean: bool | str = True,
        keep_refusals: bool = False,
        verbose: bool = False,
    ) -> None:
        if not isinstance(backend, Backend):
            raise TypeError(
                f"backend must be a Backend of this package such as HuggingFaceBackend, got {type(backend).__name__}: "
                "a backend of another package takes no seed for each request, so its texts could not be repeated; "
                "open its model with HuggingFaceBackend, or subclass pyterrier_expandr.expansion.backends.base.Backend"
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
        self.cleaning, self.keep_refusals, self.verbose = cleaning_name(clean), keep_refusals, verbose
        self.thinking = bool(thinking)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """`[qid, query]` -> adds `query_expansions`; if a prompt shows search results, a ranking -> its queries."""
        if self._shows_context:
            pt.validate.result_frame(inp, extra_columns=["query", "text", "rank"], context=self)
            return super().transform(with_context(inp, self.context_documents)).drop(columns="query_context")
        return super().transform(inp)

    def _expansions(self, qids: list[str], queries: list[str], contexts: list[str]) -> list[list[str]]:
        rows = list(zip(queries, contexts, strict=True))
        asked_for = (self._templates, rows, self._sampling, self.n, self.backend)
        requests, cut = requests_for(*asked_for, thinking=self.thinking)
        generations = generate_cached(self.backend, list(requests.values()), self.cache, verbose=self.verbose)
        kept: dict[tuple[str, str, str], list[str]] = {asked: [] for asked in requests}
        written, refusals, cut_now = [], 0, 0
        for (asked, request), group in zip(requests.items(), generations, strict=True):
            for generation in group:
                passages, refused = self._passages([generation.text], request.messages[0]["content"])
                kept[asked] += passages
                if not generation.cached:  # a cached text was warned of when it was written
                    written.append(generation)
                    refusals += refused
            cut_now += asked in cut and not all(generation.cached for generation in group)
        marked = f" ({refused} refused)" if (refused := sum(g.refused for g in written)) else ""
        warn_of(
            f"of {len(written)} expansions",
            (cut_now, "queries were cut to fit the model's context"),
            (sum(not g.text.strip() for g in written), f"expansions came back empty{marked}"),
            (refusals, LEFT_OUT),
            (sum(g.truncated for g in written), f"expansions were truncated at {self.max_new_tokens} tokens"),
        )
        return [
            [text for template in self._templates for text in kept[template, query, context]] for query, context in rows
        ]

    def describe(self) -> dict[str, Any]:
        """Everything that determines the texts, as JSON values: model, prompt, sampling, cleaning, versions.

        `template` (the variables passed to a chat template that reads more than the messages) and `thinking` (if on)
        are only included when they apply.
        """
        told = self.backend.template_variables(self.thinking)
        return {
            "model": self.backend.fingerprint(),
            # A single prompt keeps its original form, so that results computed with it remain valid.
            "prompt": self._templates[0] if len(self._templates) == 1 else list(self._templates),
            **({"context_documents": self.context_documents} if self._shows_context else {}),
            "n": self.n,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
            **cleaning_record(self.cleaning, self.keep_refusals),
            "versions": {name: version(name) for name in ("pyterrier_expandr", "transformers", "torch")},
            **({"template": told} if told else {}),
            **({"thinking": True} if self.thinking else {}),
        }

    def _key(self) -> tuple[Any, ...]:
        sampled = (self.backend, self._templates, self.context_documents, self.n, self._sampling, self.thinking)
        return (*sampled, self.cleaning, self.keep_refusals)

    def __repr__(self) -> str:
        return f"LLMExpander({self.backend!r}, prompt={self.prompt!r}, n={self.n}, seed={self.seed})"


class RecordedExpander(BaseExpander):
    """Adds `query_expansions` that were recorded earlier, read from a JSONL file.

    Columns: `[qid, query]` -> adds `query_expansions` (list of str). A line of the file has `query_id` and/or `query`,
    and `passage` or `passages`; several lines for one query are combined in file order. Rows are matched by qid if the
    line has one, otherwise by the exact query text, never by position. If a line has both, its query must equal the
    frame's apart from white space and letter case, so that qids of another collection are detected. Model reasoning is
    removed.

    Args:
        records: the file, or a list of dicts with the same fields as its lines.
        on_missing: "error" raises an error for queries that the file lacks; "query-only" gives them an empty list.
        n: use only the first `n` expansions of each query; None uses all.
        clean: see `LLMExpander`; a warning counts the refusals that were dropped.
        keep_refusals: keep texts that are only a refusal.

    Raises:
        ValueError: a line is malformed or lacks fields (the message names file and line), a query is missing, or a qid
            was recorded with a different query text.
        FileNotFoundError: the file does not exist.

    Example:
        >>> expander = RecordedExpander([{"query": "why is the sky blue", "passage": "Air scatters short waves."}])
        >>> expander.search("why is the sky blue")["query_expansions"][0]
        ['Air scatters short waves.']
    """

    LABEL = "Recorded Expander"
    SHOWN = ("records", "on_missing", "n", "cleaning", "keep_refusals")

    def __init__(
        self,
        records: str | Path | list[dict[str, Any]],
        *,
        on_missing: str = "error",
        n: int | None = None,
        clean: bool | str = True,
        keep_refusals: bool = False,
    ) -> None:
        if on_missing not in ("error", "query-only"):
            raise ValueError(f'on_missing must be "error" or "query-only", got {on_missing!r}')
        self.records, self.on_missing, self.n = records, on_missing, n
        self.cleaning, self.keep_refusals = cleaning_name(clean), keep_refusals
        self._by_qid, self._by_query = read_expansions(records)

    @classmethod
    def from_hub(
        cls, repo: str, *, file: str = "expansions.jsonl", revision: str | None = None, **options: Any
    ) -> RecordedExpander:
        """Expansions that `systems.push_to_hub` shared.

        Args:
            repo: "owner/name" of a data set.
            file: the JSONL file in it.
            revision: a branch, tag or commit; None is the newest.
            options: see the class.

        Raises:
            OSError: the hub, the repository or the file cannot be reached.

        Example:
            >>> RecordedExpander.from_hub("me/scifact-passages", on_missing="query-only")  # doctest: +SKIP
        """
        from huggingface_hub import hf_hub_download

        return cls(hf_hub_download(repo, file, repo_type="dataset", revision=revision), **options)

    def _expansions(self, qids: list[str], queries: list[str], contexts: list[str]) -> list[list[str]]:
        found = [self._find(qid, query) for qid, query in zip(qids, queries, strict=True)]
        missing = [qid for qid, record in zip(qids, found, strict=True) if record is None]
        if missing and self.on_missing == "error":
            raise ValueError(
                f"no expansions are recorded for {len(missing)} of {len(qids)} queries, e.g. qids {missing[:5]}: "
                'record them, or allow it with on_missing="query-only"'
            )
        recorded = [record.passages[: self.n] if record is not None else [] for record in found]
        texts = [list(map(without_thought, passages)) for passages in recorded]
        kept = [self._passages(of_query) for of_query in texts]
        of = f"of {sum(map(len, texts))} recorded expansions"
        warn_of(of, (sum(refused for _, refused in kept), LEFT_OUT))
        return [passages for passages, _ in kept]

    def _find(self, qid: str, query: str) -> Record | None:
        record = self._by_qid.get(qid)
        if record is not None and record.query is not None and _folded(record.query) != _folded(query):
            raise ValueError(
                f"qid {qid!r} is recorded for the query {record.query!r}, but the frame has {query!r}: "
                "these expansions belong to another set of queries"
            )
        return record if record is not None else self._by_query.get(query)

    def describe(self) -> dict[str, Any]:
        """Everything that determines the texts, as JSON values: a hash of the records, and how they are used."""
        return {
            "records_sha256": hashlib.sha256(self._content().encode()).hexdigest(),
            "on_missing": self.on_missing,
            **({} if self.n is None else {"n": self.n}),
            **cleaning_record(self.cleaning, self.keep_refusals),
        }

    def _content(self) -> str:
        return json.dumps([[r.qid, r.query, r.passages] for r in self._all()])

    def _key(self) -> tuple[Any, ...]:
        return (self._content(), self.on_missing, self.n, self.cleaning, self.keep_refusals)

    def _all(self) -> list[Record]:
        return [*self._by_qid.values(), *(r for r in self._by_query.values() if r.qid is None)]

    def __repr__(self) -> str:
        where = repr(str(self.records)) if isinstance(self.records, (str, Path)) else f"<{len(self.records)} records>"
        return f"RecordedExpander({where})"


def _folded(query: str) -> str:
    """A query with white space and case normalised, since copies of the same collection differ in these."""
    return " ".join(query.split()).casefold()
