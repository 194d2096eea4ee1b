"""What a recipe compares: the rows of the paper's Table 3 and what goes past them; and names of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...encoding.registry import demo_encoder_folder
from ..preferences.rewards import MEASURE

#: the model trained from scratch, for recipes that name no other
SMALL = "small"

#: the encoder that comes with the extra `demo`
DEMO = "demo"


@dataclass(frozen=True)
class System:
    """A row of Table 3: which rewards the LLM was trained with, and how the retriever was trained.

    `rewards` is None if queries are not expanded, and empty if the LLM is not trained. With `student`, the expansions
    are distilled into an encoder of queries, which searches without them.
    """

    rewards: tuple[str, ...] | None
    retriever: str
    student: bool = False


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

#: everything that a recipe may compare: the paper's rows, ExpandR with pairs chosen by the search itself, and ExpandR
#: without an LLM at query time
ROWS: Mapping[str, System] = {
    **SYSTEMS,
    "ExpandR by search": System((MEASURE, "retriever-margin"), "expandr"),
    "ExpandR student": System(("self", "retriever"), "expandr", student=True),
}


def encoder_name(name: str) -> str:
    """The folder or hub name of an encoder, with "demo" resolved."""
    return demo_encoder_folder() if name == DEMO else name
