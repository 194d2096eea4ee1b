import json
import resource
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pyterrier_expandr import ExpandREncoder
from pyterrier_expandr.training.preferences.candidates import CandidateSet
from pyterrier_expandr.training.preferences.choice import (
    PreferenceSettings,
    choose,
    compare,
    decide,
    pairs_of,
    similarities,
)
from pyterrier_expandr.training.preferences.pair_files import ROW_GROUP, read_pairs, released_row, trl_row, write_pairs
from pyterrier_expandr.training.preferences.rewards import Candidates, LengthPenalty

REFERENCE = PreferenceSettings(filter="reference", candidates=13)


def candidates_of(to_gold, to_answer, to_query=None):
    """`Candidates` from similarities alone, with texts that all differ."""
    n, m = np.shape(to_gold)
    return Candidates(
        query_ids=[f"q{i}" for i in range(n)],
        queries=[f"query {i}" for i in range(n)],
        texts=[[f"candidate {j}" for j in range(m)]] * n,
        query_vectors=np.zeros((n, 1)),
        vectors=np.zeros((n, m, 1)),
        to_query=np.asarray(to_gold if to_query is None else to_query),
        to_answer=np.asarray(to_answer),
        to_gold=np.asarray(to_gold),
    )


def decisions(candidates, settings):
    sets = [
        CandidateSet(qid, query, "d", "gold", "answer", tuple(texts))
        for qid, query, texts in zip(candidates.query_ids, candidates.queries, candidates.texts, strict=True)
    ]
    return list(choose(sets, candidates, settings))


@pytest.mark.parametrize("name", ["edge", "public"])
def test_choice_from_stored_similarities_is_the_references(name):
    stored = np.load(Path(__file__).parents[2] / "fixtures" / "preferences.npz")
    usable = stored[f"{name}_answered"] & (stored[f"{name}_count"] == 13)
    made = decisions(candidates_of(stored[f"{name}_gold"][usable], stored[f"{name}_answer"][usable]), REFERENCE)
    assert [-1 if d.dropped else d.chosen for d in made] == stored[f"{name}_chosen"][usable].tolist()
    assert [-1 if d.dropped else d.rejected for d in made] == stored[f"{name}_rejected"][usable].tolist()
    assert (stored[f"{name}_chosen"][~usable] == -1).all()


@pytest.mark.parametrize(
    ("name", "rows", "kept"),
    [
        ("edge", 16, 7),
        pytest.param("edge", 60, 37, marks=pytest.mark.slow),
        pytest.param("public", 300, 300, marks=pytest.mark.slow),
    ],
)
def test_pairs_are_the_references_on_its_own_rows(name, rows, kept, expandr_data, minilm):
    folder = expandr_data.parent / "fixtures" / "preferences" / name
    if not folder.is_dir():
        pytest.skip(f"needs {folder}")
    given = [json.loads(line) for line in (folder / "input.jsonl").read_text(encoding="utf-8").splitlines()[:rows]]
    sets = [
        CandidateSet(r["qid"], r["query"], r["positive_id"], r["positive"], r["answer"], tuple(r["passages"]))
        for r in given
    ]
    encoder = ExpandREncoder(minilm, pooling="mean", normalize=True, max_length=512, batch_size=32, device="cpu")
    made = list(decide(sets, encoder, REFERENCE))
    found = [released_row(trl_row(d)) for d in made if d.dropped is None]
    expected = [json.loads(line) for line in (folder / "expected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(made) == rows and len(found) == kept
    assert found == expected[:kept] and (rows == 16 or len(expected) == kept)


def test_why_a_query_gives_no_pair(encoder):
    gold, good, other, off = (
        "Air scatters short waves of light more than long ones.",
        "The sky is blue since air scatters blue light most.",
        "Light of short waves is scattered by the sky's air.",
        "Bread rises because yeast makes gas.",
    )

    def one(name, candidates, answer=gold):
        return CandidateSet(name, "why is the sky blue", "d", gold, answer, candidates)

    sets = [
        one("fit", (good, off, other)),
        one("no answer", (good, off, other), answer=" \n"),
        one("too few", (good, other)),
        one("too many", (good, other, off, good)),
        one("an empty one", (good, "", other)),
        one("enough beside an empty one", (good, "", other, off)),
        one("off topic", (off, "A stamp is glued.", "Two and two are four.")),
        one("equal", (good, good, good)),
    ]
    made = list(decide(sets, encoder, PreferenceSettings(candidates=3), queries_per_chunk=2))
    assert [d.of.query_id for d in made] == [s.query_id for s in sets]
    reasons = [None, "empty answer", *["wrong candidate count"] * 4, "filtered", "equal texts"]
    assert [d.dropped for d in made] == reasons
    assert made[0].rejected == 1 and made[0].chosen in (0, 2)
    assert made[0].rewards == pytest.approx(np.sum(made[0].parts, axis=0))


def test_the_first_of_equal_rewards_wins():
    made = decisions(candidates_of([[0.9, 0.8, 0.7]], [[0.8, 0.9, 0.7]]), PreferenceSettings(candidates=3))
    assert made[0].rewards == pytest.approx((1.5, 1.5, 2 / 3)) and (made[0].chosen, made[0].rejected) == (0, 2)


def test_a_small_gap_of_rewards_is_dropped():
    pair = candidates_of([[0.9, 0.8]], [[0.9, 0.8]])  # rewards 2 and 1
    assert decisions(pair, PreferenceSettings(candidates=2, min_gap=1.0))[0].dropped is None
    assert decisions(pair, PreferenceSettings(candidates=2, min_gap=1.01))[0].dropped == "reward gap"


def test_a_query_gives_several_pairs():
    def pairs(number, to_gold, truncated=(), **settings):
        """(chosen, rejected) by nearness to the relevant document alone."""
        settings = PreferenceSettings(
            candidates=len(to_gold), rewards=("retriever-margin",), pairs_per_query=number, **settings
        )
        made = decisions(candidates_of([to_gold], [to_gold], [[1.0] * len(to_gold)]), settings)[0]
        marked = replace(made, of=replace(made.of, truncated=truncated))
        return [(one.chosen, one.rejected) for one in pairs_of(marked, settings)]

    similarity = [0.1, 0.9, 0.3, 0.8, 0.5]
    assert pairs(1, similarity) == [(1, 0)] and pairs(2, similarity) == [(1, 0), (3, 2)]
    assert pairs(5, similarity) == [(1, 0), (3, 2)]  # the middle is not better than itself, and the rest is worse
    assert pairs(2, similarity, min_gap=0.6) == [(1, 0)]
    assert pairs(2, similarity, truncated=(False, False, False, True, False)) == [(1, 0), (4, 2)]
    assert pairs(3, [0.2, 0.9, 0.2, 0.9]) == [(1, 0), (3, 2)]  # the first of equal ones comes first


def test_answers_are_only_needed_where_something_compares_with_them(encoder):
    texts = ("Air scatters the short waves of light.", "Mud.")
    one = CandidateSet("1", "why is the sky blue", "d", texts[0], "", texts)
    reasons = {}
    for rewards in (("retriever",), ("self", "retriever")):
        settings = PreferenceSettings(candidates=2, threshold=-1, rewards=rewards)
        reasons[rewards] = next(decide([one], encoder, settings)).dropped
    assert list(reasons.values()) == [None, "empty answer"]
    assert PreferenceSettings("reference", rewards=("retriever",)).needs_answers


def test_filters_look_at_the_best_candidate():
    pair = candidates_of([[0.2, 0.45], [0.2, 0.3]], [[0.1, 0.2], [0.1, 0.2]], to_query=[[0.1, 0.49], [0.5, 0.1]])
    reference = PreferenceSettings(filter="reference", candidates=2)
    assert [d.dropped for d in decisions(pair, reference)] == [None, "filtered"]
    assert [d.dropped for d in decisions(pair, PreferenceSettings(candidates=2))] == ["filtered", None]
    lower = PreferenceSettings(filter="reference", candidates=2, threshold=0.4)
    assert [d.dropped for d in decisions(pair, lower)] == [None, None]


def test_rewards_can_be_named_weighted_or_given():
    pair = candidates_of([[0.9, 0.8]], [[0.6, 0.8]])
    only = {
        name: decisions(pair, PreferenceSettings(candidates=2, rewards=[name]))[0] for name in ("self", "retriever")
    }
    assert (only["self"].chosen, only["retriever"].chosen) == (1, 0)
    weighted = PreferenceSettings(candidates=2, weights=(2, 1))
    assert decisions(pair, weighted)[0].chosen == 1
    mine = PreferenceSettings(
        candidates=2, rewards=[lambda c: np.array([[len(t) for t in row] for row in c.texts]) * [1, 3]]
    )
    assert decisions(pair, mine)[0].chosen == 1
    wrong = PreferenceSettings(candidates=2, rewards=[lambda c: np.zeros(3)])
    with pytest.raises(ValueError, match=r"shape \(1, 2\).*got shape \(3,\)"):
        decisions(pair, wrong)


@pytest.mark.parametrize("anchor", ["query", "answer", "gold"])
def test_broken_embeddings_are_refused_whatever_the_reward(anchor):
    """Also where neither filter nor reward would notice: NaN is not below a threshold, nor above it."""
    fine, broken = [[0.9, 0.8], [0.9, 0.8]], [[0.9, 0.8], [0.9, np.nan]]
    by_anchor = {name: broken if name == anchor else fine for name in ("query", "answer", "gold")}
    settings = PreferenceSettings(candidates=2, rewards=[LengthPenalty(3)])
    given = candidates_of(by_anchor["gold"], by_anchor["answer"], by_anchor["query"])
    with pytest.raises(ValueError, match=rf"to the {anchor} are NaN or infinite for the queries \['q1'\]"):
        decisions(given, settings)


def test_a_truncated_candidate_is_rejected_but_not_chosen(encoder):
    texts = ("Air scatters the short waves of light.", "Air scatters light.", "Mud.")

    def decided(truncated, **settings):
        one = CandidateSet("1", "why is the sky blue", "d", texts[0], texts[0], texts, (), truncated)
        return next(decide([one], encoder, PreferenceSettings(candidates=3, threshold=-1, **settings)))

    assert decided(()).chosen == 0 and decided(()).rejected == 2  # files without marks hold whole texts
    assert decided((True, False, False)).chosen == 1
    assert decided((True, False, True)).rejected == 2
    assert decided((True, False, False), choose_truncated=True).chosen == 0
    assert decided((True, True, True)).dropped == "all truncated"


def test_similarities_are_the_encoders(encoder):
    one = CandidateSet("1", "why is the sky blue", "d", "Air scatters.", "Light.", ("Air.", "Mud.", "Air."))
    found = compare([one], encoder)
    assert found.to_query.shape == (1, 3) and found.vectors.shape == (1, 3, 384)
    query, air = encoder.encode_queries([one.query])[0], encoder.encode_docs(["Air."])[0]
    assert found.to_query[0, 0] == pytest.approx(float(np.dot(query, air)), abs=1e-5)
    assert found.to_query[0, 0] == found.to_query[0, 2]
    np.testing.assert_allclose(similarities(found.query_vectors, found.vectors), found.to_query)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"filter": "none"}, "filter 'none' is unknown"),
        ({"rewards": ["selfish"]}, "reward 'selfish' is unknown"),
        ({"rewards": []}, "at least one name or callable"),
        ({"rewards": "self"}, "at least one name or callable"),
        ({"weights": [1]}, "one weight for each of the 2 rewards"),
        ({"candidates": 1}, "a pair needs at least 2 candidates"),
        ({"min_gap": -1}, "min_gap must be 0 or more"),
        ({"pairs_per_query": 0}, "pairs_per_query must be 1 or more"),
    ],
)
def test_settings_that_choose_nothing_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        PreferenceSettings(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weights": ["a", "b"]}, "each of weights must be a number, got 'a'"),
        ({"weights": 2}, "weights must be a list of numbers, got 2"),
        ({"candidates": 2.5}, "candidates must be a whole number, got 2.5"),
        ({"candidates": "4"}, "candidates must be a whole number, got '4'"),
        ({"min_gap": "1e-3"}, "min_gap must be a number, got '1e-3'"),
    ],
)
def test_what_is_no_number_is_refused_by_name(values, message):
    with pytest.raises(TypeError, match=message):
        PreferenceSettings(**values)


@pytest.fixture
def rows():
    made = decisions(candidates_of([[0.9, 0.8, 0.1]] * 2, [[0.9, 0.8, 0.1]] * 2), PreferenceSettings(candidates=3))
    return [trl_row(d) for d in made]


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.parquet"])
def test_pairs_are_read_back(name, rows, tmp_path):
    assert write_pairs(tmp_path / name, rows) == 2
    assert list(read_pairs(tmp_path / name)) == rows
    assert rows[0]["prompt"][0]["content"].startswith("Please write a passage") and rows[0]["chosen_reward"] == 2
    assert rows[0]["chosen"] == [{"role": "assistant", "content": "candidate 0"}] and rows[0]["rejected_candidate"] == 2


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.parquet"])
def test_the_released_format_is_read_and_written(name, rows, tmp_path):
    write_pairs(tmp_path / name, rows, released=True)
    bare = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
    assert list(read_pairs(tmp_path / name)) == bare


def test_trl_reads_the_rows(rows, tmp_path):
    from datasets import load_dataset
    from trl import is_conversational

    write_pairs(tmp_path / "pairs.jsonl", rows)
    dataset = load_dataset("json", data_files=str(tmp_path / "pairs.jsonl"), split="train", cache_dir=str(tmp_path))
    assert is_conversational(dataset[0]) and len(dataset) == 2


def test_broken_pair_files(rows, tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_pairs(path, rows)
    path.write_text(path.read_text() + '{"prompt": "x", "chos\n')
    with pytest.raises(ValueError, match=r"pairs.jsonl:3 is not valid JSON"):
        list(read_pairs(path))
    path.write_text('{"question": "x"}\n')
    with pytest.raises(ValueError, match=r"pairs.jsonl:1 is not a preference pair.*\['question'\]"):
        list(read_pairs(path))
    for broken in (
        {"conversations": []},
        {"conversations": [{"value": "x"}], "chosen": {"value": "y"}, "rejected": "z"},
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=r"pairs.jsonl:1 has conversations but is not a row of the released data"):
            list(read_pairs(path))
    with pytest.raises(ValueError, match=r"\.jsonl or \.parquet"):
        write_pairs(tmp_path / "pairs.csv", rows)


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.parquet"])
def test_a_full_disk_leaves_no_half_file(name, rows, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    many = [rows[0] | {"query_id": str(number)} for number in range(4000)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_pairs(tmp_path / name, many)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []


def test_parquet_is_written_in_pieces(rows, tmp_path):
    import pyarrow.parquet as pq

    many = [rows[0] | {"query_id": str(number)} for number in range(ROW_GROUP + 5)]
    assert write_pairs(tmp_path / "pairs.parquet", iter(many)) == ROW_GROUP + 5
    assert pq.ParquetFile(tmp_path / "pairs.parquet").num_row_groups == 2
    assert list(read_pairs(tmp_path / "pairs.parquet")) == many
    assert write_pairs(tmp_path / "none.parquet", []) == 0 and list(read_pairs(tmp_path / "none.parquet")) == []


def test_a_dropped_query_has_no_row():
    dropped = decisions(candidates_of([[0.1, 0.2]], [[0.1, 0.1]]), PreferenceSettings(candidates=2))[0]
    with pytest.raises(ValueError, match="'q0' gives no pair: filtered"):
        trl_row(dropped)
