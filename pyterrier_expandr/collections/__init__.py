"""Collections: the pocket collection that ships with the package, and any folder in BEIR format.

Importing this module also registers pocket with ir-datasets, as `expandr-pocket`, `expandr-pocket/train` and
`expandr-pocket/test`.
"""

from __future__ import annotations

from pathlib import Path

from . import irds
from .beir_format import BeirFolder

POCKET = Path(__file__).parent / "pocket"

__all__ = ["BeirFolder", "beir_folder", "pocket"]


class PocketCollection(BeirFolder):
    """The pocket collection: a `BeirFolder` with recorded expansions."""

    def __init__(self, split: str = "test") -> None:
        super().__init__(POCKET, split)

    @property
    def expansions_path(self) -> Path:
        """The JSONL file with an expansion for each query, in the format of `RecordedExpander`."""
        return POCKET / "expansions.jsonl"

    def __repr__(self) -> str:
        return f"pocket({self.split!r})"


def pocket(split: str = "test") -> PocketCollection:
    """The collection written for this project, as a PyTerrier dataset: 242 passages, 31 train and 37 test queries.

    Raises:
        ValueError: `split` is neither "train" nor "test".

    Example:
        >>> pocket("test").get_topics().columns.tolist()
        ['qid', 'query']
    """
    return PocketCollection(split)


def beir_folder(path: str | Path, split: str = "test") -> BeirFolder:
    """A folder in BEIR format (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv) as a PyTerrier dataset.

    Raises:
        FileNotFoundError: the folder or one of its files is missing. ValueError: the split does not exist.

    Example:
        >>> beir_folder("scifact").get_qrels()  # doctest: +SKIP
    """
    return BeirFolder(path, split)


irds.register(POCKET)
