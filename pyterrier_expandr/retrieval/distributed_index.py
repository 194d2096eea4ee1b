"""A corpus encoded on the machines of a Ray cluster, and indexed on this one."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from ..common.ray_cluster import Cluster
from ..encoding.encoder import ExpandREncoder
from ..encoding.vectors import with_source
from .faiss_index import FaissIndex


def distributed_index(
    encoder: ExpandREncoder,
    index: FaissIndex,
    corpus: Iterable[dict[str, Any]],
    *,
    cluster: Cluster | None = None,
    waiting: int = 128,
    verbose: bool = False,
) -> FaissIndex:
    """The index of a corpus whose documents are encoded by the workers of a Ray cluster.

    Each worker encodes the frames of documents that `encoder.doc_encoder() >> index.indexer()` would encode, so that
    the vectors are equal bit for bit to those of one process on the same type of processor with the same number of
    threads (Ray gives a worker as many as its `num_cpus`), and otherwise up to rounding. They are committed here in the
    order of the corpus, as every build is: after a kill of this process the same call continues, and what was under way
    on a worker or a machine that died is encoded again by another.

    Args:
        encoder: each worker opens its own copy; a model in a folder must be in the same folder on all machines.
        index: where to build; its factory decides the kind.
        corpus: `{"docno", "text"}` (+ `title`), the same documents in the same order when a build is continued.
        cluster: where, and what a worker occupies.
        waiting: number of frames that are sent out together; their vectors are in memory here until all are back.
        verbose: see `FaissIndex.indexer`.

    Raises:
        RuntimeError: what a worker raised. ValueError, FileExistsError, InUseError: see `FaissIndexer.index`.

    Example:
        >>> from pyterrier_expandr.encoding import demo_encoder_folder
        >>> encoder, index = ExpandREncoder(demo_encoder_folder()), FaissIndex("corpus.faiss")
        >>> distributed_index(encoder, index, corpus, cluster=Cluster("auto", num_gpus=1))  # doctest: +SKIP
    """
    encoded = encoded_by_ray(encoder, index.remaining(corpus), cluster or Cluster(), waiting)
    return index.indexer("resume", verbose).index(encoded)


def encoded_by_ray(
    encoder: ExpandREncoder, corpus: Iterable[dict[str, Any]], cluster: Cluster, waiting: int = 128
) -> Iterator[dict[str, Any]]:
    """The documents with `doc_vec` (float32, (d,)), in their order; see `distributed_index`."""
    size, rest = encoder.doc_encoder().batch_size, iter(corpus)
    about = (_unloaded(encoder),)
    while rows := list(islice(rest, size * waiting)):
        numbered = [row | {"place": place} for place, row in enumerate(rows)]
        frames = list(cluster.spread(numbered, DocumentWorker, about, size))
        for frame in sorted(frames, key=lambda one: int(one["place"].iloc[0])):
            vectors = with_source(np.stack(frame["doc_vec"]).astype(np.float32), encoder.source)
            for place, vector in zip(frame["place"], vectors, strict=True):
                yield rows[place] | {"doc_vec": vector}


def _unloaded(encoder: ExpandREncoder) -> ExpandREncoder:
    """A copy that opens its model on first use, so that weights are read by each machine and not sent to it."""
    found = copy.copy(encoder)
    found._model, found._memo = None, type(encoder._memo)()
    return found


class DocumentWorker:
    """A worker: it holds a copy of the encoder."""

    def __init__(self, encoder: ExpandREncoder) -> None:
        self.encoder = encoder.doc_encoder()

    def __call__(self, frame: pd.DataFrame) -> pd.DataFrame:
        """`[docno, text, place]` (+ `title`) -> `[place, doc_vec]`."""
        made = self.encoder.transform(frame.drop(columns="place"))
        return pd.DataFrame({"place": frame["place"], "doc_vec": [np.asarray(vector) for vector in made["doc_vec"]]})
