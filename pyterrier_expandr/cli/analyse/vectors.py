"""`expandr analyse alignment`: where the passages move the queries."""

from __future__ import annotations

from typing import Annotated

import typer

from ..common import Collection, Device, Split, open_collection, pairs_of, show
from .app import Expansions, Picture, analyse


@analyse.command(
    epilog="Example: expandr analyse alignment --expansions E=e.jsonl --collection pocket --encoder NAME --out a.svg"
)
def alignment(
    expansions: Expansions,
    collection: Collection,
    encoder: Annotated[str, typer.Option(help="An encoder: a name of `expandr models`, hub name or folder.")],
    split: Split = "test",
    pairs: Annotated[int, typer.Option(help="Query-document pairs, taken at random.", min=2)] = 10,
    seed: Annotated[int, typer.Option(help="Seed of that choice and of t-SNE.")] = 42,
    device: Device = None,
    out: Picture = None,
) -> None:
    """How close queries are to their documents, alone and with each system's expansions."""
    from ...analysis import alignment_distances, alignment_plot, gold_documents, pair_vectors
    from ...encoding.registry import load_encoder
    from ...expansion.expander import RecordedExpander

    chosen = gold_documents(open_collection(collection, split), n=pairs, seed=seed)
    model = load_encoder(encoder, fuse=True, device=device)
    queries, documents = model.query_encoder(), model.doc_encoder()
    settings = {"query alone": pair_vectors(chosen, queries, documents)}
    for name, path in pairs_of(expansions):
        settings[name] = pair_vectors(chosen, RecordedExpander(path) >> queries, documents)
    show(alignment_distances(settings), places=3)
    if out is not None:
        alignment_plot(settings, seed=seed, path=out)
