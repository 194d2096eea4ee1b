"""The whole of ExpandR as one YAML file, read and checked before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...common.files import path_of
from ...common.utf8 import read_utf8
from ...evaluation.cells import parse_measures
from ...expansion.backends.base import Sampling
from ...expansion.backends.opening import backend_parts, open_backend
from ...expansion.prompts import resolve_prompt
from ..data.examples import are_counts
from ..expander.config import ExpanderTrainingConfig
from ..preferences.candidates import CandidateSettings
from ..preferences.choice import PreferenceSettings
from ..setting_checks import check_flag, check_number, check_whole
from ..smalllm.train import SmallLMConfig
from .checks import (
    check_collections,
    check_data,
    check_models,
    check_room,
    check_texts,
    check_training,
    load_yaml,
    with_variables,
)
from .online import PAPER_REWARDS, online_values
from .sections import section
from .systems import DEMO as DEMO
from .systems import ROWS as ROWS
from .systems import SMALL as SMALL
from .systems import SYSTEMS as SYSTEMS
from .systems import System as System
from .systems import encoder_name as encoder_name


@dataclass(frozen=True)
class Evaluation:
    """The collections and settings of the comparison; see `beir.experiment`.

    `samples` are numbers of passages for each test query: a system that expands queries gets a row for each number, of
    which each takes the first passages of the same ones. Empty means that `expansion: n` decides.
    """

    collections: tuple[str, ...] = ("BEIR14",)
    data: str | None = None
    split: str = "test"
    measures: tuple[str, ...] = ("nDCG@10", "R@100")
    num_results: int = 1000
    samples: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.samples, (list, tuple)) or len(set(map(str, self.samples))) < len(self.samples):
            raise ValueError(f"samples must be a list of different numbers, got {self.samples!r}")
        for number in self.samples:
            check_whole("samples", number)
        object.__setattr__(self, "samples", tuple(self.samples))
        for name in ("collections", "measures"):
            value = getattr(self, name)
            if not isinstance(value, (list, tuple)) or not value or not all(isinstance(one, str) for one in value):
                raise ValueError(f"{name} must be a list of at least one name, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        check_texts(self, "split")
        parse_measures(self.measures)
        check_whole("num_results", self.num_results)
        check_collections(self)


#: sections that draw random numbers; they use the recipe's seed unless they set their own
SEEDED: Mapping[str, Any] = {"small_lm": SmallLMConfig, "candidates": CandidateSettings}


@dataclass(frozen=True)
class Recipe:
    """What is trained, on which data, and how it is compared; only `data`, `llm` and `retriever` are required.

    A section is a mapping of its fields, as in YAML, or the object itself. The number of candidates the preferences
    require follows from `candidates`, and a section's seed from `seed`; an object's default seed counts as unset.

    Args:
        data: training queries and positives, in any form that `open_examples` reads.
        llm: the instruction-tuned model, as for `open_backend`: a hub name or folder, prefixed by `vllm:` to generate
            with vLLM; a model on a server (`openai:`) cannot be trained. "small" trains one from scratch (`small_lm`).
        encoder: hub name or folder of the reward encoder; "demo" is the one from the extra `demo`.
        retriever: `RetrieverTrainingConfig` minus what the recipe sets itself; `base` may be "demo" as well.
        split: the split of the judgments of `data`.
        min_relevance: the lowest grade at which a document counts as positive.
        ratios: for folders of JSONL files, the share of each file's rows to take.
        limit: use only that many first queries, for a trial.
        parts: how many of the queries, or which fraction, train the LLM and which the retriever.
        small_lm: `SmallLMConfig`.
        candidates: `CandidateSettings`.
        preferences: `PreferenceSettings` minus the rewards, which depend on the system.
        max_pairs: size of the seeded sample of pairs to train on; None takes all.
        dpo: `ExpanderTrainingConfig` minus `base`, `pairs` and `out`. `online` has this recipe's `encoder` and the
            sampling of `expansion` unless it says otherwise.
        rounds: how often candidates, pairs and training are repeated, each time with the model of the round before;
            every round is a row of the table.
        adapt_retriever: choose a later round's pairs by the retriever of the round before, instead of `encoder`.
        expansion: how passages for training and test queries are drawn: temperature, top_p, max_new_tokens, n.
        student: `StudentConfig` minus what the recipe sets itself, for the row "ExpandR student".
        systems: what is compared (`ROWS`); the rows of Table 3 (`SYSTEMS`) by default.
        evaluation: `Evaluation`.
        seed: for every section that does not set its own.

    Raises:
        ValueError, TypeError: an invalid value; the section is named.
    """

    data: str
    llm: str
    retriever: dict[str, Any]
    encoder: str = DEMO
    split: str = "train"
    min_relevance: int = 1
    ratios: dict[str, float] = field(default_factory=dict)
    limit: int | None = None
    parts: dict[str, float] = field(default_factory=lambda: {"llm": 0.5, "retriever": 0.5})
    small_lm: SmallLMConfig = field(default_factory=SmallLMConfig)
    candidates: CandidateSettings = field(default_factory=CandidateSettings)
    preferences: PreferenceSettings = field(default_factory=PreferenceSettings)
    max_pairs: int | None = None
    dpo: dict[str, Any] = field(default_factory=dict)
    rounds: int = 1
    adapt_retriever: bool = False
    expansion: dict[str, Any] = field(default_factory=dict)
    student: dict[str, Any] = field(default_factory=dict)
    systems: tuple[str, ...] = tuple(SYSTEMS)
    evaluation: Evaluation = field(default_factory=Evaluation)
    seed: int = 42

    def __post_init__(self) -> None:
        check_texts(self, "data", "split")
        check_whole("seed", self.seed, least=0)
        check_number("seed", self.seed, below=2**32)
        for name in ("ratios", "parts", "dpo", "expansion", "retriever", "student"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} must be a mapping of names to values, got {getattr(self, name)!r}")
        for name in ("limit", "max_pairs", "min_relevance"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name))
        check_whole("rounds", self.rounds)
        check_flag("adapt_retriever", self.adapt_retriever)
        self._derive()
        self._check_systems()
        self._derive_answers()
        self._check_parts()
        check_data(self.data, self.split, self.ratios)
        check_models(self)
        check_training(self)
        self.retriever_config("train.jsonl", "out", "expandr", None)
        self.student_config("teacher", "train.jsonl", "passages.jsonl", "out")
        self.expansion_settings()
        check_room(self)

    def _derive(self) -> None:
        """Fill in the fields that sections derive from other parts of the recipe."""
        for name, kind in SEEDED.items():
            given = getattr(self, name)
            if not isinstance(given, kind):
                decided = {"answers": True} if kind is CandidateSettings else {}
                given = section(kind, name, given, decided, {"seed": self.seed})
            elif given.seed == kind.seed:
                given = replace(given, seed=self.seed)
            object.__setattr__(self, name, given)
        preferences, count = self.preferences, self.candidates.count
        if isinstance(preferences, PreferenceSettings):
            preferences = replace(preferences, candidates=count)
        else:
            decided = {"candidates": count, "rewards": PreferenceSettings.rewards}
            preferences = section(PreferenceSettings, "preferences", preferences, decided)
        object.__setattr__(self, "preferences", preferences)
        if not isinstance(self.evaluation, Evaluation):
            object.__setattr__(self, "evaluation", section(Evaluation, "evaluation", self.evaluation, {}))

    def _check_systems(self) -> None:
        if isinstance(self.systems, str) or not self.systems:
            raise ValueError(f"systems must be a list of at least one name, got {self.systems!r}")
        object.__setattr__(self, "systems", tuple(self.systems))
        if unknown := [name for name in self.systems if name not in ROWS]:
            raise ValueError(f"unknown systems {unknown}: choose from {list(ROWS)}")
        if repeated := sorted({name for name in self.systems if self.systems.count(name) > 1}):
            raise ValueError(f"systems {repeated} are repeated")

    def _derive_answers(self) -> None:
        """Draw answers if the rewards of one of the systems, or the filter, compare with them."""
        trained = [rewards for name in self.systems if (rewards := ROWS[name].rewards)]
        chosen = [replace(self.preferences, rewards=rewards, weights=None) for rewards in trained]
        answers = any(one.needs_answers for one in chosen)
        object.__setattr__(self, "candidates", replace(self.candidates, answers=answers))

    def _check_parts(self) -> None:
        if set(self.parts) != {"llm", "retriever"}:
            raise ValueError(f"parts must have sizes for llm and retriever, got {sorted(self.parts)}")
        for name, size in self.parts.items():
            check_number(f"parts: {name}", size)
        are_counts(self.parts)
        if not all(self.parts.values()):
            raise ValueError(f"parts must leave queries for both, got {dict(self.parts)}")

    @property
    def model(self) -> str:
        """The language model's name without its backend prefix: what DPO trains."""
        return backend_parts(self.llm)[1]

    def backend_name(self, model: Path | None) -> str:
        """The recipe's backend for `open_backend`, with `model` in place of its own."""
        word, _, options = backend_parts(self.llm)
        written = "&".join(f"{name}={value}" for name, value in options.items() if name != "revision")
        return self.llm if model is None else f"{word}:{model}" + (f"?{written}" if written else "")

    def origin(self) -> dict[str, Any]:
        """`revision` and `trust_remote_code` of the language model, from the options of `llm`."""
        backend = None if self.llm == SMALL else open_backend(self.llm)
        return {
            "revision": getattr(backend, "revision", None),
            "trust_remote_code": getattr(backend, "trust_remote_code", False),
        }

    def expander_config(
        self,
        base: str | Path,
        pairs: str | Path,
        out: str | Path,
        rewards: Sequence[str] = PAPER_REWARDS,
    ) -> ExpanderTrainingConfig:
        """The LLM's training configuration, with paths filled in; an online method takes only these of its rewards."""
        places, origin = {"base": str(base), "pairs": str(pairs), "out": str(out)}, self.origin()
        for name, value in origin.items():
            if self.dpo.get(name, value) != value:
                raise ValueError(
                    f"dpo: {name} {self.dpo[name]!r} contradicts llm {self.llm!r}, which has {value!r}: set it there, "
                    f"as NAME?{name}=VALUE, so that the model that generates is the one that is trained"
                )
        values = dict(self.dpo) | online_values(self, rewards)
        return section(ExpanderTrainingConfig, "dpo", values, places, {"seed": self.seed} | origin)

    def retriever_config(self, data: str | Path, out: str | Path, stage: str, expansions: str | Path | None) -> Any:
        """The retriever's training configuration (`RetrieverTrainingConfig`), with paths filled in."""
        from ..retriever.train import RetrieverTrainingConfig

        values = dict(self.retriever) | {"base": encoder_name(str(self.retriever.get("base", "")))}
        places: dict[str, Any] = {"data": str(data), "out": str(out), "stage": stage}
        places |= {"expansions": None if expansions is None else str(expansions)}
        return section(RetrieverTrainingConfig, "retriever", values, places, {"seed": self.seed})

    def student_config(self, teacher: str | Path, queries: str | Path, expansions: str | Path, out: str | Path) -> Any:
        """The student's training configuration (`StudentConfig`), with paths filled in."""
        from ..student.config import StudentConfig

        places = {"teacher": str(teacher), "queries": str(queries), "expansions": str(expansions), "out": str(out)}
        return section(StudentConfig, "student", self.student, places, {"seed": self.seed})

    def expansion_settings(self, *, test: bool = False) -> dict[str, Any]:
        """Arguments of `LLMExpander` for the training queries, or for the test queries."""
        known = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 512, "n": 1, "prompt": "q2d"}
        if unknown := sorted(self.expansion.keys() - known.keys()):
            raise ValueError(f"expansion: unknown fields {unknown}, the fields are {sorted(known)}")
        values = known | dict(self.expansion) | {"seed": self.seed}
        try:
            Sampling(**{name: values[name] for name in ("temperature", "top_p", "max_new_tokens", "seed")})
            resolve_prompt(values["prompt"])
            check_whole("n", values["n"])
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"expansion: {error}") from error
        return values | {"n": max(self.evaluation.samples)} if test and self.evaluation.samples else values


def read_recipe(path: str | Path, *, seed: int | None = None) -> Recipe:
    """The recipe of a YAML file; `$NAME` in a text stands for an environment variable.

    Args:
        path: the file.
        seed: replaces the recipe's own, to run it again with other random numbers.

    Raises:
        ValueError: invalid YAML, unknown or missing fields (file and section are named), a variable that is not set.
        FileNotFoundError: there is no such file.

    Example:
        >>> read_recipe("recipes/pocket.yaml").llm  # doctest: +SKIP
        'small'
    """
    text = read_utf8(path_of(path))
    try:
        return _recipe(load_yaml(text), seed)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from error


def _recipe(values: Any, seed: int | None) -> Recipe:
    if not isinstance(values, dict):
        raise ValueError("a recipe must be a mapping of names to values")
    values = {name: with_variables(value) for name, value in values.items() if value is not None}
    if seed is not None:
        values["seed"] = seed
    if missing := sorted({"data", "llm", "retriever"} - values.keys()):
        raise ValueError(f"the recipe lacks the fields {missing}")
    return section(Recipe, "recipe", values, {})
