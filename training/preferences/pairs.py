"""From a collection to preference pairs in one folder, stage by stage."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyterrier as pt

from ...common.files import path_of, write_json
from ...common.jsonl import read_jsonl
from ...common.records.manifest import read_record, write_record
from ...encoding.encoder import ExpandREncoder
from ...expansion.backends.base import Backend
from ...expansion.cache import GenerationCache
from ..data.chunks import in_chunks
from ..data.examples import examples_from_jsonl, open_examples, write_examples
from ..run_folder import MEND, claim, is_finished, one_run, publish
from .candidates import CandidateSet, CandidateSettings, generate_candidates, read_candidates, write_candidates
from .choice import Decision, PreferenceSettings, check_opened, decide, pairs_of
from .pair_files import trl_row, write_pairs
from .pair_report import PairReport

logger = logging.getLogger(__name__)

#: number of queries that are encoded, decided and written together
CHUNK = 128

#: the file in the folder that records how it was made
RECORD = "pairs.json"

Format = Literal["trl", "released"]


@dataclass(frozen=True)
class PairsConfig:
    """Inputs and settings of preference data; with a backend and an encoder they determine the output byte for byte.

    Args:
        source, split, min_relevance, ratios: see `open_examples`.
        limit: use only that many first queries, for a trial.
        skip_bad: count broken or unknown input and skip it instead of stopping.
        candidates: what is drawn for each query.
        preferences: how pairs are chosen.
        format: "trl" or "released".
        suffix: ".jsonl" or ".parquet".

    Raises:
        ValueError: `limit` below 1, an unknown format or suffix, or a mismatch of candidates drawn and required, or the
            reward "measure" without its index.

    Example:
        >>> PairsConfig("pocket").candidates.count
        32
    """

    source: str
    split: str = "train"
    min_relevance: int = 1
    ratios: Mapping[str, float] = field(default_factory=dict)
    limit: int | None = None
    skip_bad: bool = False
    candidates: CandidateSettings = field(default_factory=CandidateSettings)
    preferences: PreferenceSettings = field(default_factory=PreferenceSettings)
    format: Format = "trl"
    suffix: str = ".jsonl"

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit must be 1 or more, got {self.limit}")
        if self.format not in ("trl", "released"):
            raise ValueError(f'format must be "trl" or "released", got {self.format!r}')
        if self.suffix not in (".jsonl", ".parquet"):
            raise ValueError(f'suffix must be ".jsonl" or ".parquet", got {self.suffix!r}')
        if self.preferences.candidates != self.candidates.count:
            raise ValueError(
                f"{self.candidates.count} candidates are sampled for each query, but preferences expect "
                f"{self.preferences.candidates}: make them equal"
            )
        check_opened(self.preferences)
        if self.preferences.needs_answers and not self.candidates.answers:
            raise ValueError("a reward or the filter compares with the LLM's answer, so candidates need answers=True")


def build_pairs(
    config: PairsConfig, backend: Backend, encoder: ExpandREncoder, out: str | Path, *, verbose: bool = False
) -> PairReport:
    """Preference pairs of a collection in the folder `out`, and the report on them.

    Three stages: examples (examples.jsonl), candidates (candidates.jsonl, from generations.sqlite, where each text is
    stored when finished) and decisions (decisions.jsonl, in chunks of 128 queries). A run that was killed resumes
    in the folder `OUT.work` when called again and ends with the same bytes; a finished one is only read.

    Args:
        config: inputs and settings.
        backend: the backend that writes candidates and answers.
        encoder: the reward encoder.
        out: the folder to create: `pairs.jsonl` (or .parquet), the stages' files, `pairs.json` with settings, counts
            and versions, report.txt, and report.png if matplotlib is installed.
        verbose: show progress bars.

    Raises:
        InUseError: another process is writing `out` (it and its host are named).
        ValueError: `out` was made with other settings (they are named), or the input is malformed.
        OSError: the disk is full; everything stored so far is kept.

    Example:
        >>> from pyterrier_expandr import HuggingFaceBackend
        >>> backend = HuggingFaceBackend("Qwen/Qwen2.5-7B-Instruct")
        >>> encoder = ExpandREncoder("facebook/contriever")
        >>> print(build_pairs(PairsConfig("pocket"), backend, encoder, "pairs"))  # doctest: +SKIP
    """
    out = Path(path_of(out))
    settings = _settings(config, backend, encoder)
    with one_run(out):
        if not is_finished(out, RECORD, settings):
            work = claim(out, settings)
            skipped = _write_examples(config, work)
            _write_candidates(config, backend, work, verbose)
            candidates, decisions = work / "candidates.jsonl", work / "decisions.jsonl"
            write_decisions(candidates, decisions, encoder, config.preferences, verbose=verbose)
            _finish(config, settings, work, skipped, out)
    return _report(out, config.preferences)


def _settings(config: PairsConfig, backend: Backend, encoder: ExpandREncoder) -> dict[str, Any]:
    # Not asdict: it would copy objects held by a reward, such as an open index.
    rewards = [_name(reward) for reward in config.preferences.rewards]
    values = vars(config) | {
        "candidates": config.candidates.recorded(),
        "preferences": config.preferences.recorded() | {"rewards": rewards},
        "llm": identity(backend),
        "encoder": encoder.source,
    }
    return dict(json.loads(json.dumps(values)))


def identity(backend: Backend) -> dict[str, Any]:
    """The identity of a backend; hub models go by name, since their commit is unknown before the download."""
    return {name: value for name, value in backend.fingerprint().items() if name not in ("commit", "revision")}


def _name(reward: Any) -> str:
    return reward if isinstance(reward, str) else getattr(reward, "__name__", None) or repr(reward)


def _write_examples(config: PairsConfig, work: Path) -> Counter[str]:
    path, counts = work / "examples.jsonl", work / "skipped.json"
    if not path.exists():
        skipped: Counter[str] = Counter()
        examples = open_examples(
            config.source,
            config.split,
            min_relevance=config.min_relevance,
            ratios=config.ratios,
            seed=config.candidates.seed,
            skipped=skipped if config.skip_bad else None,
        )
        try:
            if not write_examples(path.with_suffix(".all"), islice(examples, config.limit)):
                raise ValueError(f"{config.source} yields no training example: {dict(skipped) or 'it is empty'}")
        except ValueError:  # nothing has been computed: a corrected command must not clash with these settings
            shutil.rmtree(work)
            raise
        write_json(counts, dict(skipped))
        path.with_suffix(".all").rename(path)
    return Counter(json.loads(counts.read_text(encoding="utf-8")))


def _write_candidates(config: PairsConfig, backend: Backend, work: Path, verbose: bool) -> None:
    path = work / "candidates.jsonl"
    if not path.exists():
        examples = examples_from_jsonl(work / "examples.jsonl")
        with closing(GenerationCache(work / "generations.sqlite")) as cache:
            total = sum(1 for _ in read_jsonl(work / "examples.jsonl"))
            options: dict[str, Any] = {"cache": cache, "total": total, "verbose": verbose}
            sets = generate_candidates(examples, backend, config.candidates, **options)
            write_candidates(path, sets)
        backend.close()  # the encoder needs the memory


def write_decisions(
    candidates: Path, path: Path, encoder: ExpandREncoder, settings: PreferenceSettings, *, verbose: bool = False
) -> None:
    """Append the decision on each set in `candidates` to `path`, chunk by chunk.

    After an interruption, complete chunks are kept and the incomplete one is decided again.
    """
    done = _whole_chunks(path)
    total = sum(1 for _ in read_jsonl(candidates))
    sets = islice(read_candidates(candidates), done, None)
    bar: dict[str, Any] = {"desc": "Rewards", "unit": "query", "disable": not verbose or done == total}
    with (
        open(path, "a", encoding="utf-8") as file,
        pt.tqdm(total=total, initial=done, **bar) as progress,
    ):
        for chunk in in_chunks(sets, CHUNK):
            decisions = list(decide(chunk, encoder, settings, queries_per_chunk=CHUNK))
            file.write("".join(json.dumps(_row(decision)) + "\n" for decision in decisions))
            file.flush()
            os.fsync(file.fileno())
            progress.update(len(chunk))


def _whole_chunks(path: Path) -> int:
    """The number of decisions in `path` after cutting off an incomplete last chunk.

    Because of rounding, a query's values depend on what it is encoded with, so chunks must be the same as without an
    interruption.
    """
    if not path.exists():
        return 0
    with open(path, "rb+") as file:
        lines, whole, end = 0, 0, 0
        while file.readline().endswith(b"\n"):
            lines += 1
            if lines % CHUNK == 0:
                whole, end = lines, file.tell()
        file.truncate(end)
    return whole


def _row(decision: Decision) -> dict[str, Any]:
    return {"query_id": decision.of.query_id} | {
        name: getattr(decision, name) for name in ("dropped", "chosen", "rejected", "rewards", "parts")
    }


def read_decisions(path: str | Path, candidates: str | Path | None = None) -> Iterator[Decision]:
    """Decisions with their queries and candidates.

    Args:
        path: a folder of `build_pairs`, or a file that `write_decisions` wrote.
        candidates: the file with the candidates; None means the one in the folder.

    Raises:
        ValueError: the files do not belong together. FileNotFoundError: one is missing.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    rows = (row for _, row in read_jsonl(folder / "decisions.jsonl" if Path(path).is_dir() else path))
    sets: Iterator[CandidateSet] = read_candidates(candidates or folder / "candidates.jsonl")
    for of, row in zip(sets, rows, strict=True):
        if row.pop("query_id") != of.query_id:
            raise ValueError(f"{path}: candidates and decisions disagree at query {of.query_id!r}")
        parts = tuple(tuple(part) for part in row.pop("parts"))
        yield Decision(of, **{**row, "rewards": tuple(row["rewards"])}, parts=parts)


def write_report(report: PairReport, folder: Path) -> None:
    """Write report.txt, and report.png if matplotlib is installed."""
    (folder / "report.txt").write_text(f"{report}\n", encoding="utf-8")
    try:
        report.picture(folder / "report.png")
    except ImportError as error:
        logger.warning("report.png is left out: %s", error)


def _finish(config: PairsConfig, settings: dict[str, Any], work: Path, skipped: Counter[str], out: Path) -> None:
    finished = work / "finished"
    shutil.rmtree(finished, ignore_errors=True)
    finished.mkdir()
    pairs = (pair for one in read_decisions(work) for pair in pairs_of(one, config.preferences))
    rows = (trl_row(pair, config.candidates.prompt) for pair in pairs)
    write_pairs(finished / f"pairs{config.suffix}", rows, released=config.format == "released")
    report = PairReport.of(read_decisions(work), config.preferences, skipped)
    write_report(report, finished)
    names = ("pyterrier_expandr", "torch", "transformers", "sentence-transformers")
    record = {"settings": settings, "report": report.as_json(), "versions": {name: version(name) for name in names}}
    GenerationCache(work / "generations.sqlite").close()  # merges what a killed run left in the write-ahead log
    for name in ("examples.jsonl", "candidates.jsonl", "decisions.jsonl", "generations.sqlite"):
        # Linked, not moved: a kill between two moves would leave both folders incomplete.
        os.link(work / name, finished / name)
    write_record(finished / RECORD, record)
    publish(finished, out)


def _report(out: Path, preferences: PreferenceSettings) -> PairReport:
    record = read_record(out / RECORD, MEND)
    return PairReport.of(read_decisions(out), preferences, Counter(record["report"]["skipped"]))
