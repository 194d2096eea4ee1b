"""A language model of a few million parameters, trained from scratch, for machines without access to a model hub."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...common.extras import check_installed
from ...common.files import path_of
from ...common.records.manifest import write_record
from ...expansion.prompts import resolve_prompt
from ..checkpoints import last_checkpoint, train_from
from ..run_folder import claim, is_finished, one_run, publish
from ..setting_checks import check_number, check_whole
from .text import IGNORED, SPECIAL_TOKENS, build_tokenizer, pair_row, text_blocks

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

#: the file in the model's folder that records how it was made
RECORD = "smalllm.json"


@dataclass(frozen=True)
class SmallLMConfig:
    """Size and schedule of the small model; the defaults give 5.2 million parameters.

    Raises TypeError for a value that is not a number, and ValueError for sizes below 1, heads that do not divide
    `hidden_size`, or passages that leave no room for a prompt.

    Example:
        >>> SmallLMConfig(hidden_size=64, heads=4).context
        512
    """

    vocab_size: int = 8192
    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    context: int = 512
    block: int = 256
    passage_tokens: int = 128
    text_epochs: float = 3.0
    pair_epochs: float = 3.0
    text_learning_rate: float = 1e-3
    pair_learning_rate: float = 5e-4
    batch_size: int = 16
    save_steps: int = 200
    prompt: str = "q2d"
    seed: int = 42

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "hidden_size", "layers", "heads", "context", "block", "passage_tokens")
        for name in (*sizes, "batch_size", "save_steps"):
            check_whole(name, getattr(self, name))
        for name in ("text_epochs", "pair_epochs", "text_learning_rate", "pair_learning_rate"):
            check_number(name, getattr(self, name), above=0)
        check_whole("seed", self.seed, least=0)
        if self.vocab_size < 256 + len(SPECIAL_TOKENS):
            raise ValueError(
                f"vocab_size must be at least {256 + len(SPECIAL_TOKENS)}, the number of bytes and special tokens"
            )
        if self.hidden_size % self.heads or (self.hidden_size // self.heads) % 2:
            raise ValueError(f"hidden_size {self.hidden_size} must be an even multiple of heads {self.heads}")
        if self.passage_tokens + 64 > self.context or self.block > self.context:
            raise ValueError(
                f"context {self.context} must be large enough for a block of {self.block} tokens, and for a passage of "
                f"{self.passage_tokens} plus 64 tokens of prompt: raise context or lower them"
            )
        resolve_prompt(self.prompt)


def train_small_lm(
    texts: Iterable[str],
    pairs: Iterable[tuple[str, str]],
    out: str | Path,
    config: SmallLMConfig | None = None,
    *,
    verbose: bool = False,
) -> Path:
    """The folder of a chat model trained on `texts`, and then on writing each pair's document for its query.

    A Llama architecture with a byte-level BPE tokenizer of its own and a chat template; `HuggingFaceBackend` opens the
    folder. **What it is not:** it imitates the collection's vocabulary and form, but has no knowledge, and its passages
    are noise to a retriever. It lets every stage of ExpandR run, and be tested, where no real model is available.

    Everything is held in memory, so it suits collections of some tens of thousands of documents. A run that was killed
    resumes from its last checkpoint when called again and ends with the same weights.

    Args:
        texts: the collection's documents.
        pairs: (query, relevant document), for training queries only.
        out: the folder to create; next to it, `OUT.work` holds checkpoints until the model is finished.
        config: sizes and schedule.
        verbose: show progress bars.

    Returns:
        `out`, with `smalllm.json` recording how it was made: settings, data, losses, versions.

    Raises:
        InUseError: another process is writing `out`.
        ValueError: no texts or no pairs, or `out` was made from other data or with another configuration.

    Example:
        >>> texts = ["Air scatters short waves of light more than long ones."] * 4
        >>> train_small_lm(texts, [("why is the sky blue", texts[0])], "small-lm")  # doctest: +SKIP
    """
    config = config or SmallLMConfig()
    out = Path(path_of(out))
    texts, pairs = list(texts), list(pairs)
    if not texts or not pairs:
        raise ValueError(f"a language model needs texts and pairs to learn from, got {len(texts)} and {len(pairs)}")
    settings = asdict(config) | {"texts_and_pairs_sha256": _digest(texts, pairs)}
    with one_run(out):
        if not is_finished(out, RECORD, settings):
            _make(texts, pairs, out, settings, config, verbose)
    return out


def _make(
    texts: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    out: Path,
    settings: dict[str, Any],
    config: SmallLMConfig,
    verbose: bool,
) -> None:
    """Train on the texts, then on the pairs, and put the model in place."""
    check_installed("training a language model", "train", "accelerate")
    work = claim(out, settings)
    tokenizer = build_tokenizer(texts, vocab_size=config.vocab_size, context=config.context)
    blocks = text_blocks(texts, tokenizer, config.block)
    template = resolve_prompt(config.prompt)
    rows = [pair_row(tokenizer, template, query, document, config.passage_tokens) for query, document in pairs]
    model = _new_model(tokenizer, config)
    losses = {}
    for stage, data, epochs, rate in (
        ("text", blocks, config.text_epochs, config.text_learning_rate),
        ("pairs", rows, config.pair_epochs, config.pair_learning_rate),
    ):
        losses[stage] = _train(model, tokenizer, data, work / stage, epochs, rate, config, verbose)
    report = {
        "settings": settings,
        "parameters": model.num_parameters(),
        "text_tokens": sum(len(block["input_ids"]) for block in blocks),
        "pairs": len(rows),
        "loss": losses,
        "versions": {name: version(name) for name in ("pyterrier_expandr", "torch", "transformers", "tokenizers")},
    }
    finished = work / "finished"
    model.eval().save_pretrained(finished)
    tokenizer.save_pretrained(finished)
    write_record(finished / RECORD, report)
    publish(finished, out)


def _new_model(tokenizer: PreTrainedTokenizerFast, config: SmallLMConfig) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM, set_seed

    set_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=8 * config.hidden_size // 3,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.context,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    rows: Sequence[dict[str, list[int]]],
    folder: Path,
    epochs: float,
    learning_rate: float,
    config: SmallLMConfig,
    verbose: bool,
) -> float:
    """Train `model` in place from the last checkpoint in `folder`; return the mean loss of the last 10 steps."""
    import torch
    from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

    from ..progress import ProgressBar
    from .order import SameOrder

    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=epochs,
        learning_rate=learning_rate,
        per_device_train_batch_size=config.batch_size,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        weight_decay=0.1,
        adam_beta2=0.95,
        train_sampling_strategy="group_by_length",
        logging_steps=1,
        save_steps=config.save_steps,
        save_total_limit=2,
        seed=config.seed,
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process on one GPU: DataParallel would multiply the batch
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=list(rows),
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(SameOrder())
    if verbose:
        trainer.add_callback(ProgressBar(f"Training on {folder.name}"))
    train_from(trainer, last_checkpoint(folder))
    last = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-10:]
    return sum(last) / len(last)


def _digest(texts: Sequence[str], pairs: Sequence[tuple[str, str]]) -> str:
    digest = hashlib.sha256()
    for part in (*texts, *(json.dumps(pair) for pair in pairs)):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
