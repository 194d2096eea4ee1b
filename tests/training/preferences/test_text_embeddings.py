import numpy as np
import pytest

from pyterrier_expandr import ExpandREncoder
from pyterrier_expandr.encoding.models.dpr import open_dpr
from pyterrier_expandr.training.preferences.text_embeddings import batches, embed, token_counts
from tests.encoders_tiny import build_dpr

TEXTS = ["Air scatters short waves of light.", "Mud.", "Air scatters short waves of light.", "q7x9z3k5w8v4j6"]


def test_texts_are_embedded_in_their_order_and_once(encoder, monkeypatch):
    expected = np.asarray(encoder.encode_docs(TEXTS))
    encoded, encode = [], encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda texts, *rest: encoded.extend(texts) or encode(texts, *rest))
    np.testing.assert_allclose(embed(encoder, TEXTS, "document"), expected, atol=1e-6)
    assert sorted(encoded) == sorted(set(TEXTS))
    assert encoded[0] == "q7x9z3k5w8v4j6"  # the shorter text, but of more tokens


def test_tokens_are_counted_as_the_model_reads_them(minilm):
    encoder = ExpandREncoder(minilm, device="cpu", max_length=12, query_prompt="query: ")
    counts = token_counts(encoder, ["Mud.", "mud " * 50], "document")
    assert counts.tolist() == [4, 12]
    assert token_counts(encoder, ["Mud."], "query").tolist() == [6]


def test_a_model_with_two_sides(tmp_path):
    from transformers import DPRContextEncoder, DPRQuestionEncoder

    towers = build_dpr(tmp_path / "q", DPRQuestionEncoder, 1), build_dpr(tmp_path / "c", DPRContextEncoder, 2)
    encoder = ExpandREncoder(open_dpr(*towers, device="cpu"), device="cpu")
    for side in ("query", "document"):
        expected = np.asarray(encoder.encode(TEXTS, side))
        np.testing.assert_allclose(embed(encoder, TEXTS, side), expected, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 60, 500, 10_000])
def test_batches_keep_to_their_budget_and_lose_nothing(budget):
    counts = np.random.default_rng(0).integers(1, 120, 300)
    found = list(batches(counts, budget))
    assert sorted(number for batch in found for number in batch) == list(range(300))
    assert all(len(batch) == 1 or len(batch) * counts[batch].max() <= budget for batch in found)
    ordered = counts[[number for batch in found for number in batch]]
    assert (np.diff(ordered) <= 0).all()


def test_no_texts_no_batches():
    assert list(batches(np.array([], dtype=int), 10)) == []
