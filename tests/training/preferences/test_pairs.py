import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from pyterrier_expandr import FaissIndex, HuggingFaceBackend
from pyterrier_expandr.cli.train.app import shares
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.training.preferences.candidates import CandidateSet, CandidateSettings, write_candidates
from pyterrier_expandr.training.preferences.choice import Decision, PreferenceSettings
from pyterrier_expandr.training.preferences.pair_files import read_pairs
from pyterrier_expandr.training.preferences.pair_report import PairReport
from pyterrier_expandr.training.preferences.pairs import (
    PairsConfig,
    _whole_chunks,
    build_pairs,
    read_decisions,
    write_decisions,
)
from pyterrier_expandr.training.preferences.rewards import LengthPenalty, MeasureGain

DRAWN = CandidateSettings(temperatures=(0.8, 1.1), samples=2, max_new_tokens=12)
KEPT = PreferenceSettings(candidates=4, threshold=-1, choose_truncated=True)
CONFIG = PairsConfig("pocket", limit=8, candidates=DRAWN, preferences=KEPT)
FILES = ["candidates.jsonl", "decisions.jsonl", "examples.jsonl", "pairs.json", "pairs.jsonl", "report.txt"]


def expandr(*arguments):
    command = [
        sys.executable,
        "-c",
        "from pyterrier_expandr.cli import main; main()",
        "train",
        "pairs",
        *map(str, arguments),
    ]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def arguments(tiny_llama, minilm):
    given = ["--dataset", "pocket", "--llm", tiny_llama, "--encoder", minilm, "--limit", 8, "--threshold", -1]
    given += ["--choose-truncated"]
    return [
        *given,
        "--temperature",
        0.8,
        "--temperature",
        1.1,
        "--samples",
        2,
        "--max-new-tokens",
        12,
        "--device",
        "cpu",
    ]


@pytest.fixture(scope="module")
def made(arguments, tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs") / "pairs"
    process = expandr(*arguments, "--out", out)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    # 8 queries with 4 candidates and an answer each, and answers that came back empty once more
    assert "Candidates: 40 texts requested; at most 480 tokens to write, less what is cached" in stderr
    assert re.search(r"Candidates: 100%.* 4\d/4\d \[.*text.*, [\d,]+ tokens/s\]", stderr), stderr
    assert re.search(r"Candidates: 4\d texts written in .*: [\d,]+ tokens in, [\d,]+ tokens out, ", stderr)
    assert "Rewards: 100%" in stderr
    assert stdout.startswith("8 queries, ") and str(out / "pairs.jsonl") in stdout
    return out


def test_the_folder_holds_every_stage(made):
    assert not made.with_name("pairs.work").exists()
    assert {path.name for path in made.iterdir()} == {*FILES, "generations.sqlite", "report.png"}
    record = json.loads((made / "pairs.json").read_text())
    assert record["settings"]["candidates"]["seed"] == 42 and "sha256" in record["settings"]["llm"]
    assert record["settings"]["encoder"]["pooling"] == "mean" and "transformers" in record["versions"]
    decisions = list(read_decisions(made))
    rows = list(read_pairs(made / "pairs.jsonl"))
    assert (
        len(decisions) == 8 and len(rows) == record["report"]["pairs"] == sum(d.dropped is None for d in decisions) > 0
    )
    for row in rows:
        [decision] = [d for d in decisions if d.of.query_id == row["query_id"]]
        assert row["chosen"][0]["content"] == decision.of.candidates[row["chosen_candidate"]]
        assert row["chosen_reward"] == max(decision.rewards) and row["rejected_reward"] == min(decision.rewards)
        assert decision.rewards == pytest.approx([sum(parts) for parts in zip(*decision.parts, strict=True)])


@pytest.mark.slow  # `make test-crash` kills this stage more often
def test_killed_at_any_stage_a_rerun_ends_in_the_same_bytes(made, arguments, tmp_path):
    out = tmp_path / "pairs"
    for file in ("examples.jsonl", "generations.sqlite", "candidates.jsonl", "decisions.jsonl", "finished"):
        process = expandr(*arguments, "--out", out)
        while process.poll() is None and not (tmp_path / "pairs.work" / file).exists():
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert file == "finished" or not out.exists()  # behind that there is only the report's picture to draw
    process = expandr(*arguments, "--out", out)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    for name in FILES:
        assert (out / name).read_bytes() == (made / name).read_bytes(), name


def test_a_broken_chunk_is_decided_again(tmp_path):
    path = tmp_path / "decisions.jsonl"
    assert _whole_chunks(path) == 0
    path.write_text("{}\n" * 300 + '{"half')
    assert _whole_chunks(path) == 256 and path.read_text() == "{}\n" * 256


def test_a_full_disk_keeps_whole_decisions_and_a_rerun_goes_on(tmp_path, encoder):
    texts = [(f"why {number}", f"gold {number}", (f"air {number}", f"mud {number}")) for number in range(140)]
    sets = [CandidateSet(query, query, "d", gold, gold, candidates) for query, gold, candidates in texts]
    write_candidates(tmp_path / "candidates.jsonl", sets)
    settings = PreferenceSettings(candidates=2, threshold=-1)
    for name in ("whole", "full"):
        path = tmp_path / f"{name}.jsonl"
        if name == "full":
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "whole.jsonl").stat().st_size - 50, hard))
            try:
                with pytest.raises(OSError, match="File too large"):
                    write_decisions(tmp_path / "candidates.jsonl", path, encoder, settings)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                signal.signal(signal.SIGXFSZ, before)
            assert len(path.read_bytes().splitlines()) > 128
        write_decisions(tmp_path / "candidates.jsonl", path, encoder, settings)
    assert (tmp_path / "full.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_other_settings_are_refused_by_name(made, tiny_llama, encoder):
    backend = HuggingFaceBackend(tiny_llama, device="cpu")
    other = PairsConfig("pocket", limit=9, candidates=DRAWN, preferences=KEPT)
    with pytest.raises(ValueError, match="limit: 8 there, 9 here"):
        build_pairs(other, backend, encoder, made)
    (made.parent / "other").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=r"has no pairs\.json"):
        build_pairs(CONFIG, backend, encoder, made.parent / "other")


def test_a_finished_folder_is_only_read(made, tiny_llama, encoder):
    before = {path: path.stat().st_mtime_ns for path in made.iterdir()}
    again = build_pairs(CONFIG, HuggingFaceBackend(tiny_llama, device="cpu"), encoder, made)
    assert str(again) == (made / "report.txt").read_text().rstrip("\n")
    assert {path: path.stat().st_mtime_ns for path in made.iterdir()} == before


def test_rewards_of_the_users_own_are_recorded_by_what_they_are(tmp_path, tiny_llama, encoder):
    pytest.importorskip("faiss")
    collection = pocket("train")
    index = FaissIndex(tmp_path / "index")
    (encoder.doc_encoder() >> index).index(collection.get_corpus_iter(verbose=False))
    gain = MeasureGain(index.retriever(num_results=10), collection.get_qrels())
    kept = PreferenceSettings(
        candidates=4, threshold=-1, choose_truncated=True, rewards=["retriever", LengthPenalty(8), gain]
    )
    config = PairsConfig("pocket", limit=3, candidates=DRAWN, preferences=kept)
    report = build_pairs(config, HuggingFaceBackend(tiny_llama, device="cpu"), encoder, tmp_path / "pairs")
    record = json.loads((tmp_path / "pairs" / "pairs.json").read_text())
    assert record["settings"]["preferences"]["rewards"] == ["retriever", "LengthPenalty(limit=8)", repr(gain)]
    decisions = [one for one in read_decisions(tmp_path / "pairs") if one.rewards]
    assert report.queries == 3 and decisions and all(len(one.parts) == 3 for one in decisions)


def test_bad_input_is_counted_when_asked(tmp_path, tiny_llama, encoder):
    path = tmp_path / "data.jsonl"
    path.write_text('{"query": "why is the sky blue", "positive": "Air."}\n{"query": "x"\n{"question": "x"}\n')
    backend = HuggingFaceBackend(tiny_llama, device="cpu")
    config = PairsConfig(str(path), candidates=DRAWN, preferences=KEPT)
    with pytest.raises(ValueError, match=r"data\.jsonl:2 is not valid JSON"):
        build_pairs(config, backend, encoder, tmp_path / "strict")
    counted = PairsConfig(
        str(path), candidates=DRAWN, preferences=KEPT, skip_bad=True, suffix=".parquet", format="released"
    )
    report = build_pairs(counted, backend, encoder, tmp_path / "counted")
    assert report.skipped == {"broken line": 1, "wrong fields": 1} and report.queries == 1
    assert "not read, broken line: 1" in str(report)
    assert len(list(read_pairs(tmp_path / "counted" / "pairs.parquet"))) == report.pairs


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"limit": 0}, "limit must be 1"),
        ({"format": "csv"}, '"trl" or "released"'),
        ({"suffix": ".csv"}, r"\.jsonl"),
        ({"candidates": DRAWN}, "4 candidates are sampled .* 32"),
    ],
)
def test_settings_that_make_nothing_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        PairsConfig("pocket", **values)


def test_shares_of_files_on_the_command_line():
    assert shares(["nq=0.1", "a=b=1"], "--ratio") == {"nq": 0.1, "a=b": 1.0}
    for wrong in ("nq", "nq=", "nq=much"):
        with pytest.raises(ValueError, match="--ratio must have the form NAME=NUMBER"):
            shares([wrong], "--ratio")
    with pytest.raises(ValueError, match="--reward names something twice"):
        shares(["retriever=1", "retriever=2"], "--reward")


def test_the_report_counts_what_it_is_given(tmp_path):
    one = CandidateSet("1", "q", "d", "gold", "answer", ("a b", "a", "a b c d"), (0.8, 0.8, 1.1))
    made = [
        Decision(one, None, 2, 1, (1.0, 0.5, 2.0)),
        Decision(one, None, 2, 0, (0.5, 1.0, 1.5)),
        Decision(one, "filtered", rewards=(0.5, 0.5, 0.5)),
        Decision(one, "empty answer"),
    ]
    report = PairReport.of(made, PreferenceSettings(candidates=3))
    assert report.as_json() == {
        "queries": 4,
        "pairs": 2,
        "dropped": {
            "empty answer": 1,
            "wrong candidate count": 0,
            "filtered": 1,
            "all truncated": 0,
            "equal texts": 0,
            "reward gap": 0,
        },
        "skipped": {},
        "temperatures": {
            "0.8": {"chosen": 0, "rejected": 2, "mean_reward": pytest.approx(4 / 6)},
            "1.1": {"chosen": 2, "rejected": 0, "mean_reward": pytest.approx(4 / 3)},
        },
        "mean_words": {"chosen": 4.0, "rejected": 1.5},
    }
    assert "4 queries, 2 pairs" in str(report) and "dropped, filtered: 1" in str(report)
    figure = report.picture(tmp_path / "report.png")
    assert [axes.get_xlabel() for axes in figure.axes] == ["queries", "reward", "words"]
    assert (tmp_path / "report.png").stat().st_size > 10_000
    assert PairReport().picture().axes  # nothing to draw is no error
    four = Decision(
        replace(one, candidates=("a", "b c", "d", "e f"), temperatures=()), None, 1, 0, (0.1, 0.9, 0.2, 0.8)
    )
    several = PairReport.of([four], PreferenceSettings(candidates=4, pairs_per_query=2))
    assert (several.queries, several.pairs, several.words) == (1, 2, {"chosen": {2: 2}, "rejected": {1: 2}})
