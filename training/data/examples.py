"""Training examples: queries with relevant and non-relevant documents, from any source, as one stream."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ...collections.opening import is_collection
from ...common.files import path_of, with_home
from ...common.frames import without_surrogates
from ...common.jsonl import read_jsonl, write_jsonl
from .example import TrainingExample as TrainingExample
from .judged import examples_of_collection

#: names of the fields of a `TrainingExample` in files: here, in the E5 mixture, and in the released data
FIELDS = {
    "query_id": ("query_id",),
    "query": ("query",),
    "positive_ids": ("positive_ids", "positive_id"),
    "positives": ("positives", "positive", "pos"),
    "negatives": ("negatives", "negative", "neg"),
    "expansions": ("expansions", "pseudo_doc"),
}

#: the share of each file's rows in the paper's mixture (file name without extension -> share); the others (fever,
#: hotpot_qa, nq, squad, trivia_qa) are taken whole. Names as in the README of the reference code.
E5_RATIOS = {"eli5_question_answer": 0.1, "msmarco_passage": 0.5, "msmarco_document": 0.2}


def open_examples(
    source: str | Path,
    split: str = "train",
    *,
    min_relevance: int = 1,
    ratios: Mapping[str, float] | None = None,
    seed: int = 42,
    skipped: Counter[str] | None = None,
) -> Iterator[TrainingExample]:
    """The training examples of a source, as a stream.

    Args:
        source: `pocket`, `irds:NAME`, a BEIR folder, a JSONL file, or a folder of JSONL files.
        split: the split of the judgments, for pocket and BEIR folders; other sources have none or name it.
        min_relevance: the lowest grade at which a document counts as positive.
        ratios: for JSONL, the share of rows to take, by file name without extension; E5_RATIOS is the paper's.
        seed: for sampling those rows.
        skipped: a counter for broken or unknown input, which is then skipped; without one, such input raises an error.

    Raises:
        ValueError: an unknown source, `min_relevance` below 1, judgments of unknown queries or documents, broken lines.

    Example:
        >>> next(open_examples("pocket", "train")).query_id
        'q02'
    """
    name = with_home(str(source))
    path = Path(name)
    if is_collection(name):
        if ratios:
            raise ValueError(f"ratios apply to JSONL files, but {name} is a collection: leave them out")
        return examples_of_collection(name, split, min_relevance=min_relevance, skipped=skipped)
    if path.is_file() or path.is_dir():
        return examples_from_jsonl(path, ratios=ratios, seed=seed, skipped=skipped)
    raise ValueError(
        f"found no training data in {name!r}: give pocket, irds:NAME, a folder in BEIR format, or JSONL (file or "
        "folder)"
    )


def examples_from_jsonl(
    path: str | Path,
    *,
    ratios: Mapping[str, float] | None = None,
    seed: int = 42,
    skipped: Counter[str] | None = None,
    unjudged: bool = False,
) -> Iterator[TrainingExample]:
    """Examples from a JSONL file or a folder of them, in E5's, the released retriever data's or our own format.

    A row has `query` and `positive` (or `pos`, `positives`), and may have `negative` (`neg`, `negatives`), `pseudo_doc`
    (`expansions`), `query_id` and `positive_id(s)`; texts are strings or lists of strings. Missing ids become
    `FILE-LINE`. Whether a row is in a file's share depends only on the seed and the row itself, so rows appended at the
    end do not change the selection before them. With `unjudged`, as in a query log, rows may lack positives.

    Raises:
        ValueError: a malformed line, missing fields (those found are listed), a ratio outside (0, 1] or for no file.
        FileNotFoundError: the folder contains no such files.

    Example:
        >>> next(examples_from_jsonl("nq.jsonl", ratios={"nq": 0.1})).negatives  # doctest: +SKIP
    """
    path, ratios = Path(path_of(path)), dict(ratios or {})
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise FileNotFoundError(f"{path} contains no *.jsonl file")
    if strange := {name: share for name, share in ratios.items() if not 0 < share <= 1}:
        raise ValueError(f"ratios must be above 0 and at most 1, got {strange}")
    if unknown := ratios.keys() - {file.stem for file in files}:
        raise ValueError(
            f"ratios name files that do not exist: {sorted(unknown)}; the files are {[file.stem for file in files]}"
        )
    for file in files:
        share = ratios.get(file.stem, 1.0)
        for where, row in read_jsonl(file, skipped=skipped):
            try:
                example = _from_row(row, where, f"{file.stem}-{where.rsplit(':', 1)[1]}", unjudged)
            except ValueError:
                if skipped is None:
                    raise
                skipped["wrong fields"] += 1
                continue
            if share == 1.0 or _uniform(seed, "".join(example.positives[:1]), example.query) < share:
                yield example


def _from_row(row: dict[str, Any], where: str, own_id: str, unjudged: bool) -> TrainingExample:
    values = {field: next((row[n] for n in names if row.get(n) is not None), None) for field, names in FIELDS.items()}
    query, positives = values["query"], _texts(values["positives"], where)
    if not isinstance(query, str) or not (positives or unjudged):
        needed = "a query" if unjudged else "a query and a positive (or pos, positives)"
        raise ValueError(
            f"{where} needs {needed}; its fields are {sorted(row)}"
            if query is None or values["positives"] is None
            else f"{where}: query must be a string, and positives at least one text"
        )
    query_id = own_id if values["query_id"] is None else str(values["query_id"])
    ids = _texts(values["positive_ids"], where) or [f"{query_id}+{n}" for n in range(len(positives))]
    if len(ids) != len(positives):
        raise ValueError(f"{where} has {len(ids)} positive ids but {len(positives)} positives that are not blank")
    negatives, expansions = _texts(values["negatives"], where), _texts(values["expansions"], where)
    return TrainingExample(
        query_id, without_surrogates(query), tuple(ids), tuple(positives), tuple(negatives), tuple(expansions)
    )


def _texts(value: Any, where: str) -> list[str]:
    texts = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(text, (str, int)) for text in texts):
        raise ValueError(f"{where}: texts and ids must be strings or lists of strings, got {value!r:.80}")
    return [without_surrogates(str(text)) for text in texts if str(text).strip()]


def write_examples(path: str | Path, examples: Iterable[TrainingExample], *, released: bool = False) -> int:
    """Write examples to a JSONL file that `examples_from_jsonl` can read, and return their number.

    With `released`, use the format of the released retriever data, `{query, pseudo_doc, pos, neg}`, which has no
    room for ids or for expansions after the first.
    """
    return write_jsonl(path, map(_released if released else asdict, examples))


def _released(example: TrainingExample) -> dict[str, Any]:
    return {
        "query": example.query,
        "pseudo_doc": example.expansions[0] if example.expansions else "",
        "pos": list(example.positives),
        "neg": list(example.negatives),
    }


def split_examples(
    examples: Iterable[TrainingExample],
    parts: Mapping[str, float],
    seed: int = 42,
    *,
    spelling: Callable[[str], str] = str,
) -> Iterator[tuple[str, TrainingExample]]:
    """Yield `(part, example)` from a seeded random split; appending examples does not change the parts of earlier ones.

    Args:
        examples: a stream.
        parts: name -> size. Sizes that sum to 1 or less are fractions: an example's part depends on its query. Whole
            numbers are counts: parts fill up in stream order, and whatever comes after the last one is full is dropped.
            Counts therefore give a random split only if they add up to the length of the stream, as the paper's do:
            `{"llm": 100_000, "retriever-train": 637_866, "retriever-dev": 70_874}`. For part of
            a sorted stream (by file, for instance), use fractions.
        seed: for the split.
        spelling: normalises a query; queries with the same normalised form are treated as equal.

    Equal queries go to the same part while it has room, so that no part is trained on queries that another evaluates.

    Raises:
        ValueError: no parts, negative sizes, fractions that sum to more than 1, or a mix of fractions and counts.

    Example:
        >>> examples = [TrainingExample(str(n), f"query {n}", ("d",), ("text",)) for n in range(4)]
        >>> [part for part, _ in split_examples(examples, {"train": 2, "dev": 1})]
        ['train', 'train', 'dev']
    """
    sizes = dict(parts)
    counts = are_counts(sizes)
    room = dict(sizes)
    placed: dict[int, str] = {}
    for example in examples:
        key = _hash(seed, "", spelling(example.query))
        part = placed.get(key)
        if part is None or room[part] <= 0:
            part = _part(key / 2**64, room if counts else sizes, whole=counts)
        if part is None:
            if counts:
                return
            continue
        if counts:
            room[part] -= 1
            placed[key] = part
        yield part, example


def are_counts(sizes: Mapping[str, float]) -> bool:
    """Whether the sizes of parts are whole numbers rather than fractions. Raises ValueError if they are neither."""
    numbers = [size for size in sizes.values() if isinstance(size, (int, float))]
    counts = all(float(size).is_integer() for size in numbers) and sum(numbers) > 1
    if not numbers or len(numbers) < len(sizes) or min(numbers) < 0 or (not counts and sum(numbers) > 1 + 1e-9):
        raise ValueError(f"sizes must be whole numbers, or fractions that sum to at most 1, got {dict(sizes)}")
    return counts


def _part(uniform: float, sizes: Mapping[str, float], *, whole: bool) -> str | None:
    """The part whose interval contains `uniform`, a number in [0, 1); each interval is as wide as its part's size."""
    place = uniform * (sum(sizes.values()) if whole else 1.0)
    for name, size in sizes.items():
        if size > 0 and place < size:
            return name
        place -= size
    return None


def _hash(seed: int, text: str, query: str) -> int:
    digest = hashlib.sha256(f"{seed}\0{text}\0{query}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big")


def _uniform(seed: int, text: str, query: str) -> float:
    """A number in [0, 1) that depends only on the arguments."""
    return _hash(seed, text, query) / 2**64
