"""Settings for training the LLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from ...common.files import with_home
from ..setting_checks import check_flag, check_number, check_whole
from .pair_tokens import Overlong

#: settings that do not affect the weights: names, paths, and what only the report depends on
OTHER_SETTINGS = ("base", "out", "pairs", "report_prompts", "report_tokens")

#: the paper's loss, that of DPO (Eq. 17)
PAPER_LOSSES = {"sigmoid": 1.0}
#: the losses that can be combined, by their names in TRL
LOSSES = ("sigmoid", "sft")


@dataclass(frozen=True)
class ExpanderTrainingConfig:
    """What to train, on which data, and how; the defaults are the paper's.

    Args:
        base: hub name or folder of the instruction-tuned model.
        pairs: JSONL or Parquet file of preference pairs, as `pair_files.read_pairs` reads it.
        out: folder to create for the adapter.
        losses: the weight of each loss: "sigmoid" is DPO's, "sft" the mean negative log-likelihood of the chosen
            text's tokens. {"sft": 1} alone is supervised fine-tuning on the best candidates (rejection sampling), by
            TRL's `SFTTrainer`; both together keep DPO from making the chosen text less likely as well (RPO).
        beta: strength of the penalty for diverging from the reference model.
        lora_r, lora_alpha, lora_dropout, target_modules: settings of the LoRA adapter.
        learning_rate: for AdamW, decaying linearly to 0.
        epochs: passes over the pairs.
        batch_size: pairs per step, over all devices.
        device_batch_size: pairs that a device processes at once; must divide `batch_size`.
        max_grad_norm: gradients are clipped to this norm.
        max_length: most tokens of prompt and completion together. Prompts are never cut.
        overlong: "drop" leaves out a pair that is longer, "cut" shortens its completions.
        eval_fraction: fraction of the queries whose pairs are held out; 0 holds out none and keeps the last step.
        evaluations: how many times per run the held-out pairs are evaluated and a checkpoint is written; the one with
            the lowest loss is kept.
        precompute_reference: compute the reference's log-probabilities once before training instead of at each step.
        load_in_4bit: hold the base model in 4 bits (needs a CUDA device and bitsandbytes).
        dtype: "float32", "bfloat16", "float16"; None means bfloat16 on a GPU and float32 on a CPU.
        report_prompts: number of held-out prompts whose generation lengths are compared before and after; 0 for none.
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
    losses: Mapping[str, float] = field(default_factory=lambda: dict(PAPER_LOSSES))
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
        for name in ("beta", "learning_rate", "epochs", "max_grad_norm", "lora_alpha"):
            check_number(name, getattr(self, name), above=0)
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
        if self.overlong not in get_args(Overlong):
            raise ValueError(f'overlong must be "drop" or "cut", got {self.overlong!r}')
        if self.dtype not in (None, "float32", "bfloat16", "float16"):
            raise ValueError(f'dtype must be "float32", "bfloat16" or "float16", got {self.dtype!r}')

    def _check_losses(self) -> None:
        if not isinstance(self.losses, Mapping) or not self.losses or set(self.losses) - set(LOSSES):
            raise ValueError(f"losses must map one or both of {LOSSES} to weights, got {self.losses!r}")
        for name, weight in self.losses.items():
            check_number(f"the weight of loss {name}", weight, above=0)
        if len(self.losses) == 1 and set(self.losses.values()) != {1}:
            raise ValueError(f"a single loss has the weight 1, since another would only scale it, got {self.losses!r}")
        object.__setattr__(self, "losses", {name: float(self.losses[name]) for name in LOSSES if name in self.losses})

    def recorded(self) -> dict[str, Any]:
        """The settings that determine the weights, as stored in records: `losses` only if they differ from the paper's.

        Records written before this setting existed do not mention it.

        Example:
            >>> "losses" in ExpanderTrainingConfig("base", "pairs.jsonl", "adapter").recorded()
            False
        """
        values = {name: value for name, value in asdict(self).items() if name not in OTHER_SETTINGS}
        return {name: value for name, value in values.items() if (name, value) != ("losses", PAPER_LOSSES)}

    def compute_dtype(self) -> str:
        """The dtype of the base model's weights on this machine."""
        import torch

        return self.dtype or ("bfloat16" if torch.cuda.is_available() else "float32")
