"""What several commands need: the app, common options, and how a name on the command line becomes a collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import pandas as pd

app = typer.Typer(
    name="expandr",
    help="LLM-expanded dense retrieval with PyTerrier.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Collection = Annotated[str, typer.Option(help="pocket, irds:NAME, or a folder in BEIR format.")]
Split = Annotated[str, typer.Option(help="Which queries of the collection.")]
Device = Annotated[str | None, typer.Option(help="cuda, cpu ...; the GPU where there is one if not given.")]


def open_collection(name: str, split: str) -> Any:
    """The collection that a name on the command line means. Raises ValueError or FileNotFoundError if there is none."""
    if name == "pocket":
        from ..collections import pocket

        return pocket(split)
    if name.startswith("irds:"):
        import pyterrier as pt

        from .. import collections  # noqa: F401  registers this package's own ir-datasets

        try:
            return pt.get_dataset(name)
        except KeyError as error:
            raise ValueError(
                f"ir-datasets knows no {name.removeprefix('irds:')!r}; its catalogue: ir-datasets.com"
            ) from error
    from ..collections import beir_folder

    return beir_folder(name, split)


def topics_of(collection: Any) -> pd.DataFrame:
    """`[qid, query]` of a collection; ir-datasets with several query fields give their `text` or `title`."""
    import pyterrier as pt

    topics = collection.get_topics()
    if "query" in topics:
        return topics[["qid", "query"]]
    for field in ("text", "title"):
        if field in topics:
            return pt.model.push_queries(topics.rename(columns={field: "query"}), inplace=True)[["qid", "query"]]
    raise ValueError(f"the collection's topics have no query, text or title column, but {list(topics.columns)}")
