"""The whole of ExpandR as one YAML file: what it says, checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..backends.base import Sampling
from ..backends.engines import engine_parts
from ..demo import demo_encoder_folder
from ..evaluation import parse_measures
from ..models.registry import check_name
from ..prompts import resolve_prompt
from .candidates import CandidateSettings
from .examples import are_counts
from .expander import ExpanderTrainingConfig
from .preferences import PreferenceSettings
from .smalllm import SmallLMConfig

#: the model that is trained from scratch, where a recipe names no other
SMALL = "small"

#: the encoder that comes with the extra `demo`
DEMO = "demo"


@dataclass(frozen=True)
class System:
    """A row of Table 3: which rewards the LLM was trained with, and how the retriever was.

    `rewards` is None where queries are not expanded, and empty where the LLM is not trained.
    """

    rewards: tuple[str, ...] | None
    retriever: str


#: rows of the paper's Table 3
SYSTEMS: Mapping[str, System] = {
    "Query": System(None, "raw"),
    "w/ Retriever Training": System(None, "ft"),
    "ExpandR": System(("self", "retriever"), "expandr"),
    "w/o LLM Training": System((), "expandr"),
    "w/o Retriever Training": System(("self", "retriever"), "raw"),
    "w/o Self-Reward": System(("retriever",), "expandr"),
    "w/o Retriever Reward": System(("self",), "expandr"),
}


@dataclass(frozen=True)
class Evaluation:
    """What the systems are compared on; see `beir.experiment`."""

    collections: tuple[str, ...] = ("BEIR14",)
    data: str | None = None
    split: str = "test"
    measures: tuple[str, ...] = ("nDCG@10", "R@100")
    num_results: int = 1000

    def __post_init__(self) -> None:
        for name in ("collections", "measures"):
            value = getattr(self, name)
            if isinstance(value, str) or not value:
                raise ValueError(f"{name} must be a list with one name at least, got {value!r}")
            object.__setattr__(self, name, tuple(value))
        parse_measures(self.measures)
        check_whole("num_results", self.num_results)


@dataclass(frozen=True)
class Recipe:
    """What is trained on what, and how it is compared; every section is optional but `data`, `llm` and `retriever`.

    Args:
        data: training queries and positives, as `open_examples` reads them.
        llm: the instruct model, as `open_engine` takes it: a hub name or folder, or `vllm:` before it to generate with
            vLLM; a model on a server (`openai:`) cannot be trained. "small" trains one from scratch (`small_lm`).
        encoder: hub name or folder of the reward encoder; "demo" is the one of the extra `demo`.
        retriever: `RetrieverTrainingConfig` less what the recipe says itself; `base` may be "demo" as well.
        split: which judgments of `data`.
        min_relevance: the grade from which on a document is a positive.
        ratios: for folders of JSONL, the share of each file's rows.
        limit: only the first queries, for a trial.
        parts: how many of the queries, or which fraction, train the LLM and which the retriever.
        small_lm: `SmallLMConfig`.
        candidates: `CandidateSettings`.
        preferences: `PreferenceSettings`, less the rewards, which the systems say.
        max_pairs: a seeded sample of so many pairs is trained on; None for all.
        dpo: `ExpanderTrainingConfig` less `base`, `pairs` and `out`.
        expansion: how passages for training and test queries are drawn: temperature, top_p, max_new_tokens, n.
        systems: rows of Table 3 (`SYSTEMS`).
        evaluation: `Evaluation`.
        seed: of everything that a section does not seed itself.

    Raises:
        ValueError, TypeError: a value that cannot be meant; the section is named.
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
    expansion: dict[str, Any] = field(default_factory=dict)
    systems: tuple[str, ...] = tuple(SYSTEMS)
    evaluation: Evaluation = field(default_factory=Evaluation)
    seed: int = 42

    def __post_init__(self) -> None:
        for name in ("ratios", "parts", "dpo", "expansion", "retriever"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} must be a mapping of names to values, got {getattr(self, name)!r}")
        if isinstance(self.systems, str) or not self.systems:
            raise ValueError(f"systems must be a list with one name at least, got {self.systems!r}")
        object.__setattr__(self, "systems", tuple(self.systems))
        if unknown := [name for name in self.systems if name not in SYSTEMS]:
            raise ValueError(f"systems {unknown} are unknown: choose among {list(SYSTEMS)}")
        if set(self.parts) != {"llm", "retriever"}:
            raise ValueError(f"parts must have sizes for llm and retriever, got {sorted(self.parts)}")
        are_counts(self.parts)
        if not all(self.parts.values()):
            raise ValueError(f"parts must leave queries to both, got {dict(self.parts)}")
        for name in ("limit", "max_pairs", "min_relevance"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name))
        self._check_models()
        if engine_parts(self.llm)[0] == "openai" and (trained := [n for n in self.systems if SYSTEMS[n].rewards]):
            raise ValueError(f"llm {self.llm!r} is on a server and cannot be trained, which {trained} need")
        self.expander_config("base", "pairs", "out")
        self.retriever_config("train.jsonl", "out", "expandr", None)
        self.expansion_settings()

    def _check_models(self) -> None:
        """Refuse what cannot be the name of a model here, before anything has been computed for it."""
        for name, value in (
            ("llm", self.llm),
            ("encoder", self.encoder),
            ("retriever: base", self.retriever.get("base")),
        ):
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"{name} must name a model, got {value!r}")
            place = engine_parts(value)[1] if name == "llm" else value
            if place.startswith(("/", ".", "~")) and not Path(place).expanduser().is_dir():
                raise ValueError(f"{name}: there is no folder {place!r}")
            if name != "llm" and place != DEMO:
                check_name(place)

    @property
    def model(self) -> str:
        """The language model without its engine: what DPO trains."""
        return engine_parts(self.llm)[1]

    def engine_name(self, model: Path | None) -> str:
        """The recipe's engine for `open_engine`, with `model` in the place of its own."""
        word, _, options = engine_parts(self.llm)
        written = "&".join(f"{name}={value}" for name, value in options.items())
        return self.llm if model is None else f"{word}:{model}" + (f"?{written}" if written else "")

    def expander_config(self, base: str | Path, pairs: str | Path, out: str | Path) -> ExpanderTrainingConfig:
        """How the LLM is trained, with places filled in."""
        places = {"base": str(base), "pairs": str(pairs), "out": str(out), "seed": self.seed}
        return section(ExpanderTrainingConfig, "dpo", self.dpo, places)

    def retriever_config(self, data: str | Path, out: str | Path, stage: str, expansions: str | Path | None) -> Any:
        """How the retriever is trained (`RetrieverTrainingConfig`), with places filled in."""
        from .retriever import RetrieverTrainingConfig

        values = dict(self.retriever) | {"base": encoder_name(str(self.retriever.get("base", "")))}
        places = {"data": str(data), "out": str(out), "stage": stage, "seed": self.seed}
        places |= {"expansions": None if expansions is None else str(expansions)}
        return section(RetrieverTrainingConfig, "retriever", values, places)

    def expansion_settings(self) -> dict[str, Any]:
        """Arguments of `LLMExpander`."""
        known = {"temperature": 1.0, "top_p": 0.9, "max_new_tokens": 512, "n": 1, "prompt": "q2d"}
        if unknown := sorted(self.expansion.keys() - known.keys()):
            raise ValueError(f"expansion: unknown {unknown}, known are {sorted(known)}")
        values = known | dict(self.expansion) | {"seed": self.seed}
        try:
            Sampling(**{name: values[name] for name in ("temperature", "top_p", "max_new_tokens", "seed")})
            resolve_prompt(values["prompt"])
            check_whole("n", values["n"])
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"expansion: {error}") from error
        return values


def section(kind: Any, name: str, values: Mapping[str, Any], places: Mapping[str, Any]) -> Any:
    """A dataclass of `values` and `places`; errors name the section.

    Raises:
        ValueError: unknown fields (the known ones are listed), values that the recipe decides itself, or bad ones.
    """
    known = {item.name for item in fields(kind)} - (places.keys() - {"seed"})
    if not isinstance(values, Mapping):
        raise ValueError(f"{name} must be a mapping of names to values, got {values!r}")
    if unknown := sorted(values.keys() - known):
        raise ValueError(f"{name}: unknown {unknown}, known are {sorted(known)}")
    try:
        return kind(**{**places, **{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}})
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def read_recipe(path: str | Path, *, seed: int | None = None) -> Recipe:
    """The recipe of a YAML file; `$NAME` in a text stands for a variable of the environment.

    Args:
        path: the file.
        seed: takes the place of the recipe's own, to run it again with other random numbers.

    Raises:
        ValueError: no YAML, unknown or missing fields (file and section are named), a variable that is not set.
        FileNotFoundError: there is no such file.

    Example:
        >>> read_recipe("recipes/pocket.yaml").llm  # doctest: +SKIP
        'small'
    """
    import yaml

    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from error
    try:
        return _recipe(values, seed)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from error


def _recipe(values: Any, seed: int | None) -> Recipe:
    if not isinstance(values, dict):
        raise ValueError("a recipe is a mapping of names to values")
    values = {name: _expanded(value) for name, value in values.items() if value is not None}
    if seed is not None:
        values["seed"] = seed
    if missing := sorted({"data", "llm", "retriever"} - values.keys()):
        raise ValueError(f"the recipe lacks {missing}")
    seeded = {"small_lm": SmallLMConfig, "candidates": CandidateSettings}
    for name, kind in seeded.items():
        values[name] = section(kind, name, values.get(name) or {}, {"seed": values.get("seed", Recipe.seed)})
    decided = {"candidates": values["candidates"].count, "rewards": PreferenceSettings.rewards}
    values["preferences"] = section(PreferenceSettings, "preferences", values.get("preferences") or {}, decided)
    values["evaluation"] = section(Evaluation, "evaluation", values.get("evaluation") or {}, {})
    return section(Recipe, "recipe", values, {})


def _expanded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _expanded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    if not isinstance(value, str) or "$" not in value:
        return value
    expanded = os.path.expandvars(value)
    if "$" in expanded:
        raise ValueError(f"{value!r} names a variable of the environment that is not set")
    return expanded


def check_whole(name: str, value: Any) -> None:
    """Raise ValueError where `value` is no whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number from 1, got {value!r}")


def encoder_name(name: str) -> str:
    """The folder or hub name of an encoder, with "demo" resolved."""
    return demo_encoder_folder() if name == DEMO else name
