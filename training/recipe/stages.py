"""The stages of a recipe: which builds on which, and what each hands to the next.

    examples -> candidates -> pairs -> dpo -> merge -> expansions -> retriever -> index -> experiment

A stage's folder holds what it made. Systems that need the same thing share the stage that makes it.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from ...encoding.encoder import ExpandREncoder
from ...encoding.registry import load_encoder
from ...expansion.backends.base import Backend
from ...expansion.backends.opening import backend_parts, open_backend
from ...expansion.cache import GenerationCache
from ...expansion.expander import LLMExpander, RecordedExpander
from ...expansion.recorded import write_expansions
from ...retrieval.faiss_index import FaissIndex
from ..data.examples import TrainingExample, examples_from_jsonl, open_examples, split_examples, write_examples
from ..expander.merge import RECORD as MERGE_RECORD
from ..expander.merge import merge_adapter
from ..expander.train import RECORD as ADAPTER_RECORD
from ..expander.train import UNDECISIVE, train_expander
from ..preferences.candidates import generate_candidates, write_candidates
from ..preferences.pair_files import trl_row, write_pairs
from ..preferences.pair_report import PairReport
from ..preferences.pairs import read_decisions, write_decisions, write_report
from ..smalllm.train import train_small_lm
from ..stage import Stage, in_order
from .inputs import corpus_identity, data_identity, encoder_identity, file_stem, model_identity, queries_identity
from .recipe import SMALL, SYSTEMS, Recipe, encoder_name

logger = logging.getLogger(__name__)

#: options of backends that say how texts are computed, and nothing of what they are
HOW = (
    "batch_size device tensor_parallel_size gpu_memory_utilization api_key_env concurrency timeout max_retries deadline"
).split()

#: what decides an encoder that is not trained
UNTRAINED = "base profile pooling max_length query_prompt doc_prompt revision trust_remote_code".split()


class RecipeStages:
    """The stages of a recipe; `experiment` builds on all that its systems need.

    Args:
        recipe: what is trained on what.
        device: "cuda", "cpu"; None takes cuda where there is one.
        verbose: show progress bars.
    """

    def __init__(self, recipe: Recipe, *, device: str | None = None, verbose: bool = False) -> None:
        self.recipe, self.device, self.verbose = recipe, device, verbose
        self.test = _collections(recipe)

    # --- data and the language model

    def examples(self) -> Stage:
        """llm.jsonl and retriever.jsonl: the queries that train either model."""
        recipe = self.recipe
        names = ("split", "min_relevance", "ratios", "limit", "parts", "seed")

        def run(folder: Path) -> dict[str, Any]:
            counts = {}
            for part in recipe.parts:  # the source is read once for each part, so that nothing is held in memory
                found = split_examples(self.source(), recipe.parts, recipe.seed)
                chosen = (example for name, example in found if name == part)
                counts[part] = write_examples(folder / f"{part}.jsonl", chosen)
                if not counts[part]:
                    raise ValueError(f"{recipe.data!r} leaves no query for {part}: change parts {recipe.parts}")
            return counts

        settings = {name: getattr(recipe, name) for name in names}
        settings["content"] = data_identity(recipe.data, recipe.split)
        return Stage("examples", settings, (), run)

    def source(self) -> Iterator[TrainingExample]:
        """The queries that both parts are taken from."""
        recipe = self.recipe
        ratios = recipe.ratios or None
        found = open_examples(
            recipe.data, recipe.split, min_relevance=recipe.min_relevance, ratios=ratios, seed=recipe.seed
        )
        return islice(found, recipe.limit)

    def base(self) -> tuple[Stage, ...]:
        """The stage that trains the small language model, or none where the recipe names a model."""
        if self.recipe.llm != SMALL:
            return ()

        def run(folder: Path, examples: Path) -> dict[str, Any]:
            pairs = [(e.query, text) for e in examples_from_jsonl(examples / "llm.jsonl") for text in e.positives]
            texts = [f"{d['title']} {d['text']}".strip() for c in self.test for d in c.get_corpus_iter()]
            model = train_small_lm(texts, pairs, folder / "model", self.recipe.small_lm, verbose=self.verbose)
            report = json.loads((model / "smalllm.json").read_text(encoding="utf-8"))
            return {"parameters": report["parameters"], "tokens": report["text_tokens"], "pairs": report["pairs"]}

        settings = {"config": asdict(self.recipe.small_lm), "corpora": list(map(corpus_identity, self.test))}
        return (Stage("small-lm", settings, (self.examples(),), run),)

    def _llm(self, stages: tuple[Path, ...]) -> str:
        """The model as transformers opens it: that of a stage, or the recipe's own."""
        return str(stages[0] / "model") if stages else self.recipe.model

    def _llm_settings(self) -> dict[str, Any]:
        return {} if self.recipe.llm == SMALL else {"llm": model_identity(self.recipe.model)}

    def _backend(self, stages: tuple[Path, ...]) -> Backend:
        """The recipe's backend, with the model of a stage, or the recipe's own."""
        return open_backend(self.recipe.backend_name(stages[0] / "model" if stages else None), device=self.device)

    def _backend_settings(self) -> dict[str, Any]:
        """What decides the generated texts: the model, the backend where it is not transformers, and its options."""
        backend, _, written = backend_parts(self.recipe.llm)
        options: dict[str, Any] = {name: text for name, text in written.items() if name not in HOW}
        if "adapter" in options:
            options["adapter"] = model_identity(options["adapter"])
        said = {"engine": backend if backend != "hf" else None, "options": options}
        return self._llm_settings() | {name: value for name, value in said.items() if value}

    def candidates(self) -> Stage:
        """candidates.jsonl: candidates and an answer for each query of the LLM's part."""

        def run(folder: Path, examples: Path, *base: Path) -> dict[str, Any]:
            found = examples_from_jsonl(examples / "llm.jsonl")
            with self._backend(base) as backend, closing(GenerationCache(folder / "generations.sqlite")) as cache:
                sets = generate_candidates(found, backend, self.recipe.candidates, cache=cache, verbose=self.verbose)
                count = write_candidates(folder / "candidates.jsonl", sets)
            return {"queries": count, "candidates": count * self.recipe.candidates.count}

        settings = asdict(self.recipe.candidates) | self._backend_settings()
        return Stage("candidates", settings, (self.examples(), *self.base()), run)

    def pairs(self, rewards: tuple[str, ...]) -> Stage:
        """pairs.jsonl: chosen and rejected by these rewards."""
        given = self.recipe.preferences
        weights = dict(zip(given.rewards, given.weights or (1.0,) * len(given.rewards), strict=True))
        own = None if given.weights is None else [weights[name] for name in rewards]
        preferences = replace(given, rewards=rewards, weights=own)
        encoder = encoder_name(self.recipe.encoder)

        def run(folder: Path, candidates: Path) -> dict[str, Any]:
            sets, decisions = candidates / "candidates.jsonl", folder / "decisions.jsonl"
            reward_encoder = load_encoder(encoder, fuse=True, device=self.device)
            write_decisions(sets, decisions, reward_encoder, preferences, verbose=self.verbose)
            report = PairReport.of(read_decisions(decisions, sets))
            write_report(report, folder)
            kept = (one for one in read_decisions(decisions, sets) if one.dropped is None)
            rows = [trl_row(decision, self.recipe.candidates.prompt) for decision in kept]
            if not rows:
                reasons = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
                raise ValueError(
                    f"no pair is left of {report.queries} queries ({reasons}); filtered are those below "
                    f"preferences: threshold {preferences.threshold_or_default}"
                )
            limit = self.recipe.max_pairs
            if limit is not None and len(rows) > limit:
                chosen = sorted(random.Random(self.recipe.seed).sample(range(len(rows)), limit))
                rows = [rows[place] for place in chosen]
            return {"queries": report.queries, "pairs": write_pairs(folder / "pairs.jsonl", rows)}

        settings = asdict(preferences) | {"encoder": encoder_identity(encoder), "seed": self.recipe.seed}
        return Stage("pairs", settings | {"max_pairs": self.recipe.max_pairs}, (self.candidates(),), run)

    def trained(self, rewards: tuple[str, ...]) -> tuple[Stage, ...]:
        """The stage whose folder has the LLM of these rewards; without rewards it is the base's."""
        if not rewards:
            return self.base()

        def train(folder: Path, pairs: Path, *base: Path) -> dict[str, Any]:
            config = self.recipe.expander_config(self._llm(base), pairs / "pairs.jsonl", folder / "adapter")
            record = json.loads((train_expander(config, verbose=self.verbose) / ADAPTER_RECORD).read_text("utf-8"))
            after = record["after"] or {}
            return {"pairs": record["pairs"]["training"], "steps": record["steps"], **_rounded(after)}

        def merge(folder: Path, adapter: Path, *base: Path) -> dict[str, Any]:
            origin = self.recipe.origin()
            model = merge_adapter(
                adapter / "adapter", folder / "model", base=self._llm(base), device=self.device, **origin
            )
            record = json.loads((model / MERGE_RECORD).read_text(encoding="utf-8"))
            return _rounded({"error": record["error"], "effect": record["effect"]})

        config = asdict(self.recipe.expander_config("base", "pairs", "out"))
        settings = {name: value for name, value in config.items() if name not in UNDECISIVE}
        dpo = Stage("dpo", settings | self._llm_settings(), (self.pairs(rewards), *self.base()), train)
        return (Stage("merge", self._llm_settings(), (dpo, *self.base()), merge),)

    # --- expansions, retriever, experiment

    def _expander(self, backend: Backend, folder: Path) -> LLMExpander:
        cache = folder / "generations.sqlite"
        return LLMExpander(backend, cache=cache, verbose=self.verbose, **self.recipe.expansion_settings())

    def expansions(self, rewards: tuple[str, ...]) -> Stage:
        """expansions.jsonl: what that LLM writes for the retriever's training queries."""

        def run(folder: Path, examples: Path, *llm: Path) -> dict[str, Any]:
            found = [(e.query_id, e.query) for e in examples_from_jsonl(examples / "retriever.jsonl")]
            topics = pd.DataFrame(found, columns=["qid", "query"]).drop_duplicates("qid")
            with self._backend(llm) as backend:
                return _expand(self._expander(backend, folder), topics, folder / "expansions.jsonl")

        settings = self.recipe.expansion_settings() | self._backend_settings()
        return Stage("expansions", settings, (self.examples(), *self.trained(rewards)), run)

    def test_expansions(self, rewards: tuple[str, ...]) -> Stage:
        """COLLECTION.jsonl: what that LLM writes for the queries of each test collection."""

        def run(folder: Path, *llm: Path) -> dict[str, Any]:
            counts = {"queries": 0, "expansions": 0}
            with self._backend(llm) as backend:
                expander = self._expander(backend, folder)
                for collection in self.test:
                    found = _expand(expander, collection.topics, _file(folder, collection))
                    counts = {name: counts[name] + found[name] for name in counts}
            return counts

        queries = [[file_stem(collection), queries_identity(collection)] for collection in self.test]
        settings = self.recipe.expansion_settings() | self._backend_settings() | {"collections": queries}
        return Stage("test-expansions", settings, self.trained(rewards), run)

    def retriever(self, stage: str, rewards: tuple[str, ...] | None) -> Stage:
        """The encoder after that training: "raw", "ft", or "expandr" with the expansions of that LLM."""
        if stage == "raw":
            return self._untrained_retriever()
        expanded = (self.expansions(rewards),) if stage == "expandr" and rewards is not None else ()

        def run(folder: Path, examples: Path, *expansions: Path) -> dict[str, Any]:
            from ..retriever.train import RECORD, train_retriever

            recorded = expansions[0] / "expansions.jsonl" if expansions else None
            config = self.recipe.retriever_config(examples / "retriever.jsonl", folder / "model", stage, recorded)
            config = replace(config, device=config.device or self.device)
            record = json.loads((train_retriever(config, verbose=self.verbose) / RECORD).read_text(encoding="utf-8"))
            return dict(record["data"])

        return Stage(f"retriever-{stage}", self._retriever_settings(stage), (self.examples(), *expanded), run)

    def _untrained_retriever(self) -> Stage:
        """The base encoder as training starts with it: neither data nor schedule is of any account to it."""

        def run(folder: Path) -> dict[str, Any]:
            from ..retriever.trainer import open_base

            config = self.recipe.retriever_config("data", "out", "raw", None)
            open_base(config).model.save_pretrained(str(folder / "model"), create_model_card=False)
            return {}

        settings = self._retriever_settings("raw")
        return Stage("retriever-raw", {name: settings[name] for name in UNTRAINED}, (), run)

    def _retriever_settings(self, stage: str) -> dict[str, Any]:
        from ..retriever.train import INDIFFERENT

        config = self.recipe.retriever_config("d", "o", stage, None)
        settings = {name: value for name, value in asdict(config).items() if name not in INDIFFERENT}
        if config.dev_data is not None:
            settings["dev_data"] = data_identity(config.dev_data, config.dev_split)
        return settings | {"base": encoder_identity(config.base)}

    def index(self, retriever: Stage) -> Stage:
        """COLLECTION.faiss: the documents of each test collection, as that encoder reads them."""

        def run(folder: Path, trained: Path) -> dict[str, Any]:
            encoder, documents = ExpandREncoder(trained / "model", device=self.device), 0
            for collection in self.test:
                index = FaissIndex(_file(folder, collection, ".faiss"))
                if not index.built():
                    corpus = index.remaining(collection.get_corpus_iter(verbose=self.verbose))
                    (encoder.doc_encoder() >> index.indexer(mode="resume")).index(corpus)
                documents += len(index)
            return {"documents": documents}

        corpora = [[file_stem(collection), corpus_identity(collection)] for collection in self.test]
        return Stage("index", {"collections": corpora}, (retriever,), run)

    def of(self, system: str) -> tuple[Stage, ...]:
        """The index that a row of Table 3 searches, and the stage with its expansions where it has some."""
        row = SYSTEMS[system]
        index = self.index(self.retriever(row.retriever, row.rewards))
        return (index,) if row.rewards is None else (index, self.test_expansions(row.rewards))

    def users(self) -> dict[str, str]:
        """Which systems each stage is for, by fingerprint: "ExpandR", "all", "all but Query"."""
        names, found = self.recipe.systems, dict[str, list[str]]()
        for name in names:
            for stage in in_order(self.of(name)):
                found.setdefault(stage.fingerprint, []).append(name)
        found[self.experiment().fingerprint] = list(names)
        return {fingerprint: _listed(users, names) for fingerprint, users in found.items()}

    def experiment(self) -> Stage:
        """table.csv: every system on every collection, by the BEIR protocol."""
        systems = {name: self.of(name) for name in self.recipe.systems}
        inputs = [stage for stages in systems.values() for stage in stages]
        parts: dict[str, tuple[int, int | None]] = {}
        for name, stages in systems.items():
            place = sum(len(systems[before]) for before in parts)  # dicts keep the order
            parts[name] = place, place + 1 if len(stages) > 1 else None

        def run(folder: Path, *made: Path) -> dict[str, Any]:
            from ...evaluation.beir import experiment

            def pipeline(collection: Any, name: str) -> Any:
                index, expansions = parts[name]
                opened = FaissIndex(_file(made[index], collection, ".faiss"))
                found = opened.query_encoder(device=self.device) >> opened.retriever(num_results=collection.num_results)
                return found if expansions is None else RecordedExpander(_file(made[expansions], collection)) >> found

            makers = {name: (lambda collection, name=name: pipeline(collection, name)) for name in parts}
            evaluation = self.recipe.evaluation
            results = experiment(
                makers, self.test, folder / "results", measures=evaluation.measures, verbose=self.verbose
            )
            if not results.failures.empty:
                raise RuntimeError(f"some cells failed, run again after mending: {results.failures.to_dict('records')}")
            table(results.means(), list(parts)).to_csv(folder / "table.csv")
            return {"systems": len(parts), "collections": len(self.test)}

        collections = [
            [c.name, corpus_identity(c), queries_identity(c), c.self_matches, c.evaluated_results] for c in self.test
        ]
        measures = list(map(str, self.recipe.evaluation.measures))
        settings = {"systems": list(systems), "measures": measures, "collections": collections}
        return Stage("experiment", settings, tuple(inputs), run)


def table(means: pd.DataFrame, systems: list[str]) -> pd.DataFrame:
    """One row for each system in their order, and a column for each measure on each collection.

    Example:
        >>> means = pd.DataFrame({"system": ["a"], "collection": ["pocket"], "measure": ["R@100"], "value": [0.5]})
        >>> table(means, ["a"]).columns.tolist()
        ['pocket R@100']
    """
    columns = means["collection"] + " " + means["measure"]
    wide = means.assign(column=columns).pivot(index="system", columns="column", values="value")
    return wide.loc[systems, list(dict.fromkeys(columns))].rename_axis(columns=None)


def _collections(recipe: Recipe) -> list[Any]:
    from ...evaluation.beir_collections import resolve

    given = recipe.evaluation
    return resolve(given.collections, data=given.data, split=given.split, num_results=given.num_results)


def _file(folder: Path, collection: Any, ending: str = ".jsonl") -> Path:
    return folder / (file_stem(collection) + ending)


def _expand(expander: LLMExpander, topics: pd.DataFrame, path: Path) -> dict[str, Any]:
    expanded = expander.transform(topics)
    write_expansions(path, expanded)
    return {"queries": len(expanded), "expansions": int(expanded["query_expansions"].map(len).sum())}


def _rounded(values: dict[str, float]) -> dict[str, Any]:
    return {name: float(f"{value:.4g}") for name, value in values.items()}


def _listed(some: list[str], names: tuple[str, ...]) -> str:
    """`some` of `names` in few words."""
    others = ", ".join(name for name in names if name not in some)
    if len(names) == 1 or 2 * len(some) < len(names):
        return ", ".join(some)
    return f"all but {others}" if others else "all"
