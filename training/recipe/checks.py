"""Consistency checks of a recipe, made before anything runs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...collections.opening import is_collection, open_collection
from ...common.extras import needed_for
from ...common.files import path_of, with_home
from ...common.weights import refuse_pickles
from ...encoding.registry import check_name
from ...evaluation.beir_collections import resolve
from ...expansion.backends.opening import backend_parts
from ..preferences.measured import training_collection
from ..preferences.rewards import MEASURE
from ..setting_checks import check_number
from .systems import DEMO, ROWS, SMALL

if TYPE_CHECKING:
    from .recipe import Evaluation, Recipe
#: fewest tokens that a prompt takes; `SmallLMConfig` reserves as many
PROMPT = 64


def check_texts(owner: Any, *names: str) -> None:
    """Raise TypeError if a field that must be a non-empty string is not."""
    for name in names:
        value = getattr(owner, name)
        if not isinstance(value, str) or not value.strip():
            raise TypeError(f"{name} must be a non-empty string, got {value!r}")


def check_data(data: str, split: str, ratios: Mapping[str, Any]) -> None:
    """Raise ValueError for ratios of non-existent files, or a split that the collection lacks."""
    for name, share in ratios.items():
        check_number(f"ratios: {name}", share, above=0)
        if share > 1:
            raise ValueError(f"ratios: {name} must be at most 1, got {share}")
    path = Path(data)
    if is_collection(data):
        if ratios:
            raise ValueError(f"ratios apply to JSONL files, but {data} is a collection: leave them out")
        open_collection(data, split)
    elif path.exists():
        files = sorted(file.stem for file in path.glob("*.jsonl")) if path.is_dir() else [path.stem]
        if unknown := sorted(ratios.keys() - set(files)):
            raise ValueError(f"ratios name files that do not exist: {unknown}; the files are {files}")


def check_collections(given: Evaluation) -> None:
    """Raise ValueError for a missing folder, collection or split."""
    if given.data is not None and not Path(given.data).is_dir():
        raise ValueError(f"data: there is no folder {given.data!r}")
    for collection in resolve(given.collections, data=given.data, split=given.split):
        try:
            _ = collection.dataset
        except FileNotFoundError as error:
            raise ValueError(str(error)) from error


def check_models(recipe: Recipe) -> None:
    """Raise ValueError for names that cannot be models, or an LLM that cannot be trained as the systems require."""
    for name, value in (
        ("llm", recipe.llm),
        ("encoder", recipe.encoder),
        ("retriever: base", recipe.retriever.get("base")),
    ):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name} must name a model, got {value!r}")
        place = backend_parts(value)[1] if name == "llm" else value
        check_place(name, place)
        if name != "llm" and place != DEMO:
            check_name(place)
    if recipe.llm == SMALL or not (trained := [name for name in recipe.systems if ROWS[name].rewards]):
        return
    if backend_parts(recipe.llm)[0] == "openai":
        raise ValueError(f"llm {recipe.llm!r} is on a server, so it cannot be trained as {trained} require")
    if "adapter" in backend_parts(recipe.llm)[2]:
        raise ValueError(f"llm {recipe.llm!r} already has an adapter, but {trained} train another: merge it first")


def check_place(name: str, place: str) -> None:
    """Raise ValueError if a model's name is a path to nothing."""
    if place.startswith(("/", ".", "~")) and not path_of(place).exists():
        raise ValueError(f"{name}: there is no folder {place!r}")


def check_training(recipe: Recipe) -> None:
    """Raise ValueError for training settings that are invalid, or do not suit the systems to compare."""
    if searching := [name for name in recipe.systems if MEASURE in (ROWS[name].rewards or ())]:
        try:
            training_collection(recipe.data, recipe.split)
        except ValueError as error:
            raise ValueError(f"systems: {searching[0]}: {error}") from error
    configs = [recipe.expander_config("base", "pairs", "out")]
    configs += [recipe.expander_config("base", "pairs", "out", r) for s in recipe.systems if (r := ROWS[s].rewards)]
    for config in configs:
        if config.online is None:
            continue
        if recipe.adapt_retriever:
            raise ValueError(
                f"adapt_retriever chooses pairs by a trained retriever, but {config.method} takes none: leave it out"
            )
        check_place("dpo: online: encoder", config.online.encoder)
        try:
            check_name(config.online.encoder)
        except ValueError as error:
            raise ValueError(f"dpo: online: encoder: {error}") from error
        for name, place in (("index", config.online.index), ("qrels", config.online.qrels)):
            if place is not None and not Path(place).exists():
                raise ValueError(f"dpo: online: {name}: {place!r} does not exist")
    if recipe.adapt_retriever and recipe.rounds < 2:
        raise ValueError("adapt_retriever is about what a later round learns from: set rounds to 2 or more")


def check_room(recipe: Recipe) -> None:
    """Raise ValueError if the requested texts exceed the language model's context."""
    context = _context(recipe)
    rewards = [ROWS[name].rewards for name in recipe.systems]
    asked: dict[str, tuple[int, int]] = {}
    if any(rewards):
        config = recipe.expander_config("base", "pairs", "out")
        asked["dpo: max_length"] = config.max_length, 0
        if config.online is None or config.online.needs_answers:
            asked["candidates: max_new_tokens"] = recipe.candidates.max_new_tokens, PROMPT
    if any(names is not None for names in rewards):
        asked["expansion: max_new_tokens"] = recipe.expansion_settings()["max_new_tokens"], PROMPT
    for name, (tokens, prompt) in asked.items():
        if context is not None and tokens + prompt > context:
            beside = f" plus {prompt} tokens of prompt" if prompt else ""
            mend = "lower it, or raise small_lm: context" if recipe.llm == SMALL else "lower it"
            raise ValueError(
                f"{name} {tokens}{beside} exceeds the context of llm {recipe.llm!r}, {context} tokens: {mend}"
            )


def check_machine(recipe: Recipe) -> None:
    """Raise right away the errors that training the LLM here would raise only after hours of earlier stages.

    Raises:
        ValueError: an encoder's folder with weights in a pickle alone, 4 bits without a CUDA device, or an index of
            online rewards that another encoder filled, or without the documents that are judged.
        ImportError: a package needed for training is missing.
    """
    from ..expander.train import check_requirements
    from .online import check_rewards

    for name in (recipe.encoder, str(recipe.retriever["base"])):
        refuse_pickles(path_of(name))
    if any(ROWS[name].rewards for name in recipe.systems):
        config = recipe.expander_config("base", "pairs", "out")
        check_requirements(config)
        if config.online is not None:
            refuse_pickles(path_of(config.online.encoder))
            if config.online.index is not None:
                check_rewards(config.online)


def _context(recipe: Recipe) -> int | None:
    """The language model's context length in tokens, if known without a download."""
    if recipe.llm == SMALL:
        return recipe.small_lm.context
    config = Path(recipe.model) / "config.json"
    return json.loads(config.read_text(encoding="utf-8")).get("max_position_embeddings") if config.is_file() else None


def load_yaml(text: str) -> Any:
    """The value of a YAML text; duplicate keys, of which YAML would keep the last, are rejected.

    Raises:
        ValueError: invalid YAML, or a duplicate key (its line is named).
    """
    with needed_for("a recipe", "train"):
        import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise ValueError(f"line {key.start_mark.line + 1}: the key {key.value!r} is repeated")
                seen.add(key.value)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {error}") from error


def with_variables(value: Any) -> Any:
    """A value of a recipe with `~` and `$NAME` in its texts filled in.

    Raises:
        ValueError: an environment variable is not set.
    """
    if isinstance(value, dict):
        return {name: with_variables(item) for name, item in value.items()}
    if isinstance(value, list):
        return [with_variables(item) for item in value]
    if not isinstance(value, str):
        return value
    value = with_home(value)
    if "$" not in value:
        return value
    expanded = os.path.expandvars(value)
    if "$" in expanded:
        raise ValueError(f"{value!r} refers to an environment variable that is not set")
    return expanded
