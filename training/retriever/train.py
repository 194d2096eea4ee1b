"""Retriever training: an encoder learns to place fused queries near their relevant documents.

torchrun --nproc_per_node 8 -m pyterrier_expandr.training.retriever --base contriever --data DATA --out OUT
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ...common.files import with_home, write_json
from ...encoding.fusion import NAMED_FUSIONS, check_fusion
from ..checkpoints import last_checkpoint
from ..run_folder import claim, is_finished, is_first_process, publish
from ..setting_checks import check_number, check_whole

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from .data import Survey
    from .trainer import RetrieverTrainer

logger = logging.getLogger(__name__)

#: the file in the model's folder that says what made it
RECORD = "retriever.json"

#: rows of the paper's Table 2: no training, training on the query alone, training on the fused query
Stage = Literal["raw", "ft", "expandr"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

#: settings that do not decide the weights: where things are, and how they are computed
OTHER_SETTINGS = "base data out expansions dev_data mini_batch_size gradient_checkpointing tensorboard device".split()


@dataclass(frozen=True)
class RetrieverTrainingConfig:
    """What to train on what, and how; the defaults are the paper's.

    Args:
        base: hub name, folder, or short name (`ENCODERS`) of the encoder.
        data: where queries and positives are, as `open_examples` reads it.
        out: folder to make, with the trained encoder.
        stage: "expandr" trains on fused queries, "ft" on queries alone, "raw" not at all.
        split: which judgments of `data`.
        min_relevance: the grade from which on a document is a positive.
        expansions: JSONL file of recorded expansions, as `expandr expand` writes it, for data that has none itself.
        dev_data: where the held-out queries are; None holds out a part of `data`.
        dev_split: which judgments of `dev_data`.
        dev_fraction: the part of the queries of `data` that is held out; 0 for none, and then the last step is kept.
        dev_queries: held-out queries that are evaluated, at most.
        profile: "paper", "reference-contriever" or "reference-anchordr": similarity, temperature, pooling, batch size.
        pooling: "mean", "cls" ...; None takes the profile's, or else the encoder's own.
        temperature: what similarities are divided by; None takes the profile's.
        fusion: how a query and its expansions become one vector: "average", "uniform", or the query's weight.
        batch_size: queries of a step, over all devices, each of which meets the documents of all others; None takes the
            profile's (1,024 in the paper). Data that is smaller is one batch.
        negatives: hard negatives of each query, the first that it has.
        learning_rate: of AdamW, falling linearly to 0, without warm-up or weight decay.
        epochs: passes over the data.
        max_length: tokens read of each text; None takes the encoder's own limit.
        query_prompt, doc_prompt: text put before each query, and before each document and expansion; None takes the
            encoder's own.
        evaluations: how often in a run the held-out queries are evaluated and a checkpoint is written.
        patience: stop after so many evaluations that are no better than the best; None never does.
        precision: "auto" is bf16 (or fp16) on a GPU and fp32 on a CPU; fp16 needs a GPU.
        seed: of the held-out part, the order and the dropout.
        mini_batch_size: texts that a device embeds at a time, which bounds the memory; None is the whole batch at once.
        gradient_checkpointing: compute activations twice rather than keep them.
        tensorboard: write what is logged to `OUT/runs`.
        device: "cuda" or "cpu"; None takes a GPU where there is one, the first that CUDA_VISIBLE_DEVICES leaves.
        revision: the encoder's revision on the hub.
        trust_remote_code: run Python code that comes with the encoder.

    Raises:
        ValueError: a value that cannot be meant. TypeError: a number that is none, a fusion that is a function.

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

    A run that was killed goes on from its last checkpoint when called again, and ends in the same weights; a finished
    one is given back at once. On several devices start it by `torchrun` or `accelerate launch`: they share each batch.

    Args:
        config: what to train on what, and how.
        verbose: show a progress bar.

    Returns:
        `config.out`. Its `retriever.json` has the settings, counts of the data, the held-out nDCG@10 before and after;
        `steps.json` has the loss of each step and the held-out scores along the way; README.md is a model card.

    Raises:
        ValueError: data without positives or expansions, held-out queries that are trained on, no such encoder, an
            output folder of another run, no GPU where one is asked for.
        OSError: the disk is full; earlier checkpoints are whole.
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
    if is_finished(out, RECORD, settings):
        return out
    work = claim(out, settings)
    if config.stage == "expandr" and found.expanded < found.rows:
        logger.warning(
            "%d of %d pairs have no expansion and are trained on the query alone",
            found.rows - found.expanded,
            found.rows,
        )
    if not found.dev and (config.dev_data is not None or config.dev_fraction):
        logger.warning("too few queries to hold any out: the last step is kept, and training does not stop early")
    history = _untrained(config, encoder.model, found) if config.stage == "raw" else None
    if history is None:
        history = _trained(config, encoder.model, found, work, verbose)
    if is_first_process():
        _finish(config, settings, encoder.model, found, history, work)
    return out


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
    checkpoint = last_checkpoint(checkpoints)
    trainer.args.eval_on_start = bool(found.dev) and checkpoint is None
    set_seed(config.seed)  # so that the dropout does not depend on what was computed before training
    _train(trainer, checkpoint, checkpoints)
    trainer.accelerator.wait_for_everyone()
    return trainer.state.log_history


def _train(trainer: RetrieverTrainer, checkpoint: Path | None, checkpoints: Path) -> None:
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except Exception as error:
        newest = max(checkpoints.glob("checkpoint-*"), key=lambda path: path.stat().st_mtime, default=None)
        whole = last_checkpoint(checkpoints)
        if newest is None or newest == whole:
            raise
        rest = f"from {whole.name}, which is complete" if whole else "from the beginning"
        raise OSError(
            f"{newest} could not be written ({error}): free disk space and run again, which continues {rest}"
        ) from error


def _finish(
    config: RetrieverTrainingConfig,
    settings: dict[str, Any],
    model: SentenceTransformer,
    found: Survey,
    history: list[dict[str, Any]],
    work: Path,
) -> None:
    """Write the model, the record and the card to the working folder, and put it in place."""
    from .model_card import card, scores, steps

    finished = work / "finished"
    shutil.rmtree(finished, ignore_errors=True)  # of a run that was killed while it wrote it
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
    write_json(finished / RECORD, record | {"versions": versions})
    publish(finished, Path(config.out))


def _check_surroundings(config: RetrieverTrainingConfig) -> None:
    import torch

    for name in ("accelerate", "datasets"):
        if importlib.util.find_spec(name) is None:
            raise ImportError(f"training needs {name}: pip install 'pyterrier_expandr[train]'")
    if config.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ImportError("tensorboard=True needs tensorboard: pip install tensorboard")
    for name, asked in (("device='cuda'", config.device == "cuda"), ("precision='fp16'", config.precision == "fp16")):
        if asked and (config.device == "cpu" or not torch.cuda.is_available()):
            raise ValueError(f"{name} needs a GPU, but there is none: leave it out")
