"""What a hosted `SentenceTransformer` is asked for must be what it would give by itself, and must not change it."""

import json
from itertools import product

import ir_measures
import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import DPRContextEncoder, DPRQuestionEncoder

from pyterrier_expandr import ExpandR, ExpandREncoder, FaissIndex
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.encoding.models.dpr import open_dpr
from pyterrier_expandr.encoding.models.library import NEW_NAMES, Normalize, Pooling, Transformer
from pyterrier_expandr.encoding.models.sentence_transformer import prompt_of
from pyterrier_expandr.encoding.vectors import source_of
from pyterrier_expandr.training.retriever.fused_batches import FusedBatchCollator
from tests.encoders_tiny import TEXTS, build_bert, build_dpr
from tests.tiny_encoder import features_of

PROMPTS = {
    "query": "query : ",
    "document": "search _ document : ",
    "passage": "passage : ",
    "corpus": "relevant : ",
    "other": "searching : ",
}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return build_bert(tmp_path_factory.mktemp("bert") / "bert")


@pytest.fixture(scope="module")
def dpr(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dpr")
    question = build_dpr(folder / "question", DPRQuestionEncoder, 1)
    return open_dpr(question, build_dpr(folder / "context", DPRContextEncoder, 2), device="cpu")


def built(bert, *after, **options):
    modules = [Transformer(bert), Pooling(32, "mean"), *after]
    return SentenceTransformer(modules=modules, device="cpu", **options)


class TestPrompts:
    def test_every_combination_is_sentence_transformers_own(self, bert):
        """Each prompt missing, empty or there, under each default: 81 dictionaries, and every default they allow."""
        model, seen = built(bert), set()
        for states in product((None, "", "text"), repeat=4):
            prompts = {"other": PROMPTS["other"]}
            for name, state in zip(("query", "document", "passage", "corpus"), states, strict=True):
                if state is not None:
                    prompts[name] = PROMPTS[name] if state else ""
            for default in (None, *prompts):
                model.prompts, model.default_prompt_name = prompts, default
                for side, encode in (("query", model.encode_query), ("document", model.encode_document)):
                    prompt = prompt_of(model, side, None)
                    seen.add((side, prompt))
                    np.testing.assert_array_equal(model.encode(TEXTS[0], prompt=prompt), encode(TEXTS[0]))
        assert len(seen) == 6 + 6  # each side meets each of the five prompts, and none

    def test_an_encoder_reads_what_the_model_reads(self, bert):
        prompts = {"query": "", "document": "", "passage": PROMPTS["passage"], "other": PROMPTS["other"]}
        model = built(bert, prompts=prompts, default_prompt_name="other")
        encoder = ExpandREncoder(model, device="cpu")
        assert encoder.source["query_prompt"] == encoder.source["doc_prompt"] == ""
        np.testing.assert_allclose(encoder.encode_queries(TEXTS), model.encode_query(TEXTS), atol=1e-6)
        np.testing.assert_allclose(encoder.encode_docs(TEXTS), model.encode_document(TEXTS), atol=1e-6)


class TestRouter:
    def test_queries_take_the_querys_route(self, dpr):
        encoder = ExpandREncoder(dpr, device="cpu")
        queries, documents = dpr.encode_query(TEXTS), dpr.encode_document(TEXTS)
        assert np.abs(queries - documents).max() > 0.1
        np.testing.assert_allclose(encoder.encode_queries(TEXTS), queries, atol=1e-6)
        np.testing.assert_allclose(encoder.encode_queries_torch(TEXTS).detach().numpy(), queries, atol=1e-5)
        np.testing.assert_allclose(encoder.encode_docs(TEXTS), documents, atol=1e-6)

    def test_a_length_reaches_both_routes(self, dpr):
        short = ExpandREncoder(dpr, max_length=4, device="cpu")
        np.testing.assert_allclose(short.encode_queries(["why is the sky"]), dpr.encode_query(["why is"]), atol=1e-5)
        np.testing.assert_allclose(short.encode_docs(["why is the sky"]), dpr.encode_document(["why is"]), atol=1e-5)

    @pytest.mark.parametrize("mini_batch_size", [None, 1])
    def test_a_batch_is_trained_by_its_own_routes(self, dpr, mini_batch_size):
        pytest.importorskip("sentence_transformers.base.losses", reason="training needs sentence-transformers 6")
        from pyterrier_expandr.training.retriever.losses import ExpandRLoss

        rows = [{"query": TEXTS[0], "positive": TEXTS[1]}, {"query": "sky", "positive": "air"}]
        batch = FusedBatchCollator(dpr.preprocess)(rows)
        loss = ExpandRLoss(dpr, normalize=False, temperature=1.0, mini_batch_size=mini_batch_size)
        queries = torch.tensor(dpr.encode_query([row["query"] for row in rows]))
        texts = torch.tensor(dpr.encode_document([row["positive"] for row in rows]))
        layout = batch["label"] | {"query_order": torch.arange(2), "text_order": torch.arange(2)}
        found = loss(features_of(batch), batch["label"])
        assert found.item() == pytest.approx(loss.loss_from_embeddings(queries, texts, layout).item(), abs=1e-5)
        found.backward()
        for route in ("query", "document"):
            weights = dpr[0].sub_modules[route].parameters()
            assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in weights), route
        dpr.zero_grad()


class TestBuiltModels:
    def test_two_encoders_of_one_model_do_not_disturb_each_other(self, bert):
        model = built(bert)
        before, length, shape = model.encode(TEXTS), model.max_seq_length, str(model)
        short = ExpandREncoder(model, max_length=4, pooling="cls", normalize=True, truncate_dim=8, device="cpu")
        first = short.encode_docs(TEXTS).copy()
        whole = ExpandREncoder(model, device="cpu")
        np.testing.assert_allclose(whole.encode_docs(TEXTS), before, atol=1e-6)
        np.testing.assert_array_equal(short.encode_docs(TEXTS), first)
        np.testing.assert_allclose(model.encode(TEXTS), before, atol=1e-6)
        assert model.max_seq_length == length and str(model) == shape and model.truncate_dim is None
        assert short.source["max_length"] == 4 and whole.source["max_length"] == length

    def test_the_weights_are_the_models_own(self, bert):
        model = built(bert).train()
        encoder = ExpandREncoder(model, normalize=True, device="cpu")
        encoder.encode_queries_torch(TEXTS).sum().backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        shared = {p.data_ptr() for p in encoder.model.parameters()}
        assert shared == {p.data_ptr() for p in model.parameters()}
        assert model.training, "the user's model stays in the mode in which it was given"


class TestTruncation:
    def test_what_is_cut_is_normalised_again(self, bert, tmp_path):
        model = built(bert, Normalize())
        whole = model.encode(TEXTS)
        cut = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
        assert np.linalg.norm(whole[:, :8], axis=1).max() < 0.9
        model.truncate_dim = 8
        model.save_pretrained(str(tmp_path / "saved"))
        for encoder in (
            ExpandREncoder(built(bert, Normalize()), truncate_dim=8, device="cpu"),
            # sentence-transformers 5.0 does not save the size.
            ExpandREncoder(tmp_path / "saved", truncate_dim=None if NEW_NAMES else 8, device="cpu"),
        ):
            assert encoder.source["truncate_dim"] == 8 and encoder.source["normalize"]
            np.testing.assert_allclose(encoder.encode_docs(TEXTS), cut, atol=1e-6)
            np.testing.assert_allclose(encoder.encode_queries(TEXTS), cut, atol=1e-6)
            np.testing.assert_allclose(encoder.encode_queries_torch(TEXTS).detach().numpy(), cut, atol=1e-5)
        bare = ExpandREncoder(built(bert), truncate_dim=8, device="cpu")
        np.testing.assert_allclose(bare.encode_docs(TEXTS), built(bert).encode(TEXTS)[:, :8], atol=1e-6)
        undone = ExpandREncoder(tmp_path / "saved", truncate_dim=32, device="cpu")
        np.testing.assert_allclose(undone.encode_docs(TEXTS), whole, atol=1e-6)
        again = ExpandREncoder.from_spec(json.loads(json.dumps(undone.source)), device="cpu")
        np.testing.assert_array_equal(again.encode_docs(TEXTS), undone.encode_docs(TEXTS))

    def test_sizes_that_no_vector_has(self, bert):
        with pytest.raises(ValueError, match="truncate_dim must be 1 or more"):
            ExpandREncoder(bert, truncate_dim=0)
        with pytest.raises(ValueError, match="between 1 and 32, got 33"):
            ExpandREncoder(bert, truncate_dim=33, device="cpu").encode_docs(TEXTS)

    def test_an_index_knows_its_size(self, bert, tmp_path):
        pytest.importorskip("faiss")
        model = built(bert, Normalize())
        model.save_pretrained(str(tmp_path / "model"))
        cut = ExpandREncoder(tmp_path / "model", truncate_dim=8, device="cpu")
        index = FaissIndex(tmp_path / "index")
        docs = [{"docno": str(n), "text": text} for n, text in enumerate(TEXTS)]
        (cut.doc_encoder() >> index).index(docs)
        assert index.dim == 8
        out = index.query_encoder(device="cpu")(pd.DataFrame({"qid": ["1"], "query": [TEXTS[0]]}))
        np.testing.assert_allclose(out["query_vec"][0], cut.encode_queries(TEXTS[:1])[0], atol=1e-6)
        with pytest.raises(ValueError, match="do not fit together.*truncate_dim 8.*truncate_dim 16"):
            ExpandR(None, ExpandREncoder(tmp_path / "model", truncate_dim=16, device="cpu"), index)
        saved = ExpandR(None, cut, index).save(tmp_path / "system")
        assert ExpandR.load(saved.path, device="cpu").encoder.truncate_dim == 8

    def test_a_record_names_a_cut_only_where_there_is_one(self, minilm, encoder):
        """So that what was written before this setting existed stays the same, byte for byte."""
        assert "truncate_dim" not in encoder.source and "truncate_dim" not in encoder.describe()
        assert ExpandREncoder.from_spec(encoder.source, device="cpu") == encoder or encoder.revision is None
        assert ExpandREncoder(minilm, truncate_dim=8).describe()["truncate_dim"] == 8
        assert ExpandREncoder(minilm, truncate_dim=8) != ExpandREncoder(minilm)

    def test_the_ranking_of_pocket_at_128_dimensions(self, minilm):
        """Without the second normalisation nDCG@10 is 0.692."""
        cut = ExpandREncoder(minilm, truncate_dim=128, device="cpu")
        docs = cut.doc_encoder()(pd.DataFrame(pocket().get_corpus_iter()))
        assert source_of(docs["doc_vec"][0])["truncate_dim"] == 128
        matrix = np.stack(docs["doc_vec"])
        np.testing.assert_allclose(np.linalg.norm(matrix, axis=1), 1, atol=1e-6)
        topics = pocket().get_topics()
        scores = cut.encode_queries(topics["query"].tolist()) @ matrix.T
        run = pd.DataFrame(
            [
                (qid, docno, score)
                for qid, row in zip(topics["qid"], scores, strict=True)
                for docno, score in zip(docs["docno"], row, strict=True)
            ],
            columns=["query_id", "doc_id", "score"],
        )
        qrels = pocket().get_qrels().set_axis(["query_id", "doc_id", "relevance"], axis=1)
        assert ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10] == pytest.approx(
            0.757, abs=0.001
        )
