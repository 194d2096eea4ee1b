"""Does training mend what a real small LLM does to retrieval? SmolLM2-135M on SciFact, attempt by attempt.

    EXPANDR_DATA=FOLDER python -m benchmarks.expander_effect ATTEMPT... --folder WORK [--seeds 1 2 3] [--test]
        [--collection Vaswani] [--pooling cls] [--dtype bfloat16] [--json docs/results/expander_effect.json]

Protocol, written down before the first run:

- SciFact's training queries are split in two. One half gives candidates, with the settings of the recipe
  scifact-smollm2.yaml, which takes half as many queries; pairs and training are the attempt's. The first 200 of the
  other half, which no LLM is trained on, are the development queries: everything is chosen by them.
- Training must also beat the base at a lower temperature (0.6), which costs nothing.
- The 300 test queries are only looked at with `--test`: for the base, the paper's setting and the chosen attempt. What
  was looked at besides is listed in docs/expander_training.md, and nothing was chosen by it.
- Transfer: `--collection` tries the same models on the test queries of another collection (at most its first 300), and
  `--pooling cls` with another encoder, namely the same network pooled in a way that it was not trained for.
- A teacher's passages exist for the test queries alone. An attempt with one is trained five times, each time without a
  fifth of the test queries, which that model then writes for; how it is trained was fixed before the first run.
- A model writes one passage of at most 128 tokens for each query, at temperature 1, top-p 0.9 and the prompt q2d, with
  the same seed for all models; another at 0.6; and at temperature 1 three more, whose mean with the first is fused. A
  model is compared with the base that writes in the same way. all-MiniLM-L6-v2 (256 tokens) encodes; the fused vector
  searches all documents.
- An attempt's training seed is `--seeds`; p is that of a paired permutation test over queries, the interval that of a
  bootstrap over queries.

Columns: `nDCG@10` and `R@100` of the fused query (mean of query and passage), `weight 0.7` with 0.7 for the query,
`gain` of nDCG@10 over the base, `to query alone` the difference from the query without a passage, `equal lengths` the
gain if of each passage and the base's both are cut to the words of the shorter, `similarity` of the passage to the
relevant document, `words`, in the JSON `as query` (the share of passages without a word that their query lacks), and
`accuracy`: in which share of held-out pairs training raised the log-probability of the
chosen text by more than that of the rejected one. A number behind a figure is the p of its difference from the base's,
and for the accuracy that of a permutation test against a half; the JSON has the intervals. `tokens`
are those that the LLM wrote to be trained (candidates, or texts while training), and `seconds` those of training,
without drawing candidates. The LLM writes in `--dtype`, by default the machine's, and is trained in it unless the
attempt names another. A run goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
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
from benchmarks.temperatures import interval
from benchmarks.thoughts import document_vectors
from pyterrier_expandr import ExpandREncoder, HuggingFaceBackend, LLMExpander
from pyterrier_expandr.common.hardware import processor_features, processor_vendor
from pyterrier_expandr.common.jsonl import read_jsonl
from pyterrier_expandr.encoding import demo_encoder_folder
from pyterrier_expandr.evaluation.result_store import versions
from pyterrier_expandr.evaluation.significance import permutation_test
from pyterrier_expandr.expansion.prompts import render, resolve_prompt
from pyterrier_expandr.expansion.recorded import read_expansions
from pyterrier_expandr.training.data.examples import TrainingExample, examples_from_jsonl, open_examples
from pyterrier_expandr.training.expander.merge import merge_adapter
from pyterrier_expandr.training.expander.online.signs import EVALUATIONS, repeats
from pyterrier_expandr.training.expander.pair_tokens import held_out, tokenize_pairs
from pyterrier_expandr.training.expander.train import RECORD, ExpanderTrainingConfig, train_expander
from pyterrier_expandr.training.preferences.candidates import read_candidates
from pyterrier_expandr.training.preferences.pair_files import read_pairs, write_pairs
from pyterrier_expandr.training.preferences.rewards import MEASURE
from pyterrier_expandr.training.recipe.recipe import read_recipe
from pyterrier_expandr.training.recipe.stages import RecipeStages
from pyterrier_expandr.training.stage import Stage, build

RECIPE = Path(__file__).parents[1] / "recipes" / "scifact-smollm2.yaml"
#: of SciFact's training queries; the recipe takes half as many, so that it is done in some hours on any laptop
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
#: attempts that learn from a teacher
TAUGHT = {name for name, attempt in ATTEMPTS.items() if attempt.taught}
#: what training is to reach on the test queries: this gain of nDCG@10 over the base, with this p, in so many seeds
TARGET, LEVEL, SEEDS = 0.03, 0.01, 3


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
        pooling: str | None = None,
        dtype: str | None = None,
    ) -> None:
        self.folder, self.dtype = folder, dtype
        self.recipe = replace(read_recipe(RECIPE), parts=PARTS)
        self.collection, self.place, self.pooling = collection, data / FOLDERS[collection], pooling
        self.encoder = ExpandREncoder(demo_encoder_folder(), device="cpu", max_length=256, pooling=pooling)
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
        """The tokens of the candidates among which the attempt's pairs were chosen."""
        stages = self.stages(base if attempt.on_policy else None, attempt.rewards)
        tokenizer = self.model(None, 0)[0].backend().tokenizer
        sets = read_candidates(self.made(stages.candidates(attempt.rewards)) / "candidates.jsonl")
        return sum(len(ids) for one in sets for ids in tokenizer(list(one.candidates))["input_ids"])

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
        vectors = document_vectors(self.encoder, corpus, self.folder / f"{self.place.name}-{self.pooling}.npy")
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


def accuracy(parts: Sequence[Part], seed: int) -> dict[str, Any]:
    """In which share of held-out pairs training raised the chosen text's log-probability more; {} without pairs.

    The pairs of a query are not independent: p is that of a permutation test, and the interval of a bootstrap, over
    queries. Of a single query there is neither, and no interval where the queries do not differ.
    """
    found = [learnt(part.model, part.pairs, seed) for part in parts if part.pairs]
    if not sum(map(len, found)):
        return {}
    right, pairs = pd.concat(found).groupby("prompt")["better"].agg(["sum", "size"]).to_numpy(float).T
    said: dict[str, Any] = {"accuracy": float(right.sum() / pairs.sum())}
    if len(pairs) > 1:
        test = permutation_test(right / pairs, np.full(len(pairs), 0.5), weights=pairs / pairs.sum())
        said["accuracy p"] = test.pvalue
    if len({*(right / pairs)}) > 1:
        drawn = np.random.default_rng(0).integers(len(pairs), size=(2000, len(pairs)))
        shares = right[drawn].sum(axis=1) / pairs[drawn].sum(axis=1)
        said["accuracy interval"] = np.percentile(shares, [2.5, 97.5]).tolist()
    return said


def learnt(model: Model, pairs: Path, seed: int) -> pd.DataFrame:
    """`[prompt, better]`: whether the adapter raises the chosen text's log-probability more, for each held-out pair."""
    import torch

    base = replace(model, adapter=None)
    apart = held_out(tokenize_pairs(read_pairs(pairs), base.backend(), max_length=612), 0.1, seed)[1]
    gains = []
    for side in ("chosen_ids", "rejected_ids"):
        sums = []
        for one in (model, base):
            opened = one.backend().load()
            with torch.inference_mode():
                sums.append([log_probability(opened, row["prompt_ids"], row[side]) for row in apart.rows])
        gains.append(np.subtract(*sums))
    return pd.DataFrame({"prompt": list(map(str, apart.prompts)), "better": gains[0] > gains[1]})


def log_probability(model: Any, prompt: list[int], text: list[int]) -> float:
    """The sum of the log-probabilities of a text's tokens behind a prompt."""
    import torch

    ids = torch.tensor([prompt + text], device=model.device)
    found = model(ids).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
    return float(found.gather(1, ids[0, len(prompt) :, None]).sum())


def mean_words(texts: Sequence[str]) -> float:
    """The mean number of words of a query's passages; 0 without any."""
    return float(np.mean([len(text.split()) for text in texts])) if texts else 0.0


def equally_long(ones: Passages, others: Passages) -> tuple[list[list[str]], list[list[str]]]:
    """Both, with each passage and its counterpart cut to the words of the shorter; none is left without one."""
    left, right = [], []
    for one, other in zip(ones, others, strict=True):
        pairs = [(a.split(), b.split()) for a, b in itertools.zip_longest(one, other, fillvalue="")]
        for side, cut in enumerate((left, right)):
            cut.append([" ".join(pair[side][: min(map(len, pair))]) for pair in pairs if all(pair)])
    return left, right


def compared(values: np.ndarray, base: np.ndarray) -> dict[str, Any]:
    """By how much the mean of `values` is above that of `base`, both (n,), with interval and p."""
    found = values - base
    return {
        "gain": float(found.mean()),
        "interval": interval(found),
        "p": permutation_test(values, base).pvalue,
    }


def row_of(
    values: dict[str, np.ndarray],
    base: dict[str, np.ndarray],
    alone: dict[str, np.ndarray],
    equal: tuple[np.ndarray, np.ndarray],
) -> dict[str, Any]:
    """A line of the table: means, and differences with their p-values and intervals.

    Args:
        values, base: of the model and of the one that it is compared with, by measure, each (n,).
        alone: of the query without a passage.
        equal: nDCG@10 (n,) of both with passages of equal lengths.
    """
    gain, to_alone = (compared(values["nDCG@10"], of["nDCG@10"]) for of in (base, alone))
    return {name: float(value.mean()) for name, value in values.items()} | {
        "gain": gain["gain"],
        "gain interval": gain["interval"],
        "gain p": gain["p"],
        "to query alone": to_alone["gain"],
        "to query alone p": to_alone["p"],
        "compared": {name: compared(values[name], base[name]) for name in ("R@100", "similarity")},
        "equal lengths": compared(*equal),
    }


def run(
    names: Sequence[str], seeds: Sequence[int], test: bool, laboratory: Laboratory, ways: Sequence[Way] = WAYS
) -> list[dict[str, Any]]:
    """A row for the query alone, which no LLM touches, two for the base, and one for each attempt and seed."""
    queries, untrained = laboratory.queries(test), laboratory.model(None, 0)[0]
    alone, dtype = laboratory.measured(queries, None), untrained.backend().fingerprint()["dtype"]
    of = {"queries": where(laboratory, test), "n": len(queries)}
    on = of | {"dtype": dtype, "processor": arithmetic(dtype)}
    rows = [of | {"attempt": "query alone"} | {name: float(value.mean()) for name, value in alone.items()}]

    def row(texts: Passages, over: tuple[Passages, dict[str, np.ndarray]]) -> dict[str, Any]:
        """What a model's texts find, compared with those texts of the base and what these find."""
        equal = [laboratory.measured(queries, cut)["nDCG@10"] for cut in equally_long(texts, over[0])]
        return on | row_of(laboratory.measured(queries, texts), over[1], alone, (equal[0], equal[1]))

    bases = {}
    for way in ways:
        texts = laboratory.passages(untrained, queries, way)
        bases[way] = texts, laboratory.measured(queries, texts)
        rows.append({"attempt": f"base{way}"} | row(texts, bases[COMPARED]))
    for name, seed in itertools.product(names, seeds):
        parts, costs = laboratory.parts(name, seed, queries)
        held = accuracy(parts, seed)
        for way, base in bases.items():
            said = {"attempt": f"{name}{way}", "what": f"{ATTEMPTS[name].what}{way}", "seed": seed}
            found = row(laboratory.written(parts, queries, way), base)
            rows.append(said | found | held | {"training": costs})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def where(laboratory: Laboratory, test: bool) -> str:
    """What the table calls the queries: "development", "SciFact", "Vaswani", "SciFact (cls)"."""
    pooled = f" ({laboratory.pooling})" if laboratory.pooling else ""
    return f"{laboratory.collection}{pooled}" if test else f"development{pooled}"


def arithmetic(dtype: str) -> str:
    """What computes: texts and weights differ a little between processors. "" where Linux does not say."""
    if dtype != "bfloat16":
        return "avx512f" if "avx512f" in processor_features() else ""
    found = next((name for name in ("amx_bf16", "avx512_bf16") if name in processor_features()), "")
    # Both makers' processors have these instructions, and the libraries' kernels for them round differently.
    intel = found == "avx512_bf16" and processor_vendor() == "GenuineIntel"
    return found + ", Intel" * intel


def merged_rows(before: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of earlier runs and of this one; a row of the same attempt, seed, queries and arithmetic is replaced."""
    key = ("queries", "dtype", "processor", "attempt", "seed")
    found = {tuple(map(row.get, key)): row for row in [*before, *new]}
    return list(found.values())


def reached(rows: list[dict[str, Any]]) -> bool:
    """Whether an attempt reaches the target on the test queries in all its seeds, and is not below the query alone."""
    verdicts: dict[tuple[str, str, str | None], list[bool]] = {}
    taught = {f"{name}{way}" for name in TAUGHT for way in WAYS}  # on other test queries
    for row in rows:
        if row["queries"] == "SciFact" and "seed" in row and row["attempt"] not in taught:
            good = row["gain"] >= TARGET and row["gain p"] < LEVEL and row["to query alone"] >= 0
            verdicts.setdefault((row["attempt"], row["dtype"], row.get("processor")), []).append(good)
    return any(all(seeds) and len(seeds) >= SEEDS for seeds in verdicts.values())


def cells(row: dict[str, Any]) -> dict[str, str]:
    """A row of the table as text, by column; what a row lacks is empty."""
    found = {"queries": row["queries"], "model": row.get("what", row["attempt"]), "seed": str(row.get("seed", ""))}
    found["computed in"] = " ".join(filter(None, map(row.get, ("dtype", "processor"))))
    tests = row.get("compared", {}) if row["attempt"] != "base" else {}
    for name in ("nDCG@10", "R@100", f"weight {WEIGHT}", "similarity"):
        title = f"{name}, p" if name in ("R@100", "similarity") else name
        found[title] = _tested(row.get(name), ".4f", tests.get(name, {}).get("p"))
    found["words"] = _tested(row.get("words"), ".1f")
    gain = to_alone = equal = ""
    if "gain" in row and row["attempt"] != "base":
        low, high = row["gain interval"]
        gain = f"{row['gain']:+.4f} ({low:+.3f} - {high:+.3f}), {row['gain p']:.4f}"
        at_equal = row.get("equal lengths", {"gain": row.get("shortened"), "p": None})
        equal = _tested(at_equal["gain"], "+.4f", at_equal["p"])
    if "to query alone" in row:
        to_alone = f"{row['to query alone']:+.4f}, {row['to query alone p']:.4f}"
    found |= {"gain (95 % interval), p": gain, "to query alone, p": to_alone, "equal lengths, p": equal}
    found["accuracy, p"] = _tested(row.get("accuracy"), ".2f", row.get("accuracy p"))
    return found | {name: str(row.get("training", {}).get(name, "")) for name in ("tokens", "seconds")}


def markdown(rows: list[dict[str, Any]], without: Sequence[str] = ()) -> str:
    """The table of the documentation, or part of its columns."""
    lines = [{name: text for name, text in cells(row).items() if name not in without} for row in rows]
    head = [f"| {' | '.join(lines[0])} |", "|---" * len(lines[0]) + "|"]
    return "\n".join([*head, *(f"| {' | '.join(line.values())} |" for line in lines)])


def _tested(value: float | None, form: str, p: float | None = None) -> str:
    """A figure, with the p of its test where there is one; empty for None."""
    return "" if value is None else f"{value:{form}}" + ("" if p is None else f", {p:.4f}")


def main() -> int:
    """Train, measure, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attempts", nargs="*", choices=[*ATTEMPTS, []], help="none measures the base alone")
    parser.add_argument("--folder", type=Path, required=True, help="candidates, adapters and texts are kept here")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--test", action="store_true", help="on the test queries, not on the development queries")
    parser.add_argument("--collection", choices=list(FOLDERS), default="SciFact", help="implies --test if not SciFact")
    parser.add_argument("--pooling", help="another way to pool the encoder's tokens, such as cls")
    parser.add_argument(
        "--ways", type=int, choices=range(1, len(WAYS) + 1), default=len(WAYS), help="the first so many"
    )
    parser.add_argument("--dtype", help="of the LLM; bfloat16 is fast on a CPU that has arithmetic for it")
    parser.add_argument("--json", type=Path, help="add the rows to this file")
    given = parser.parse_args()
    if TAUGHT & {*given.attempts} and not (given.test and given.collection == "SciFact"):
        parser.error("a teacher's passages are recorded for SciFact's test queries alone: add --test, no --collection")
    data = Path(os.environ["EXPANDR_DATA"])
    laboratory = Laboratory(given.folder, data, given.collection, given.pooling, given.dtype)
    rows = run(given.attempts, given.seeds, given.test or given.collection != "SciFact", laboratory, WAYS[: given.ways])
    if given.json:
        before = json.loads(given.json.read_text())["rows"] if given.json.exists() else []
        rows = merged_rows(before, rows)
        given.json.write_text(json.dumps({"rows": rows, "versions": versions()}, indent=1) + "\n")
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
