"""Expanding, indexing and searching from the command line."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from ..common.files import replacing
from ..common.locks import one_writer
from .common import (
    LLM_HELP,
    Collection,
    Device,
    Ray,
    RayGPUs,
    Split,
    app,
    cluster_of,
    live_expander,
    open_collection,
    say,
    spread_backend,
    topics_of,
)

if TYPE_CHECKING:
    import pyterrier as pt

    from ..common.ray_cluster import Cluster
    from ..retrieval.faiss_index import FaissIndex
    from ..systems.expandr import ExpandR


@app.command(epilog="Example: expandr demo --folder /tmp/demo")
def demo(
    folder: Annotated[
        Path | None, typer.Option(help="Where indexes are written; a new temporary folder if not given.")
    ] = None,
    llm: Annotated[
        str | None,
        typer.Option(help=f"Writes expansions now: SmolLM2 where it is installed, none for none. {LLM_HELP}"),
    ] = None,
    device: Device = None,
) -> None:
    """Compare BM25, a dense retriever, ExpandR and their hybrid on the collection that comes with the package."""
    from .demo import run_demo

    run_demo(folder or Path(tempfile.mkdtemp(prefix="expandr-demo-")), llm=llm, device=device, say=say)


@app.command(epilog="Example: expandr expand --collection pocket --llm Qwen/Qwen2.5-7B-Instruct --out pocket.jsonl")
def expand(
    collection: Collection,
    llm: Annotated[str, typer.Option(help=LLM_HELP)],
    out: Annotated[Path, typer.Option(help="JSONL file to write: query_id, query, passages.")],
    split: Split = "test",
    prompt: Annotated[str, typer.Option(help="q2d, q2q, q2e, q2c, or a template with {query}.")] = "q2d",
    n: Annotated[int, typer.Option(help="Expansions for each query.")] = 1,
    temperature: float = 1.0,
    top_p: float = 0.9,
    max_new_tokens: int = 512,
    seed: int = 42,
    thinking: Annotated[bool, typer.Option("--thinking", help="Let a model that can reason do so first.")] = False,
    cache: Annotated[
        Path | None, typer.Option(help="Cache of generations; OUT with the suffix .sqlite if not given.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first queries.", min=1)] = None,
    keep_refusals: Annotated[bool, typer.Option(help="Keep texts that only refuse to answer.")] = False,
    ray: Ray = None,
    ray_gpus: RayGPUs = 0,
    device: Device = None,
) -> None:
    """Write an LLM's expansions of a collection's queries; a rerun resumes where it was interrupted."""
    from ..expansion.backends.opening import open_backend
    from ..expansion.expander import LLMExpander
    from ..expansion.recorded import write_expansions

    topics = topics_of(open_collection(collection, split))
    if limit is not None:
        topics = topics.head(limit)
    with one_writer(out), open_backend(llm, device=device) as backend:
        expander = LLMExpander(
            spread_backend(backend, ray, ray_gpus),
            prompt=prompt,
            n=n,
            temperature=temperature,
            top_p=top_p,
            max_new_tokens=max_new_tokens,
            seed=seed,
            thinking=thinking,
            cache=cache or out.with_suffix(".sqlite"),
            keep_refusals=keep_refusals,
            verbose=True,
        )
        expanded = expander.transform(topics)
        write_expansions(out, expanded)
    typer.echo(f"{len(expanded)} queries, {sum(map(len, expanded['query_expansions']))} expansions in {out}")


@app.command(
    epilog="Example: expandr index --collection pocket --encoder facebook/contriever --index pocket.faiss --lexical"
)
def index(
    collection: Collection,
    encoder: Annotated[str, typer.Option(help="An encoder: a name of `expandr models`, hub name or folder.")],
    index: Annotated[Path, typer.Option(help="Folder of the index.")],
    split: Split = "test",
    pooling: Annotated[str | None, typer.Option(help="mean, cls ...; for checkpoints that do not say.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens read of each document.")] = None,
    truncate_dim: Annotated[int | None, typer.Option(help="Numbers kept of each embedding (Matryoshka).")] = None,
    factory: Annotated[
        str | None, typer.Option(help="FAISS factory string; Flat for a new index if not given.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(help="create, overwrite or resume; if not given, build, or continue what was interrupted."),
    ] = None,
    lexical: Annotated[
        bool, typer.Option("--lexical", help="Index the words too, beside INDEX, for searches with --hybrid.")
    ] = False,
    batch_size: Annotated[int | None, typer.Option(help="Texts per model call.", min=1)] = None,
    ray: Ray = None,
    ray_gpus: RayGPUs = 0,
    device: Device = None,
) -> None:
    """Encode a collection's documents into a FAISS index, and with --lexical index their words with PISA."""
    from ..encoding.registry import load_encoder
    from ..retrieval.faiss_index import FaissIndex

    model: Any = load_encoder(
        encoder,
        fuse=True,
        pooling=pooling,
        max_length=max_length,
        truncate_dim=truncate_dim,
        batch_size=batch_size,
        device=device,
    )
    target = FaissIndex(index, factory=factory)
    dataset = open_collection(collection, split)
    with one_writer(target.folder):
        _index(dataset, model, target, mode, lexical, None if ray is None else cluster_of(ray, ray_gpus))
    typer.echo(f"{len(target)} documents in {index}")


@app.command(epilog='Example: expandr search "why is the sky blue" --index pocket.faiss --num-results 5')
def search(
    queries: Annotated[list[str] | None, typer.Argument(help="Queries; or name a --collection.")] = None,
    index: Annotated[Path, typer.Option(help="Folder of the index; it knows its encoder.")] = Path("index.faiss"),
    encoder: Annotated[
        str | None, typer.Option(help="Encodes the queries: a student of the index's encoder; default: that encoder.")
    ] = None,
    collection: Annotated[str | None, typer.Option(help="pocket, irds:NAME, or a folder in BEIR format.")] = None,
    split: Split = "test",
    expansions: Annotated[Path | None, typer.Option(help="JSONL file that `expandr expand` wrote.")] = None,
    llm: Annotated[str | None, typer.Option(help=f"Writes the expansions now. {LLM_HELP}")] = None,
    num_results: Annotated[int, typer.Option(help="Documents for each query.", min=1)] = 10,
    out: Annotated[
        Path | None, typer.Option(help="Write the ranking here, in TREC format, rather than print it.")
    ] = None,
    hybrid: Annotated[
        str | None, typer.Option(help="sum, rrf or zscore: search the words too (expandr index --lexical), and fuse.")
    ] = None,
    settings: Annotated[Path | None, typer.Option(help="JSON file that `expandr tune` wrote.")] = None,
    device: Device = None,
) -> None:
    """Search an index with queries, fused with their expansions if given."""
    import pyterrier as pt

    from ..retrieval.list_fusion import Method

    if bool(queries) == bool(collection):
        raise ValueError('name either queries ("why is the sky blue") or a --collection')
    if hybrid and settings:
        raise ValueError("--settings say how lists are fused: leave --hybrid out")
    if expansions and llm:
        raise ValueError("--expansions and --llm exclude each other")
    if hybrid not in (None, *get_args(Method)):
        raise ValueError(f"--hybrid must be one of {', '.join(get_args(Method))}, got {hybrid!r}")
    topics = topics_of(open_collection(collection, split)) if collection else pt.new.queries(list(queries or []))
    system = _system(index, encoder, hybrid, settings, _expander(expansions, llm, device), device)
    ranking: Any = system.pipeline(num_results).transform(topics)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with one_writer(out), replacing(out) as part:
            pt.io.write_results(ranking, str(part), format="trec", run_name="expandr")
        typer.echo(f"{len(ranking)} rows in {out}")
        return
    for qid, rows in ranking.groupby("qid", sort=False):
        say(f"{qid}: {rows['query'].iloc[0]}")
        for row in rows.sort_values("rank").itertuples():
            say(f"  {row.rank + 1:>4}  {row.score:8.4f}  {row.docno}")


@app.command(epilog="Example: expandr quantize contriever contriever-int8")
def quantize(
    encoder: Annotated[str, typer.Argument(help="An encoder: a name of `expandr models`, hub name or folder.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; it is an encoder for every other command.")],
    collection: Annotated[
        str, typer.Option(help="50 of its documents measure how near the model stays to the original.")
    ] = "pocket",
) -> None:
    """Write an encoder in 8-bit integers, which OpenVINO computes on a CPU (extra openvino)."""
    from ..common.frames import document_text
    from ..encoding.quantized import quantize as write
    from ..encoding.registry import load_encoder

    model: Any = load_encoder(encoder, fuse=True)
    documents = open_collection(collection, "test").get_corpus_iter(verbose=False)
    texts = (document_text(document.get("title", ""), document["text"]) for document in documents)
    names = "pooling normalize max_length query_prompt doc_prompt revision".split()
    write(model.model_name, out, filter(None, texts), **{name: getattr(model, name) for name in names})
    typer.echo(f"{encoder} in 8-bit integers in {out}")


@app.command(epilog="Example: expandr models")
def models() -> None:
    """List the encoders and language models that can be opened by a short name."""
    from ..encoding.registry import models_table

    typer.echo(models_table())


def _index(
    dataset: Any, encoder: Any, target: FaissIndex, mode: str | None, lexical: bool, cluster: Cluster | None
) -> None:
    from ..retrieval.faiss_build import check_documents
    from ..retrieval.sparse import LexicalIndex
    from ..retrieval.spool import Spool
    from ..systems.store import check_index, check_lexical

    if lexical:
        _index_words(dataset, target, mode)
    corpus, spool = dataset.get_corpus_iter(verbose=True), Spool(target.folder)
    if mode is None and spool.exists():
        typer.echo(f"continuing the interrupted build: {spool.state()['count']} documents are there", err=True)
    elif mode is None and target.built():
        check_index(encoder, target)
        check_documents(corpus, target.docnos, str(target.folder))
        typer.echo("finished before", err=True)
    if mode in (None, "resume"):
        mode, corpus = "resume", target.remaining(corpus)
    if cluster is not None:
        from ..retrieval.distributed_index import encoded_by_ray

        target.indexer(mode, verbose=True).index(encoded_by_ray(encoder, corpus, cluster))  # type: ignore[arg-type]
    else:
        (encoder.doc_encoder() >> target.indexer(mode, verbose=True)).index(corpus)  # type: ignore[arg-type]
    if lexical:
        check_lexical(target, LexicalIndex.beside(target.folder))


def _index_words(dataset: Any, target: FaissIndex, mode: str | None) -> None:
    """Build the lexical index next to `target`, and before it, as it is quick and detects problems with documents."""
    from ..retrieval.sparse import LexicalIndex

    words = LexicalIndex.beside(target.folder)
    if mode == "create" and words.built():
        raise FileExistsError(
            f"{str(words.folder)!r} holds a lexical index: use it with --mode resume, or overwrite it"
        )
    if mode == "create" and target.built():
        raise FileExistsError(f"{str(target.folder)!r} holds an index: --mode resume adds the lexical one")
    words.index(dataset.get_corpus_iter(verbose=True), overwrite=mode == "overwrite")


def _system(
    index: Path,
    encoder: str | None,
    hybrid: str | None,
    settings: Path | None,
    expander: pt.Transformer | None,
    device: str | None,
) -> ExpandR:
    from ..encoding.registry import load_encoder
    from ..retrieval.faiss_index import FaissIndex
    from ..systems.expandr import ExpandR
    from ..systems.settings import TunedSettings

    opened = FaissIndex(index)
    tuned = TunedSettings.load(settings) if settings else None
    lexical = "pisa" if hybrid or (tuned and tuned.hybrid) else None
    if encoder is None:
        model = opened.query_encoder(device=device).bi_encoder_model
    else:
        model = load_encoder(encoder, fuse=True, device=device)
    system = ExpandR(expander, model, opened, lexical=lexical, hybrid=hybrid)  # type: ignore[arg-type]  # checked there
    return system.with_settings(tuned) if tuned else system


def _expander(expansions: Path | None, llm: str | None, device: str | None) -> pt.Transformer | None:
    if expansions is not None:
        from ..expansion.expander import RecordedExpander

        return RecordedExpander(expansions)
    if llm is not None:
        return live_expander(llm, device)
    return None
