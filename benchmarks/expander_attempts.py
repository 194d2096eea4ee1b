"""The ways to train a small LLM that `benchmarks.expander_effect` tries, as settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pyterrier_expandr.training.preferences.rewards import MEASURE

#: what all attempts share, and the paper's own values for what they differ in
COMMON = {"device_batch_size": 8, "report_prompts": 0, "evaluations": 4}
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_LINEAR = (*ATTENTION, "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Attempt:
    """One way to train: settings of `ExpanderTrainingConfig`, the rewards that choose the pairs, and where it starts.

    `after` names an attempt whose model is the base, and with `on_policy` that model's own candidates give the pairs.
    With `taught`, other LLMs' passages for the test queries are imitated, and there are no candidates.
    """

    what: str
    training: Mapping[str, Any] = field(default_factory=dict)
    rewards: tuple[str, ...] = ("self", "retriever")
    after: str | None = None
    on_policy: bool = False
    pairs_per_query: int = 1
    taught: bool = False


#: ten times the paper's learning rate, on all projections of the attention
TEN_TIMES = {"learning_rate": 2e-4, "epochs": 1, "target_modules": ATTENTION}
LINEAR = {**TEN_TIMES, "target_modules": ALL_LINEAR}
IMITATION = {"losses": {"sft": 1}, "learning_rate": 2e-4, "epochs": 3, "target_modules": ATTENTION}

#: an LLM that writes while it is trained, so that there are no candidates
ONLINE = {
    "learning_rate": 2e-4,
    "epochs": 1,
    "device_batch_size": 16,
    "eval_fraction": 0.05,
    "evaluations": 2,
    "target_modules": ATTENTION,
}
#: without a KL term, and with four texts for each query: an epoch takes 76 minutes of a core
GRPO = {**ONLINE, "method": "grpo", "batch_size": 32, "beta": 0}
GROUP = {"group_size": 4}
#: recorded passages of other LLMs for the test queries
TEACHERS = (
    "query2doc.fs.Qwen2.5-72B-Instruct.0656857b.059e46.jsonl",
    "query2doc.fs.gpt-4.1-nano.03ac266c.bfacd0.jsonl",
)
#: rewards: the nDCG@10 of the fused search among all documents, and the margin where that is the same
BY_SEARCH = (MEASURE, "retriever-margin")
#: the nearness to the relevant document, and with it the nDCG@10 of the fused search among all documents
NEAR: dict[str, Any] = {"rewards": ("retriever",), "max_new_tokens": 96}
FOUND: dict[str, Any] = {"rewards": BY_SEARCH, "max_new_tokens": 96}

ATTEMPTS = {
    "paper": Attempt("DPO as in the paper"),
    "rate": Attempt(
        "DPO (2e-4, 1 epoch), both rewards",
        TEN_TIMES,
    ),
    "near": Attempt(
        "DPO (2e-4, 1 epoch), retriever reward",
        TEN_TIMES,
        ("retriever",),
    ),
    "long": Attempt(
        "DPO (2e-4, 3 epochs), retriever reward",
        {**TEN_TIMES, "epochs": 3, "precompute_reference": True},
        ("retriever",),
    ),
    "several": Attempt(
        "DPO (2e-4, 1 epoch), three pairs per query by the search",
        TEN_TIMES,
        BY_SEARCH,
        pairs_per_query=3,
    ),
    "several-float32": Attempt(
        "DPO (2e-4, 1 epoch, in float32), three pairs per query by the search",
        {**TEN_TIMES, "dtype": "float32"},
        BY_SEARCH,
        pairs_per_query=3,
    ),
    "several-fast": Attempt(
        "DPO (5e-4, 1 epoch), three pairs per query by the search",
        {**TEN_TIMES, "learning_rate": 5e-4},
        BY_SEARCH,
        pairs_per_query=3,
    ),
    "robust": Attempt(
        "robust DPO (2e-4, 1 epoch, a tenth taken for wrong), retriever reward",
        {**TEN_TIMES, "losses": {"robust": 1}, "label_smoothing": 0.1},
        ("retriever",),
    ),
    "equal-lengths": Attempt(
        "length-controlled DPO (2e-4, 1 epoch, half the weight for longer), retriever reward",
        {**TEN_TIMES, "ld_alpha": 0.5},
        ("retriever",),
    ),
    "again": Attempt(
        "DPO (2e-4, 1 epoch), retriever reward, and then again on its own candidates",
        TEN_TIMES,
        ("retriever",),
        after="near",
        on_policy=True,
    ),
    "linear": Attempt(
        "DPO (2e-4, 1 epoch), retriever reward, LoRA on all linear layers",
        LINEAR,
        ("retriever",),
    ),
    "several-linear": Attempt(
        "DPO (2e-4, 1 epoch), three pairs per query by the search, LoRA on all linear layers",
        LINEAR,
        BY_SEARCH,
        pairs_per_query=3,
    ),
    "best-gold": Attempt("imitation of the best candidate (retriever reward)", IMITATION, ("retriever",)),
    "best-dpo": Attempt(
        "imitation of the best candidate (retriever reward), and then DPO (1e-4, 1 epoch) on the same pairs",
        {"learning_rate": 1e-4, "epochs": 1, "target_modules": ATTENTION},
        ("retriever",),
        after="best-gold",
    ),
    "teacher": Attempt(
        "imitation of Qwen2.5-72B and gpt-4.1-nano (5e-4, 1 epoch; five folds of the test queries)",
        {**IMITATION, "learning_rate": 5e-4, "epochs": 1, "evaluations": 2, "device_batch_size": 2},
        taught=True,
    ),
    "grpo": Attempt(
        "GRPO on its own texts, four for each query (retriever reward)",
        {**GRPO, "online": NEAR | GROUP},
    ),
    "grpo-measure": Attempt(
        "GRPO on its own texts, four for each query (nDCG@10 of the search, and retriever margin)",
        {**GRPO, "online": FOUND | GROUP},
    ),
    "online-dpo": Attempt(
        "online DPO on its own texts (retriever reward)",
        {**ONLINE, "method": "online-dpo", "batch_size": 16, "device_batch_size": 4, "beta": 0.1, "online": NEAR},
    ),
}

#: attempts that learn from a teacher
TAUGHT = {name for name, attempt in ATTEMPTS.items() if attempt.taught}
#: the attempt at DPO with which the other methods are compared
PLAIN = "near"
#: the attempt that the development queries chose before any of its seeds was tried on the test queries
CHOSEN = "linear"
#: the attempt that stands for each method, and what the table of the methods calls it
METHODS = {
    "base": "untrained",
    PLAIN: "`dpo`",
    "linear": "`dpo`, LoRA on all linear layers",
    "paper": "`dpo` as in the paper",
    "best-gold": "`sft-best`",
    "online-dpo": "`online-dpo`",
    "grpo": "`grpo`",
}
