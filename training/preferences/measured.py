"""The reward that searches: the gain in a measure, on an index that the reward encoder filled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ...collections.opening import is_collection, open_collection
from ...encoding.encoder import ExpandREncoder
from ...encoding.fusion import Fusion
from ...encoding.vectors import describe_source
from ...evaluation.beir_collections import Collection
from ...retrieval.faiss_index import FaissIndex
from ...retrieval.faiss_retriever import FaissRetriever
from .choice import PreferenceSettings
from .rewards import MEASURE, MeasureGain

#: documents that are searched for a measure
DEPTH = 100


def open_gain(
    index: str | Path,
    qrels: pd.DataFrame,
    encoder: ExpandREncoder,
    *,
    measure: str = "nDCG@10",
    fusion: Fusion = "average",
) -> MeasureGain:
    """The reward "measure" over the `DEPTH` best documents of an index.

    Args:
        index: folder of a `FaissIndex`.
        qrels: `[qid, docno, label]`.
        encoder: the reward encoder.
        measure: in the notation of ir-measures.
        fusion: how query and candidate become one vector.

    Raises:
        ValueError: another encoder filled the index, or it holds no relevant document. FileNotFoundError: there is no
            index.

    Example:
        >>> open_gain("pocket.faiss", pocket("train").get_qrels(), ExpandREncoder(demo_encoder()))  # doctest: +SKIP
    """
    searched = FaissIndex(index)
    gain = MeasureGain(searched.retriever(num_results=DEPTH), qrels, measure, fusion)
    check_encoder(gain, encoder)
    relevant = qrels.loc[qrels["label"] > 0, "docno"].astype(str)
    if len(relevant) and not pc.any(pc.is_in(searched.docnos, pa.array(relevant, pa.large_string()))).as_py():
        raise ValueError(
            f"the index {str(index)!r} holds none of the {len(relevant)} documents that the judgments call relevant, "
            f"such as {relevant.iloc[0]!r}: index the collection that is judged"
        )
    return gain


def check_encoder(gain: MeasureGain, encoder: ExpandREncoder) -> None:
    """Raise ValueError if an index that the reward searches was filled by another encoder than the reward encoder."""
    if isinstance(gain.retriever, FaissRetriever):
        index = gain.retriever.faiss_index
        if not index.accepts(encoder.source):
            raise ValueError(
                f"the index {str(index.path)!r} was made by {describe_source(index.encoder)}, but the reward encoder "
                f"is {describe_source(encoder.source)}: use one encoder for both"
            )


def with_gain(settings: PreferenceSettings, gain: MeasureGain) -> PreferenceSettings:
    """The settings with that reward in place of the name "measure".

    Example:
        >>> with_gain(PreferenceSettings(rewards=("measure", "retriever")), print).rewards[1]
        'retriever'
    """
    return replace(settings, rewards=tuple(gain if reward == MEASURE else reward for reward in settings.rewards))


def searching(
    settings: PreferenceSettings, index: str | Path | None, encoder: ExpandREncoder, data: str, split: str
) -> PreferenceSettings:
    """The settings with the reward "measure", if they name it, opened on that index and the judgments of that data.

    Raises:
        ValueError: "measure" without an index, an index without "measure" or of another encoder, or data without
            documents.

    Example:
        >>> searching(PreferenceSettings(), None, ExpandREncoder(demo_encoder()), "pocket", "train")  # doctest: +SKIP
    """
    if (MEASURE in settings.rewards) != (index is not None):
        raise ValueError('the reward "measure" and an index to search belong together: give both, or neither')
    if index is None:
        return settings
    return with_gain(settings, open_gain(index, training_collection(data, split).qrels, encoder))


def training_collection(data: str, split: str) -> Collection:
    """The collection that training queries come from.

    Raises:
        ValueError: the data are rows of JSONL, which have no documents to search in.

    Example:
        >>> training_collection("pocket", "train")
        Collection('training')
    """
    if not is_collection(data):
        raise ValueError(
            f'the reward "measure" searches the collection of the training queries, but {data!r} is none: give pocket, '
            "irds:NAME, or a folder in BEIR format"
        )
    return Collection("training", lambda: open_collection(data, split))
