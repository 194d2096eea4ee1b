"""Settings for training the LLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from ...common.files import with_home
from ..setting_checks import check_flag, check_number, check_whole
from .online.settings import OnlineSettings
from .pair_tokens import Overlong

#: settings that do not affect the weights: names, paths, and what only the report depends on
OTHER_SETTINGS = ("base", "out", "pairs", "report_prompts", "report_tokens")

#: the paper's loss, that of DPO (Eq. 17)
PAPER_LOSSES = {"sigmoid": 1.0}
#: the losses that can be combined, by their names in TRL
LOSSES = ("sigmoid", "robust", "sft")

#: how the LLM learns: from given pairs (the first two), or from texts that it writes while it is trained
Method = Literal["dpo", "sft-best", "online-dpo", "grpo"]
ONLINE = ("online-dpo", "grpo")
#: settings without effect there
NOT_ONLINE = {"losses", "label_smoothing", "ld_alpha", "overlong", "lora_dropout", "precompute_reference"}
#: what sft-best is
IMITATION = {"sft": 1.0}


@dataclass(frozen=True)
class ExpanderTrainingConfig:
    """What to train, on which data, and how; the defaults are the paper's.

    Args:
        base: hub name or folder of the instruction-tuned model.
        pairs: JSONL or Parquet file of preference pairs, as `pair_files.read_pairs` reads it; for "online-dpo" and
            "grpo" a JSONL file of queries, as `online.queries.read_queries` reads it.
        out: folder to create for the adapter.
        method: "dpo" (the paper's), "sft-best" (supervised on the chosen texts: rejection sampling), or one in which
            the LLM writes while it is trained and a reward judges at once: "online-dpo" or "grpo".
        online: rewards and sampling of those two (`OnlineSettings`, or a mapping of its fields).
        losses: of "dpo", the weight of each loss: "sigmoid" is DPO's, "robust" that for pairs of which some are the
            wrong way round (rDPO, arXiv 2403.00409), "sft" the mean negative log-likelihood of the chosen text's
            tokens; with it DPO does not make the chosen text less likely as well (RPO). "sft" alone, with the weight 1,
            is "sft-best" and gets its name.
        label_smoothing: of "robust", the share of pairs that are taken to be the wrong way round.
        ld_alpha: of "dpo", the weight of those tokens of a pair's longer text that the shorter one has no counterpart
            of; less than 1 keeps DPO from preferring length (LD-DPO, arXiv 2409.06411).
        beta: strength of the penalty for diverging from the reference model; 0 for none, which "grpo" alone allows.
        lora_r, lora_alpha, lora_dropout, target_modules: settings of the LoRA adapter. The online methods train without
            dropout, so that texts come from the model that is trained.
        learning_rate: for AdamW, decaying linearly to 0.
        epochs: passes over the pairs or queries.
        batch_size: pairs per step, over all devices; for "grpo" texts per step, a multiple of the group's size.
        device_batch_size: pairs or texts that a device processes at once; must divide `batch_size`.
        max_grad_norm: gradients are clipped to this norm.
        max_length: most tokens of prompt and completion together. Prompts are never cut.
        overlong: "drop" leaves out a pair that is longer, "cut" shortens its completions.
        eval_fraction: fraction of the queries that are held out; 0 holds out none and keeps the last step.
        evaluations: how many times per run the held-out queries are evaluated and a checkpoint is written; the one with
            the lowest loss, or for the online methods the highest reward, is kept.
        precompute_reference: compute the reference's log-probabilities once before training instead of at each step.
        load_in_4bit: hold the base model in 4 bits (needs a CUDA device and bitsandbytes).
        dtype: "float32", "bfloat16", "float16"; None means bfloat16 on a GPU and float32 on a CPU.
        report_prompts: number of held-out prompts whose generation lengths are compared before and after; 0 for none.
            The online methods measure lengths at each evaluation instead.
        report_tokens: maximum tokens per generation in that comparison.
        seed: for the split, adapter initialisation, data order and report.
        revision: the base model's revision on the hub.
        trust_remote_code: run Python code shipped with the model.

    Raises:
        ValueError: an invalid value. TypeError: a value of the wrong type.

    Example:
        >>> ExpanderTrainingConfig("Qwen/Qwen2.5-7B-Instruct", "pairs.jsonl", "adapter").target_modules
        ('q_proj', 'v_proj')
    """

    base: str
    pairs: str
    out: str
    method: Method = "dpo"
    online: OnlineSettings | None = None
    losses: Mapping[str, float] = field(default_factory=lambda: dict(PAPER_LOSSES))
    label_smoothing: float = 0.0
    ld_alpha: float = 1.0
    beta: float = 0.1
    lora_r: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    learning_rate: float = 2e-5
    epochs: float = 2.0
    batch_size: int = 16
    device_batch_size: int = 2
    max_grad_norm: float = 10.0
    max_length: int = 612
    overlong: Overlong = "drop"
    eval_fraction: float = 0.1
    evaluations: int = 10
    precompute_reference: bool = False
    load_in_4bit: bool = False
    dtype: str | None = None
    report_prompts: int = 32
    report_tokens: int = 512
    seed: int = 42
    revision: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        for name in ("base", "pairs", "out"):
            object.__setattr__(self, name, with_home(str(getattr(self, name))))
        if isinstance(self.target_modules, str) or not self.target_modules:
            raise ValueError(f"target_modules must be a list of module names, got {self.target_modules!r}")
        object.__setattr__(self, "target_modules", tuple(self.target_modules))
        self._check_losses()
        self._check_method()
        self._check_variants()
        for name in ("learning_rate", "epochs", "max_grad_norm", "lora_alpha"):
            check_number(name, getattr(self, name), above=0)
        check_number("beta", self.beta, **({"least": 0} if self.method == "grpo" else {"above": 0}))
        for name in ("lora_dropout", "eval_fraction"):
            check_number(name, getattr(self, name), least=0, below=1)
        for name in ("lora_r", "batch_size", "device_batch_size", "evaluations", "report_tokens"):
            check_whole(name, getattr(self, name))
        check_whole("max_length", self.max_length, least=2)
        for name in ("report_prompts", "seed"):
            check_whole(name, getattr(self, name), least=0)
        for name in ("precompute_reference", "load_in_4bit", "trust_remote_code"):
            check_flag(name, getattr(self, name))
        if self.revision is not None and not isinstance(self.revision, str):
            raise TypeError(f"revision must be a string (quote it in YAML), got {self.revision!r}")
        if self.batch_size % self.device_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of device_batch_size {self.device_batch_size}"
            )
        self._check_groups()
        self._check_engine()
        if self.overlong not in get_args(Overlong):
            raise ValueError(f'overlong must be "drop" or "cut", got {self.overlong!r}')
        if self.dtype not in (None, "float32", "bfloat16", "float16"):
            raise ValueError(f'dtype must be "float32", "bfloat16" or "float16", got {self.dtype!r}')

    def _check_losses(self) -> None:
        if not isinstance(self.losses, Mapping) or not self.losses or set(self.losses) - set(LOSSES):
            raise ValueError(f"losses must map some of {LOSSES} to weights, got {self.losses!r}")
        for name, weight in self.losses.items():
            check_number(f"the weight of loss {name}", weight, above=0)
        if len(self.losses) == 1 and set(self.losses.values()) != {1}:
            raise ValueError(f"a single loss has the weight 1, since another would only scale it, got {self.losses!r}")
        object.__setattr__(self, "losses", {name: float(self.losses[name]) for name in LOSSES if name in self.losses})

    def _check_method(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {list(get_args(Method))}, got {self.method!r}")
        if self.method == "sft-best" and self.losses == PAPER_LOSSES:
            object.__setattr__(self, "losses", dict(IMITATION))
        if self.method == "dpo" and self.losses == IMITATION:
            object.__setattr__(self, "method", "sft-best")
        if self.losses != (IMITATION if self.method == "sft-best" else PAPER_LOSSES) and self.method != "dpo":
            raise ValueError(f'losses belong to method "dpo": leave them out for {self.method!r}, got {self.losses!r}')
        if self.online is not None and not isinstance(self.online, OnlineSettings):
            object.__setattr__(self, "online", OnlineSettings(**self.online))
        if (self.online is None) == (self.method in ONLINE):
            wanted = "needs online settings (`expandr train online`)"
            if self.method not in ONLINE:
                wanted = "takes no online settings"
            raise ValueError(f"method {self.method!r} {wanted}: they say how the texts that it writes are rewarded")

    def _check_variants(self) -> None:
        """Refuse values of DPO's variants that no loss reads."""
        check_number("label_smoothing", self.label_smoothing, least=0, below=0.5)
        check_number("ld_alpha", self.ld_alpha, least=0)
        if self.label_smoothing and self.method != "dpo":
            raise ValueError(f'label_smoothing belongs to method "dpo": leave it out for {self.method!r}')
        if ("robust" in self.losses) != (self.label_smoothing > 0):
            raise ValueError(
                'the loss "robust" and a label_smoothing above 0 belong together: give both or neither, got '
                f"losses {self.losses!r} and label_smoothing {self.label_smoothing}"
            )
        if self.precompute_reference and self.method == "sft-best":
            raise ValueError("precompute_reference belongs to DPO: imitation has no reference, so leave it out")
        if self.ld_alpha > 1:
            raise ValueError(f"ld_alpha is a weight from 0 to 1, got {self.ld_alpha}")
        if self.ld_alpha < 1 and self.method != "dpo":
            raise ValueError(f'ld_alpha belongs to method "dpo": leave it out for {self.method!r}')

    def _check_groups(self) -> None:
        """Refuse groups that a batch cannot hold, and texts that leave no room for a prompt."""
        if self.online is None:
            return
        if self.precompute_reference:
            raise ValueError("precompute_reference belongs to given pairs: leave it out where the LLM writes them")
        if self.method == "grpo" and self.batch_size % self.group_size:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of group_size {self.group_size}: it counts texts, "
                "and a step takes whole groups"
            )
        if self.method == "online-dpo" and self.online.group_size not in (None, 2):
            raise ValueError(f"online-dpo compares 2 texts of a query, got group_size {self.online.group_size}")
        if self.online.max_new_tokens >= self.max_length:
            raise ValueError(
                f"max_new_tokens {self.online.max_new_tokens} leave no room for a prompt in max_length "
                f"{self.max_length}: raise max_length, or lower max_new_tokens"
            )

    def _check_engine(self) -> None:
        """Refuse what vLLM cannot do in training."""
        if self.vllm is None:
            return
        if self.load_in_4bit:
            raise ValueError(
                "vLLM gets new weights at each step, which it cannot take in 4 bits: leave out vllm or load_in_4bit"
            )
        if self.vllm == "colocate" and (self.revision is not None or self.trust_remote_code):
            raise ValueError(
                "vLLM opens the base by itself, without revision and trust_remote_code: give the folder of a model "
                "that needs neither, or leave out vllm"
            )
        if self.vllm != "colocate" and self.method == "online-dpo":
            raise ValueError(
                'online-dpo takes no server of vLLM, which would add tokens to prompts: take vllm="colocate"'
            )

    @property
    def vllm(self) -> str | None:
        """Where vLLM writes while the model is trained, as in `OnlineSettings`; None without it.

        Example:
            >>> ExpanderTrainingConfig("Qwen/Qwen2.5-7B-Instruct", "pairs.jsonl", "adapter").vllm is None
            True
        """
        return None if self.online is None else self.online.vllm

    @property
    def online_settings(self) -> OnlineSettings:
        """The settings of an online method. Raises ValueError for another method."""
        if self.online is None:
            raise ValueError(f"method {self.method!r} has no online settings")
        return self.online

    @property
    def group_size(self) -> int:
        """The texts that an online method draws for a query at each step."""
        return 2 if self.method == "online-dpo" else self.online_settings.group_size or 8

    @property
    def queries_per_step(self) -> int:
        """The queries of an online method's step: with GRPO a batch counts texts, with online DPO pairs of texts."""
        return self.batch_size // self.group_size if self.method == "grpo" else self.batch_size

    def recorded(self) -> dict[str, Any]:
        """The settings that determine the weights, as stored in records.

        The method of given pairs is told by `losses`. These and DPO's variants are left out if they are the paper's:
        records written before these settings existed do not mention them.

        Example:
            >>> "losses" in ExpanderTrainingConfig("base", "pairs.jsonl", "adapter").recorded()
            False
        """
        left_out = {*OTHER_SETTINGS, "online", *(NOT_ONLINE if self.online else {"method"})}
        if self.losses == PAPER_LOSSES:
            left_out.add("losses")
        left_out |= {name for name, plain in (("label_smoothing", 0), ("ld_alpha", 1)) if getattr(self, name) == plain}
        values = {item.name: getattr(self, item.name) for item in fields(self) if item.name not in left_out}
        if self.online is not None:
            values["online"] = self.online.recorded() | {"group_size": self.group_size}
        return values

    def compute_dtype(self) -> str:
        """The dtype of the base model's weights on this machine."""
        import torch

        return self.dtype or ("bfloat16" if torch.cuda.is_available() else "float32")
