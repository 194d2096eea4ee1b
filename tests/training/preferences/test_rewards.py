import numpy as np
import pytest

from pyterrier_expandr.training.preferences.candidates import CandidateSet
from pyterrier_expandr.training.preferences.choice import compare
from pyterrier_expandr.training.preferences.rewards import (
    LengthPenalty,
    MeasureGain,
    combined_reward,
    cosine_margin,
    length_penalty,
    ranks,
    retriever_reward,
    self_reward,
)


def test_ranks_start_at_one_for_the_most_similar():
    np.testing.assert_array_equal(ranks(np.array([[0.1, 0.9, 0.5], [3.0, 2.0, 1.0]])), [[3, 1, 2], [1, 2, 3]])


def test_of_equal_candidates_the_first_is_ahead():
    np.testing.assert_array_equal(ranks(np.array([[0.5, 0.9, 0.5, 0.9]])), [[3, 1, 4, 2]])


def test_both_rewards_are_reciprocal_ranks_and_their_sum_is_equation_11():
    answer, gold = np.array([[0.9, 0.8, 0.1]]), np.array([[0.2, 0.7, 0.3]])
    np.testing.assert_allclose(self_reward(answer), [[1, 1 / 2, 1 / 3]])
    np.testing.assert_allclose(retriever_reward(gold), [[1 / 3, 1, 1 / 2]])
    total = combined_reward([self_reward(answer), retriever_reward(gold)])
    np.testing.assert_allclose(total, [[4 / 3, 3 / 2, 5 / 6]])
    np.testing.assert_allclose(combined_reward([self_reward(answer), retriever_reward(gold)], (0, 2)), [[2 / 3, 2, 1]])


def test_permuting_candidates_permutes_ranks():
    rng = np.random.default_rng(0)
    similarity = rng.normal(size=(5, 32))
    order = rng.permutation(32)
    np.testing.assert_array_equal(ranks(similarity)[:, order], ranks(similarity[:, order]))
    np.testing.assert_array_equal(np.sort(ranks(similarity), axis=1), np.tile(np.arange(1, 33), (5, 1)))


def test_bad_input():
    with pytest.raises(ValueError, match=r"NaN in rows \[1\]"):
        ranks(np.array([[1.0, 2.0], [np.nan, 1.0]]))
    with pytest.raises(ValueError, match="n_candidates"):
        ranks(np.array([1.0]))
    with pytest.raises(ValueError, match="same shape"):
        combined_reward([np.ones((1, 2)), np.ones((1, 3))])
    with pytest.raises(ValueError, match="one weight each"):
        combined_reward([np.ones((1, 2))], (1, 2))


def test_margin_tells_leads_from_near_ties():
    found = cosine_margin(np.array([[0.9, 0.3, 0.3], [0.5, 0.49, 0.48]]))
    np.testing.assert_allclose(found, [[0.4, -0.2, -0.2], [0.01, 0, -0.01]], atol=1e-12)


def test_length_is_penalised_beyond_the_limit():
    np.testing.assert_allclose(length_penalty(np.array([[10, 20, 30]]), 20), [[0, 0, -0.5]])
    with pytest.raises(ValueError, match="1 or more"):
        length_penalty(np.array([[1]]), 0)


def test_measure_gain_is_the_change_of_the_measure(encoder, tmp_path):
    pytest.importorskip("faiss")
    import pandas as pd

    from pyterrier_expandr import FaissIndex

    documents = {
        "sky": "Air scatters short waves of light more than long ones.",
        "bread": "Yeast makes gas, and bread rises.",
        "iron": "Iron rusts where air and water reach it.",
    }
    index = FaissIndex(tmp_path / "index")
    (encoder.doc_encoder() >> index).index([{"docno": name, "text": text} for name, text in documents.items()])
    qrels = pd.DataFrame({"qid": ["1", "2"], "docno": ["iron", "bread"], "label": [1, 1]})
    sets = [
        CandidateSet("1", "why is the sky blue", "iron", "-", "-", (documents["iron"], documents["sky"])),
        CandidateSet("2", "bread that rises", "bread", "-", "-", (documents["bread"], documents["bread"])),
        CandidateSet("3", "never judged", "iron", "-", "-", (documents["iron"], documents["sky"])),
    ]
    candidates = compare(sets, encoder)
    gain = MeasureGain(index.retriever(num_results=3), qrels, "RR")
    alone = 1 / ranks(
        np.array(
            [[float(np.dot(candidates.query_vectors[0], v)) for v in encoder.encode_docs(list(documents.values()))]]
        )
    )
    found = gain(candidates)
    assert found.shape == (3, 2)
    assert found[0, 0] == pytest.approx(1 - alone[0, 2]) and found[0, 0] > 0 >= found[0, 1]
    np.testing.assert_array_equal(found[1:], 0)  # nothing to gain, nothing judged
    assert repr(gain).endswith("num_results=3), <2 judgments>, 'RR', fusion='average')")
    with pytest.raises(ValueError, match="two queries have the same id"):
        gain(compare([sets[0], sets[0]], encoder))


def test_a_length_reward_reads_the_texts(encoder):
    one = CandidateSet("1", "q", "d", "gold", "answer", ("one two three four", "one"))
    np.testing.assert_allclose(LengthPenalty(limit=2)(compare([one], encoder)), [[-1, 0]])
