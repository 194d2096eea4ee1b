"""The teacher of a student: opened, checked before training, and taken apart into its two sides."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Router
from sentence_transformers.sentence_transformer.modules import Normalize
from torch import nn

from ...encoding.encoder import ExpandREncoder
from ...encoding.registry import load_encoder
from ...encoding.vectors import DOCUMENT_SIDE, document_source
from ...retrieval.faiss_index import FaissIndex
from ...systems.expandr import ExpandR
from ...systems.store import RECORD, check_index
from .config import StudentConfig

#: how far the length of a normalised vector may be from 1
LENGTH_TOLERANCE = 1e-2


class Sides(NamedTuple):
    """The modules of an encoder: those of queries, those of documents, and the last ones, which both share."""

    query: list[Any]
    document: list[Any]
    shared: list[Any]


def open_teacher(config: StudentConfig) -> tuple[ExpandREncoder, FaissIndex | None]:
    """The teacher's encoder and the index that its student will search, if one is known.

    Raises:
        ValueError: no such encoder or system, or the index was made by another encoder.
    """
    index = None if config.index is None else FaissIndex(config.index)
    if config.teacher.startswith("expandr:") or (Path(config.teacher) / RECORD).is_file():
        place = config.teacher.removeprefix("expandr:")
        system = ExpandR.load(place, expansion=False, device=config.device)
        encoder, index = system.encoder, index or system.faiss_index
    else:
        encoder = load_encoder(config.teacher, fuse=True, device=config.device)
    if index is not None:
        check_index(encoder, index)
    return encoder, index


def check_teacher(teacher: ExpandREncoder, index: FaissIndex | None, vectors: np.ndarray) -> None:
    """Raise ValueError if the teacher's vectors (n, d) are not those that it and the index say they are.

    The index has another dimension, vectors recorded as normalised are not of length 1, or vectors are truncated.
    """
    if teacher.model.truncate_dim is not None:
        raise ValueError(
            f"the teacher {teacher.model_name!r} truncates its vectors to {teacher.model.truncate_dim} dimensions: "
            "teach with the full vectors, and index with them"
        )
    if index is not None and index.dim != vectors.shape[1]:
        raise ValueError(
            f"the teacher {teacher.model_name!r} makes vectors of {vectors.shape[1]} dimensions, but the index "
            f"{str(index.path)!r} has {index.dim}: give the encoder that made it as the teacher"
        )
    if teacher.source["normalize"] or document_source(teacher.source).get("normalize"):
        lengths = np.linalg.norm(vectors, axis=1)
        if np.abs(lengths - 1).max() > LENGTH_TOLERANCE:
            raise ValueError(
                f"the teacher {teacher.model_name!r} is recorded as normalised, but its vectors have lengths from "
                f"{lengths.min():.3f} to {lengths.max():.3f}: normalise after its last module, or open it with "
                "normalize=False and index again"
            )


def teacher_record(teacher: ExpandREncoder) -> dict[str, Any]:
    """What a student records about its teacher, see `encoding.students.teacher_of`; a student's teacher is its own."""
    if teacher.teacher is not None:
        return teacher.teacher
    source = teacher.source
    kept = {name: source.get(name) for name in ("model", *DOCUMENT_SIDE)}
    return {**kept, "documents": teacher.describe_documents()}


def sides_of(model: SentenceTransformer) -> Sides:
    """The modules of a model, which are not copied; without a side of its own, both sides are the same modules.

    Example:
        >>> from sentence_transformers.sentence_transformer.modules import Dense
        >>> sides = sides_of(SentenceTransformer(modules=[Dense(4, 4), Normalize()], device="cpu"))
        >>> len(sides.query), len(sides.shared)
        (1, 1)
    """
    modules = list(model.children())
    if isinstance(modules[0], Router):
        routes: Any = modules[0].sub_modules
        return Sides(list(routes["query"]), list(routes["document"]), modules[1:])
    own = modules[:-1] if isinstance(modules[-1], Normalize) else modules
    return Sides(own, own, modules[len(own) :])


def student_model(config: StudentConfig, teacher: ExpandREncoder) -> SentenceTransformer:
    """The encoder to train: a copy of the teacher's query side, or `config.base`, and then what its documents end with.

    Raises:
        ValueError: `base` has another dimension than the teacher, or does not exist.
    """
    sides = sides_of(teacher.model)
    if config.base is None:
        return _model([*map(copy.deepcopy, sides.query), *map(copy.deepcopy, sides.shared)], teacher)
    base = load_encoder(config.base, fuse=True, normalize=teacher.source["normalize"], device="cpu")
    wanted, found = teacher.model.get_embedding_dimension(), base.model.get_embedding_dimension()
    if found != wanted:
        raise ValueError(
            f"the student {config.base!r} makes vectors of {found} dimensions, but the teacher {teacher.model_name!r} "
            f"and its index have {wanted}: choose a student with {wanted}"
        )
    return _model([*sides_of(base.model).query, *map(copy.deepcopy, sides.shared)], teacher)


def two_sided(student: SentenceTransformer, teacher: ExpandREncoder) -> SentenceTransformer:
    """The student's query encoder beside the teacher's document encoder, as one model with two sides."""
    sides = sides_of(teacher.model)
    query: list[Any] = list(student.children())[: -len(sides.shared) or None]
    return _model([Router.for_query_document(query, sides.document), *sides.shared], teacher)


def _model(modules: list[nn.Module], teacher: ExpandREncoder) -> SentenceTransformer:
    prompts = {"query": teacher.source["query_prompt"], "document": teacher.source["doc_prompt"]}
    return SentenceTransformer(modules=modules, prompts=prompts, similarity_fn_name="dot", device=teacher.device)
