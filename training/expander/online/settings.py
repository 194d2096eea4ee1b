"""Which rewards an LLM is trained by while it writes, and how its texts are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....common.files import with_home
from ....common.fingerprint import file_fingerprint, stable_repr
from ....encoding.fusion import Fusion, check_fusion
from ....expansion.backends.base import Sampling
from ....expansion.prompts import resolve_prompt
from ...preferences.rewards import MEASURE, REWARDS, LengthPenalty, Reward
from ...setting_checks import check_number, check_whole


@dataclass(frozen=True)
class OnlineSettings:
    """How texts are drawn and rewarded during training by "grpo" or "online-dpo".

    Args:
        encoder: hub name, folder or short name of the reward encoder.
        rewards: names in `REWARDS`, "measure" (the gain in `measure` of the search on `index`), "length:N" (a penalty
            for texts of more than N words), or callables (`Reward`).
        weights: of the rewards in their sum; None means 1 for each.
        index: folder of a `FaissIndex` that `encoder` filled. With it, the gain in `measure` on held-out queries is
            recorded even if it is no reward.
        qrels: file of judgments (BEIR or TREC) of all training queries; belongs to `index`.
        measure: in the notation of ir-measures.
        fusion: how query and text become one vector in that search.
        group_size: texts drawn for a query at each step; None means 8 for "grpo". "online-dpo" always draws 2.
        temperature, top_p, max_new_tokens: see `Sampling`.
        prompt: a named prompt or a template with `{query}`.
        vllm: "colocate" lets vLLM generate in the same process; an address such as "http://localhost:8000", in a server
            that `trl vllm-serve` started (only for "grpo", with a GPU on both sides); None generates with transformers.

    Raises:
        ValueError: an unknown reward, a wrong number of weights, a group of fewer than 2 texts, or an index without
            judgments. TypeError: a value of the wrong type.

    Example:
        >>> OnlineSettings("contriever", rewards=("retriever", "length:150"), weights=(1, 0.5)).temperature
        1.0
    """

    encoder: str
    rewards: Sequence[str | Reward] = ("self", "retriever")
    weights: Sequence[float] | None = None
    index: str | None = None
    qrels: str | None = None
    measure: str = "nDCG@10"
    fusion: Fusion = "average"
    group_size: int | None = None
    temperature: float = 1.0
    top_p: float = 0.9
    max_new_tokens: int = 512
    prompt: str = "q2d"
    vllm: str | None = None

    def __post_init__(self) -> None:
        import ir_measures

        if not isinstance(self.encoder, (str, Path)) or not str(self.encoder).strip():
            raise ValueError(f"encoder must name the reward encoder, got {self.encoder!r}")
        for name in ("encoder", "index", "qrels"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, with_home(str(getattr(self, name))))
        self._check_rewards()
        if self.group_size is not None:
            check_whole("group_size", self.group_size)
            if self.group_size < 2:
                raise ValueError(
                    "group_size must be 2 or more: a text is only better or worse than others of its query"
                )
        for name in ("temperature", "top_p"):
            check_number(name, getattr(self, name))
        check_number("temperature", self.temperature, above=0)
        check_whole("max_new_tokens", self.max_new_tokens)
        self.sampling(0)
        resolve_prompt(self.prompt)
        check_fusion(self.fusion)
        ir_measures.parse_measure(self.measure)
        if self.vllm is not None and self.vllm != "colocate" and not str(self.vllm).startswith(("http://", "https://")):
            raise ValueError(f'vllm must be "colocate" or the address of a server (http://...), got {self.vllm!r}')

    def _check_rewards(self) -> None:
        if not self.rewards or isinstance(self.rewards, str):
            raise ValueError(f"rewards must be a list of at least one name or callable, got {self.rewards!r}")
        object.__setattr__(self, "rewards", tuple(self.rewards))
        for reward in self.rewards:
            named_reward(reward)
        names = self.names
        if len(set(names)) < len(names):
            twice = {name for name in names if names.count(name) > 1} - set(self.rewards)
            own = ": give each function its own `__name__`" if twice else ""
            raise ValueError(f"rewards must differ from one another, got {names}{own}")
        if self.weights is not None:
            if isinstance(self.weights, (str, int, float)):
                raise TypeError(f"weights must be a list of numbers, got {self.weights!r}")
            object.__setattr__(self, "weights", tuple(self.weights))
            for weight in self.weights or ():
                check_number("each of weights", weight)
            if len(self.weights or ()) != len(self.rewards):
                raise ValueError(
                    f"give one weight for each of the {len(self.rewards)} rewards, got {len(self.weights or ())}"
                )
        if (self.index is None) != (self.qrels is None):
            raise ValueError("index and qrels belong together: give both or neither")
        if MEASURE in self.rewards and self.index is None:
            raise ValueError('the reward "measure" needs an index and qrels to search with')

    @property
    def names(self) -> list[str]:
        """The names of the rewards, also of callables, which a run that was killed knows again by them."""
        return [r if isinstance(r, str) else str(getattr(r, "__name__", None) or stable_repr(r)) for r in self.rewards]

    @property
    def needs_answers(self) -> bool:
        """Whether one of the rewards compares texts with the LLM's own answer.

        Example:
            >>> OnlineSettings("contriever", rewards=("retriever", "measure"), index="i", qrels="q").needs_answers
            False
        """
        return any(isinstance(name, str) and name.startswith("self") for name in self.rewards)

    def sampling(self, seed: int) -> Sampling:
        """How a text is drawn."""
        return Sampling(self.temperature, self.top_p, self.max_new_tokens, seed)

    def recorded(self) -> dict[str, Any]:
        """The settings as stored in records: rewards by name, and no paths, which are recorded by content.

        Example:
            >>> OnlineSettings("contriever").recorded()["rewards"]
            ['self', 'retriever']
        """
        left_out = ("encoder", "index", "qrels", "rewards", "weights", "fusion", "vllm")
        values = {name: value for name, value in vars(self).items() if name not in left_out}
        fusion = stable_repr(self.fusion) if callable(self.fusion) else self.fusion
        engine = {} if self.vllm is None else {"engine": "vllm"}
        weights = [float(weight) for weight in self.weights or (1.0,) * len(self.rewards)]
        return {"rewards": self.names, "weights": weights, "fusion": fusion, **values, **engine}


def named_reward(reward: str | Reward) -> Reward | None:
    """The callable of a reward; None for "measure", which needs an index.

    Raises:
        ValueError: an unknown name, or a length that is not a whole number above 0.

    Example:
        >>> named_reward("length:150")
        LengthPenalty(limit=150)
    """
    if not isinstance(reward, str):
        if not callable(reward):
            raise ValueError(f"a reward must be a name or a callable, got {reward!r}")
        return reward
    name, _, limit = reward.partition(":")
    if name == "length" and limit.isdecimal() and int(limit) > 0:
        return LengthPenalty(int(limit))
    if reward != MEASURE and reward not in REWARDS:
        known = [*sorted(REWARDS), MEASURE, "length:WORDS"]
        raise ValueError(f"reward {reward!r} is unknown: use one of {known}, or a callable")
    return REWARDS.get(reward)


def search_identity(settings: OnlineSettings) -> dict[str, Any]:
    """What determines the measured search, as JSON values: the content of index and judgments; empty without them.

    Example:
        >>> search_identity(OnlineSettings("contriever"))
        {}
    """
    if settings.index is None or settings.qrels is None:
        return {}
    from ....retrieval.faiss_index import FaissIndex

    return {"index": FaissIndex(settings.index).metadata["files"], "qrels": file_fingerprint(Path(settings.qrels))}
