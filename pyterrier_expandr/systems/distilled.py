"""A system whose LLM has been distilled into its query encoder."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..common.jsonl import write_jsonl
from ..encoding.encoder import ExpandREncoder
from ..expansion.recorded import write_expansions

if TYPE_CHECKING:
    from .expandr import ExpandR


def distill(
    system: ExpandR, out: Path, queries: str | Path | pd.DataFrame, expansions: Any, settings: dict[str, Any]
) -> ExpandR:
    """`ExpandR.distill`: trains the student, and returns the system with it."""
    # By name: training is a layer above the systems, and imports them.
    student = import_module("pyterrier_expandr.training.student")
    log, passages = out.with_name(f"{out.name}.log.jsonl"), out.with_name(f"{out.name}.passages.jsonl")
    source = str(log) if isinstance(queries, pd.DataFrame) else str(queries)
    if isinstance(queries, pd.DataFrame):
        rows = zip(queries["qid"], queries["query"], strict=True)
        write_jsonl(log, ({"query_id": str(qid), "query": query} for qid, query in rows))
    given = passages if expansions is None else expansions
    config = student.StudentConfig(system.encoder.model_name, source, given, str(out), **settings)
    if expansions is None:
        if system.expander is None:
            raise ValueError("this system has no expander that could write passages to learn from: give expansions=")
        write_expansions(passages, system.expander.transform(student.read_topics(config)))
    index = system.faiss_index
    teacher = (system.encoder, index if index is not None and index.built() else None)
    student.train_student(config, teacher=teacher)
    encoder = ExpandREncoder(out, device=system.encoder.device, batch_size=system.encoder.batch_size)
    return system._with(expander=None, encoder=encoder)
