"""What a text is worth while the LLM is trained: rewards over groups of texts, read exactly as retrieval reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ....collections.qrels import read_qrels
from ....encoding.encoder import ExpandREncoder
from ....encoding.registry import load_encoder
from ....expansion.backends.base import Message
from ....expansion.backends.huggingface import HuggingFaceBackend
from ....expansion.cleaning.passage import passages_in
from ....expansion.thinking import begins_thought, without_thought
from ...preferences.candidates import CandidateSet
from ...preferences.choice import compare
from ...preferences.measured import check_encoder, open_gain
from ...preferences.rewards import MEASURE, Candidates, MeasureGain, Reward, combined_reward
from .settings import OnlineSettings, named_reward, search_identity
from .signs import Written

STAYS = "nothing was trained on them, and the last checkpoint, if there is one, stays"


class GroupReward:
    """Values groups of texts of some queries by weighted rewards; opening it checks everything that it needs.

    An empty text or a refusal is valued as retrieval treats it: the query is searched alone, so the text has the
    query's own vector. Equal texts of a query share the mean of their values, since ranks would tell them apart by
    their place alone.

    Args:
        settings: rewards, weights, encoder, index.
        queries: all queries that the LLM is trained and judged on.
        device: "cuda" or "cpu", for the encoder; None means cuda if available.

    Raises:
        ValueError: an index that another encoder filled, or judgments that lack some of the queries.

    Example:
        >>> GroupReward(OnlineSettings("contriever", rewards=("retriever",)), [])  # doctest: +SKIP
    """

    def __init__(self, settings: OnlineSettings, queries: Sequence[CandidateSet], *, device: str | None = None) -> None:
        self.settings, self.queries = settings, {one.query_id: one for one in queries}
        self.encoder: ExpandREncoder = load_encoder(settings.encoder, fuse=True, device=device)
        self.gain = self._gain()
        found = dict(zip(settings.names, map(named_reward, settings.rewards), strict=True))
        chosen = {name: one or self.gain for name, one in found.items()}
        self.rewards: dict[str, Reward] = {name: one for name, one in chosen.items() if one is not None}
        for reward in [self.gain, *self.rewards.values()]:
            if isinstance(reward, MeasureGain):
                self._check_gain(reward)

    def identity(self) -> dict[str, Any]:
        """What determines the rewards besides the settings, as JSON values."""
        return {"reward_encoder": self.encoder.source, **search_identity(self.settings)}

    def parts(self, query_ids: Sequence[str], texts: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
        """The value of each text (n_queries, n_texts), float64, by each reward.

        Args:
            query_ids: n ids.
            texts: as many passages for each; "" stands for a query without one.

        Raises:
            ValueError: a reward fails, or returns NaN, infinity or another shape; the queries are named.
        """
        candidates = self.candidates(query_ids, texts)
        return {name: shared(_checked(name, reward, candidates), texts) for name, reward in self.rewards.items()}

    def total(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        """The weighted sum of `parts`."""
        return combined_reward(list(parts.values()), self.settings.weights)

    def candidates(self, query_ids: Sequence[str], texts: Sequence[Sequence[str]]) -> Candidates:
        """The input of a reward: embeddings and similarities of the texts."""
        sets = [replace(self.queries[name], candidates=tuple(row)) for name, row in zip(query_ids, texts, strict=True)]
        return compare(sets, self.encoder)

    def measured(self, query_ids: Sequence[str], texts: Sequence[str]) -> np.ndarray | None:
        """The gain in the measure (n,) from one text for each query, or None without an index."""
        if self.gain is None:
            return None
        return _checked(MEASURE, self.gain, self.candidates(query_ids, [[text] for text in texts]))[:, 0]

    def _gain(self) -> MeasureGain | None:
        given = self.settings
        if given.index is None or given.qrels is None:
            return None
        qrels = read_qrels(Path(given.qrels))
        return open_gain(given.index, qrels, self.encoder, measure=given.measure, fusion=given.fusion)

    def _check_gain(self, gain: MeasureGain) -> None:
        check_encoder(gain, self.encoder)
        judged = set(gain.qrels.loc[gain.qrels["label"] > 0, "qid"])
        if lacking := [name for name in self.queries if name not in judged]:
            raise ValueError(
                f"the judgments have no relevant document for {len(lacking)} of the {len(self.queries)} training "
                f"queries, such as {lacking[:5]}: give the judgments of the split that is trained on"
            )


def shared(values: np.ndarray, texts: Sequence[Sequence[str]]) -> np.ndarray:
    """`values` (n_queries, n_texts) in which equal texts of a query have the mean of what they have.

    Example:
        >>> shared(np.array([[1.0, 0.5, 0.75]]), [["a", "b", "b"]])
        array([[1.   , 0.625, 0.625]])
    """
    found = np.empty_like(values)
    for row, (own, of_query) in enumerate(zip(values, texts, strict=True)):
        for text in set(of_query):
            same = [other == text for other in of_query]
            found[row, same] = own[same].mean()
    return found


def _checked(name: str, reward: Reward, candidates: Candidates) -> np.ndarray:
    """The values of a reward. Raises ValueError that names the queries if they are not finite numbers of the shape."""
    ids = list(candidates.query_ids)
    try:
        values = np.asarray(reward(candidates), dtype=np.float64)
    except Exception as error:  # a reward is anybody's code
        raise ValueError(
            f"reward {name!r} failed for the queries {ids} ({type(error).__name__}: {error}); {STAYS}"
        ) from error
    shape = candidates.to_gold.shape
    if values.shape != shape:
        raise ValueError(
            f"reward {name!r} must return numbers of shape {shape} (queries, texts), but for the queries {ids} it "
            f"returned the shape {values.shape}; {STAYS}"
        )
    broken = [ids[row] for row in np.flatnonzero(~np.isfinite(values).all(axis=1))]
    if broken:
        raise ValueError(f"reward {name!r} is NaN or infinite for the queries {broken}; {STAYS}")
    return values


class Scorer:
    """The reward function that TRL calls: completions as token ids in, one number for each out.

    Args:
        reward: values the texts.
        backend: turns tokens into text as at inference.
        prompts: query id -> the messages of its prompt.
        ends: the tokens that end a text.
    """

    __name__ = "reward"  # what TRL calls it in its logs

    def __init__(
        self,
        reward: GroupReward,
        backend: HuggingFaceBackend,
        prompts: Mapping[str, Sequence[Message]],
        ends: Sequence[int],
    ) -> None:
        self.reward, self.backend, self.prompts, self.ends = reward, backend, prompts, set(ends)
        #: tokens that this process wrote in training since the last evaluation
        self.tokens = 0

    def __call__(
        self,
        prompts: Any,
        completions: Any,
        completion_ids: Sequence[Sequence[int]],
        query_id: Sequence[str],
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float]:
        """The reward of each completion among those of its query; `query_id` is in the order of `completion_ids`."""
        places: dict[str, list[int]] = {}
        for place, name in enumerate(query_id):
            places.setdefault(name, []).append(place)
        written = [self.written(name, ids) for name, ids in zip(query_id, completion_ids, strict=True)]
        texts = [[written[place].passage for place in of_query] for of_query in places.values()]
        parts = self.reward.parts(list(places), texts)
        for name, values in parts.items():
            if log_metric is not None:
                log_metric(f"rewards/{name}", float(values.mean()))
        result = np.empty(len(written))
        for row, of_query in zip(self.reward.total(parts), places.values(), strict=True):
            result[of_query] = row
        return [float(value) for value in result]

    def written(self, query_id: str, ids: Sequence[int]) -> Written:
        """What retrieval reads of the tokens up to the end of turn."""
        stop = next((place for place, token in enumerate(ids) if token in self.ends), None)
        kept = list(ids[:stop])
        self.tokens += len(kept) + (stop is not None)
        begun = begins_thought(self.backend.rendered_prompt(self.prompts[query_id]))
        text = without_thought(self.backend.text_of(kept), begun=begun)
        return Written(passage(text, self.prompts[query_id]), stop is None)


def passage(text: str, messages: Sequence[Message]) -> str:
    """The passage in a text, cleaned as the expander cleans it; "" if it is blank or a refusal.

    Example:
        >>> passage("Sure! Here is a passage: Air scatters light.", [{"role": "user", "content": "sky"}])
        'Air scatters light.'
    """
    found, _ = passages_in([text], messages[0]["content"])
    return found[0] if found else ""
