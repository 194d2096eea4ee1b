"""Retriever training: an encoder learns to embed fused queries near their relevant documents.

torchrun --nproc_per_node 8 -m pyterrier_expandr.training.retriever --base contriever --data DATA --out OUT
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ...common.extras import check_installed
from ...common.files import with_home, write_json
from ...common.records.manifest import write_record
from ...encoding.fusion import NAMED_FUSIONS, check_fusion
from ..checkpoints import last_checkpoint, train_from_last
from ..run_folder import claim, is_finished, is_first_process, one_run, publish
from ..setting_checks import check_number, check_whole

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from .data import Survey

logger = logging.getLogger(__name__)

#: the file in the model's folder that records how it was made
RECORD = "retriever.json"

#: rows of the paper's Table 2: no training, training on the query alone, training on the fused query
Stage = Literal["raw", "ft", "expandr"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

#: settings that do not affect the weights: where things are, and how they are computed
OTHER_SETTINGS = "base data out expansions dev_data mini_batch_size gradient_checkpointing tensorboard device".split()


@dataclass(frozen=True)
class RetrieverTrainingConfig:
    """What to train, on which data, and how; the defaults are the paper's.

    Args:
        base: hub name, folder, or short name (`ENCODERS`) of the encoder.
        data: the source of queries and positives, as for `open_examples`.
        out: folder to create for the trained encoder.
        stage: "expandr" trains on fused queries, "ft" on queries alone, "raw" not at all.
        split: the split of the judgments of `data`.
        min_relevance: the lowest grade at which a document counts as positive.
        expansions: JSONL file of recorded expansions, as written by `expandr expand`, for data without its own.
        dev_data: the source of the held-out queries; None holds out a part of `data`.
        dev_split: the split of the judgments of `dev_data`.
        dev_fraction: fraction of the queries of `data` to hold out; 0 holds out none and keeps the last step.
        dev_queries: maximum number of held-out queries to evaluate.
        profile: "paper", "reference-contriever" or "reference-anchordr": similarity, temperature, pooling, batch size.
        pooling: "mean", "cls" ...; None means the profile's, or else the encoder's own.
        temperature: divisor of the similarities; None means the profile's.
        fusion: how a query and its expansions are fused into one vector: "average", "uniform", or the query's weight.
        batch_size: queries per step, over all devices, each compared with the documents of all others; None means the
            profile's (1,024 in the paper). Smaller data sets form a single batch.
        negatives: number of hard negatives per query; its first ones are used.
        learning_rate: for AdamW, decaying linearly to 0, without warm-up or weight decay.
        epochs: passes over the data.
        max_length: most tokens read of each text; None means the encoder's own limit.
        query_prompt, doc_prompt: text put before each query, and before each document and expansion; None means the
            encoder's own.
        evaluations: how many times per run the held-out queries are evaluated and a checkpoint is written.
        patience: stop after this many evaluations without improvement; None never stops early.
        precision: "auto" is bf16 (or fp16) on a GPU and fp32 on a CPU; fp16 needs a GPU.
        seed: for the held-out part, the data order and the dropout.
        mini_batch_size: texts that a device embeds at a time, which bounds memory; None embeds the whole batch at once.
        gradient_checkpointing: recompute activations instead of storing them.
        tensorboard: also write the log to `OUT/runs`.
        device: "cuda" or "cpu"; None means the first GPU visible under CUDA_VISIBLE_DEVICES, if any.
        revision: the encoder's revision on the hub.
        trust_remote_code: run Python code shipped with the encoder.

    Raises:
        ValueError: an invalid value. TypeError: a value that is not a number, or a fusion that is a function.

    Example:
        >>> config = RetrieverTrainingConfig("facebook/contriever", "train.jsonl", "out", stage="ft")
        >>> config.epochs, config.learning_rate, config.seed
        (3, 1e-05, 42)
    """

    base: str
    data: str
    out: str
    stage: Stage = "expandr"
    split: str = "train"
    min_relevance: int = 1
    expansions: str | None = None
    dev_data: str | None = None
    dev_split: str = "dev"
    dev_fraction: float = 0.1
    dev_queries: int = 1000
    profile: str = "paper"
    pooling: str | None = None
    temperature: float | None = None
    fusion: Literal["average", "uniform"] | float = "average"
    batch_size: int | None = None
    negatives: int = 1
    learning_rate: float = 1e-5
    epochs: float = 3
    max_length: int | None = 512
    query_prompt: str | None = None
    doc_prompt: str | None = None
    evaluations: int = 10
    patience: int | None = None
    precision: Precision = "auto"
    seed: int = 42
    mini_batch_size: int | None = 32
    gradient_checkpointing: bool = False
    tensorboard: bool = False
    device: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        from .losses import PROFILES

        for name, choices in (("stage", get_args(Stage)), ("precision", get_args(Precision)), ("profile", PROFILES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {tuple(choices)}, got {getattr(self, name)!r}")
        if self.device not in (None, "cuda", "cpu"):
            raise ValueError(
                f"device must be 'cuda' or 'cpu', got {self.device!r}: choose a particular GPU with "
                "CUDA_VISIBLE_DEVICES"
            )
        if callable(check_fusion(self.fusion)):
            raise TypeError(
                f"fusion must be one of {NAMED_FUSIONS} or a weight: a function cannot be saved with the settings"
            )
        for name in ("learning_rate", "epochs"):
            check_number(name, getattr(self, name), above=0)
        if self.temperature is not None:
            check_number("temperature", self.temperature, above=0)
        least = {"batch_size": 2, "negatives": 0, "dev_queries": 1, "evaluations": 1, "max_length": 1, "patience": 1}
        for name, value in (least | {"mini_batch_size": 1}).items():
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), least=value)
        check_number("dev_fraction", self.dev_fraction, least=0)
        if self.dev_fraction >= 1:
            raise ValueError(f"dev_fraction must be below 1, got {self.dev_fraction}")
        if self.patience is not None and self.dev_data is None and not self.dev_fraction:
            raise ValueError("patience needs held-out queries: set dev_fraction above 0 or dev_data")
        for name in ("base", "data", "out", "expansions", "dev_data"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, with_home(str(getattr(self, name))))


def train_retriever(config: RetrieverTrainingConfig, *, verbose: bool = False) -> Path:
    """The folder of a trained encoder, for `ExpandREncoder`, `SentenceTransformer` and `pyterrier_dr.SBertBiEncoder`.

    A run that was killed resumes from its last checkpoint when called again and ends with the same weights; a finished
    one is returned immediately. On several devices, start it with `torchrun` or `accelerate launch`; they share each
    batch.

    Args:
        config: what to train, on which data, and how.
        verbose: show a progress bar.

    Returns:
        `config.out`. Its `retriever.json` has the settings, counts of the data, the held-out nDCG@10 before and after;
        `steps.json` has the loss of each step and the held-out scores along the way; README.md is a model card.

    Raises:
        InUseError: another process is writing the output folder.
        ValueError: data without positives or expansions, held-out queries among the training queries, no such encoder,
            an output folder of another run, or no GPU although one is requested.
        OSError: the disk is full; earlier checkpoints remain intact.
        ImportError: accelerate, datasets or tensorboard is missing.

    Example:
        >>> train_retriever(RetrieverTrainingConfig("contriever", "train.jsonl", "out"))  # doctest: +SKIP
    """
    _check_surroundings(config)
    from .data import survey
    from .trainer import open_base

    out = Path(config.out)
    found, encoder = survey(config), open_base(config)
    settings = {name: value for name, value in asdict(config).items() if name not in OTHER_SETTINGS}
    settings |= {"base_fingerprint": encoder.source["fingerprint"], "data_sha256": found.sha256}
    with one_run(out):
        if not is_finished(out, RECORD, settings):
            _make(config, settings, encoder.model, found, verbose)
    return out


def _make(
    config: RetrieverTrainingConfig, settings: dict[str, Any], model: SentenceTransformer, found: Survey, verbose: bool
) -> None:
    """Train the encoder, or continue an interrupted run, and put the result in place."""
    from .trainer import restore_tokenizers, tokenizer_states

    work = claim(Path(config.out), settings)
    if config.stage == "expandr" and found.expanded < found.rows:
        logger.warning(
            "%d of %d pairs have no expansion and are trained on the query alone",
            found.rows - found.expanded,
            found.rows,
        )
    if not found.dev and (config.dev_data is not None or config.dev_fraction):
        logger.warning("too few queries to hold any out: the last step is kept, and training does not stop early")
    states = tokenizer_states(model)
    history = _untrained(config, model, found) if config.stage == "raw" else None
    if history is None:
        history = _trained(config, model, found, work, verbose)
    if is_first_process():
        restore_tokenizers(states)
        _finish(config, settings, model, found, history, work)


def _untrained(config: RetrieverTrainingConfig, model: SentenceTransformer, found: Survey) -> list[dict[str, Any]]:
    from .trainer import DEV_METRIC, evaluator

    measure = evaluator(config, found.dev)
    return [{"step": 0, f"eval_{DEV_METRIC}": measure(model)[DEV_METRIC]}] if measure else []


def _trained(
    config: RetrieverTrainingConfig, model: SentenceTransformer, found: Survey, work: Path, verbose: bool
) -> list[dict[str, Any]]:
    """Train `model` in place, from the last checkpoint in `work`, and return the log."""
    from transformers import set_seed

    from .data import training_dataset
    from .trainer import build_trainer

    def dataset(arguments: Any) -> Any:
        with arguments.main_process_first(desc="writing the training rows"):
            return training_dataset(work / "rows.arrow", config, found)

    checkpoints = work / "checkpoints"
    trainer = build_trainer(config, model, dataset, found.rows, found.dev, checkpoints, verbose)
    trainer.args.eval_on_start = bool(found.dev) and last_checkpoint(checkpoints) is None
    set_seed(config.seed)  # makes dropout independent of what was computed before training
    train_from_last(trainer, checkpoints)
    trainer.accelerator.wait_for_everyone()
    return trainer.state.log_history


def _finish(
    config: RetrieverTrainingConfig,
    settings: dict[str, Any],
    model: SentenceTransformer,
    found: Survey,
    history: list[dict[str, Any]],
    work: Path,
) -> None:
    """Write the model, the record and the card to the working folder, and move it into place."""
    from .model_card import card, scores, steps

    finished = work / "finished"
    shutil.rmtree(finished, ignore_errors=True)  # left by a run that was killed while writing it
    model.save_pretrained(str(finished), create_model_card=False)
    runs = work / "checkpoints" / "runs"
    if runs.is_dir():
        runs.rename(finished / "runs")
    data = {"pairs": found.rows, "with an expansion": found.expanded, "held-out queries": len(found.dev)}
    packages = ("pyterrier_expandr", "sentence-transformers", "transformers", "torch")
    versions = {name: version(name) for name in packages}
    record = {"settings": settings, "base": config.base, "source": config.data, "data": data, **scores(history)}
    write_json(finished / "steps.json", steps(history))
    (finished / "README.md").write_text(card(record | {"versions": versions}, model), encoding="utf-8")
    write_record(finished / RECORD, record | {"versions": versions})
    publish(finished, Path(config.out))


def _check_surroundings(config: RetrieverTrainingConfig) -> None:
    import torch

    check_installed("training a retriever", "train", "accelerate", "datasets")
    if config.tensorboard:
        check_installed("tensorboard=True", "tensorboard", "tensorboard")
    for name, asked in (("device='cuda'", config.device == "cuda"), ("precision='fp16'", config.precision == "fp16")):
        if asked and (config.device == "cpu" or not torch.cuda.is_available()):
            raise ValueError(f"{name} needs a GPU, but there is none: leave it out")
