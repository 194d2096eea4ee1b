"""The stages of a recipe: which one builds on which, and what each passes to the next.

    examples -> candidates -> pairs -> dpo -> merge -> expansions -> retriever -> index -> experiment

An online method has answers or examples in place of candidates and pairs. Another round goes back from merge to
candidates. A stage's folder holds what it made. Systems that need the same thing share the stage that makes it. What a
stage does is defined in the module `stages` of the package whose code it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

from ...evaluation.beir_collections import Collection, resolve
from ...expansion.backends.base import Backend
from ...expansion.backends.opening import backend_parts, open_backend
from ...expansion.expander import LLMExpander
from ..data.examples import TrainingExample, open_examples
from ..data.stages import examples_stage
from ..expander.stages import dpo_stage, merge_stage
from ..identity import corpus_identity, data_identity, model_identity
from ..preferences.measured import training_collection
from ..preferences.rewards import MEASURE
from ..preferences.stages import answers_stage, candidates_stage, pairs_stage, searched_stage, with_rewards
from ..retriever.stages import retriever_stage, untrained_retriever_stage
from ..smalllm.stages import small_lm_stage
from ..stage import Stage, in_order, texts_beside
from ..student.stages import student_stage
from .online import check_rewards, reward_identity
from .recipe import ROWS, SMALL, Recipe, encoder_name
from .search_stages import expansions_stage, experiment_stage, index_stage, test_expansions_stage

#: backend options that affect how fast or where it writes, but not what
SPEED_OPTIONS = (
    "batch_size device tensor_parallel_size gpu_memory_utilization api_key_env concurrency timeout max_retries "
    "deadline prices"
).split()


class RecipeStages:
    """The stages of a recipe; `experiment` builds on everything its systems need.

    Args:
        recipe: the recipe.
        device: "cuda" or "cpu"; None means cuda if available.
        verbose: show progress bars.
    """

    def __init__(self, recipe: Recipe, *, device: str | None = None, verbose: bool = False) -> None:
        self.recipe, self.device, self.verbose = recipe, device, verbose

    @cached_property
    def test(self) -> list[Collection]:
        """The test collections on which the systems are compared."""
        given = self.recipe.evaluation
        return resolve(given.collections, data=given.data, split=given.split, num_results=given.num_results)

    @cached_property
    def training(self) -> Collection:
        """The collection of the training queries, for rewards that search it."""
        return training_collection(self.recipe.data, self.recipe.split)

    # --- data and the language model

    def examples(self) -> Stage:
        """llm.jsonl and retriever.jsonl: the training queries of the two models."""
        names = ("split", "min_relevance", "ratios", "limit", "parts", "seed")
        settings = {name: getattr(self.recipe, name) for name in names}
        settings["content"] = data_identity(self.recipe.data, self.recipe.split)
        return examples_stage(self.source, self.recipe.parts, settings)

    def source(self) -> Iterator[TrainingExample]:
        """The queries that both parts are taken from."""
        recipe = self.recipe
        found = open_examples(
            recipe.data,
            recipe.split,
            min_relevance=recipe.min_relevance,
            ratios=recipe.ratios or None,
            seed=recipe.seed,
        )
        return islice(found, recipe.limit)

    def base(self) -> tuple[Stage, ...]:
        """The stage that trains the small language model, or none if the recipe names a model."""
        if self.recipe.llm != SMALL:
            return ()

        def texts() -> Iterator[str]:
            return (f"{d['title']} {d['text']}".strip() for c in self.test for d in c.get_corpus_iter())

        corpora = list(map(corpus_identity, self.test))
        return (small_lm_stage(self.recipe.small_lm, texts, corpora, self.examples(), verbose=self.verbose),)

    def writer(self, rewards: tuple[str, ...], round: int) -> tuple[Stage, ...]:
        """The stage of the LLM that writes in a round: the base's in the first, later that of the round before."""
        return self.base() if round == 1 else self.trained(rewards, round - 1)

    def candidates(self, rewards: tuple[str, ...] = (), round: int = 1) -> Stage:
        """candidates.jsonl: candidates and an answer for each query of the LLM's part."""
        inputs, settings = (self.examples(), *self.writer(rewards, round)), self._backend_settings()
        stage = candidates_stage(self.recipe.candidates, self._backend, settings, inputs, verbose=self.verbose)
        return _of_round(stage, round)

    def pairs(self, rewards: tuple[str, ...], round: int = 1) -> Stage:
        """pairs.jsonl: pairs chosen and rejected by these rewards."""
        recipe, encoder = self.recipe, encoder_name(self.recipe.encoder)
        adapted = (self.retriever("expandr", rewards, round - 1),) if recipe.adapt_retriever and round > 1 else ()
        searched = None
        if MEASURE in rewards:
            searched = _of_round(self.searched(*adapted), round if adapted else 1), self.training
        stage = pairs_stage(
            with_rewards(recipe.preferences, rewards),
            encoder,
            self.candidates(rewards, round),
            *adapted,
            searched=searched,
            prompt=recipe.candidates.prompt,
            max_pairs=recipe.max_pairs,
            seed=recipe.seed,
            device=self.device,
            verbose=self.verbose,
        )
        return _of_round(stage, round)

    def searched(self, *retriever: Stage) -> Stage:
        """documents.faiss: the documents of the training queries, encoded by the reward encoder or a trained one."""
        encoder = encoder_name(self.recipe.encoder)
        return searched_stage(self.training, encoder, *retriever, device=self.device, verbose=self.verbose)

    def queries(self, rewards: tuple[str, ...], round: int = 1) -> Stage:
        """What an online method trains on: the LLM's queries, with its answers if a reward compares with them."""
        online = self._training(rewards)("base", "data", "out").online_settings
        if not online.needs_answers:
            return self.examples()
        inputs, settings = (self.examples(), *self.writer(rewards, round)), self._backend_settings()
        options: dict[str, Any] = {"check": partial(check_rewards, online), "verbose": self.verbose}
        return _of_round(answers_stage(self.recipe.candidates, self._backend, settings, inputs, **options), round)

    def trained(self, rewards: tuple[str, ...], round: int | None = None) -> tuple[Stage, ...]:
        """The stage whose folder holds the LLM trained with these rewards; without rewards, the base's stage.

        Args:
            rewards: what it is trained by.
            round: after that round; None means the last.
        """
        if not rewards:
            return self.base()
        round = round or self.recipe.rounds
        recipe, llm, base = self.recipe, self._llm_settings(), self.writer(rewards, round)
        configure = self._training(rewards)
        online = configure("base", "data", "out").online
        if online is None:
            source, data, settings = self.pairs(rewards, round), "pairs.jsonl", llm
        else:
            source, settings = self.queries(rewards, round), llm | reward_identity(online)
            data = "candidates.jsonl" if online.needs_answers else "llm.jsonl"
        learnt = dpo_stage(configure, self._llm, settings, (source, *base), data=data, verbose=self.verbose)
        dpo = _of_round(learnt, round)
        return (_of_round(merge_stage(self._llm, llm, recipe.origin, (dpo, *base), device=self.device), round),)

    def _training(self, rewards: tuple[str, ...]) -> Callable[..., Any]:
        """`Recipe.expander_config` for these rewards."""
        return partial(self.recipe.expander_config, rewards=rewards)

    # --- expansions, retriever, experiment

    def expansions(self, rewards: tuple[str, ...], round: int | None = None) -> Stage:
        """expansions.jsonl: what that LLM writes for the retriever's training queries."""
        settings, inputs = self.recipe.expansion_settings(), (self.examples(), *self.trained(rewards, round))
        open_expander = partial(self._expander, settings=settings)
        return expansions_stage(open_expander, settings | self._backend_settings(), inputs)

    def test_expansions(self, rewards: tuple[str, ...], round: int | None = None) -> Stage:
        """COLLECTION.jsonl: what that LLM writes for the queries of each test collection."""
        settings, llm = self.recipe.expansion_settings(test=True), self.trained(rewards, round)
        open_expander = partial(self._expander, settings=settings)
        return test_expansions_stage(open_expander, settings | self._backend_settings(), self.test, llm)

    def retriever(self, stage: str, rewards: tuple[str, ...] | None, round: int | None = None) -> Stage:
        """The encoder after that training: "raw", "ft", or "expandr" with that LLM's expansions."""
        if stage == "raw":
            return untrained_retriever_stage(self.recipe.retriever_config)
        expanded = (self.expansions(rewards, round),) if stage == "expandr" and rewards is not None else ()
        inputs = (self.examples(), *expanded)
        return retriever_stage(self.recipe.retriever_config, stage, inputs, device=self.device, verbose=self.verbose)

    def student(self, rewards: tuple[str, ...]) -> Stage:
        """The query encoder that learns from that LLM's expansions and the retriever trained with them."""
        inputs = (self.examples(), self.expansions(rewards), self.retriever("expandr", rewards))
        return student_stage(self.recipe.student_config, inputs, device=self.device, verbose=self.verbose)

    def index(self, retriever: Stage) -> Stage:
        """COLLECTION.faiss: the documents of each test collection, encoded by that encoder."""
        return index_stage(self.test, retriever, device=self.device, verbose=self.verbose)

    def of(self, system: str, round: int | None = None) -> tuple[Stage, ...]:
        """The index that a row searches, and the stage with its expansions or its student, if any."""
        row = ROWS[system]
        index = self.index(self.retriever(row.retriever, row.rewards, round))
        if row.student and row.rewards is not None:
            return index, self.student(row.rewards)
        return (index,) if row.rewards is None else (index, self.test_expansions(row.rewards, round))

    def rows(self) -> dict[str, tuple[str, tuple[Stage, ...]]]:
        """Row of the table -> its system and stages: the systems, and those with a trained LLM after each round."""
        found = {}
        for name in self.recipe.systems:
            several = ROWS[name].rewards and not ROWS[name].student
            for round in range(1, self.recipe.rounds) if several else ():
                found[f"{name}, round {round}"] = name, self.of(name, round)
            found[name] = name, self.of(name)
        return found

    def users(self) -> dict[str, str]:
        """The systems that need each stage, by fingerprint: "ExpandR", "all", "all but Query"."""
        names, found = self.recipe.systems, dict[str, list[str]]()
        for name, stages in self.rows().values():
            for stage in in_order(stages):
                users = found.setdefault(stage.fingerprint, [])
                if name not in users:
                    users.append(name)
        found[self.experiment().fingerprint] = list(names)
        return {fingerprint: _listed(users, names) for fingerprint, users in found.items()}

    def experiment(self) -> Stage:
        """table.csv: every system on every collection, by the BEIR protocol."""
        systems = {name: stages for name, (_, stages) in self.rows().items()}
        given = self.recipe.evaluation
        return experiment_stage(
            systems, self.test, given.measures, samples=given.samples, device=self.device, verbose=self.verbose
        )

    # --- which language model

    def _llm(self, stages: tuple[Path, ...]) -> str:
        """The name or folder for transformers: that of a stage, or the recipe's own model."""
        return str(stages[0] / "model") if stages else self.recipe.model

    def _llm_settings(self) -> dict[str, Any]:
        return {} if self.recipe.llm == SMALL else {"llm": model_identity(self.recipe.model)}

    def _backend(self, stages: tuple[Path, ...]) -> Backend:
        """The recipe's backend, with the model of a stage, or the recipe's own."""
        return open_backend(self.recipe.backend_name(stages[0] / "model" if stages else None), device=self.device)

    def _expander(self, stages: tuple[Path, ...], folder: Path, *, settings: dict[str, Any]) -> LLMExpander:
        cache = texts_beside(folder)
        return LLMExpander(self._backend(stages), cache=cache, verbose=self.verbose, **settings)

    def _backend_settings(self) -> dict[str, Any]:
        """What determines the generated texts: the model, the backend if it is not transformers, and its options."""
        backend, _, written = backend_parts(self.recipe.llm)
        options: dict[str, Any] = {name: text for name, text in written.items() if name not in SPEED_OPTIONS}
        if "adapter" in options:
            options["adapter"] = model_identity(options["adapter"])
        said = {"engine": backend if backend != "hf" else None, "options": options}
        return self._llm_settings() | {name: value for name, value in said.items() if value}


def _of_round(stage: Stage, round: int) -> Stage:
    """The stage, with the number of a later round in its name."""
    return stage if round == 1 else replace(stage, name=f"{stage.name}-{round}")


def _listed(some: list[str], names: tuple[str, ...]) -> str:
    """A short description of `some` of `names`."""
    others = ", ".join(name for name in names if name not in some)
    if len(names) == 1 or 2 * len(some) < len(names):
        return ", ".join(some)
    return f"all but {others}" if others else "all"
