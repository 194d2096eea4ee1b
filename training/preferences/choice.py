"""Preference pairs: which of a query's candidates the LLM should learn to write, and which not to (Eq. 10-16)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np

from ...encoding.encoder import ExpandREncoder
from ..data.chunks import in_chunks
from ..setting_checks import check_flag, check_number, check_whole
from .candidates import CandidateSet
from .rewards import MEASURE, REWARDS, Candidates, Reward, combined_reward
from .text_embeddings import embed

#: reasons why a query yields no pair
Reason = Literal["empty answer", "wrong candidate count", "filtered", "all truncated", "equal texts", "reward gap"]

REASONS: tuple[Reason, ...] = get_args(Reason)


def relevance_to_query(candidates: Candidates) -> np.ndarray:
    """The paper's filter score (n,): how similar the most similar candidate is to the query."""
    return candidates.to_query.max(axis=1)


def relevance_to_gold_and_answer(candidates: Candidates) -> np.ndarray:
    """The reference code's filter score (n,): the largest sim(gold, d) + sim(answer, d) over the candidates d."""
    return (candidates.to_gold + candidates.to_answer).max(axis=1)


#: filter name -> its score, and the threshold below which a query is dropped
FILTERS: Mapping[str, tuple[Callable[[Candidates], np.ndarray], float]] = {
    "paper": (relevance_to_query, 0.5),
    "reference": (relevance_to_gold_and_answer, 0.6),
}


@dataclass(frozen=True)
class PreferenceSettings:
    """How pairs are chosen; the defaults are the paper's.

    Args:
        filter: "paper" drops a query whose candidates are all dissimilar to it; "reference" drops it if
            sim(gold, d) + sim(answer, d) is small for all candidates d.
        threshold: the score below which a query is dropped; None means the filter's own: 0.6 for "reference", and 0.5
            for "paper", since the paper names none. With all-MiniLM-L6-v2 and 300 SciFact claims, the best of 13
            passages that LLMs wrote for a claim has a similarity of at least 0.61 to it, and the best of 13 written for
            another claim at most 0.50: 0.5 keeps what is on topic. Cosines vary between encoders; check the counts.
        candidates: number of candidates each query must have.
        rewards: names in `REWARDS`, "measure" (the gain in a measure of the search; see `measured`), or callables of
            your own (`Reward`).
        weights: of the rewards in their sum; None means 1 for each (Eq. 11).
        min_gap: the smallest reward difference between chosen and rejected.
        pairs_per_query: how many pairs a query gives at most: its best candidate with its worst, as in the paper, then
            the second best with the second worst, and so on, as long as the first is the better one.
        choose_truncated: whether a candidate that was cut at `max_new_tokens` may be chosen, as in the paper. By
            default it may only be rejected: choosing it would teach the LLM to stop in mid-sentence.

    Raises:
        ValueError: an unknown filter or reward, no reward, a wrong number of weights, fewer than 2 candidates, or a
            negative gap.
        TypeError: a value that is not a number, or a `candidates` that is not a whole number.

    Example:
        >>> PreferenceSettings(filter="reference", candidates=13).threshold_or_default
        0.6
    """

    filter: str = "paper"
    threshold: float | None = None
    candidates: int = 32
    rewards: Sequence[str | Reward] = ("self", "retriever")
    weights: Sequence[float] | None = None
    min_gap: float = 0.0
    pairs_per_query: int = 1
    choose_truncated: bool = False

    def __post_init__(self) -> None:
        if self.filter not in FILTERS:
            raise ValueError(f"filter {self.filter!r} is unknown: use one of {sorted(FILTERS)}")
        if not self.rewards or isinstance(self.rewards, str):
            raise ValueError(f"rewards must be a list of at least one name or callable, got {self.rewards!r}")
        for reward in self.rewards:
            if isinstance(reward, str) and reward not in (*REWARDS, MEASURE):
                known = [*sorted(REWARDS), MEASURE]
                raise ValueError(f"reward {reward!r} is unknown: use one of {known}, or a callable")
        if self.weights is not None:
            if isinstance(self.weights, (str, int, float)):
                raise TypeError(f"weights must be a list of numbers, got {self.weights!r}")
            for weight in self.weights:
                check_number("each of weights", weight)
        if self.weights is not None and len(self.weights) != len(self.rewards):
            raise ValueError(f"give one weight for each of the {len(self.rewards)} rewards, got {len(self.weights)}")
        check_whole("candidates", self.candidates, least=0)
        if self.candidates < 2:
            raise ValueError(f"a pair needs at least 2 candidates, got candidates={self.candidates}")
        if self.threshold is not None and (isinstance(self.threshold, (bool, str)) or self.threshold != self.threshold):
            raise ValueError(f"threshold must be a number or None, got {self.threshold!r}")
        check_number("min_gap", self.min_gap, least=0)
        check_whole("pairs_per_query", self.pairs_per_query)
        check_flag("choose_truncated", self.choose_truncated)

    def recorded(self) -> dict[str, Any]:
        """The settings as stored in records: `choose_truncated` only if it is off, `pairs_per_query` only above 1.

        Records written before these settings existed do not mention them; these were their values then.

        Example:
            >>> "choose_truncated" in PreferenceSettings(choose_truncated=True).recorded()
            False
        """
        before = {"choose_truncated": True, "pairs_per_query": 1}
        return {name: value for name, value in vars(self).items() if name not in before or before[name] != value}

    @property
    def needs_answers(self) -> bool:
        """Whether the filter or a named reward compares candidates with the LLM's answer.

        Example:
            >>> PreferenceSettings(rewards=("retriever",)).needs_answers
            False
        """
        return self.filter == "reference" or any(isinstance(r, str) and r.startswith("self") for r in self.rewards)

    @property
    def threshold_or_default(self) -> float:
        """`threshold`, or the filter's own if that is None."""
        return FILTERS[self.filter][1] if self.threshold is None else self.threshold


@dataclass(frozen=True)
class Decision:
    """The outcome for one query: the indices of the chosen and the rejected candidate, or why there is no pair.

    `rewards` are the candidates' combined rewards and `parts` the individual ones, in the order of the settings; both
    are empty if the query was dropped before they were computed.
    """

    of: CandidateSet
    dropped: Reason | None = None
    chosen: int | None = None
    rejected: int | None = None
    rewards: tuple[float, ...] = ()
    parts: tuple[tuple[float, ...], ...] = field(default=(), repr=False)


def decide(
    sets: Iterable[CandidateSet],
    encoder: ExpandREncoder,
    settings: PreferenceSettings | None = None,
    *,
    queries_per_chunk: int = 128,
) -> Iterator[Decision]:
    """One `Decision` for each query, in order: chosen = argmax of the reward, rejected = argmin; ties go to the first.

    Queries are encoded in chunks, each distinct text of a chunk once, and texts with similar numbers of tokens share a
    batch (`encoding.embed`): memory is bounded by the chunk, whatever the number of queries.

    Args:
        sets: queries with their candidates and answer, as a stream.
        encoder: the reward encoder; its document side reads gold documents, answers and candidates.
        settings: filter, rewards and gap.
        queries_per_chunk: queries encoded together.

    Raises:
        ValueError: an embedding contains NaN or infinity, a reward's shape is not (n_queries, n_candidates), or the
            reward "measure" is named but not opened on an index (`measured.with_gain`).

    Example:
        >>> sets = [CandidateSet("1", "sky", "d1", "Air scatters.", "Scattering.", ("Air.", "Mud."))]
        >>> encoder = ExpandREncoder("facebook/contriever")
        >>> next(decide(sets, encoder, PreferenceSettings(candidates=2)))  # doctest: +SKIP
    """
    settings = settings or PreferenceSettings()
    check_opened(settings)
    for chunk in in_chunks(sets, queries_per_chunk):
        reasons = [_unfit(one, settings) for one in chunk]
        fit = [one for one, reason in zip(chunk, reasons, strict=True) if reason is None]
        decided = iter(choose(fit, compare(fit, encoder), settings) if fit else ())
        for one, reason in zip(chunk, reasons, strict=True):
            yield Decision(one, dropped=reason) if reason is not None else next(decided)


def check_opened(settings: PreferenceSettings) -> None:
    """Raise ValueError if the reward "measure" is named but not opened on an index."""
    if MEASURE in settings.rewards:
        raise ValueError('the reward "measure" searches an index: open one for it (`measured.open_gain`, `with_gain`)')


def _unfit(one: CandidateSet, settings: PreferenceSettings) -> Reason | None:
    if settings.needs_answers and not one.answer.strip():
        return "empty answer"
    if len(one.candidates) != settings.candidates or not all(text.strip() for text in one.candidates):
        return "wrong candidate count"
    return None


def compare(sets: Sequence[CandidateSet], encoder: ExpandREncoder) -> Candidates:
    """Embeddings and similarities for queries with equally many candidates; a blank one has its query's vector."""
    size = len(sets[0].candidates) + 2
    texts = [text for one in sets for text in (one.positive, one.answer, *one.candidates)]
    embedded = embed(encoder, texts, "document").reshape(len(sets), size, -1)
    queries = embed(encoder, [one.query for one in sets], "query")
    blank = np.array([[not text.strip() for text in one.candidates] for one in sets])
    vectors = np.where(blank[..., None], queries[:, None], embedded[:, 2:])
    return Candidates(
        query_ids=[one.query_id for one in sets],
        queries=[one.query for one in sets],
        texts=[one.candidates for one in sets],
        query_vectors=queries,
        vectors=vectors,
        to_query=similarities(queries, vectors),
        to_answer=np.where(_unanswered(sets)[:, None], np.float32(np.nan), similarities(embedded[:, 1], vectors)),
        to_gold=similarities(embedded[:, 0], vectors),
    )


def _unanswered(sets: Sequence[CandidateSet]) -> np.ndarray:
    return np.array([not one.answer.strip() for one in sets])


def similarities(anchors: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Dot products (n, m) of n anchors (n, d) with the m candidates (n, m, d) of each.

    Example:
        >>> similarities(np.array([[1.0, 0.0]]), np.array([[[1.0, 0.0], [0.0, 1.0]]]))
        array([[1., 0.]])
    """
    return np.einsum("nd,nmd->nm", anchors, candidates)


def choose(sets: Sequence[CandidateSet], candidates: Candidates, settings: PreferenceSettings) -> Iterator[Decision]:
    """The `Decision` for each of `sets`, from their similarities; all have an answer and as many candidates."""
    _check_finite(candidates, _unanswered(sets))
    parts = [_computed(reward, candidates) for reward in settings.rewards]
    rewards = combined_reward(parts, settings.weights)
    score, _ = FILTERS[settings.filter]
    kept = score(candidates) >= settings.threshold_or_default
    whole = np.array([not_truncated(one) | settings.choose_truncated for one in sets])
    chosen, rejected = np.where(whole, rewards, -np.inf).argmax(axis=1), rewards.argmin(axis=1)
    for row, one in enumerate(sets):
        best, worst = int(chosen[row]), int(rejected[row])
        dropped: Reason | None = None
        if not kept[row]:
            dropped = "filtered"
        elif not whole[row].any():
            dropped = "all truncated"
        elif one.candidates[best] == one.candidates[worst]:
            dropped = "equal texts"
        elif rewards[row, best] - rewards[row, worst] < settings.min_gap:
            dropped = "reward gap"
        yield Decision(
            one,
            dropped,
            chosen=None if dropped else best,
            rejected=None if dropped else worst,
            rewards=tuple(rewards[row].tolist()),
            parts=tuple(tuple(part[row].tolist()) for part in parts),
        )


def pairs_of(decision: Decision, settings: PreferenceSettings) -> list[Decision]:
    """The pairs of a query, each as a decision for it: none if it was dropped, else up to `pairs_per_query`.

    Example:
        >>> of = CandidateSet("1", "sky", "d1", "Air.", "", ("A.", "B.", "C.", "D."))
        >>> decision = Decision(of, chosen=2, rejected=0, rewards=(0.1, 0.7, 0.9, 0.2))
        >>> found = pairs_of(decision, PreferenceSettings(candidates=4, pairs_per_query=2))
        >>> [(one.chosen, one.rejected) for one in found]
        [(2, 0), (1, 3)]
    """
    if decision.dropped is not None:
        return []
    rewards, texts = np.array(decision.rewards), decision.of.candidates
    whole = not_truncated(decision.of) | settings.choose_truncated
    best, worst = (np.argsort(values, kind="stable") for values in (-rewards, rewards))
    others = zip(best[whole[best]].tolist(), worst.tolist(), strict=False)
    return [decision] + [
        replace(decision, chosen=chosen, rejected=rejected)
        for chosen, rejected in islice(others, 1, settings.pairs_per_query)
        if rewards[chosen] > rewards[rejected] and rewards[chosen] - rewards[rejected] >= settings.min_gap
        if texts[chosen] != texts[rejected]
    ]


def not_truncated(one: CandidateSet) -> np.ndarray:
    """Which candidates are complete texts, bool (m,); all of them if unknown.

    Example:
        >>> not_truncated(CandidateSet("1", "q", "d", "gold", "answer", ("a", "b"), truncated=(True, False)))
        array([False,  True])
    """
    return ~np.array(one.truncated or [False] * len(one.candidates), dtype=bool)


def _check_finite(candidates: Candidates, unanswered: np.ndarray) -> None:
    """Reject NaN and infinity: comparisons with NaN are false, so a broken embedding would look off-topic."""
    for anchor in ("query", "answer", "gold"):
        finite = np.isfinite(getattr(candidates, f"to_{anchor}")).all(axis=1)
        finite |= unanswered & (anchor == "answer")
        if not finite.all():
            broken = [candidates.query_ids[row] for row in np.flatnonzero(~finite)[:5]]
            raise ValueError(
                f"similarities to the {anchor} are NaN or infinite for the queries {broken}: the encoder's embeddings "
                "of their texts are broken"
            )


def _computed(reward: str | Reward, candidates: Candidates) -> np.ndarray:
    values = np.asarray((REWARDS[reward] if isinstance(reward, str) else reward)(candidates), dtype=np.float64)
    if values.shape != candidates.to_gold.shape or np.isnan(values).any():
        raise ValueError(
            f"reward {reward!r} must return numbers of shape {candidates.to_gold.shape} (n_queries, n_candidates), "
            f"got shape {values.shape}{' with NaN' if np.isnan(values).any() else ''}"
        )
    return values
