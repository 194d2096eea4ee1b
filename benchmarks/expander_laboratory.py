"""Where `benchmarks.expander_effect` trains attempts, lets models write, and measures what their texts find."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import ir_measures
import numpy as np
import pandas as pd
from ir_measures import R, nDCG

from benchmarks.exact_search import measured_search
from benchmarks.expander_attempts import ATTEMPTS, COMMON, TEACHERS, Attempt
from benchmarks.hybrid import FOLDERS
from benchmarks.retriever_training import folds_of
from benchmarks.thoughts import document_vectors
from pyterrier_expandr import ExpandREncoder, HuggingFaceBackend, LLMExpander
from pyterrier_expandr.common.jsonl import read_jsonl
from pyterrier_expandr.encoding import demo_encoder_folder
from pyterrier_expandr.expansion.prompts import render, resolve_prompt
from pyterrier_expandr.expansion.recorded import read_expansions
from pyterrier_expandr.training.data.examples import TrainingExample, examples_from_jsonl, open_examples
from pyterrier_expandr.training.expander.merge import merge_adapter
from pyterrier_expandr.training.expander.online.signs import EVALUATIONS, repeats
from pyterrier_expandr.training.expander.train import RECORD, ExpanderTrainingConfig, train_expander
from pyterrier_expandr.training.preferences.candidates import read_candidates
from pyterrier_expandr.training.preferences.pair_files import write_pairs
from pyterrier_expandr.training.preferences.rewards import MEASURE
from pyterrier_expandr.training.recipe.recipe import read_recipe
from pyterrier_expandr.training.recipe.stages import RecipeStages
from pyterrier_expandr.training.recipe.systems import DEMO, encoder_name
from pyterrier_expandr.training.stage import Stage, build

RECIPE = Path(__file__).parents[1] / "recipes" / "scifact-smollm2.yaml"
#: of SciFact's training queries; the recipe trains its retriever on fewer, so that it is done in some hours
PARTS = {"llm": 0.5, "retriever": 0.5}
DEVELOPMENT, WEIGHT, BATCH = 200, 0.7, 64


class Way(NamedTuple):
    """How a model writes: at this temperature, so many passages for each query."""

    temperature: float = 1.0
    passages: int = 1

    def __str__(self) -> str:
        """What the table adds to a model's name."""
        cooler = f" at temperature {self.temperature}" if self.temperature != COMPARED.temperature else ""
        return cooler + (f", {self.passages} passages" if self.passages > 1 else "")


#: what is compared, and two ways without training: a lower temperature costs nothing, four passages four times as much
COMPARED = Way()
WAYS = (COMPARED, Way(temperature=0.6), Way(passages=4))
#: test queries of a collection, at most
MOST = 300
MEASURES = (nDCG @ 10, R @ 100)
#: the passages of each query
Passages = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Model:
    """A base and, if it was trained, the adapter on it."""

    base: str
    adapter: Path | None = None
    dtype: str | None = None

    def backend(self) -> HuggingFaceBackend:
        """The backend that opens it."""
        return HuggingFaceBackend(self.base, adapter=self.adapter, batch_size=BATCH, dtype=self.dtype)


@dataclass(frozen=True)
class Part:
    """Queries, and the model that writes for them; `pairs` trained it, and are None for online methods."""

    queries: Sequence[TrainingExample]
    model: Model
    pairs: Path | None


class Laboratory:
    """Trains attempts, lets models write, and measures; everything is kept below `folder`."""

    def __init__(
        self,
        folder: Path,
        data: Path,
        collection: str = "SciFact",
        encoder: str = DEMO,
        dtype: str | None = None,
    ) -> None:
        self.folder, self.dtype = folder, dtype
        self.recipe = replace(read_recipe(RECIPE), parts=PARTS)
        self.collection, self.place, self.searcher = collection, data / FOLDERS[collection], Path(encoder).name
        self.vectors = folder / f"{self.place.name}-{encoder.strip('/').replace('/', '-')}.npy"
        self.encoder = ExpandREncoder(encoder_name(encoder), device="cpu", max_length=256, normalize=True)
        folder.mkdir(parents=True, exist_ok=True)

    def model(self, name: str | None, seed: int) -> tuple[Model, dict[str, Any]]:
        """The model of an attempt, trained if it is not there, and its costs; the base for None."""
        if name is None:
            return Model(self.recipe.model, dtype=self.dtype), {}
        attempt = ATTEMPTS[name]
        before, earlier = self.model(attempt.after, seed)
        base = before.base if before.adapter is None else str(self.merged(before, f"{attempt.after}-{seed}"))
        training = dict(attempt.training)
        online = "online" in training
        if online:
            index = self.searched() if MEASURE in training["online"]["rewards"] else {}
            training["online"] = {"encoder": demo_encoder_folder(), **training["online"], **index}
            learnt = self.made(self.stages().examples()) / "llm.jsonl"
        else:
            learnt = self.pairs(attempt, base)
        config = ExpanderTrainingConfig(
            base,
            str(learnt),
            str(self.folder / "adapters" / f"{name}-{seed}"),
            **{**COMMON, "dtype": self.dtype, **training, "seed": seed},
        )
        adapter, said = trained(config)
        tokens = json.loads((adapter / EVALUATIONS).read_text())[-1]["tokens"] if online else self.drawn(attempt, base)
        if online or attempt.on_policy:  # otherwise the pairs are among the candidates that were drawn before
            tokens += earlier.get("tokens", 0)
        return Model(base, adapter, self.dtype), said | {"tokens": tokens}

    def parts(self, name: str, seed: int, queries: Sequence[TrainingExample]) -> tuple[list[Part], dict[str, Any]]:
        """The models of an attempt, each with the queries for which it writes, and what they cost together."""
        attempt = ATTEMPTS[name]
        if not attempt.taught:
            model, costs = self.model(name, seed)
            online = "online" in attempt.training  # then there are no pairs
            return [Part(queries, model, None if online else self.pairs(attempt, model.base))], costs
        texts = self.passages(self.model(None, 0)[0], queries, COMPARED)
        own = {query.query_id: written for query, written in zip(queries, texts, strict=True)}
        found, seconds = [], 0
        for number, left_out in enumerate(folds_of(list(queries))):
            rows = lessons([query for query in queries if query not in left_out], own, self.place.parent)
            part, cost = self.pupil(name, seed, number, rows, left_out)
            found.append(part)
            seconds += cost
        return found, {"seconds": seconds}

    def pupil(
        self, name: str, seed: int, fold: int, rows: Iterable[dict[str, Any]], left_out: Sequence[TrainingExample]
    ) -> tuple[Part, int]:
        """The model that learnt from these lessons and writes for the queries left out, and the seconds that took."""
        untrained = self.model(None, 0)[0]
        pairs = self.folder / "taught" / f"{fold}.jsonl"
        pairs.parent.mkdir(exist_ok=True)
        write_pairs(pairs, rows)
        training = {**COMMON, "dtype": self.dtype, **ATTEMPTS[name].training, "seed": seed}
        out = self.folder / "adapters" / f"{name}-{seed}-{fold}"
        adapter, said = trained(ExpanderTrainingConfig(untrained.base, str(pairs), str(out), **training))
        return Part(left_out, Model(untrained.base, adapter, self.dtype), pairs), said["seconds"]

    def merged(self, model: Model, name: str) -> Path:
        """The model as a folder that can be trained further."""
        assert model.adapter is not None
        return merge_adapter(model.adapter, self.folder / "merged" / name, base=model.base, dtype=self.dtype)

    def pairs(self, attempt: Attempt, base: str) -> Path:
        """The attempt's pairs: chosen among the base's candidates, or among those of the model that it starts from."""
        preferences = replace(self.recipe.preferences, pairs_per_query=attempt.pairs_per_query)
        stages = self.stages(base if attempt.on_policy else None, attempt.rewards, preferences=preferences)
        return self.made(stages.pairs(attempt.rewards)) / "pairs.jsonl"

    def drawn(self, attempt: Attempt, base: str) -> int:
        """The tokens of the candidates among which the attempt's pairs were chosen, and of answers if it needs them."""
        stages = self.stages(base if attempt.on_policy else None, attempt.rewards)
        tokenizer = self.model(None, 0)[0].backend().tokenizer
        sets = read_candidates(self.made(stages.candidates(attempt.rewards)) / "candidates.jsonl")
        texts = ([*one.candidates, one.answer] if one.answer else one.candidates for one in sets)
        return sum(len(ids) for group in texts for ids in tokenizer(list(group))["input_ids"])

    def searched(self) -> dict[str, str]:
        """The index of SciFact and the judgments of its training queries, which online rewards search with."""
        qrels = self.place.parent / FOLDERS["SciFact"] / "qrels" / "train.tsv"
        return {"index": str(self.made(self.stages().searched()) / "documents.faiss"), "qrels": str(qrels)}

    def made(self, stage: Stage) -> Path:
        """The folder of a stage, after it was run if it has to be."""
        build([stage], self.folder / "recipe", say=print)
        return stage.folder(self.folder / "recipe")

    def stages(self, base: str | None = None, rewards: Sequence[str] = ("self",), **changes: Any) -> RecipeStages:
        """The recipe's stages, of its own LLM or of another; answers are written if a reward needs them."""
        options = f"batch_size={BATCH}" + (f"&dtype={self.dtype}" if self.dtype else "")
        changes["systems"] = ("w/o Retriever Reward" if "self" in rewards else "w/o Self-Reward",)
        return RecipeStages(replace(self.recipe, llm=f"{base or self.recipe.model}?{options}", **changes), verbose=True)

    def queries(self, test: bool) -> list[TrainingExample]:
        """The development queries, or the test queries, with their relevant documents."""
        if test:
            return list(islice(open_examples(self.place, "test"), MOST))
        others = self.made(self.stages().examples()) / "retriever.jsonl"
        return list(islice(examples_from_jsonl(others), DEVELOPMENT))

    def passages(self, model: Model, queries: Sequence[TrainingExample], way: Way) -> list[list[str]]:
        """What a model writes for each query; nothing where it writes nothing or refuses."""
        topics = pd.DataFrame({"qid": [q.query_id for q in queries], "query": [q.query for q in queries]})
        with model.backend() as backend:
            settings: dict[str, Any] = {"temperature": way.temperature, "max_new_tokens": 128, "seed": 42}
            expander = LLMExpander(
                backend, n=way.passages, cache=self.folder / "texts.sqlite", verbose=True, **settings
            )
            found = expander.transform(topics)
        return [list(one) for one in found["query_expansions"]]

    def written(self, parts: Sequence[Part], queries: Sequence[TrainingExample], way: Way) -> list[list[str]]:
        """What the models of `parts` write, in the order of `queries`."""
        found: dict[str, list[str]] = {}
        for part in parts:
            ids = [query.query_id for query in part.queries]
            found |= zip(ids, self.passages(part.model, part.queries, way), strict=True)
        return [found[query.query_id] for query in queries]

    @cached_property
    def documents(self) -> tuple[list[str], np.ndarray]:
        """The ids of the collection's documents, and their vectors."""
        corpus = [row for _, row in read_jsonl(self.place / "corpus.jsonl")]
        vectors = document_vectors(self.encoder, corpus, self.vectors)
        return [row["_id"] for row in corpus], vectors

    def measured(self, queries: Sequence[TrainingExample], passages: Passages | None) -> dict[str, np.ndarray]:
        """Values (n,) of each query; `passages` of None is the query alone."""
        docnos, documents = self.documents
        qids = [query.query_id for query in queries]
        qrels = [ir_measures.Qrel(query.query_id, docno, 1) for query in queries for docno in query.positive_ids]

        def scored(vectors: np.ndarray) -> dict[str, np.ndarray]:
            found = measured_search(vectors, documents, docnos, qids, qrels, MEASURES)
            return dict(zip(map(str, MEASURES), found, strict=True))

        alone = np.asarray(self.encoder.encode_queries([query.query for query in queries]))
        if passages is None:
            return scored(alone)
        # Passages and relevant documents are remembered: the same texts are measured for each attempt.
        vectors = np.asarray(self.encoder.encode_expansions([text for texts in passages for text in texts]))
        groups = np.split(vectors, np.cumsum([len(texts) for texts in passages])[:-1])
        nothing = np.zeros_like(alone[0])  # a query without a passage stays as it is
        written = np.array([own.mean(axis=0) if len(own) else nothing for own in groups])
        gold = np.asarray(self.encoder.encode_expansions([query.positives[0] for query in queries]))
        values = scored((alone + written) / 2)
        values[f"weight {WEIGHT}"] = scored(WEIGHT * alone + (1 - WEIGHT) * written)["nDCG@10"]
        values["similarity"] = np.einsum("nd,nd->n", written, gold)
        values["words"] = np.array(list(map(mean_words, passages)))
        values["as query"] = np.array(
            [
                np.mean([repeats(text, query.query) for text in texts] or [False])
                for query, texts in zip(queries, passages, strict=True)
            ]
        )
        return values


def trained(config: ExpanderTrainingConfig) -> tuple[Path, dict[str, Any]]:
    """The adapter, and what its training counted and cost; the seconds are kept beside it."""
    start = time.monotonic()
    adapter = train_expander(config, verbose=True)
    record, cost = json.loads((adapter / RECORD).read_text()), Path(f"{adapter}.seconds")
    if not cost.exists():
        cost.write_text(f"{time.monotonic() - start:.0f}")
    said = {key: record[key] for key in ("pairs", "steps", "kept_step", "before", "after")}
    return adapter, said | {"seconds": int(cost.read_text())}


def lessons(
    queries: Sequence[TrainingExample], own: Mapping[str, Sequence[str]], data: Path
) -> Iterator[dict[str, Any]]:
    """A row of each teacher for each query: its passage is chosen, and the model's own rejected, where there is one."""
    for file in TEACHERS:
        recorded, _ = read_expansions(data / "expansions" / "scifact" / file)
        for query in queries:
            for text in own[query.query_id]:
                yield {
                    "query_id": query.query_id,
                    "prompt": list(render(resolve_prompt("q2d"), query=query.query)),
                    "chosen": [{"role": "assistant", "content": recorded[query.query_id].passages[0]}],
                    "rejected": [{"role": "assistant", "content": text}],
                }


def mean_words(texts: Sequence[str]) -> float:
    """The mean number of words of a query's passages; 0 without any."""
    return float(np.mean([len(text.split()) for text in texts])) if texts else 0.0
