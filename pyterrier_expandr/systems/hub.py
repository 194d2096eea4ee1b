"""Sharing on the Hugging Face hub, each with a card: adapters, models, pairs, indexes, systems, recorded texts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyterrier as pt

from ..common.files import path_of
from ..expansion.recorded import read_expansions
from ..retrieval.faiss_index import FaissIndex
from .cards import artefact_card, expansions_card, pairs_card
from .expandr import ExpandR

if TYPE_CHECKING:
    from huggingface_hub import HfApi

#: the record in a folder that training wrote -> what the folder holds; each has its card already
MODELS = {"expander.json": "an adapter", "merge.json": "a merged model", "retriever.json": "a retriever"}

#: of a folder of pairs: no raw texts of the LLM, no unfinished files
PAIR_FILES = ["pairs.*", "examples.jsonl", "candidates.jsonl", "decisions.jsonl", "report.*"]

EXPANSIONS = "expansions.jsonl"


def push_to_hub(
    what: str | Path | FaissIndex | ExpandR,
    repo: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    license: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> str:
    """Upload something that this package wrote, with a card, and return its address on the hub.

    - The folder of `expandr train expander`, `train merge` or `train retriever` becomes a model, with the card that
      training wrote.
    - The folder of `expandr train pairs` becomes a data set, which `datasets.load_dataset` opens.
    - A JSONL file of recorded expansions becomes a data set, which `RecordedExpander.from_hub` opens.
    - A `FaissIndex`, an `ExpandR`, or the folder of one becomes a data set, like all artefacts of PyTerrier;
      `from_hf` opens it.

    The repository is created if it does not exist. You need to be logged in (`hf auth login`, or `HF_TOKEN`).

    Args:
        what: the object, folder or file.
        repo: "owner/name".
        private: whether a new repository is private; None is the owner's default.
        revision: the branch; created if it does not exist. None is "main".
        license: of data, as the hub names it, such as "cc-by-4.0"; models have it in their own card.
        about: further facts for the card of recorded expansions, such as `expander.describe()`.

    Raises:
        ValueError: `repo` has no owner, or `what` is nothing that this package wrote; the message lists what it can be.
        FileNotFoundError: there is no such file or folder.

    Example:
        >>> push_to_hub("passages.jsonl", "me/scifact-passages", license="cc-by-4.0")  # doctest: +SKIP
        'https://huggingface.co/datasets/me/scifact-passages'
    """
    from huggingface_hub import HfApi

    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ValueError(f'the repository must be named "owner/name", got {repo!r}')
    opened = what if isinstance(what, FaissIndex | ExpandR) else _opened(path_of(what))
    branch, api = revision or "main", HfApi()
    if isinstance(opened, FaissIndex | ExpandR):
        card_text = artefact_card(opened, _record(opened), repo, license)
        _create(api, repo, "dataset", private, branch)
        opened.to_hf(repo, branch=branch)
        return _upload_card(api, repo, branch, card_text)
    kind = "model" if any((opened / record).is_file() for record in MODELS) else "dataset"
    with tempfile.TemporaryDirectory() as folder:
        card = Path(folder) / "README.md"
        chosen = _files(opened, repo, card, about or {}, license)
        _create(api, repo, kind, private, branch)
        if card.exists():
            api.upload_file(path_or_fileobj=card, path_in_repo=card.name, repo_id=repo, repo_type=kind, revision=branch)
    if opened.is_file():
        sent: Any = {"path_or_fileobj": opened, "path_in_repo": EXPANSIONS}
        api.upload_file(repo_id=repo, repo_type=kind, revision=branch, **sent)
    else:
        api.upload_folder(folder_path=opened, repo_id=repo, repo_type=kind, revision=branch, **chosen)
    return _address(api, repo, kind)


def _opened(path: Path) -> Path | FaissIndex | ExpandR:
    """The artefact in a folder, or the path of something else that can be shared."""
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {str(path)!r}")
    if path.is_file() or any((path / record).is_file() for record in (*MODELS, "pairs.json")):
        return path
    if (path / "expandr_system.json").is_file():
        return ExpandR.load(path, expansion=False)
    if FaissIndex(path).built():
        return FaissIndex(path)
    raise ValueError(
        f"{str(path)!r} is nothing that can be shared: give a FaissIndex, an ExpandR, a JSONL file of expansions, or a "
        f"folder with one of {[*MODELS, 'pairs.json', 'expandr_faiss.json', 'expandr_system.json']}"
    )


def _record(artefact: FaissIndex | ExpandR) -> dict[str, Any]:
    if isinstance(artefact, FaissIndex):
        return artefact.metadata
    if artefact.path is pt.Artifact.NO_PATH:
        raise ValueError("this system is in memory only: save it with ExpandR.save, and share what that returns")
    record: dict[str, Any] = json.loads((Path(str(artefact.path)) / "expandr_system.json").read_text(encoding="utf-8"))
    return record


def _files(what: Path, repo: str, card: Path, about: Mapping[str, Any], license: str | None) -> dict[str, Any]:
    """Write the card of a data set, and say which files of a folder are uploaded."""
    if what.is_file():
        by_qid, by_query = read_expansions(what)
        records = [*by_qid.values(), *(record for record in by_query.values() if record.qid is None)]
        card.write_text(expansions_card(records, EXPANSIONS, repo, about, license), encoding="utf-8")
        return {}
    if (what / "pairs.json").is_file():
        record = json.loads((what / "pairs.json").read_text(encoding="utf-8"))
        file = next(what.glob("pairs.jsonl"), what / "pairs.parquet").name
        card.write_text(pairs_card(record, file, repo, license), encoding="utf-8")
        return {"allow_patterns": PAIR_FILES}
    return {"ignore_patterns": [".*", "checkpoint-*/**"]}


def _create(api: HfApi, repo: str, kind: str, private: bool | None, branch: str) -> None:
    api.create_repo(repo, repo_type=kind, private=private, exist_ok=True)
    if branch != "main":
        api.create_branch(repo, branch=branch, repo_type=kind, exist_ok=True)


def _upload_card(api: HfApi, repo: str, branch: str, card: str) -> str:
    api.upload_file(
        path_or_fileobj=card.encode(), path_in_repo="README.md", repo_id=repo, repo_type="dataset", revision=branch
    )
    return _address(api, repo, "dataset")


def _address(api: HfApi, repo: str, kind: str) -> str:
    return f"{api.endpoint}/{'datasets/' if kind == 'dataset' else ''}{repo}"
