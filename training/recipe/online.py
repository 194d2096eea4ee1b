"""What a recipe adds to the settings of an online method: its encoder, its sampling, and the rewards of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..expander.config import ONLINE
from ..expander.online.settings import OnlineSettings, search_identity
from ..identity import encoder_identity
from ..preferences.rewards import MEASURE
from .sections import section
from .systems import encoder_name

if TYPE_CHECKING:
    from .recipe import Recipe

#: the rewards of the paper (Eq. 11), which its ablations leave out one by one
PAPER_REWARDS = ("self", "retriever")


def online_values(recipe: Recipe, rewards: Sequence[str]) -> dict[str, Any]:
    """The field `online` of the LLM's training configuration, complete; empty for methods of given pairs.

    Args:
        recipe: the recipe, whose `dpo` may have a part `online`.
        rewards: those of a row of Table 3. What the row leaves out of the paper's two is left out here as well.

    Raises:
        ValueError, TypeError: invalid settings, or the row leaves out a reward that is not among those of `online`, or
            all of them.
    """
    if recipe.dpo.get("method") not in ONLINE:
        return {}
    given = recipe.dpo.get("online") or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"dpo: online must be a mapping of names to values, got {given!r}")
    known = OnlineSettings.__dataclass_fields__
    sampling = {name: value for name, value in recipe.expansion_settings().items() if name in known}
    values = {"encoder": recipe.encoder} | sampling | dict(given)
    if isinstance(values["encoder"], str):
        values["encoder"] = encoder_name(values["encoder"])
    settings = section(OnlineSettings, "dpo: online", values, {})
    if MEASURE in rewards:
        raise ValueError(
            f"dpo: method {recipe.dpo['method']!r} takes no pairs, which a system is to choose by the search: name the "
            f'reward "{MEASURE}" in dpo: online instead, with index and qrels, and leave that system out of systems'
        )
    names, weights = list(settings.rewards), settings.weights or (1.0,) * len(settings.rewards)
    without = [name for name in PAPER_REWARDS if name not in rewards]
    if lacking := [name for name in without if name not in names]:
        raise ValueError(
            f"dpo: online: a system is to be trained without the reward {lacking[0]!r}, but the rewards are {names}: "
            "leave that system out of systems"
        )
    kept = [(name, weight) for name, weight in zip(names, weights, strict=True) if name not in without]
    if not kept:
        raise ValueError(
            f"dpo: online: a system is to be trained without {without}, and no other reward is named: leave that "
            "system out of systems"
        )
    values |= {"rewards": [name for name, _ in kept], "weights": [float(weight) for _, weight in kept]}
    return {"online": values}


def reward_identity(settings: OnlineSettings) -> dict[str, Any]:
    """What determines the rewards besides the settings: encoder, index and judgments by content."""
    return {"reward_encoder": encoder_identity(settings.encoder), **search_identity(settings)}


def check_rewards(settings: OnlineSettings, queries: Path | None = None) -> None:
    """Open what the rewards need, and nothing of the LLM; None where the queries are not known yet.

    Raises:
        ValueError: an index of another encoder or collection, or judgments that lack some of the queries.
    """
    from ..expander.online.queries import read_queries
    from ..expander.online.reward import GroupReward

    GroupReward(settings, () if queries is None else read_queries(queries, answers=False))
