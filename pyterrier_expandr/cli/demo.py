"""What `expandr demo` does: BM25, a dense retriever and ExpandR side by side on the pocket collection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyterrier as pt

from ..collections import pocket
from ..encoding.encoder import ExpandREncoder
from ..encoding.registry import demo_encoder_folder as demo_encoder_folder
from ..expansion.expander import LLMExpander, RecordedExpander
from ..retrieval.faiss_index import FaissIndex

MEASURES = ["ndcg_cut_10", "recall_100"]


def run_demo(
    folder: Path, *, llm: str | None = None, device: str | None = None, say: Callable[[str], None] = print
) -> pd.DataFrame:
    """The experiment table of the demo; everything that is written goes to `folder`.

    Args:
        folder: holds the indexes, and with `llm` the cache of its generations.
        llm: a backend (see `open_backend`) that writes the expansions live; None replays the recorded ones.
        device: "cuda", "cpu"; None takes cuda where there is one.
        say: called with each line of the report.
    """
    collection = pocket("test")
    folder.mkdir(parents=True, exist_ok=True)
    expander = _expander(folder, llm, device, say, collection.expansions_path)
    encoder = ExpandREncoder(demo_encoder_folder(), device=device)
    say("Encoder: all-MiniLM-L6-v2")
    index = FaissIndex(folder / "pocket.faiss")
    if not index.built():
        (encoder.doc_encoder(verbose=True) >> index).index(collection.get_corpus_iter())  # type: ignore[attr-defined]
    dense = encoder.query_encoder() >> index.retriever()
    systems: dict[str, pt.Transformer] = {"dense": dense, "ExpandR": expander >> dense}
    systems = _bm25(folder, collection, say) | systems
    topics, qrels = collection.get_topics(), collection.get_qrels()
    # The baseline of the significance test and of the wins and losses is the query alone.
    table = pt.Experiment(
        list(systems.values()),
        topics,
        qrels,
        MEASURES,
        names=list(systems),
        baseline=list(systems).index("dense"),
        round=4,
    )
    per_query = pt.Experiment(
        [systems["dense"], systems["ExpandR"]],
        topics,
        qrels,
        ["ndcg_cut_10"],
        names=["dense", "ExpandR"],
        perquery=True,
    )
    say(f"\n{len(topics)} queries, {len(index)} passages\n")
    say(table.to_string(index=False, na_rep="-"))
    say("\n+ and - count the queries that gain or lose against dense; the p-value is of a paired t-test.")
    for line in wins_and_losses(per_query, topics):
        say(line)
    say(f"\nThe indexes are in {folder.resolve()}")
    return table


def _expander(
    folder: Path, llm: str | None, device: str | None, say: Callable[[str], None], recorded: Path
) -> pt.Transformer:
    if llm is None:
        say("Expansions: recorded with the collection (name a model with --llm to have them written live)")
        return RecordedExpander(recorded)
    from ..expansion.backends.opening import open_backend

    backend = open_backend(llm, device=device)
    say(f"Expansions: written now by {llm}, kept in {folder / 'expansions.sqlite'}")
    return LLMExpander(backend, cache=folder / "expansions.sqlite", verbose=True)


def _bm25(folder: Path, collection: pt.datasets.Dataset, say: Callable[[str], None]) -> dict[str, pt.Transformer]:
    from ..retrieval.sparse import bm25

    try:
        return {"BM25": bm25(collection.get_corpus_iter(), folder / "pocket.pisa")}
    except ImportError as error:
        say(f"BM25 is left out: {error}")
        return {}


def wins_and_losses(per_query: pd.DataFrame, topics: pd.DataFrame, *, top: int = 5) -> list[str]:
    """Lines that name the queries which gain and lose most nDCG@10 from expansion.

    Args:
        per_query: `[name, qid, measure, value]` of the systems "dense" and "ExpandR", as `pt.Experiment` gives it.
        topics: `[qid, query]`.
        top: how many of each at most.
    """
    values = per_query.pivot(index="qid", columns="name", values="value")
    change = (values["ExpandR"] - values["dense"]).sort_values(ascending=False)
    text = dict(zip(topics["qid"], topics["query"], strict=True))
    wins, losses = change[change > 0], change[change < 0]
    same = len(change) - len(wins) - len(losses)
    lines = [f"\nExpandR against dense, nDCG@10: {len(wins)} wins, {len(losses)} losses, {same} equal"]
    for title, part in (("wins", wins.head(top)), ("losses", losses.iloc[::-1].head(top))):
        lines.append(f"  largest {title}:" if len(part) else f"  no {title}")
        lines += [f"    {gain:+.3f}  {text[str(qid)]}" for qid, gain in part.items()]
    return lines
