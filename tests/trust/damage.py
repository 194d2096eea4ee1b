"""Copies of artefacts with one file damaged: how many are noticed when they are opened, and how many by a complete check."""

import gzip
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from pyterrier_expandr import ExpandR, FaissIndex, HuggingFaceBackend
from pyterrier_expandr.cli.verify import verified as verify
from pyterrier_expandr.collections import beir_folder
from pyterrier_expandr.common.records.manifest import write_record
from pyterrier_expandr.evaluation import Results
from pyterrier_expandr.training.preferences import read_pairs
from tests.encoders_tiny import build_bert
from tests.trust.small import WRITTEN, read_results, small_index, small_results, small_system


def damaged(data: bytes, rng: random.Random, name: str) -> bytes | None:
    """`data` after one accident; None means that the file is gone."""
    kind = rng.choice(["bit", "bit", "cut", "line", "block", "empty", "gone", "more", "swap"])
    place = rng.randrange(len(data))
    if kind == "bit":
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    if kind == "cut":
        return data[:place]
    if kind == "line":
        ends = [n for n, byte in enumerate(data[:-1], 1) if byte == 10]
        return data[: rng.choice(ends)] if ends else data[:place]
    if kind == "block":
        return data[:place] + bytes(min(64, len(data) - place)) + data[place + 64 :]
    if kind == "empty":
        return gzip.compress(b"", mtime=0) if name.endswith(".gz") and rng.random() < 0.5 else b""
    if kind == "more":
        return data[:place] + rng.randbytes(rng.randint(1, 16)) + data[place:]
    half = len(data) // 2
    return data[half:] + data[:half] if kind == "swap" else None


@dataclass
class Artefact:
    """A folder, the file in it that is damaged, and how the folder is opened."""

    name: str
    folder: Path
    file: str
    open: object
    verified: bool = True


class Named(Exception):
    """Damage that was noticed without an error: the cell is listed as failed, with its file."""


def open_results(folder):
    """Read all results; a failed cell that is named counts as noticed, and no cell may score 0."""
    failed = Results.load(folder).failures
    if len(failed):
        assert (Results.load(folder).means()["value"] > 0).all() and failed["error"].str.contains("one/eight").all()
        raise Named(failed["error"].iloc[0])
    means, _, _ = read_results(folder)
    assert len(means) == 2 and (means["value"] > 0).all()


def open_index(folder):
    """What a search needs: the vectors and the docnos, without a complete check."""
    index = FaissIndex(folder)
    return len(index), index.open(), index.docnos


def artefacts(folder: Path, tiny_llama: str) -> list[Artefact]:
    """One of each kind, with each of its files in turn."""
    index = Path(small_index(folder / "index").path)
    results = small_results(folder / "results")
    system = small_system(folder / "system", build_bert(folder / "bert"))
    pairs = Path(shutil.copytree(WRITTEN / "pairs", folder / "pairs"))
    write_record(pairs / "pairs.json", json.loads((pairs / "pairs.json").read_text()))
    adapter = Path(shutil.copytree(WRITTEN / "adapter", folder / "adapter"))
    write_record(adapter / "expander.json", json.loads((adapter / "expander.json").read_text()))
    beir = Path(shutil.copytree(WRITTEN / "beir", folder / "beir"))

    def open_system(copy):
        return ExpandR.load(copy, device="cpu")

    def open_adapter(copy):
        return HuggingFaceBackend(WRITTEN / "llm", adapter=copy, device="cpu")

    def open_beir(copy):
        collection = beir_folder(copy)
        return collection.get_topics(), collection.get_qrels(), list(collection.get_corpus_iter())

    cell = "one/eight/"
    return [
        Artefact("index: vectors", index, "index.faiss", open_index),
        Artefact("index: docnos", index, "docnos.arrow", open_index),
        Artefact("index: record", index, "expandr_faiss.json", open_index),
        Artefact("system: encoder's weights", system, "encoder/model.safetensors", open_system),
        Artefact("system: encoder's tokenizer", system, "encoder/tokenizer.json", open_system),
        Artefact("system: vectors", system, "index/index.faiss", open_system),
        Artefact("system: recorded passages", system, "expansions.jsonl", open_system),
        Artefact("system: record", system, "expandr_system.json", open_system),
        Artefact("results: ranking", results, f"{cell}run.res.gz", open_results),
        Artefact("results: values of queries", results, f"{cell}per_query.parquet", open_results),
        Artefact("results: cell", results, f"{cell}cell.json", open_results),
        Artefact("results: experiment", results, "experiment.json", open_results),
        Artefact("preference pairs", pairs, "pairs.jsonl", lambda copy: list(read_pairs(copy / "pairs.jsonl"))),
        Artefact("adapter: weights", adapter, "adapter_model.safetensors", open_adapter),
        Artefact("collection: qrels", beir, "qrels/test.tsv", open_beir, verified=False),
        Artefact("collection: corpus", beir, "corpus.jsonl", open_beir, verified=False),
    ]


def _same(data: bytes | None, whole: bytes) -> bool:
    """Whether nothing was damaged: the same bytes, or JSON of the same values (a line break at its end is gone)."""
    try:
        return data == whole or (data is not None and json.loads(data) == json.loads(whole))
    except ValueError:
        return False


def try_damage(artefact: Artefact, place: Path, copies: int, seed: int = 0) -> dict[str, object]:
    """`copies` damaged copies of an artefact: how many were noticed, and the errors that were not in our words."""
    from tests.trust.fuzzing import is_ours

    rng = random.Random(f"{artefact.name} {seed}")
    whole = (artefact.folder / artefact.file).read_bytes()
    opened, checked, raw = 0, 0, []
    for number in range(copies):
        copy = Path(shutil.copytree(artefact.folder, place / str(number)))
        while _same(data := damaged(whole, rng, artefact.file), whole):
            pass
        file = copy / artefact.file
        file.unlink() if data is None else file.write_bytes(data)
        try:
            artefact.open(copy)
        except Exception as error:
            opened += 1
            if not is_ours(error) and not isinstance(error, Named):
                raw.append(f"{type(error).__name__}: {error!s:.200}")
        if artefact.verified:
            try:
                checked += bool(verify(copy).problems)
            except ValueError:
                checked += 1  # nothing is left that is a record
        shutil.rmtree(copy)
    return {
        "artefact": artefact.name,
        "copies": copies,
        "noticed at opening": opened,
        "noticed by verify": checked if artefact.verified else None,
        "raw errors": len(raw),
        "examples": sorted(set(raw))[:3],
    }
