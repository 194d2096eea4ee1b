"""`expandr tune`: the settings of a system, chosen on training queries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common.locks import one_writer
from ..expansion.lexical import Repeats
from .common import LLM_HELP, Collection, Device, app, live_expander, open_collection, show, topics_of

if TYPE_CHECKING:
    import pandas as pd
    import pyterrier as pt


@app.command(
    epilog="Example: expandr tune --collection irds:beir/scifact/train --index scifact.faiss --hybrid sum "
    "--expansions train.jsonl --out tuned.json"
)
def tune(
    collection: Collection,
    index: Annotated[Path, typer.Option(help="Folder of the index (expandr index --lexical); it knows its encoder.")],
    out: Annotated[Path, typer.Option(help="JSON file of settings to write.")],
    split: Annotated[str, typer.Option(help="Which queries; never those whose numbers are reported.")] = "train",
    expansions: Annotated[Path | None, typer.Option(help="JSONL file of passages for these queries.")] = None,
    llm: Annotated[str | None, typer.Option(help=f"Writes the passages now. {LLM_HELP}")] = None,
    hybrid: Annotated[
        str | None, typer.Option(help="sum, rrf or zscore: tune a hybrid with the lexical index.")
    ] = None,
    n: Annotated[list[int] | None, typer.Option(help="Numbers of passages to try; repeat it.")] = None,
    fusion: Annotated[list[float] | None, typer.Option(help="Weights of the query's vector to try.")] = None,
    repeats: Annotated[list[str] | None, typer.Option(help="Repetitions of the query to try; mugi is a rule.")] = None,
    weight: Annotated[list[float] | None, typer.Option(help="Weights of the lexical list to try.")] = None,
    measure: Annotated[str, typer.Option(help="Of ir-measures.")] = "nDCG@10",
    folds: Annotated[int, typer.Option(help="Parts of the queries, each held out once.", min=2)] = 5,
    queries: Annotated[int, typer.Option(help="At most so many queries, drawn by the seed.", min=2)] = 1000,
    prompt: Annotated[str, typer.Option(help="Of an LLM: q2d, q2q, q2e, q2c, or a template with {query}.")] = "q2d",
    temperature: float = 1.0,
    top_p: float = 0.9,
    max_new_tokens: int = 512,
    seed: int = 42,
    cache: Annotated[Path | None, typer.Option(help="Cache of generations; OUT with the suffix .sqlite.")] = None,
    device: Device = None,
) -> None:
    """Choose fusion weight, number of passages, repetitions and hybrid weight by cross-validation, and save them."""
    from ..retrieval.faiss_index import FaissIndex
    from ..systems.expandr import ExpandR
    from ..systems.tuning import tune as tuned

    if (expansions is None) == (llm is None):
        raise ValueError("give either --expansions or --llm")
    topics, qrels = _training_queries(collection, split, queries, seed)
    if expansions is not None:
        expander, numbers = _recorded(expansions, topics, n)
    else:
        sampling = {"temperature": temperature, "top_p": top_p, "max_new_tokens": max_new_tokens, "seed": seed}
        cache = cache or out.with_suffix(".sqlite")
        expander, numbers = live_expander(str(llm), device, prompt=prompt, cache=cache, **sampling), tuple(n or [1])
    opened = FaissIndex(index)
    encoder = opened.query_encoder(device=device).bi_encoder_model
    lexical: Any = {"lexical": "pisa", "hybrid": hybrid} if hybrid else {}
    system = ExpandR(expander, encoder, opened, **lexical)
    grid = _grid(numbers, fusion, repeats, weight)
    source = {"collection": collection, "split": split}
    with one_writer(out):
        found = tuned(system, topics, qrels, grid, measure=measure, folds=folds, seed=seed, source=source, verbose=True)
        found.settings.save(out)
    show(found.table, 4)
    _say(found, out)


def _training_queries(collection: str, split: str, queries: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`[qid, query]` of at most `queries` judged queries, and the judgments. Raises ValueError for test queries."""
    if split == "test" or collection.endswith("/test"):
        raise ValueError("settings chosen on test queries make the numbers on them worthless: name a training split")
    dataset = open_collection(collection, split)
    qrels = dataset.get_qrels()[["qid", "docno", "label"]].astype({"qid": str, "docno": str})
    topics = topics_of(dataset)
    topics = topics[topics["qid"].isin(qrels["qid"])]
    return topics if len(topics) <= queries else topics.sample(queries, random_state=seed).sort_index(), qrels


def _recorded(file: Path, topics: Any, n: list[int] | None) -> tuple[pt.Transformer, tuple[int, ...]]:
    """An expander, and the numbers of its passages to try."""
    from ..expansion.expander import RecordedExpander
    from ..systems.tuning import numbers_of_passages

    recorded = RecordedExpander(file)
    counts = [len(texts) for texts in recorded.transform(topics)["query_expansions"]]  # reports what is missing
    return recorded, tuple(n or numbers_of_passages(counts))


def _grid(n: tuple[int, ...], fusion: Any, repeats: list[str] | None, weight: Any) -> Any:
    from ..systems.tuning import Grid

    given: dict[str, Any] = {"fusion": fusion, "repeats": repeats and list(map(_repeats, repeats)), "weight": weight}
    return Grid(n=n, **{name: tuple(values) for name, values in given.items() if values})


def _repeats(text: str) -> Repeats:
    return int(text) if text.isdecimal() else text  # type: ignore[return-value]  # other words are rejected later


def _say(found: Any, out: Path) -> None:
    choice = found.choice
    used = "used" if found.settings.n else "left out"
    typer.echo(
        f"passages are {used}: on held-out queries they bring {choice.gain:+.4f} (standard error {choice.error:.4f})"
    )
    typer.echo(f"settings in {out}")
