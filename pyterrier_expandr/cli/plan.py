"""What a run will take before it starts: texts, tokens, hours, disk and memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .common import LLM_HELP, Collection, Device, Split, app, open_collection, say, topics_of

if TYPE_CHECKING:
    import pandas as pd

#: documents and queries on which speeds are measured; texts that are encoded before the clock starts
SAMPLE_DOCS, SAMPLE_QUERIES, WARM = 64, 2, 8
#: bytes of a text in the cache for each of its tokens, and besides: English, measured with SQLite
TEXT_BYTES, ROW_BYTES = 5, 400
GB = 1e9


@dataclass(frozen=True)
class Run:
    """A run whose cost is asked for: what there is to do, and how fast one machine does it.

    Args:
        documents, queries: their numbers.
        n: texts for each query.
        tokens: tokens of one text.
        tokens_per_second, docs_per_second: speeds of one machine; None if not known.
        dim: size of a vector.
        factory: FAISS factory of the index.
        machines: machines that share the texts and the documents.
    """

    documents: int
    queries: int
    n: int
    tokens: float
    tokens_per_second: float | None
    docs_per_second: float | None
    dim: int
    factory: str = "Flat"
    machines: int = 1

    @property
    def texts(self) -> int:
        """Texts that the LLM writes."""
        return self.queries * self.n

    @property
    def writing_hours(self) -> float | None:
        """Hours in which all machines write all texts."""
        return hours(self.texts * self.tokens, self.tokens_per_second, self.machines)

    @property
    def encoding_hours(self) -> float | None:
        """Hours in which all machines encode documents, queries and texts."""
        return hours(self.documents + self.queries + self.texts, self.docs_per_second, self.machines)

    @property
    def index_bytes(self) -> int:
        """Bytes of the index on disk, docnos not counted; they are mapped into memory as searches need them."""
        from ..retrieval.factories import bytes_per_vector, check_factory

        return int(bytes_per_vector(check_factory(self.factory, "ip", self.dim)) * self.documents)

    @property
    def build_bytes(self) -> int:
        """Bytes of memory that building the index takes on one machine, the process itself not counted."""
        from ..retrieval.factories import build_memory, check_factory

        return build_memory(check_factory(self.factory, "ip", self.dim), self.documents, self.dim)


def hours(amount: float, per_second: float | None, machines: int) -> float | None:
    """Hours for an amount of work that machines share; None if the speed is not known.

    Example:
        >>> hours(7_200_000, 1000, machines=2)
        1.0
    """
    return None if per_second is None else amount / per_second / machines / 3600


def plan_lines(run: Run) -> Iterator[str]:
    """The estimate, line by line.

    Example:
        >>> run = Run(1_000_000, 1000, 4, 200, 800.0, 50.0, 384, "SQ8")
        >>> for line in plan_lines(run): print(line)
        texts      4,000 (1,000 queries x 4), 200 tokens each: 800,000 tokens
        writing    0.3 hours at 800 tokens/s
        encoding   5.6 hours at 50 texts/s: 1,000,000 documents, 1,000 queries, 4,000 texts
        disk       0.38 GB for the index (SQ8, 384 dimensions), 1.54 GB more while it is built, 0.01 GB for the texts
        memory     0.38 GB to build the index, and at most 0.38 GB of it mapped to search
    """
    on = f" on each of {run.machines} machines" if run.machines > 1 else ""
    yield (
        f"texts      {run.texts:,} ({run.queries:,} queries x {run.n}), {run.tokens:.0f} tokens each: "
        f"{run.texts * run.tokens:,.0f} tokens"
    )
    written = _hours(run.writing_hours, run.tokens_per_second, "tokens/s", on, "--llm or --tokens-per-second")
    yield f"writing    {written}"
    encoded = _hours(run.encoding_hours, run.docs_per_second, "texts/s", on, "--encoder or --docs-per-second")
    yield f"encoding   {encoded}: {run.documents:,} documents, {run.queries:,} queries, {run.texts:,} texts"
    spool, cache = run.documents * run.dim * 4, run.texts * (run.tokens * TEXT_BYTES + ROW_BYTES)
    yield (
        f"disk       {run.index_bytes / GB:.2f} GB for the index ({run.factory}, {run.dim} dimensions), "
        f"{spool / GB:.2f} GB more while it is built, {cache / GB:.2f} GB for the texts"
    )
    yield (
        f"memory     {run.build_bytes / GB:.2f} GB to build the index, and at most {run.index_bytes / GB:.2f} GB of it "
        "mapped to search"
    )


def _hours(value: float | None, speed: float | None, unit: str, on: str, mend: str) -> str:
    return f"unknown, give {mend}" if value is None else f"{value:,.1f} hours at {speed:,.0f} {unit}{on}"


@app.command(
    epilog="Example: expandr plan --collection pocket --encoder contriever --llm Qwen/Qwen2.5-7B-Instruct --n 8"
)
def plan(
    collection: Collection,
    split: Split = "test",
    encoder: Annotated[str | None, typer.Option(help="Encodes 64 documents to measure its speed.")] = None,
    llm: Annotated[str | None, typer.Option(help=f"Writes for 2 queries to measure its speed. {LLM_HELP}")] = None,
    n: Annotated[int, typer.Option(help="Expansions for each query.", min=1)] = 1,
    prompt: Annotated[str, typer.Option(help="q2d, q2q, q2e, q2c, or a template with {query}.")] = "q2d",
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of a text.", min=1)] = 512,
    factory: Annotated[str, typer.Option(help="FAISS factory string.")] = "Flat",
    dim: Annotated[int, typer.Option(help="Size of a vector, where no encoder tells it.", min=1)] = 768,
    documents: Annotated[int | None, typer.Option(help="Number of documents; counted if not given.", min=1)] = None,
    queries: Annotated[int | None, typer.Option(help="Number of queries; counted if not given.", min=1)] = None,
    tokens_per_second: Annotated[float | None, typer.Option(help="The LLM's speed on another machine.")] = None,
    docs_per_second: Annotated[float | None, typer.Option(help="The encoder's speed on another machine.")] = None,
    machines: Annotated[int, typer.Option(help="Machines that share the work.", min=1)] = 1,
    device: Device = None,
) -> None:
    """Say what a run will take: texts, tokens, hours, disk, memory; speeds are measured here on a small sample."""
    for name, value in (("tokens_per_second", tokens_per_second), ("docs_per_second", docs_per_second)):
        if value is not None and value <= 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    dataset = open_collection(collection, split)
    topics = topics_of(dataset)
    tokens = float(max_new_tokens)
    if encoder is not None:
        measured, dim = encoding_speed(encoder, device, dataset.get_corpus_iter(verbose=False))
        docs_per_second = docs_per_second or measured
    if llm is not None:
        tokens, speed = writing_speed(llm, device, topics.head(SAMPLE_QUERIES), n, prompt, max_new_tokens)
        tokens_per_second = tokens_per_second or speed
    count = documents or sum(1 for _ in dataset.get_corpus_iter(verbose=False))
    run = Run(count, queries or len(topics), n, tokens, tokens_per_second, docs_per_second, dim, factory, machines)
    for line in plan_lines(run):
        say(line)


def encoding_speed(name: str, device: str | None, corpus: Iterable[dict[str, Any]]) -> tuple[float, int]:
    """Documents per second of an encoder on this machine, over 64 documents, and the size of its vectors."""
    from ..common.frames import document_text
    from ..encoding.registry import load_encoder

    model = load_encoder(name, fuse=True, device=device)
    texts = [document_text(doc.get("title", ""), doc["text"]) for doc in islice(corpus, SAMPLE_DOCS)]
    model.encode_docs(texts[:WARM])
    start = time.perf_counter()
    vectors = model.encode_docs(texts)
    return len(texts) / (time.perf_counter() - start), int(vectors.shape[1])


def writing_speed(
    llm: str, device: str | None, topics: pd.DataFrame, n: int, prompt: str, max_new_tokens: int
) -> tuple[float, float]:
    """Mean tokens of a text, and tokens per second, of an LLM on this machine; loading the model is not timed."""
    from ..expansion.backends.base import Request, Sampling
    from ..expansion.backends.opening import open_backend
    from ..expansion.prompts import requests_for, resolve_prompt

    with open_backend(llm, device=device) as backend:

        def requests(number: int, longest: int) -> list[Request]:
            rows = [(query, "") for query in topics["query"]]
            sampling = Sampling(max_new_tokens=longest)
            return list(requests_for([resolve_prompt(prompt)], rows, sampling, number, backend)[0].values())

        backend.generate(requests(1, 1))
        start = time.perf_counter()
        written = [one for own in backend.generate(requests(n, max_new_tokens)) for one in own]
        seconds = time.perf_counter() - start
    # A server that does not count is taken at four tokens for three words.
    counts = [one.tokens[1] if one.tokens else len(one.text.split()) * 4 / 3 for one in written]
    return sum(counts) / len(counts), sum(counts) / seconds
