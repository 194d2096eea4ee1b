"""The sentence-transformers trainer set up for fused queries, and the evaluation during training."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.util import dot_score
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    set_seed,
)

from ...encoding.encoder import ExpandREncoder
from ...encoding.fusion import Fusion
from ...encoding.models.anchordr import AnchorDR
from ...encoding.models.sentence_transformer import apply_overrides, pooling_of
from ...encoding.registry import load_encoder
from ..data.examples import TrainingExample
from ..progress import ProgressBar
from .fused_batches import FusedBatchCollator
from .losses import PROFILES, ExpandRLoss, fuse_rows

if TYPE_CHECKING:
    from datasets import Dataset

    from .train import RetrieverTrainingConfig

logger = logging.getLogger(__name__)

#: the trainer's name for the score that selects the best checkpoint
DEV_METRIC = "dev_dot_ndcg@10"


def open_base(config: RetrieverTrainingConfig) -> ExpandREncoder:
    """The encoder to train, with the profile's pooling and normalisation, and its prompts in the model's own files.

    Raises:
        ValueError: no such model, one that cannot pool as the profile requires, or an invalid length.
    """
    set_seed(config.seed)  # weights missing from the checkpoint, such as an unused pooler, are random
    encoder = load_encoder(
        config.base,
        fuse=True,
        normalize=PROFILES[config.profile].normalize,
        max_length=config.max_length,
        query_prompt=config.query_prompt,
        doc_prompt=config.doc_prompt,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
        device="cpu",
    )
    assert isinstance(encoder, ExpandREncoder)
    _set_pooling(encoder.model, config)
    if encoder.model.truncate_dim is not None:
        logger.warning(
            "%s truncates embeddings to %d dimensions: training uses full ones; truncate afterwards with truncate_dim=",
            config.base, encoder.model.truncate_dim,
        )  # fmt: skip
        encoder.model.truncate_dim = None
    encoder.model.prompts = {"query": encoder.source["query_prompt"], "document": encoder.source["doc_prompt"]}
    encoder.model.similarity_fn_name = "dot"
    return encoder


def _set_pooling(model: SentenceTransformer, config: RetrieverTrainingConfig) -> None:
    """Set the pooling: the configuration wins over the profile, the profile over the model's own files."""
    wanted, own = config.pooling or PROFILES[config.profile].pooling, pooling_of(model)
    if isinstance(model[0], AnchorDR):
        own = "first decoder position"
    if wanted is None or wanted == own:
        return
    said = f"pooling={wanted!r}" if config.pooling else f"the profile {config.profile!r}, which pools by {wanted!r},"
    if isinstance(model[0], Router):
        raise ValueError(
            f"{said} does not fit {config.base!r}, whose two encoders each set their own pooling: leave it out"
        )
    if "first decoder position" in (wanted, own):
        raise ValueError(f"{said} does not fit {config.base!r}, which can only pool by {own!r}: choose another profile")
    logger.warning("%s overrides the pooling %r that %s declares", said, own, config.base)
    apply_overrides(model, pooling=wanted, normalize=PROFILES[config.profile].normalize)


def tokenizer_states(model: SentenceTransformer) -> list[tuple[Any, Any, Any]]:
    """Each tokenizer of the model with its present padding and truncation.

    A tokenizer keeps those of the last texts that it read and saves them with itself, so that its file would show
    where a run was interrupted.
    """
    found = [getattr(module, "tokenizer", None) for module in model.modules()]
    cores = {id(core): core for one in found if (core := getattr(one, "backend_tokenizer", None)) is not None}
    return [(core, core.padding, core.truncation) for core in cores.values()]


def restore_tokenizers(states: list[tuple[Any, Any, Any]]) -> None:
    """Undo what has happened to the tokenizers since `tokenizer_states`."""
    for core, padding, truncation in states:
        core.no_padding() if padding is None else core.enable_padding(**padding)
        core.no_truncation() if truncation is None else core.enable_truncation(**truncation)


class FusedRetrievalEvaluator(InformationRetrievalEvaluator):
    """nDCG@10 of fused queries over the positives and negatives of a few examples.

    With so few documents, the score tells which checkpoint is better but says nothing about a whole collection.

    Args:
        examples: one per query.
        fusion: as in retrieval.
        batch_size: texts encoded at a time.
    """

    def __init__(self, examples: list[TrainingExample], *, fusion: Fusion, batch_size: int) -> None:
        self.expansions = [list(example.expansions) for example in examples]
        self.fusion = fusion
        names = {str(place): example for place, example in enumerate(examples)}
        texts = [text for example in examples for text in (*example.positives, *example.negatives)]
        places = {text: str(place) for place, text in enumerate(dict.fromkeys(texts))}
        super().__init__(
            {name: example.query for name, example in names.items()},
            {place: text for text, place in places.items()},
            {name: {places[text] for text in example.positives} for name, example in names.items()},
            mrr_at_k=[10],
            ndcg_at_k=[10],
            accuracy_at_k=[1],
            precision_recall_at_k=[10],
            map_at_k=[10],
            score_functions={"dot": dot_score},
            batch_size=batch_size,
            name="dev",
            write_csv=False,
        )

    def embed_inputs(
        self,
        model: SentenceTransformer,
        sentences: Any,
        encode_fn_name: str | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **options: Any,
    ) -> Any:
        """Embeddings (n, d); queries are fused with their expansions."""
        vectors: Any = super().embed_inputs(model, sentences, encode_fn_name, prompt_name, prompt, **options)
        texts = [text for own in self.expansions for text in own]
        if encode_fn_name != "query" or not texts:
            return vectors
        expansions: Any = super().embed_inputs(model, texts, "document")
        counts = torch.tensor([len(own) for own in self.expansions], device=vectors.device)
        return fuse_rows(vectors, expansions, counts, self.fusion)


class RetrieverTrainer(SentenceTransformerTrainer):
    """A trainer without sentence-transformers' own model card, which would quote training texts and query the hub."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Do nothing."""


class EvaluateAtTheEnd(TrainerCallback):
    """Evaluates at the last step as well, since that is a checkpoint like the others."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Request an evaluation at the last step."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = True


def build_trainer(
    config: RetrieverTrainingConfig,
    model: SentenceTransformer,
    dataset: Callable[[SentenceTransformerTrainingArguments], Dataset],
    rows: int,
    dev: list[TrainingExample],
    folder: Path,
    verbose: bool,
) -> RetrieverTrainer:
    """The trainer; `dataset` is called once the processes of a distributed run are connected."""
    arguments = _arguments(config, rows, bool(dev), folder)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    temperature = PROFILES[config.profile].temperature if config.temperature is None else config.temperature
    loss = ExpandRLoss.of_profile(
        model,
        config.profile,
        temperature=temperature,
        fusion=config.fusion,
        mini_batch_size=config.mini_batch_size,
        gather_across_devices=arguments.world_size > 1,
    )
    prompts = {"query_prompt": model.prompts["query"], "doc_prompt": model.prompts["document"]}
    trainer = RetrieverTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset(arguments),
        loss=loss,
        evaluator=evaluator(config, dev),
        data_collator=FusedBatchCollator(model.preprocess, **prompts),  # type: ignore[arg-type]  # not a subclass
    )
    trainer.remove_callback(PrinterCallback)
    if dev:
        trainer.add_callback(EvaluateAtTheEnd())
        if config.patience is not None:
            trainer.add_callback(EarlyStoppingCallback(config.patience))
    if verbose:
        trainer.add_callback(ProgressBar("Training the retriever"))
    return trainer


def evaluator(config: RetrieverTrainingConfig, dev: list[TrainingExample]) -> FusedRetrievalEvaluator | None:
    """The evaluator of the held-out examples, or None if there are none."""
    if not dev:
        return None
    return FusedRetrievalEvaluator(dev, fusion=config.fusion, batch_size=config.mini_batch_size or 32)


def _arguments(
    config: RetrieverTrainingConfig, rows: int, evaluated: bool, folder: Path
) -> SentenceTransformerTrainingArguments:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    batch_size = config.batch_size or PROFILES[config.profile].batch_size
    if batch_size % processes:
        raise ValueError(f"batch_size {batch_size} must be a multiple of the {processes} processes that share it")
    if batch_size > rows:
        batch_size = rows - rows % processes
        logger.warning("batch_size is larger than the %d training pairs: each step uses %d", rows, batch_size)
    # Processes can only share a full batch; a single process trains on the remainder as well.
    per_epoch = rows // batch_size if processes > 1 else math.ceil(rows / batch_size)
    interval = max(1, math.ceil(per_epoch * config.epochs / config.evaluations))
    on_gpu = torch.cuda.is_available() and config.device != "cpu"
    precision = config.precision
    if precision == "auto":
        precision = ("bf16" if torch.cuda.is_bf16_supported() else "fp16") if on_gpu else "fp32"
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=batch_size // processes,
        dataloader_drop_last=processes > 1,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        eval_strategy="steps" if evaluated else "no",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=2,
        load_best_model_at_end=evaluated,
        restore_callback_states_from_checkpoint=True,  # how long early stopping has waited
        metric_for_best_model=f"eval_{DEV_METRIC}" if evaluated else None,
        greater_is_better=True if evaluated else None,
        logging_steps=1,
        seed=config.seed,
        use_cpu=not on_gpu,
        ddp_backend="gloo" if processes > 1 and not on_gpu else None,
        dataloader_pin_memory=on_gpu,
        report_to=["tensorboard"] if config.tensorboard else "none",
        disable_tqdm=True,
        router_mapping={"query": "query", "text": "document"},  # for models with one encoder per side
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process on one GPU: DataParallel would multiply the batch
    return arguments
