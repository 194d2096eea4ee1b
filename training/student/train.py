"""Student training: an encoder learns to place a query alone where its fusion with an LLM's passages would be."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ...common.extras import check_installed
from ...common.files import write_json
from ...common.records.manifest import write_record
from ...encoding.students import STUDENT_RECORD
from ..checkpoints import train_from_last
from ..data.examples import TrainingExample
from ..run_folder import claim, is_finished, one_run, publish
from .config import StudentConfig
from .log import read_log

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from ...encoding.encoder import ExpandREncoder
    from ...retrieval.faiss_index import FaissIndex
    from ..retriever.trainer import RetrieverTrainer
    from .losses import Judged, StudentLoss

logger = logging.getLogger(__name__)


def train_student(
    config: StudentConfig, *, teacher: tuple[ExpandREncoder, FaissIndex | None] | None = None, verbose: bool = False
) -> Path:
    """The folder of a trained student, for `ExpandREncoder`: its queries need no LLM and search the teacher's index.

    The folder has both sides, the student's for queries and the teacher's for documents and expansions, so that it
    encodes documents exactly as the teacher does. A run that was killed resumes from its last checkpoint when called
    again and ends with the same weights; a finished one is returned immediately.

    Args:
        config: which teacher, on which queries, and how.
        teacher: an encoder and its index (or None) that are open already, in place of `config.teacher`.
        verbose: show a progress bar.

    Returns:
        `config.out`. Its `student.json` has the settings, the teacher, counts of the data, and the mean cosine of the
        training queries' vectors to their targets before and after; `steps.json` the losses; README.md a model card.

    Raises:
        InUseError: another process is writing the output folder.
        ValueError: the log is empty or has test queries, passages of other queries, a student or index of another
            dimension, a teacher that is not normalised as recorded, or an output folder of another run.
        OSError: the disk is full; earlier checkpoints remain intact. ImportError: accelerate or datasets is missing.

    Example:
        >>> train_student(StudentConfig("contriever", "log.jsonl", "passages.jsonl", "student"))  # doctest: +SKIP
    """
    check_installed("training a student", "train", "accelerate", "datasets")
    from transformers import set_seed

    from .teacher import check_teacher, open_teacher, student_model, teacher_record

    log = read_log(config)
    set_seed(config.seed)  # weights missing from a checkpoint, such as an unused pooler, are random
    encoder, index = open_teacher(config) if teacher is None else teacher
    check_teacher(encoder, index, np.asarray(encoder.encode_queries([example.query for example in log[:8]])))
    model = student_model(config, encoder)
    out, taught = Path(config.out), teacher_record(encoder)
    made = {name: taught[name] for name in ("fingerprint", "pooling", "normalize")}
    settings = config.settings | {"fusion": _fusion(config, encoder), "teacher": made, "data_sha256": _digest(log)}
    if config.base is not None:
        from ..identity import encoder_identity

        settings["base_fingerprint"] = encoder_identity(config.base)
    with one_run(out):
        if not is_finished(out, STUDENT_RECORD, settings):
            _make(config, {"settings": settings, "teacher": taught}, encoder, model, log, verbose)
    return out


def _make(
    config: StudentConfig,
    record: dict[str, Any],
    encoder: ExpandREncoder,
    model: SentenceTransformer,
    log: list[TrainingExample],
    verbose: bool,
) -> None:
    """Train the student, or continue an interrupted run, and put the result in place."""
    work = claim(Path(config.out), record["settings"])
    queries, loss = _lesson(config, encoder, model, log)
    before = _closeness(model, queries, loss, encoder)
    history = _trained(config, model, queries, loss, work, verbose)
    closeness = {"before": before, "after": _closeness(model, queries, loss, encoder)}
    counts = {"queries": len(log), "passages": sum(len(e.expansions) for e in log), "targets": len(queries)}
    counts["judged queries"] = sum(bool(e.positives) for e in log)
    _finish(config, {**record, "data": counts, "closeness": closeness}, encoder, model, history, work)


def _fusion(config: StudentConfig, encoder: ExpandREncoder) -> Any:
    fusion = encoder.fusion if config.fusion is None else config.fusion
    if callable(fusion):
        raise ValueError(
            "the teacher's fusion is a function, which cannot be recorded: give fusion= a name or a weight"
        )
    return fusion


def _digest(log: list[TrainingExample]) -> str:
    content = [[e.query, *map(list, (e.positive_ids, e.positives, e.expansions))] for e in log]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _lesson(
    config: StudentConfig, encoder: ExpandREncoder, model: SentenceTransformer, log: list[TrainingExample]
) -> tuple[list[str], StudentLoss]:
    """The query of each row, and the loss that knows each row's target."""
    import torch

    from .losses import StudentLoss

    groups = [[e.expansions] if config.targets == "mean" else [[text] for text in e.expansions] for e in log]
    rows = [(place, list(texts)) for place, group in enumerate(groups) for texts in group]
    frame = pd.DataFrame({"qid": [str(n) for n in range(len(rows))], "query": [log[place].query for place, _ in rows]})
    frame["query_expansions"] = pd.Series([texts for _, texts in rows], dtype=object)
    fused = encoder.query_encoder(fusion=_fusion(config, encoder)).transform(frame)["query_vec"]
    loss = StudentLoss(
        model,
        torch.from_numpy(np.stack([np.asarray(vector) for vector in fused])),
        distance=config.distance,  # type: ignore[arg-type]  # filled in from the profile
        distance_weight=config.distance_weight,  # type: ignore[arg-type]
        contrastive_weight=config.contrastive_weight,  # type: ignore[arg-type]
        judged=_judged(encoder, [log[place] for place, _ in rows]) if config.contrastive_weight else None,
        temperature=config.temperature,  # type: ignore[arg-type]
    )
    return list(frame["query"]), loss


def _judged(encoder: ExpandREncoder, rows: list[TrainingExample]) -> Judged | None:
    """The teacher's vectors of the relevant documents of all rows; documents with equal ids and texts are one."""
    import torch

    from .losses import Judged

    numbers: dict[tuple[str, str], int] = {}
    relevant = [
        [numbers.setdefault(pair, len(numbers)) for pair in zip(row.positive_ids, row.positives, strict=True)]
        for row in rows
    ]
    if not numbers:
        logger.info("no query of the log is judged: the student learns from the distance alone")
        return None
    vectors = np.asarray(encoder.encode_expansions([text for _, text in numbers]))  # documents, but remembered
    return Judged(torch.from_numpy(np.ascontiguousarray(vectors)), relevant)


def _closeness(model: SentenceTransformer, queries: list[str], loss: StudentLoss, encoder: ExpandREncoder) -> float:
    """The mean cosine of the queries' vectors to their targets."""
    import torch

    found = model.encode(
        queries, prompt=encoder.source["query_prompt"], batch_size=32, convert_to_tensor=True, show_progress_bar=False
    )
    return round(torch.cosine_similarity(found.cpu(), loss.targets, dim=1).mean().item(), 6)


def _trained(
    config: StudentConfig, model: SentenceTransformer, queries: list[str], loss: StudentLoss, work: Path, verbose: bool
) -> list[dict[str, Any]]:
    """Train `model` in place, from the last checkpoint in `work`, and return the log."""
    from transformers import set_seed

    trainer = _trainer(config, model, queries, loss, work / "checkpoints", verbose)
    set_seed(config.seed)  # makes dropout independent of what was computed before training
    train_from_last(trainer, work / "checkpoints")
    model.eval()
    return trainer.state.log_history


def _trainer(
    config: StudentConfig,
    model: SentenceTransformer,
    queries: list[str],
    loss: StudentLoss,
    folder: Path,
    verbose: bool,
) -> RetrieverTrainer:
    import torch
    from datasets import Dataset
    from sentence_transformers import SentenceTransformerTrainingArguments
    from transformers import PrinterCallback

    from ..progress import ProgressBar
    from ..retriever.trainer import RetrieverTrainer

    steps = math.ceil(math.ceil(len(queries) / config.batch_size) * config.epochs)  # type: ignore[operator]
    on_gpu = torch.cuda.is_available() and config.device != "cpu"
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        learning_rate=config.learning_rate,  # type: ignore[arg-type]
        lr_scheduler_type="linear",
        weight_decay=0.0,
        num_train_epochs=config.epochs,  # type: ignore[arg-type]
        per_device_train_batch_size=config.batch_size,  # type: ignore[arg-type]
        save_strategy="steps",
        save_steps=max(1, math.ceil(steps / config.checkpoints)),
        save_total_limit=2,
        logging_steps=1,
        seed=config.seed,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        report_to="none",
        disable_tqdm=True,
        prompts={"query": model.prompts["query"]} if model.prompts["query"] else None,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)
    rows = Dataset.from_dict({"query": queries, "label": list(range(len(queries)))})
    trainer = RetrieverTrainer(model=model, args=arguments, train_dataset=rows, loss=loss)
    trainer.remove_callback(PrinterCallback)
    if verbose:
        trainer.add_callback(ProgressBar("Training the student"))
    return trainer


def _finish(
    config: StudentConfig,
    record: Mapping[str, Any],
    encoder: ExpandREncoder,
    model: SentenceTransformer,
    history: list[dict[str, Any]],
    work: Path,
) -> None:
    """Write both sides, the record and the card to the working folder, and move it into place."""
    from .model_card import card
    from .teacher import two_sided

    finished = work / "finished"
    shutil.rmtree(finished, ignore_errors=True)  # left by a run that was killed while writing it
    whole = two_sided(model, encoder)
    whole.save_pretrained(str(finished), create_model_card=False)
    packages = ("pyterrier_expandr", "sentence-transformers", "transformers", "torch")
    record = {**record, "versions": {name: version(name) for name in packages}}
    losses = [{"step": int(entry["step"]), "loss": float(entry["loss"])} for entry in history if "loss" in entry]
    write_json(finished / "steps.json", losses)
    (finished / "README.md").write_text(card(record), encoding="utf-8")
    write_record(finished / STUDENT_RECORD, record)
    publish(finished, Path(config.out))
