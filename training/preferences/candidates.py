"""Candidates for preference pairs: many expansions of each query, and an answer generated from the gold document."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...common.jsonl import read_jsonl, write_jsonl
from ...expansion.backends.base import Backend, Generation, Request, Sampling
from ...expansion.cache import GenerationCache
from ...expansion.cleaning.passage import passages_in
from ...expansion.generation import generate_cached
from ...expansion.progress import GenerationProgress, generation_progress
from ...expansion.prompts import cut_to_fit, fit, resolve_prompt
from ..data.chunks import in_chunks
from ..data.examples import TrainingExample
from ..setting_checks import check_flag, check_number, check_whole

#: number of queries whose texts are requested together: many, since a backend batches prompts of similar length, and an
#: engine idles while the last texts of a chunk are written; each batch is stored when it finishes all the same
CHUNK = 512

#: characters of the gold document for which an overlong query must leave room
LEAST_DOCUMENT = 200


@dataclass(frozen=True)
class CandidateSet:
    """The cleaned candidates of one query, ordered by temperature and then by sample.

    `temperatures` gives the temperature at which each candidate was drawn, and `truncated` whether it was cut at
    `max_new_tokens`, in the same order; both are empty if unknown.
    `answer`, like a candidate, is "" if the model gave none or refused.

    Example:
        >>> CandidateSet("1", "why is the sky blue", "d7", "Air.", "Scattering.", ("A.", "B."), (0.8, 1.0)).answer
        'Scattering.'
    """

    query_id: str
    query: str
    positive_id: str
    positive: str
    answer: str
    candidates: tuple[str, ...]
    temperatures: tuple[float, ...] = ()
    truncated: tuple[bool, ...] = ()


@dataclass(frozen=True)
class CandidateSettings:
    """What is drawn for each query; the defaults are the paper's: 8 samples at each of 4 temperatures.

    Args:
        temperatures: for the candidates.
        samples: at each temperature.
        top_p, max_new_tokens, seed: see `Sampling`.
        prompt: for the candidates, a named prompt or a template with `{query}`.
        answer_prompt: for the answer, a named prompt or a template with `{query}` and `{document}`.
        answer_temperature: for the answer.
        answers: whether an answer is written, with which the reward "self" compares. Its prompt holds a document, so
            that on a CPU it takes as long as dozens of candidates.

    Raises:
        ValueError: no or duplicate temperatures, no samples, values out of range, or a template with other fields.
        TypeError: a value that is not a number, or a count that is not a whole number.

    Example:
        >>> CandidateSettings().count
        32
    """

    temperatures: tuple[float, ...] = (0.8, 0.9, 1.0, 1.1)
    samples: int = 8
    top_p: float = 0.9
    max_new_tokens: int = 512
    seed: int = 42
    prompt: str = "q2d"
    answer_prompt: str = "q2a"
    answer_temperature: float = 1.0
    answers: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.temperatures, str) or not isinstance(self.temperatures, Iterable):
            raise ValueError(f"temperatures must be a list of numbers, got {self.temperatures!r}")
        temperatures = tuple(self.temperatures)
        for temperature in temperatures:
            check_number("each of temperatures", temperature)
        object.__setattr__(self, "temperatures", tuple(map(float, temperatures)))
        for name in ("answer_temperature", "top_p"):
            check_number(name, getattr(self, name))
        for name in ("samples", "max_new_tokens"):
            check_whole(name, getattr(self, name))
        check_flag("answers", self.answers)
        if not self.temperatures or len(set(self.temperatures)) < len(self.temperatures):
            raise ValueError(f"temperatures must be one or more distinct values, got {self.temperatures}")
        for temperature in (*self.temperatures, self.answer_temperature):
            self.sampling(temperature)
        resolve_prompt(self.prompt)
        resolve_prompt(self.answer_prompt, fields=("document", "query"))

    @property
    def count(self) -> int:
        """Number of candidates per query."""
        return len(self.temperatures) * self.samples

    def recorded(self) -> dict[str, Any]:
        """The settings as stored in records: `answers` only if there are none, as before this setting existed.

        Example:
            >>> "answers" in CandidateSettings().recorded()
            False
        """
        return {name: value for name, value in asdict(self).items() if (name, value) != ("answers", True)}

    def sampling(self, temperature: float) -> Sampling:
        """The sampling settings for a temperature."""
        return Sampling(temperature, self.top_p, self.max_new_tokens, self.seed)


def generate_candidates(
    examples: Iterable[TrainingExample],
    backend: Backend,
    settings: CandidateSettings | None = None,
    *,
    cache: str | Path | GenerationCache | None = None,
    total: int | None = None,
    verbose: bool = False,
) -> Iterator[CandidateSet]:
    """A `CandidateSet` for each example, in order, as a stream.

    The answer is written for the query and its first positive; without `answers` it is "". Documents and queries that
    are too long for the model's context are cut at the end; the prompt's own words never are. An answer that is empty
    or a refusal is requested once more, with the next seed. Cached texts are not generated again, and each batch is
    stored when it finishes: a run that was killed resumes there and ends with the same texts.

    Args:
        examples: queries with a positive.
        backend: the backend that writes the texts, e.g. `HuggingFaceBackend`.
        settings: temperatures, samples, prompts.
        cache: a path or a `GenerationCache`; None keeps the texts in memory only.
        total: number of examples, to tell how much there is to write; None if it is unknown.
        verbose: show a progress bar.

    Raises:
        ValueError: an example without a positive, or a prompt that leaves no room in the model's context.

    Example:
        >>> from pyterrier_expandr import HuggingFaceBackend
        >>> from pyterrier_expandr.training.data.examples import open_examples
        >>> backend = HuggingFaceBackend("Qwen/Qwen2.5-0.5B-Instruct")
        >>> next(generate_candidates(open_examples("pocket"), backend, cache="c.sqlite"))  # doctest: +SKIP
    """
    settings = settings or CandidateSettings()
    store = cache if isinstance(cache, GenerationCache) else GenerationCache(cache) if cache else GenerationCache()
    requested = None if total is None else total * (settings.count + settings.answers)
    with _progress("Candidates", backend, settings, requested, verbose) as progress:
        for chunk in in_chunks(examples, CHUNK):
            yield from _of_chunk(chunk, backend, settings, store, progress)


def _progress(
    desc: str, backend: Backend, settings: CandidateSettings, texts: int | None, verbose: bool
) -> AbstractContextManager[GenerationProgress]:
    """The progress of a run of which only each chunk shows how much is cached: other stages' texts are in there too."""
    tokens = (texts or 0) * settings.max_new_tokens
    return generation_progress(desc, backend, texts=texts, cached=None, tokens=tokens, verbose=verbose)


def _of_chunk(
    chunk: list[TrainingExample],
    backend: Backend,
    settings: CandidateSettings,
    store: GenerationCache,
    progress: GenerationProgress,
) -> Iterator[CandidateSet]:
    asked = [_candidate_requests(example, backend, settings) for example in chunk]
    answers = [_answer_request(example, backend, settings) for example in chunk if settings.answers]
    requests = [request for of_query in asked for request in of_query] + answers
    drawn = generate_cached(backend, requests, store, progress=progress)
    texts = [[_clean(g, request) for g in group] for request, group in zip(requests, drawn, strict=True)]
    per_query = len(settings.temperatures)
    given = [group[0] for group in texts[len(chunk) * per_query :]]
    written = _asked_again(given, answers, backend, store, progress) or [""] * len(chunk)
    for place, example in enumerate(chunk):
        groups = texts[place * per_query : (place + 1) * per_query]
        yield CandidateSet(
            example.query_id,
            example.query,
            example.positive_ids[0],
            example.positives[0],
            written[place],
            tuple(text for group in groups for text in group),
            tuple(temperature for temperature in settings.temperatures for _ in range(settings.samples)),
            tuple(one.truncated for group in drawn[place * per_query : (place + 1) * per_query] for one in group),
        )


def generate_answers(
    examples: Iterable[TrainingExample],
    backend: Backend,
    settings: CandidateSettings,
    *,
    cache: GenerationCache,
    total: int,
    verbose: bool = False,
) -> Iterator[CandidateSet]:
    """A `CandidateSet` with an answer and no candidates for each example: all that an online method's rewards need.

    Answers are those of `generate_candidates`.
    """
    with _progress("Answers", backend, settings, total, verbose) as progress:
        for chunk in in_chunks(examples, CHUNK):
            requests = [_answer_request(example, backend, settings) for example in chunk]
            drawn = generate_cached(backend, requests, cache, progress=progress)
            given = [_clean(group[0], request) for group, request in zip(drawn, requests, strict=True)]
            for one, answer in zip(chunk, _asked_again(given, requests, backend, cache, progress), strict=True):
                yield CandidateSet(one.query_id, one.query, one.positive_ids[0], one.positives[0], answer, ())


def _asked_again(
    answers: list[str],
    requests: list[Request],
    backend: Backend,
    store: GenerationCache,
    progress: GenerationProgress,
) -> list[str]:
    """The answers; empty ones are requested once more with the next seed."""
    empty = [place for place, answer in enumerate(answers) if not answer]
    again = [
        replace(requests[place], sampling=replace(requests[place].sampling, seed=requests[place].sampling.seed + 1))
        for place in empty
    ]
    progress.expect(len(again))
    fresh = dict(zip(empty, generate_cached(backend, again, store, progress=progress), strict=True))
    return [
        _clean(fresh[place][0], requests[place]) if place in fresh else answer for place, answer in enumerate(answers)
    ]


def _candidate_requests(example: TrainingExample, backend: Backend, settings: CandidateSettings) -> list[Request]:
    template = resolve_prompt(settings.prompt)
    messages, _ = fit(
        template, {"query": example.query}, cut="query", backend=backend, max_new_tokens=settings.max_new_tokens
    )
    samples = tuple(range(settings.samples))
    return [Request(messages, settings.sampling(temperature), samples) for temperature in settings.temperatures]


def _answer_request(example: TrainingExample, backend: Backend, settings: CandidateSettings) -> Request:
    if not example.positives:
        raise ValueError(f"example {example.query_id!r} has no positive document to base an answer on")
    template = resolve_prompt(settings.answer_prompt, fields=("document", "query"))
    room: dict[str, Any] = {"backend": backend, "max_new_tokens": settings.max_new_tokens}
    fields = {"query": example.query, "document": example.positives[0][:LEAST_DOCUMENT]}
    query = cut_to_fit(template, fields, cut="query", **room)
    messages, _ = fit(template, {"query": query, "document": example.positives[0]}, cut="document", **room)
    return Request(messages, settings.sampling(settings.answer_temperature))


def _clean(generation: Generation, request: Request) -> str:
    """The passage in a text, or "" if there is none."""
    passages, _ = passages_in([generation.text], request.messages[0]["content"])
    return passages[0] if passages else ""


def write_candidates(path: str | Path, sets: Iterable[CandidateSet]) -> int:
    """Write candidate sets to a JSONL file and return their number; the file appears only when complete."""
    return write_jsonl(path, map(asdict, sets))


def read_candidates(path: str | Path) -> Iterator[CandidateSet]:
    """The candidate sets of a file that `write_candidates` wrote, or of rows with `passages` and `qid` instead.

    Raises:
        ValueError: a malformed line, or missing fields (file, line and the fields found are named).
    """
    for where, row in read_jsonl(path):
        unknown = {"temperatures": (), "truncated": ()}
        row = {"query_id": row.get("qid"), "candidates": row.get("passages"), **unknown} | row
        yield _from_row(row, where)


def _from_row(row: dict[str, Any], where: str) -> CandidateSet:
    names = list(CandidateSet.__dataclass_fields__)
    if missing := [name for name in names if row.get(name) is None]:
        found = sorted(name for name in row if row[name] is not None)
        raise ValueError(f"{where} lacks the fields {missing}; it has {found}")
    candidates, marks = row["candidates"], {name: row[name] for name in ("temperatures", "truncated")}
    texts = isinstance(candidates, list) and all(isinstance(text, str) for text in candidates)
    if not texts or not all(isinstance(m, (list, tuple)) and len(m) in (0, len(candidates)) for m in marks.values()):
        raise ValueError(
            f"{where}: candidates must be a list of strings; temperatures and truncated, if given, must have one value "
            "for each"
        )
    values = {name: str(row[name]) for name in names if name not in ("candidates", *marks)}
    temperatures, truncated = (tuple(mark) for mark in marks.values())
    return CandidateSet(**values, candidates=tuple(candidates), temperatures=temperatures, truncated=truncated)
