"""GRPO and online DPO as training methods: queries and a reward in, one of TRL's trainers out."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

from ....expansion.backends.huggingface import HuggingFaceBackend
from ..config import ExpanderTrainingConfig
from ..pair_tokens import TokenizedPairs
from .queries import read_queries, tokenize_queries
from .reward import GroupReward


def own_device() -> str | None:
    """The GPU of this process, where several processes have one each: "cuda" alone would be the first for all of them.

    Example:
        >>> own_device() is None  # one process
        True
    """
    import torch

    rank = os.environ.get("LOCAL_RANK")
    if rank is None or not torch.cuda.is_available():
        return None
    return f"cuda:{int(rank) % torch.cuda.device_count()}"  # a launcher may show each process a single GPU


class FromReward:
    """Training on texts that the LLM writes itself; the reward and everything it needs are checked here.

    Args:
        config: what to train and how.

    Raises:
        ValueError: malformed queries, an index of another encoder, or judgments that lack queries.
    """

    def __init__(self, config: ExpanderTrainingConfig) -> None:
        self.config, self.settings = config, config.online_settings
        self.queries = read_queries(config.pairs, answers=self.settings.needs_answers)
        self.reward = GroupReward(self.settings, self.queries, device=own_device())
        self.name = {"grpo": "GRPO", "online-dpo": "online DPO"}[config.method]
        self.read = len(self.queries)

    def identity(self) -> dict[str, Any]:
        """A hash of the queries with their positives and answers, and what the rewards depend on."""
        content = [[one.query_id, one.query, one.positive, one.answer] for one in self.queries]
        digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        return {"queries_sha256": digest, **self.reward.identity()}

    def tokens(self, backend: HuggingFaceBackend) -> TokenizedPairs:
        """The queries' prompts, with a warning that counts those too long."""
        found = tokenize_queries(self.queries, backend, self.settings, self.config.max_length)
        if count := found.dropped["too long"]:
            room = f"max_length={self.config.max_length} with max_new_tokens={self.settings.max_new_tokens}"
            warnings.warn(f"of {self.read} queries {count} exceed {room} and were dropped", stacklevel=4)
        return found

    def trainer(
        self, backend: HuggingFaceBackend, train: TokenizedPairs, evaluation: TokenizedPairs, folder: Path
    ) -> Any:
        """TRL's `GRPOTrainer` or `OnlineDPOTrainer`."""
        from .trainers import online_trainer

        return online_trainer(self.config, self.reward, backend, train, evaluation, folder)
