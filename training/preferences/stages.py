"""The stages of a recipe that draw candidates and choose pairs among them."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ...encoding.registry import load_encoder
from ...evaluation.beir_collections import Collection
from ...expansion.backends.base import Backend
from ...expansion.cache import GenerationCache
from ...retrieval.faiss_index import FaissIndex
from ..data.examples import examples_from_jsonl
from ..identity import corpus_identity, encoder_identity
from ..stage import Stage, texts_beside
from .candidates import CandidateSettings, generate_answers, generate_candidates, write_candidates
from .choice import PreferenceSettings, pairs_of
from .measured import open_gain, with_gain
from .pair_files import trl_row, write_pairs
from .pair_report import PairReport
from .pairs import read_decisions, write_decisions, write_report


def candidates_stage(
    settings: CandidateSettings,
    open_llm: Callable[[tuple[Path, ...]], Backend],
    llm: dict[str, Any],
    inputs: tuple[Stage, ...],
    *,
    verbose: bool = False,
) -> Stage:
    """candidates.jsonl: candidates and an answer for each query of the LLM's part.

    Args:
        settings: what to draw.
        open_llm: returns the backend, given the folders of `inputs` after the first.
        llm: everything that determines that backend's texts.
        inputs: the examples, and the stage that makes the model, if any.
        verbose: show progress bars.
    """

    def run(folder: Path, examples: Path, *model: Path) -> dict[str, Any]:
        found = examples_from_jsonl(examples / "llm.jsonl")
        with open_llm(model) as backend, closing(GenerationCache(texts_beside(folder))) as cache:
            sets = generate_candidates(found, backend, settings, cache=cache, verbose=verbose)
            count = write_candidates(folder / "candidates.jsonl", sets)
        return {"queries": count, "candidates": count * settings.count}

    return Stage("candidates", settings.recorded() | llm, inputs, run)


def answers_stage(
    settings: CandidateSettings,
    open_llm: Callable[[tuple[Path, ...]], Backend],
    llm: dict[str, Any],
    inputs: tuple[Stage, ...],
    *,
    check: Callable[[Path], Any],
    verbose: bool = False,
) -> Stage:
    """candidates.jsonl: an answer for each query of the LLM's part, and no candidates; see `candidates_stage`.

    `check` gets the file of the queries before the LLM is opened, and raises if the answers could not be used.
    """

    def run(folder: Path, examples: Path, *model: Path) -> dict[str, Any]:
        check(examples / "llm.jsonl")
        found = list(examples_from_jsonl(examples / "llm.jsonl"))
        with open_llm(model) as backend, closing(GenerationCache(texts_beside(folder))) as cache:
            sets = generate_answers(found, backend, settings, cache=cache, total=len(found), verbose=verbose)
            return {"queries": write_candidates(folder / "candidates.jsonl", sets)}

    candidates_only = ("temperatures", "samples", "prompt", "answers")
    decide = {name: value for name, value in asdict(settings).items() if name not in candidates_only}
    return Stage("answers", decide | llm, inputs, run)


def with_rewards(settings: PreferenceSettings, rewards: tuple[str, ...]) -> PreferenceSettings:
    """The settings with only these rewards, each keeping its weight; a new one has 1.

    Example:
        >>> with_rewards(PreferenceSettings(weights=(2.0, 1.0)), ("retriever",)).weights
        [1.0]
    """
    weights = dict(zip(settings.rewards, settings.weights or (1.0,) * len(settings.rewards), strict=True))
    own = None if settings.weights is None else [weights.get(name, 1.0) for name in rewards]
    return replace(settings, rewards=rewards, weights=own)


def searched_stage(
    collection: Collection, encoder: str, *retriever: Stage, device: str | None = None, verbose: bool = False
) -> Stage:
    """documents.faiss: the collection of the training queries, encoded by the reward encoder, which may be trained."""

    def run(folder: Path, *trained: Path) -> dict[str, Any]:
        index = FaissIndex(folder / "documents.faiss")
        corpus = index.remaining(collection.get_corpus_iter(verbose=verbose))
        reward_encoder = load_encoder(str(trained[0] / "model") if trained else encoder, fuse=True, device=device)
        (reward_encoder.doc_encoder() >> index.indexer(mode="resume")).index(corpus)
        return {"documents": len(index)}

    settings: dict[str, Any] = {"corpus": corpus_identity(collection)}
    if not retriever:
        settings["encoder"] = encoder_identity(encoder)
    return Stage("searched", settings, retriever, run)


def pairs_stage(
    preferences: PreferenceSettings,
    encoder: str,
    candidates: Stage,
    *retriever: Stage,
    searched: tuple[Stage, Collection] | None = None,
    prompt: str,
    max_pairs: int | None,
    seed: int,
    device: str | None = None,
    verbose: bool = False,
) -> Stage:
    """pairs.jsonl: chosen and rejected, with the decisions on all queries and the report on them.

    Args:
        preferences: rewards and filters.
        encoder: the reward encoder, as accepted by `load_encoder`.
        candidates: the stage with candidates.jsonl.
        retriever: the stage with a trained retriever in model/, if that is the reward encoder instead.
        searched: the stage with documents.faiss, and its collection, if one of the rewards is "measure".
        prompt: the prompt used for the candidates.
        max_pairs: size of a seeded sample of the pairs; None keeps all.
        seed: for that sample.
        device: "cuda" or "cpu"; None means cuda if available.
        verbose: show progress bars.

    Raises:
        ValueError: no pair is left (when the stage runs).
    """

    def run(folder: Path, drawn: Path, *others: Path) -> dict[str, Any]:
        sets, decisions = drawn / "candidates.jsonl", folder / "decisions.jsonl"
        trained, choosing = others[: len(retriever)], preferences
        reward_encoder = load_encoder(str(trained[0] / "model") if trained else encoder, fuse=True, device=device)
        if searched is not None:
            gain = open_gain(others[-1] / "documents.faiss", searched[1].qrels, reward_encoder)
            choosing = with_gain(preferences, gain)
        write_decisions(sets, decisions, reward_encoder, choosing, verbose=verbose)
        report = PairReport.of(read_decisions(decisions, sets), preferences)
        write_report(report, folder)
        chosen = (pair for one in read_decisions(decisions, sets) for pair in pairs_of(one, preferences))
        rows = [trl_row(pair, prompt) for pair in chosen]
        if not rows:
            reasons = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
            raise ValueError(
                f"none of the {report.queries} queries gave a pair ({reasons}); those filtered are below "
                f"preferences: threshold {preferences.threshold_or_default}"
            )
        if max_pairs is not None and len(rows) > max_pairs:
            places = sorted(random.Random(seed).sample(range(len(rows)), max_pairs))
            rows = [rows[place] for place in places]
        return {"queries": report.queries, "pairs": write_pairs(folder / "pairs.jsonl", rows)}

    settings = preferences.recorded() | {"seed": seed, "max_pairs": max_pairs}
    if not retriever:
        settings["encoder"] = encoder_identity(encoder)
    return Stage("pairs", settings, (candidates, *retriever, *([searched[0]] if searched else ())), run)
