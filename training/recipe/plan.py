"""What a recipe will cost, before anything runs: upper bounds on texts, tokens and memory of each stage."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from ..data.examples import are_counts, split_examples
from ..preferences.measured import training_collection
from ..stage import Stage, in_order
from .recipe import SMALL, Recipe, encoder_name
from .stages import RecipeStages

#: tokens of a prompt without a document, and of a document
PROMPT, DOCUMENT = 100, 512

#: embedding width assumed for an encoder whose configuration is not on this machine
WIDTH = 768

GIB = 2**30


def plan(recipe: Recipe) -> pd.DataFrame:
    """`[stage, for, fingerprint, texts, tokens_read, tokens_written, memory_gib]` for each stage, as upper bounds.

    `for` names the systems that need a stage. Texts are those that a model writes or reads. Every text is assumed to be
    as long as its limit allows; what a filter will drop is unknown. For data that is not on this machine, `parts` is
    trusted, with one positive per query.

    `memory_gib` is a lower bound: the language model's weights in 16 bits (in 32 bits for a merge; a tenth of a GiB for
    one trained from scratch, half a GiB for an encoder), or the largest index. What training keeps besides the weights
    (gradients, optimizer, activations) and a backend's cache come on top. NaN if a model's size is unknown.
    Nothing is downloaded and no model is loaded.

    Raises:
        ValueError: `parts` are fractions and the data is not on this machine.
    """
    stages = RecipeStages(recipe)
    estimate, users = _Estimate(stages), stages.users()
    found = in_order([stages.experiment()])
    rows = [(stage.name, users[stage.fingerprint], stage.fingerprint, *estimate.of(stage)) for stage in found]
    columns = ["stage", "for", "fingerprint", "texts", "tokens_read", "tokens_written", "memory_gib"]
    return pd.DataFrame(rows, columns=columns)


class _Estimate:
    """Texts, tokens read, tokens written and GiB of a stage."""

    def __init__(self, stages: RecipeStages) -> None:
        self.recipe = recipe = stages.recipe
        self.queries, self.positives = _counts(stages)
        sizes = [collection_size(collection) for collection in stages.test]
        self.documents, self.topics = (sum(size[place] for size in sizes) for place in (0, 1))
        self.largest = max(documents for documents, _ in sizes)
        self.llm = _billions(recipe.model) * 2e9 / GIB if recipe.llm != SMALL else 0.1

    def of(self, stage: Stage) -> tuple[int, int, int, float]:
        """The estimate for that stage."""
        name = re.sub(r"-\d+$", "", stage.name)  # the number of a round
        name = "retriever" if name.startswith("retriever") else name.replace("-", "_")
        estimate: Callable[[Stage], tuple[int, int, int, float]] = getattr(self, f"_{name}")
        return estimate(stage)

    def _examples(self, stage: Stage) -> tuple[int, int, int, float]:
        return sum(self.queries.values()), 0, 0, 0.0

    def _small_lm(self, stage: Stage) -> tuple[int, int, int, float]:
        config = self.recipe.small_lm
        pairs = self.positives["llm"]
        of_pairs = pairs * (config.passage_tokens + PROMPT) * config.pair_epochs
        read = int(self.documents * DOCUMENT * config.text_epochs + of_pairs)
        return self.documents + pairs, read, 0, self.llm

    def _candidates(self, stage: Stage) -> tuple[int, int, int, float]:
        settings, n = self.recipe.candidates, self.queries["llm"]
        texts = n * (settings.count + 1)
        read = n * (len(settings.temperatures) * PROMPT + PROMPT + DOCUMENT)
        return texts, read, texts * settings.max_new_tokens, self.llm

    def _answers(self, stage: Stage) -> tuple[int, int, int, float]:
        texts = self.queries["llm"]
        return texts, texts * (PROMPT + DOCUMENT), texts * self.recipe.candidates.max_new_tokens, self.llm

    def _grpo(self, stage: Stage) -> tuple[int, int, int, float]:
        config = self.recipe.expander_config("base", "pairs", "out")
        held_out = math.ceil(self.queries["llm"] * config.eval_fraction)
        # before the first step and then `evaluations` times; what the untrained model writes is kept
        evaluated = held_out * (config.evaluations + 1 + config.group_size)
        steps = math.ceil((self.queries["llm"] - held_out) // config.queries_per_step * config.epochs)
        drawn = steps * config.queries_per_step * config.group_size
        texts, length = drawn + evaluated, config.online_settings.max_new_tokens
        # each is written, and then read by the model and by its reference
        copies = 1 + (config.vllm == "colocate")
        memory = copies * self.llm / (4 if config.load_in_4bit else 1)
        return texts, texts * (PROMPT + 2 * (PROMPT + length)), texts * length, memory

    _online_dpo = _grpo

    def _pairs(self, stage: Stage) -> tuple[int, int, int, float]:
        settings, n = self.recipe.candidates, self.queries["llm"]
        written = (settings.count + 1) * min(DOCUMENT, settings.max_new_tokens)
        return n * (settings.count + 3), n * (written + DOCUMENT + PROMPT), 0, 0.5

    def _searched(self, stage: Stage) -> tuple[int, int, int, float]:
        documents, _ = collection_size(training_collection(self.recipe.data, self.recipe.split))
        return documents, documents * DOCUMENT, 0, documents * _width(self.recipe.encoder) * 4 / GIB

    def _dpo(self, stage: Stage) -> tuple[int, int, int, float]:
        config = self.recipe.expander_config("base", "pairs", "out")
        most = self.queries["llm"] * self.recipe.preferences.pairs_per_query
        pairs = min(most, self.recipe.max_pairs or most)
        held_out = math.ceil(pairs * config.eval_fraction)
        # before the first step and then `evaluations` times, and each pair is two texts
        passes = (pairs - held_out) * config.epochs + held_out * (config.evaluations + 1)
        texts = math.ceil(2 * passes)
        reference = 2 * pairs if config.precompute_reference else texts
        generations = 2 * min(config.report_prompts, held_out or pairs)
        read = (texts + reference) * config.max_length + generations * PROMPT
        memory = self.llm / (4 if config.load_in_4bit else 1)
        return texts + generations, read, generations * config.report_tokens, memory

    def _merge(self, stage: Stage) -> tuple[int, int, int, float]:
        return 0, 0, 0, 2 * self.llm

    def _expansions(self, stage: Stage) -> tuple[int, int, int, float]:
        return self._written(self.queries["retriever"], self.recipe.expansion_settings())

    def _test_expansions(self, stage: Stage) -> tuple[int, int, int, float]:
        return self._written(self.topics, self.recipe.expansion_settings(test=True))

    def _written(self, queries: int, settings: dict[str, Any]) -> tuple[int, int, int, float]:
        texts = queries * settings["n"]
        return texts, queries * PROMPT, texts * settings["max_new_tokens"], self.llm

    def _retriever(self, stage: Stage) -> tuple[int, int, int, float]:
        config = self.recipe.retriever_config("data", "out", "expandr", None)
        if stage.name == "retriever-raw":
            return 0, 0, 0, 0.5
        expansions = self.recipe.expansion_settings()["n"] if stage.name == "retriever-expandr" else 0
        rows = math.ceil(self.positives["retriever"] * (1 - config.dev_fraction) * config.epochs)
        texts = rows * (2 + config.negatives + expansions)
        return texts, texts * (config.max_length or DOCUMENT), 0, 0.5

    def _student(self, stage: Stage) -> tuple[int, int, int, float]:
        config = self.recipe.student_config("teacher", "queries", "expansions", "out")
        passages = self.queries["retriever"] * self.recipe.expansion_settings()["n"]
        rows = self.queries["retriever"] if config.targets == "mean" else passages
        texts = self.queries["retriever"] + passages + math.ceil(rows * config.epochs)
        return texts, texts * (self.recipe.retriever.get("max_length") or DOCUMENT), 0, 0.5

    def _index(self, stage: Stage) -> tuple[int, int, int, float]:
        width = _width(str(self.recipe.retriever.get("base", "")))
        return self.documents, self.documents * DOCUMENT, 0, self.largest * width * 4 / GIB

    def _experiment(self, stage: Stage) -> tuple[int, int, int, float]:
        passages = self.recipe.expansion_settings(test=True)["n"]
        texts = self.topics * sum(1 + passages * (i.name == "test-expansions") for i in stage.inputs)
        return texts, texts * DOCUMENT, 0, self._index(stage)[3]


def collection_size(collection: Any) -> tuple[int, int]:
    """(documents, queries) of a test collection, as recorded by ir-datasets or else counted in the files."""
    if hasattr(collection.dataset, "irds_ref"):
        recorded = collection.dataset.irds_ref().metadata()
        return recorded["docs"]["count"], recorded["queries"]["count"]
    return sum(1 for _ in collection.get_corpus_iter()), len(collection.topics)


def _counts(stages: RecipeStages) -> tuple[Counter[str], Counter[str]]:
    """The number of queries and of positives in each part."""
    recipe = stages.recipe
    queries: Counter[str] = Counter()
    positives: Counter[str] = Counter()
    here = recipe.data == "pocket" or Path(recipe.data).exists()
    if are_counts(recipe.parts) and not here:
        sizes = Counter({name: int(size) for name, size in recipe.parts.items()})
        return sizes, sizes
    for part, example in split_examples(stages.source(), recipe.parts, recipe.seed):
        queries[part] += 1
        positives[part] += len(example.positives)
    return queries, positives


def _billions(model: str) -> float:
    """Billions of weights, from the files of a folder or from a name such as Qwen2.5-7B or Mixtral-8x7B; NaN if
    unknown."""
    if Path(model).is_dir():
        return sum(file.stat().st_size for file in Path(model).glob("*.safetensors")) / 2e9
    found = re.search(r"(?:(\d+)x)?(\d+(?:\.\d+)?)[bB](?![a-zA-Z])", model.rpartition("/")[2])
    return int(found[1] or 1) * float(found[2]) if found else float("nan")


def _width(encoder: str) -> int:
    file = Path(encoder_name(encoder)) / "config.json"
    return int(json.loads(file.read_text(encoding="utf-8"))["hidden_size"]) if file.is_file() else WIDTH
