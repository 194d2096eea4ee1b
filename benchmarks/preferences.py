"""How fast pairs are chosen beside the reference code's way, and whether memory grows with the number of queries.

    python -m benchmarks.preferences [--json FILE] [--queries N] [--repeats N] [--threads N]
                                    [--clock wall|cpu] [--only speed|memory]

The reference's way encodes one query after the other, with three calls for each: the gold document, the answer, and
the candidates, padded to the longest. Both ways use the same encoder and threads and take turns in one run; they must
choose the same pairs. Queries are SciFact's, from the folder that EXPANDR_DATA names. Two kinds of candidates: the 8
recorded passages of a query as they are, all stopped at about 130 tokens, where there is next to no padding to save;
and 24 texts of unequal lengths, as sampling without such a stop gives, made by ending the passages after 1, 2, 3 ...
sentences. "padded tokens" counts what the encoder computes in both ways: the same on every machine, and the limit of
what their speeds can differ by where the encoder's matrix products take all the time.
--clock cpu counts the process's own seconds, which with one thread is what the wall clock would show if the machine
had no other work.
Memory is the highest resident set of a process of its own for each number of queries, with a tiny random encoder. The
exit status is 1 if any line is not OK.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd

from pyterrier_expandr import ExpandREncoder, RecordedExpander
from pyterrier_expandr.training.data.examples import open_examples
from pyterrier_expandr.training.preferences.candidates import CandidateSet
from pyterrier_expandr.training.preferences.choice import PreferenceSettings, decide
from pyterrier_expandr.training.preferences.rewards import combined_reward, retriever_reward, self_reward
from pyterrier_expandr.training.preferences.text_embeddings import TOKENS, batches, token_counts

from .speed import line, machine, ratio, take_turns

#: how candidates end -> how many each query has
CANDIDATES = {"stopped at 130 tokens": 8, "ended after a sentence": 24}
MEMORY_CANDIDATES = 4
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def recorded(data: Path, ends: str) -> Iterator[CandidateSet]:
    """SciFact's test claims with candidates from all recorded passages; claims with too few of them are left out."""
    files = sorted((data / "expansions" / "scifact").glob("*.jsonl"))
    expanders = [RecordedExpander(file) for file in files]
    for example in open_examples(data / "scifact", "test"):
        frame = pd.DataFrame({"qid": [example.query_id], "query": [example.query]})
        passages = [expander.transform(frame)["query_expansions"].iloc[0][0] for expander in expanders]
        texts = passages
        if ends == "ended after a sentence":
            texts = [passage[: place.end()] for passage in passages for place in re.finditer(r"[.!?](?=\s|$)", passage)]
        candidates = tuple(list(dict.fromkeys(texts))[: CANDIDATES[ends]])
        if len(candidates) == CANDIDATES[ends]:
            positive = example.positive_ids[0], example.positives[0]
            yield CandidateSet(example.query_id, example.query, *positive, passages[0], candidates)


def one_by_one(sets: list[CandidateSet], encoder: ExpandREncoder) -> list[tuple[int, int] | None]:
    """Chosen and rejected of each query, as the reference code computes them."""
    found: list[tuple[int, int] | None] = []
    for one in sets:
        parts = ([one.positive], [one.answer], one.candidates)
        gold, answer, candidates = (np.asarray(encoder.encode(texts, "document", len(texts))) for texts in parts)
        to_gold, to_answer = gold @ candidates.T, answer @ candidates.T
        total = combined_reward([self_reward(to_answer), retriever_reward(to_gold)])[0]
        kept = (to_gold + to_answer).max() >= 0.6
        found.append((int(total.argmax()), int(total.argmin())) if kept else None)
    return found


def in_chunks(sets: list[CandidateSet], encoder: ExpandREncoder) -> list[tuple[int, int] | None]:
    """The same by this package."""
    settings = PreferenceSettings(filter="reference", candidates=len(sets[0].candidates))
    return [
        None if one.chosen is None or one.rejected is None else (one.chosen, one.rejected)
        for one in decide(sets, encoder, settings)
    ]


def padded_tokens(sets: list[CandidateSet], encoder: ExpandREncoder) -> tuple[int, int]:
    """Tokens and pads that the encoder computes: by this package, and one query at a time."""
    documents = list(dict.fromkeys(text for one in sets for text in (one.positive, one.answer, *one.candidates)))
    ours = 0
    for side, texts in (("document", documents), ("query", [one.query for one in sets])):
        counts = token_counts(encoder, texts, side)
        ours += sum(len(batch) * int(counts[batch].max()) for batch in batches(counts, TOKENS * encoder.batch_size))
    theirs = 0
    for one in sets:
        for part in ([one.positive], [one.answer], one.candidates):
            theirs += len(part) * int(token_counts(encoder, part, "document").max())
    return ours, theirs


def speed(queries: int, repeats: int, ends: str, clock: str) -> list[dict[str, Any]]:
    """Queries per second and padded tokens of both ways."""
    from pyterrier_expandr.encoding.registry import demo_encoder_folder

    sets = list(islice(recorded(Path(os.environ["EXPANDR_DATA"]), ends), queries))
    encoder = ExpandREncoder(demo_encoder_folder(), max_length=512, device="cpu")
    chosen: dict[str, list[tuple[int, int] | None]] = {}
    ways = {
        "ours": lambda: chosen.update(ours=in_chunks(sets, encoder)),
        "theirs": lambda: chosen.update(theirs=one_by_one(sets, encoder)),
    }
    times = take_turns(ways, repeats, CLOCKS[clock])
    if chosen["ours"] != chosen["theirs"]:
        raise SystemExit("the two ways chose different pairs")
    ours, peer = (len(sets) / median(times[name]) for name in ("ours", "theirs"))
    what = f"{len(sets)} queries x {CANDIDATES[ends]} candidates, {ends}"
    pace = f"one query at a time / in chunks, {what}"
    few, many = padded_tokens(sets, encoder)
    tokens = {"what": f"padded tokens, {what}", "unit": "tokens", "ours": few, "theirs": many, "ratio": many / few}
    return [
        line(pace, "queries/s", ours, peer, ratio(times, "theirs", "ours"), ">= 2.0"),
        {**tokens, "target": "", "result": ""},
    ]


def made_up(queries: int) -> Iterator[CandidateSet]:
    """Queries whose texts all differ, as a stream."""
    for number in range(queries):
        texts = tuple(f"passage {number} {sample} on a sky of blue air" for sample in range(MEMORY_CANDIDATES))
        yield CandidateSet(str(number), f"query {number}", "d", f"gold {number}", f"answer {number}", texts)


def tiny_encoder(folder: str) -> ExpandREncoder:
    """A random two-layer BERT that knows single letters."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from transformers import BertConfig, BertModel, BertTokenizer

    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz0123456789"]
    pieces += [f"##{piece}" for piece in pieces[5:]]
    Path(folder, "vocab.txt").write_text("\n".join(pieces))
    BertTokenizer(str(Path(folder, "vocab.txt"))).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(pieces), **sizes)).save_pretrained(folder)
    transformer = modules.Transformer(folder, max_seq_length=16)
    built = SentenceTransformer(modules=[transformer, modules.Pooling(16)], device="cpu")
    return ExpandREncoder(built, batch_size=256, device="cpu")


def peak(queries: int) -> int:
    """The highest resident set, in MiB, of this process after pairs of `queries` queries were chosen."""
    with tempfile.TemporaryDirectory() as folder:
        settings = PreferenceSettings(candidates=MEMORY_CANDIDATES, threshold=-1)
        pairs = sum(one.dropped is None for one in decide(made_up(queries), tiny_encoder(folder), settings))
    if pairs < queries * 0.9:
        raise SystemExit(f"only {pairs} of {queries} queries gave a pair: the figure means nothing")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def memory(threads: int) -> dict[str, Any]:
    """Peak memory with 20,000 queries by that with 2,000."""
    command = [sys.executable, "-m", "benchmarks.preferences", "--threads", str(threads), "--peak"]
    few, many = (int(subprocess.check_output([*command, str(queries)])) for queries in (2_000, 20_000))
    return line("peak memory, 20,000 / 2,000 queries", "MiB", many, few, many / few, "<= 1.1")


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Each line of the table as it is known."""
    if options.only != "memory":
        for ends in CANDIDATES:
            yield from speed(options.queries, options.repeats, ends, options.clock)
    if options.only != "speed":
        yield memory(options.threads)


def main() -> int:
    """Measure, print and perhaps write; 1 if a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall")
    parser.add_argument("--only", choices=["speed", "memory"])
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak(options.peak))
        return 0
    rows: list[dict[str, Any]] = []
    for row in measured(options):
        print("{result:4}  {what}: {ours:.1f} / {theirs:.1f} {unit}, {ratio:.2f}".format_map(row), flush=True)
        rows.append(row)
    if options.json:
        packages = ("sentence-transformers", "transformers", "torch")
        settings = {name: getattr(options, name) for name in ("threads", "repeats", "queries", "clock")}
        versions = {name: version(name) for name in packages}
        record = {"machine": machine(), "versions": versions, "settings": settings, "rows": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return int(any(row["result"] == "FAIL" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
