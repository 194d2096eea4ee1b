"""Do queries lie near the documents that answer them? Distances in the original space, and the plot of Fig. 2."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt

from ..common.extras import needed_for
from .figures import PALETTE, drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: setting -> (query vectors (n, d), document vectors (n, d)); row i of both is a pair
Settings = Mapping[str, tuple[np.ndarray, np.ndarray]]


def pair_vectors(
    pairs: pd.DataFrame, query_encoder: pt.Transformer, doc_encoder: pt.Transformer
) -> tuple[np.ndarray, np.ndarray]:
    """The vectors of query-document pairs: two arrays of shape (n, d), float32.

    Args:
        pairs: `[qid, query, docno, title, text]`, as returned by `gold_documents`.
        query_encoder: `[qid, query]` -> adds `query_vec`; `expander >> encoder.query_encoder()` for ExpandR.
        doc_encoder: `[docno, text]` -> adds `doc_vec`.

    Example:
        >>> pair_vectors(pairs, expander >> encoder.query_encoder(), encoder.doc_encoder())  # doctest: +SKIP
    """
    queries = query_encoder.transform(pairs[["qid", "query"]])
    # By qid: a pipeline may return its rows in another order.
    vectors = dict(zip(queries["qid"], queries["query_vec"], strict=True))
    documents = doc_encoder.transform(pairs[["docno", "title", "text"]])
    stacked = np.stack([np.asarray(vectors[qid]) for qid in pairs["qid"]])
    return stacked, np.stack([np.asarray(vector) for vector in documents["doc_vec"]])


def alignment_distances(settings: Settings) -> pd.DataFrame:
    """How far queries are from their own and from other queries' documents: `[setting, own, others, ratio]`.

    Distances are cosine distances (1 - cosine, from 0 to 2) in the encoder's own space, averaged over the n pairs and
    over the n(n-1) query-document combinations that are not pairs. If the whole space shrinks, `own` gets smaller
    without better retrieval, which is why `ratio = own / others` is given too: lower means better aligned.

    Raises:
        ValueError: shapes differ, fewer than two pairs, or a zero or non-finite vector.

    Example:
        >>> east, north = np.eye(2)
        >>> documents = np.stack([east + north, east + north])
        >>> alignment_distances({"apart": (np.stack([east, north]), documents)}).round(3).values.tolist()
        [['apart', 0.293, 0.293, 1.0]]
    """
    rows = []
    for name, (queries, documents) in settings.items():
        left, right = _units(name, queries, documents)
        distances = 1 - left @ right.T
        own = float(np.diag(distances).mean())
        others = float(distances[~np.eye(len(distances), dtype=bool)].mean())
        rows.append((name, own, others, own / others if others else float("nan")))
    return pd.DataFrame(rows, columns=["setting", "own", "others", "ratio"])


def alignment_plot(settings: Settings, *, seed: int = 42, path: str | Path | None = None) -> Figure:
    """Fig. 2: one t-SNE panel per setting, queries as stars, documents as circles, each pair joined and numbered.

    Each panel is a t-SNE of its own, so positions in different panels cannot be compared; the mean distance of pairs
    in its title can (see `alignment_distances`). t-SNE coordinates have no unit.

    Args:
        settings: setting -> (query vectors (n, d), document vectors (n, d)); about ten pairs are readable.
        seed: for t-SNE.
        path: save the figure here, as .svg, .png or .pdf.

    Raises:
        ImportError: the extra `analysis` is missing. ValueError: as in `alignment_distances`, or there is no setting.

    Example:
        >>> alignment_plot({"query alone": (queries, documents)}, path="alignment.svg")  # doctest: +SKIP
    """
    if not settings:
        raise ValueError("nothing to draw: give {name: (query vectors, document vectors)}")
    numbers = alignment_distances(settings).set_index("setting")
    columns = len(settings) if len(settings) <= 3 else 2
    rows = -(-len(settings) // columns)
    size = (3.6 * columns, 3.7 * rows + 0.4)
    with drawing(path, nrows=rows, ncols=columns, figsize=size, squeeze=False) as (figure, axes):
        for axis, (name, (queries, documents)) in zip(axes.flat, settings.items(), strict=False):
            _panel(axis, _tsne(queries, documents, seed))
            own, others = numbers.loc[name, ["own", "others"]]
            axis.set_title(f"{name}\nmean cosine distance:\npairs {own:.3f}, others {others:.3f}")
        for axis in list(axes.flat)[len(settings) :]:
            axis.set_axis_off()
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def _panel(axis: Any, points: np.ndarray) -> None:
    """Stars, circles, a line for each pair, and its number on the side of the star away from the line."""
    n = len(points) // 2
    for number, (query, document) in enumerate(zip(points[:n], points[n:], strict=True), 1):
        axis.plot(*zip(query, document, strict=True), color="#888888", linewidth=0.8, zorder=1)
        away = 11 * (query - document) / max(float(np.linalg.norm(query - document)), 1e-9)
        place = {"xytext": tuple(away), "textcoords": "offset points", "ha": "center", "va": "center"}
        axis.annotate(str(number), query, fontsize=9, zorder=4, **place)
    star = {"marker": "*", "s": 110, "color": PALETTE[1], "edgecolors": "black", "linewidths": 0.5, "zorder": 3}
    axis.scatter(points[:n, 0], points[:n, 1], label="query", **star)
    circle = {"marker": "o", "s": 36, "color": PALETTE[0], "edgecolors": "black", "linewidths": 0.5, "zorder": 2}
    axis.scatter(points[n:, 0], points[n:, 1], label="its best judged document", **circle)
    # Only proximity is meaningful: no numbers on the axes, and equal scales.
    axis.set(xlabel="t-SNE dimension 1 (no unit)", ylabel="t-SNE dimension 2 (no unit)", xticks=[], yticks=[])
    axis.set_aspect("equal", adjustable="datalim")
    axis.margins(0.12)


def _tsne(queries: np.ndarray, documents: np.ndarray, seed: int) -> np.ndarray:
    """Positions (2n, 2) of unit vectors; perplexity is as large as the number of points allows, at most 30."""
    with needed_for("t-SNE", "analysis"):
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits
    units = np.concatenate(_units("", queries, documents))
    perplexity = min(30.0, (len(units) - 1) / 3)
    model = TSNE(perplexity=perplexity, init="pca", method="exact", random_state=seed)
    # One thread: with so few points, threads would spend a hundred times longer waiting than working.
    with threadpool_limits(1):
        positions: np.ndarray = model.fit_transform(units)
    return positions


def _units(name: str, queries: np.ndarray, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as checked unit vectors in float64."""
    arrays = [np.asarray(array, dtype=np.float64) for array in (queries, documents)]
    if arrays[0].ndim != 2 or arrays[0].shape != arrays[1].shape:
        shapes = [array.shape for array in arrays]
        raise ValueError(f"{name!r}: query and document vectors must have the same shape (n, d), got {shapes}")
    if len(arrays[0]) < 2:
        raise ValueError(f"{name!r}: at least two pairs are needed, got {len(arrays[0])}")
    lengths = [np.linalg.norm(array, axis=1, keepdims=True) for array in arrays]
    if not all(np.isfinite(length).all() and length.all() for length in lengths):
        raise ValueError(f"{name!r}: a vector is zero, NaN or infinite, so it has no direction")
    return arrays[0] / lengths[0], arrays[1] / lengths[1]
