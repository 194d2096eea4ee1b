"""Data for training and evaluating the retriever: rows in a memory-mapped file, and a held-out part."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.files import replacing
from ...expansion.cleaning.passage import passages_in
from ..data.examples import TrainingExample, open_examples, split_examples
from .fused_batches import key_of

if TYPE_CHECKING:
    from datasets import Dataset

    from .train import RetrieverTrainingConfig


@dataclass
class Survey:
    """The result of a first pass over the examples.

    Attributes:
        dev: the held-out examples, one for each query.
        rows: number of (query, positive) pairs to train on.
        expanded: how many of them have an expansion.
        relevant: `key_of(query)` -> keys of relevant ids and texts that a single row does not contain.
        sha256: a hash over all of it, including the order.
    """

    dev: list[TrainingExample]
    rows: int = 0
    expanded: int = 0
    relevant: dict[int, list[int]] = field(default_factory=dict)
    sha256: str = ""


def survey(config: RetrieverTrainingConfig) -> Survey:
    """Read the examples once: what to hold out, how much to train on, and which documents are relevant to which query.

    Raises:
        ValueError: an example without a positive, held-out queries among the training queries (they are named), nothing
            to train on, or no expansion at all for the stage "expandr".
    """
    found = Survey(_merged(_dev_examples(config)))
    held_out = {_normalized(example.query): example.query_id for example in found.dev}
    digest = hashlib.sha256(json.dumps([_content(example) for example in found.dev]).encode())
    relevant: dict[int, set[int]] = {}
    overlap = []
    for example in _train_examples(config):
        if not example.positives:
            raise ValueError(
                f"query {example.query_id!r} has no positive, so nothing can be learnt from it: leave it out"
            )
        if _normalized(example.query) in held_out:
            overlap.append(example.query_id)
        digest.update(json.dumps(_content(example)).encode())
        found.rows += len(example.positives)
        found.expanded += len(example.positives) * bool(example.expansions)
        keys = relevant.setdefault(key_of(example.query), set())
        keys.update(key_of(f"id:{doc_id}") for doc_id in example.positive_ids)
        keys.update(map(key_of, example.positives))
    if overlap:
        raise ValueError(
            f"{len(overlap)} of the held-out queries are also trained on, which makes their scores meaningless: "
            f"remove them from the training or the held-out queries, e.g. {overlap[:5]}"
        )
    if found.rows < 2 and config.stage != "raw":
        raise ValueError(
            f"{config.data!r} leaves {found.rows} training pairs, but contrastive training needs at least two"
        )
    if config.stage == "expandr" and not found.expanded:
        raise ValueError(
            f'no query of {config.data!r} has an expansion: pass expansions= (a file written by "expandr expand"), '
            'or train with stage="ft"'
        )
    found.relevant = {key: sorted(keys) for key, keys in relevant.items() if len(keys) > 2}
    found.sha256 = digest.hexdigest()
    return found


def training_rows(config: RetrieverTrainingConfig, survey: Survey) -> Iterator[dict[str, Any]]:
    """The rows for `FusedBatchCollator`: one for each positive of each example."""
    for example in _train_examples(config):
        for doc_id, text in zip(example.positive_ids, example.positives, strict=True):
            yield {
                "query": example.query,
                "positive": text,
                "positive_id": doc_id,
                "negatives": list(example.negatives[: config.negatives]),
                "expansions": list(example.expansions),
                "relevant": survey.relevant.get(key_of(example.query), []),
            }


def training_dataset(path: Path, config: RetrieverTrainingConfig, survey: Survey) -> Dataset:
    """The rows as a memory-mapped Arrow file at `path`, which is written if it does not exist yet."""
    from datasets import Dataset, Features, Sequence, Value
    from datasets.arrow_writer import ArrowWriter

    if not path.is_file():
        texts = {name: Value("large_string") for name in ("query", "positive", "positive_id")}
        lists = {name: Sequence(Value("large_string")) for name in ("negatives", "expansions")}
        features = Features(texts | lists | {"relevant": Sequence(Value("int64"))})
        with replacing(path) as part, ArrowWriter(path=str(part), features=features) as writer:
            for row in training_rows(config, survey):
                writer.write(row)
            writer.finalize()
    return Dataset.from_file(str(path))


def _train_examples(config: RetrieverTrainingConfig) -> Iterator[TrainingExample]:
    examples = _examples(config, config.data, config.split)
    if config.dev_data is not None or not config.dev_fraction:
        return examples
    return (example for part, example in _split(examples, config) if part == "train")


def _dev_examples(config: RetrieverTrainingConfig) -> Iterator[TrainingExample]:
    if config.dev_data is not None:
        found = _examples(config, config.dev_data, config.dev_split)
    elif config.dev_fraction:
        examples = _examples(config, config.data, config.split)
        found = (e for part, e in _split(examples, config) if part == "dev")
    else:
        return
    for place, example in enumerate(found):
        if place == config.dev_queries:
            return
        yield example


def _split(
    examples: Iterator[TrainingExample], config: RetrieverTrainingConfig
) -> Iterator[tuple[str, TrainingExample]]:
    """`(part, example)`; queries that differ only in case and white space go to the same part."""
    sizes = {"dev": config.dev_fraction, "train": 1 - config.dev_fraction}
    # Not the run's own seed: data that was itself split with that would be held out entirely or not at all.
    return split_examples(examples, sizes, config.seed + 1, spelling=_normalized)


def _examples(config: RetrieverTrainingConfig, source: str, split: str) -> Iterator[TrainingExample]:
    """The examples of a source with the stage's expansions, cleaned as in retrieval, without blanks and refusals."""
    recorded: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    if config.expansions is not None and config.stage == "expandr":
        from ...expansion.recorded import read_expansions

        recorded = read_expansions(config.expansions)
    for example in open_examples(source, split, min_relevance=config.min_relevance):
        expansions = example.expansions
        if config.stage != "expandr":
            expansions = ()
        elif record := recorded[0].get(example.query_id) or recorded[1].get(example.query):
            if record.query is not None and _normalized(record.query) != _normalized(example.query):
                raise ValueError(
                    f"the expansion recorded for query {example.query_id!r} belongs to {record.query!r}, but the query "
                    f"is {example.query!r}: {config.expansions!r} belongs to another collection"
                )
            expansions = tuple(record.passages)
        yield replace(example, expansions=tuple(passages_in(expansions)[0]))


def _merged(examples: Iterator[TrainingExample]) -> list[TrainingExample]:
    """One example per query, since the same query may occur in several rows of pairs."""
    found: dict[str, TrainingExample] = {}
    for example in examples:
        first = found.setdefault(_normalized(example.query), example)
        if first is not example:
            ids = dict(zip(first.positive_ids + example.positive_ids, first.positives + example.positives, strict=True))
            negatives = tuple(dict.fromkeys(first.negatives + example.negatives))
            found[_normalized(example.query)] = replace(
                first, positive_ids=tuple(ids), positives=tuple(ids.values()), negatives=negatives
            )
    return list(found.values())


def _normalized(query: str) -> str:
    return " ".join(query.lower().split())


def _content(example: TrainingExample) -> list[Any]:
    return [example.query, *map(list, (example.positive_ids, example.positives, example.negatives, example.expansions))]
