import json
import logging
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from sentence_transformers import SentenceTransformer
from transformers import BertConfig, BertModel, BertTokenizerFast

from pyterrier_expandr import ExpandREncoder
from pyterrier_expandr.encoding.vectors import source_of
from tests.contract import check_contract

QUERIES = pd.DataFrame(
    {
        "qid": ["1", "2", "3"],
        "query": ["why is the sky blue", "cure for scurvy", "why is the sky blue"],
        "query_expansions": [["Air scatters short waves."], [], ["Rayleigh scattering.", "Short waves scatter most."]],
    }
)
DOCS = pd.DataFrame({"docno": ["a", "b"], "title": ["Sky", ""], "text": ["Light scatters.", "Vitamin C cures scurvy."]})
RESULTS = pd.DataFrame(
    {"qid": ["1", "1"], "query": ["scurvy"] * 2, "docno": ["a", "b"], "text": ["Light scatters.", "Vitamin C."]}
)


@pytest.fixture(scope="module")
def reference(minilm):
    return SentenceTransformer(minilm, device="cpu")


def unit(vector):
    return vector / np.linalg.norm(vector)


class TestQueryEncoderInspection(pt.testing.TransformerTestCase):
    @staticmethod
    def get_transformer():
        return ExpandREncoder("no/such-model").query_encoder()


class TestDocEncoderInspection(pt.testing.TransformerTestCase):
    @staticmethod
    def get_transformer():
        return ExpandREncoder("no/such-model").doc_encoder()


class TestTextScorerInspection(pt.testing.TransformerTestCase):
    @staticmethod
    def get_transformer():
        return ExpandREncoder("no/such-model").text_scorer()


class TestEncoderInspection(pt.testing.TransformerTestCase):
    @staticmethod
    def get_transformer():
        return ExpandREncoder("no/such-model")


def test_contract_of_each_view(minilm):
    encoder = ExpandREncoder(minilm, device="cpu")
    check_contract(lambda: ExpandREncoder(minilm, device="cpu").query_encoder(), QUERIES)
    check_contract(encoder.doc_encoder, DOCS)
    check_contract(encoder.text_scorer, RESULTS, row_wise=False)


def test_query_alone_equals_the_hosted_model(encoder, reference):
    out = encoder.query_encoder()(QUERIES[["qid", "query"]])
    np.testing.assert_allclose(np.stack(out["query_vec"]), reference.encode(list(QUERIES["query"])), atol=1e-6)
    assert out["query_vec"][0].dtype == np.float32 and out["query_vec"][0].shape == (384,)


def test_fused_vector_is_equation_8(encoder, reference):
    out = encoder.query_encoder()(QUERIES)
    query, passage = reference.encode([QUERIES["query"][0], QUERIES["query_expansions"][0][0]])
    np.testing.assert_allclose(out["query_vec"][0], (query + passage) / 2, atol=1e-6)
    assert np.linalg.norm(out["query_vec"][0]) < 0.999  # the mean of two unit vectors is not normalised again
    np.testing.assert_allclose(out["query_vec"][1], reference.encode(QUERIES["query"][1]), atol=1e-6)
    several = reference.encode(QUERIES["query_expansions"][2])
    np.testing.assert_allclose(out["query_vec"][2], (query + several.mean(0)) / 2, atol=1e-6)


def test_fusion_choices(minilm, reference, encoder):
    query = reference.encode(QUERIES["query"][2])
    several = reference.encode(QUERIES["query_expansions"][2])
    row = QUERIES.iloc[[2]]
    for fusion, expected in [
        ("uniform", (query + several.sum(0)) / 3),
        (0.9, 0.9 * query + 0.1 * several.mean(0)),
        (lambda q, e: np.maximum(q, e.max(0)), np.maximum(query, several.max(0))),
    ]:
        np.testing.assert_allclose(encoder.query_encoder(fusion=fusion)(row)["query_vec"].iloc[0], expected, atol=1e-6)
    cosine = ExpandREncoder(minilm, renormalize=True, device="cpu").query_encoder()(row)["query_vec"].iloc[0]
    np.testing.assert_allclose(cosine, unit((query + several.mean(0)) / 2), atol=1e-6)


def test_blank_expansions_are_never_embedded(encoder):
    alone = encoder.query_encoder()(QUERIES.iloc[[0]].assign(query_expansions=[[]]))["query_vec"].iloc[0]
    for cell in (["", "  \n"], None, float("nan")):
        frame = QUERIES.iloc[[0]].assign(query_expansions=pd.Series([cell], dtype=object))
        np.testing.assert_array_equal(encoder.query_encoder()(frame)["query_vec"].iloc[0], alone)


def test_no_text_at_all_gives_no_vectors_of_the_right_size(encoder):
    for encode in (encoder.encode_queries, encoder.encode_expansions, encoder.encode_docs):
        assert (encode([]).shape, encode([]).dtype) == ((0, 384), np.float32)


def test_documents_carry_their_title(encoder, reference):
    out = encoder.doc_encoder()(DOCS)
    expected = reference.encode(["Sky Light scatters.", "Vitamin C cures scurvy."])
    np.testing.assert_allclose(np.stack(out["doc_vec"]), expected, atol=1e-6)
    no_title = encoder.doc_encoder()(DOCS.drop(columns="title"))
    np.testing.assert_allclose(no_title["doc_vec"][0], reference.encode("Light scatters."), atol=1e-6)
    other = ExpandREncoder(encoder.model_name, text_field="body", device="cpu")
    moved = other.doc_encoder()(DOCS.rename(columns={"text": "body"}))
    np.testing.assert_allclose(np.stack(moved["doc_vec"]), expected, atol=1e-6)


def test_scorer_uses_the_fused_query(encoder):
    frame = RESULTS.assign(query_expansions=[["Vitamin C prevents scurvy."]] * 2)
    out = encoder.text_scorer()(frame).set_index("docno")
    query = encoder.query_encoder()(frame)["query_vec"].iloc[0]
    docs = encoder.encode_docs(["Light scatters.", "Vitamin C."])
    np.testing.assert_allclose([out.score["a"], out.score["b"]], docs @ query, atol=1e-6)
    assert out["rank"]["b"] == 0


def test_prompts_are_put_before_queries_and_documents(minilm, reference, tmp_path):
    model = SentenceTransformer(minilm, device="cpu", prompts={"query": "query: ", "document": "passage: "})
    model.save(str(tmp_path / "prompted"))
    for prompted in (
        ExpandREncoder(str(tmp_path / "prompted"), device="cpu"),
        ExpandREncoder(minilm, query_prompt="query: ", doc_prompt="passage: ", device="cpu"),
    ):
        np.testing.assert_allclose(prompted.encode_queries(["x"])[0], reference.encode("query: x"), atol=1e-6)
        np.testing.assert_allclose(prompted.encode_docs(["x"])[0], reference.encode("passage: x"), atol=1e-6)
        # expansions are read by the document side
        np.testing.assert_allclose(prompted.encode_expansions(["x"])[0], reference.encode("passage: x"), atol=1e-6)
    silent = ExpandREncoder(str(tmp_path / "prompted"), query_prompt="", device="cpu")
    np.testing.assert_allclose(silent.encode_queries(["x"])[0], reference.encode("x"), atol=1e-6)


def test_pooling_normalisation_and_length_can_be_given(minilm, reference):
    tokens = reference.encode(["why is the sky blue"], output_value="token_embeddings")[0].numpy()
    cls = ExpandREncoder(minilm, pooling="cls", normalize=False, device="cpu").encode_queries(["why is the sky blue"])
    np.testing.assert_allclose(cls[0], tokens[0], atol=1e-5)
    mean = ExpandREncoder(minilm, normalize=False, device="cpu").encode_queries(["why is the sky blue"])
    np.testing.assert_allclose(mean[0], tokens.mean(0), atol=1e-5)
    short = ExpandREncoder(minilm, max_length=4, device="cpu").encode_queries(["sky blue and more words"])
    np.testing.assert_allclose(short[0], reference.encode("sky blue"), atol=1e-6)


@pytest.fixture(scope="module")
def bare_bert(tmp_path_factory, minilm):
    folder = tmp_path_factory.mktemp("bare") / "bert"
    tokenizer = BertTokenizerFast.from_pretrained(minilm)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_bare_checkpoint_says_once_what_is_assumed(bare_bert, caplog):
    with caplog.at_level(logging.WARNING, logger="pyterrier_expandr"):
        bare = ExpandREncoder(bare_bert, device="cpu")
        vector = bare.encode_queries(["sky"])[0]
        bare.encode_queries(["sea"])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    said = [r.getMessage() for r in caplog.records if r.name.startswith("pyterrier_expandr")]
    assert len(said) == 2 and "mean pooling" in said[0] and "L2" in said[1]
    caplog.clear()
    given = ExpandREncoder(bare_bert, pooling="mean", normalize=True, device="cpu")
    np.testing.assert_allclose(given.encode_queries(["sky"])[0], vector, atol=1e-6)
    assert not [r for r in caplog.records if r.name.startswith("pyterrier_expandr")]
    assert ExpandREncoder(bare_bert, pooling="cls", normalize=False, device="cpu").source["pooling"] == "cls"


def test_a_built_model_is_hosted(reference, minilm, encoder):
    built = ExpandREncoder(SentenceTransformer(minilm, device="cpu"), device="cpu")
    np.testing.assert_allclose(built.encode_queries(["x"]), encoder.encode_queries(["x"]), atol=1e-6)
    assert len(built.source["fingerprint"]["weights_sha256"]) == 64


def test_vectors_name_their_encoder_and_the_record_gives_it_back(encoder, minilm):
    out = encoder.doc_encoder()(DOCS)
    spec = json.loads(json.dumps(source_of(out["doc_vec"][0])))
    assert spec["pooling"] == "mean" and spec["normalize"] is True and spec["max_length"] == 256
    again = ExpandREncoder.from_spec(spec, device="cpu")
    np.testing.assert_array_equal(again.encode_docs(["Sky"]), encoder.encode_docs(["Sky"]))
    assert again.source == encoder.source


def test_a_changed_model_is_not_taken_for_the_recorded_one(minilm, tmp_path):
    folder = shutil.copytree(minilm, tmp_path / "model")
    spec = ExpandREncoder(folder, device="cpu").source
    config = json.loads((folder / "1_Pooling" / "config.json").read_text())
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config | {"pooling_mode_cls_token": True}))
    with pytest.raises(ValueError, match="no longer the one"):
        ExpandREncoder.from_spec(spec)
    with pytest.raises(ValueError, match="not from an ExpandREncoder"):
        ExpandREncoder.from_spec({"type": "other"})


def count_encoded(encoder, monkeypatch):
    """Every text that reaches the model."""
    seen = []
    for name in ("encode_query", "encode_document"):
        real = getattr(encoder.model, name)
        monkeypatch.setattr(
            encoder.model, name, lambda texts, _real=real, **kw: seen.extend(texts) or _real(texts, **kw)
        )
    return seen


def test_grid_scan_over_the_weight_encodes_each_text_once(minilm, monkeypatch):
    encoder = ExpandREncoder(minilm, device="cpu")
    encoder.encode_docs(["load"])
    seen = count_encoded(encoder, monkeypatch)
    view = encoder.query_encoder()
    docs = encoder.doc_encoder()(DOCS)
    del seen[:]

    def search(frame):
        rows = frame.merge(docs[["docno", "doc_vec"]], how="cross")
        return rows.assign(score=[float(np.dot(q, d)) for q, d in zip(rows.query_vec, rows.doc_vec, strict=True)])

    pipeline = view >> pt.apply.generic(search) >> pt.apply.generic(pt.model.add_ranks)
    qrels = pd.DataFrame({"qid": ["1", "2", "3"], "docno": ["a", "b", "a"], "label": [1, 1, 1]})
    table = pt.GridScan(pipeline, {view: {"fusion": [0.0, 0.25, 0.5, 1.0]}}, QUERIES, qrels, ["recip_rank"])
    assert len(table) == 4
    assert len(seen) == len(set(seen)) == 5  # two distinct queries, three distinct expansions


def test_feeds_flex_index(encoder, tmp_path):
    from pyterrier_dr import FlexIndex

    index = FlexIndex(str(tmp_path / "flex"))
    (encoder.doc_encoder() >> index).index(DOCS.to_dict("records"))
    ranking = (encoder.query_encoder() >> index.np_retriever())(QUERIES.iloc[[1]])
    assert list(ranking.sort_values("rank")["docno"]) == ["b", "a"]


def test_gradients_reach_the_model(minilm):
    encoder = ExpandREncoder(minilm, device="cpu")
    vectors = encoder.encode_queries_torch(["why is the sky blue", "scurvy"])
    vectors.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.model.parameters())
    np.testing.assert_allclose(
        vectors.detach().numpy(), encoder.encode_queries(["why is the sky blue", "scurvy"]), atol=1e-5
    )


def test_inspecting_and_drawing_load_no_model():
    code = (
        "import sys, pyterrier as pt, pandas as pd\n"
        "from pyterrier_expandr import ExpandREncoder\n"
        "e = ExpandREncoder('no/such-model')\n"
        "pipe = e.query_encoder() >> pt.RankCutoff(5)\n"
        "pt.inspect.transformer_inputs(e.query_encoder()); pt.schematic.draw(e.query_encoder())\n"
        "e.query_encoder()(pd.DataFrame(columns=['qid', 'query']))\n"
        "assert e._model is None\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})


class TestBadInput:
    def test_missing_columns(self, encoder):
        with pytest.raises(pt.validate.InputValidationError, match="query"):
            encoder.query_encoder()(pd.DataFrame({"qid": ["1"]}))
        with pytest.raises(pt.validate.InputValidationError, match="text"):
            encoder.doc_encoder()(pd.DataFrame({"docno": ["1"]}))

    @pytest.mark.parametrize(
        ("query", "error"),
        [(None, ValueError), (float("nan"), ValueError), ("", ValueError), ("  ", ValueError), (7, TypeError)],
    )
    def test_a_query_that_is_none_names_its_qid(self, encoder, query, error):
        frame = pd.DataFrame({"qid": ["ok", "bad"], "query": pd.Series(["fine", query], dtype=object)})
        with pytest.raises(error, match="bad"):
            encoder.query_encoder()(frame)

    def test_long_odd_and_broken_texts_are_encoded(self, encoder, reference):
        texts = ["sky " * 25_000, "a\ud800b", "tab\tbell\x07nul\x00"]
        frame = pd.DataFrame({"qid": list("123"), "query": pd.Series(texts, dtype=object)})
        out = encoder.query_encoder()(frame)
        assert np.isfinite(np.stack(out["query_vec"])).all()
        np.testing.assert_allclose(out["query_vec"][0], reference.encode("sky " * 300), atol=1e-6)
        np.testing.assert_allclose(out["query_vec"][1], reference.encode("a\ufffdb"), atol=1e-6)

    def test_duplicate_qids_keep_their_own_rows(self, encoder):
        frame = pd.DataFrame({"qid": ["1", "1"], "query": ["sky", "sea"]})
        out = encoder.query_encoder()(frame)["query_vec"]
        assert not np.allclose(out[0], out[1])

    def test_expansions_of_another_type(self, encoder):
        with pytest.raises(TypeError, match="qid '1'.*list of strings"):
            encoder.query_encoder()(pd.DataFrame({"qid": ["1"], "query": ["x"], "query_expansions": ["a passage"]}))

    def test_a_document_without_text(self, encoder):
        with pytest.raises(ValueError, match="'b' is missing"):
            encoder.doc_encoder()(DOCS.assign(text=["x", None]))

    def test_models_that_are_none(self, tmp_path):
        with pytest.raises(ValueError, match="does not contain a model"):
            ExpandREncoder(tmp_path)
        with pytest.raises(ValueError, match="no folder"):
            ExpandREncoder(tmp_path / "missing")
        with pytest.raises(ValueError, match="cannot open the encoder 'no/such-model'"):
            ExpandREncoder("no/such-model").encode_queries(["x"])

    def test_settings_out_of_range(self, minilm):
        with pytest.raises(ValueError, match="between 0 and 1"):
            ExpandREncoder(minilm, fusion=1.5)
        with pytest.raises(ValueError, match="batch_size"):
            ExpandREncoder(minilm, batch_size=0)
        with pytest.raises(ValueError, match="max_length must be between 1 and 512"):
            ExpandREncoder(minilm, max_length=1000, device="cpu").encode_queries(["x"])
        view = ExpandREncoder(minilm).query_encoder()
        with pytest.raises(ValueError, match="alpha"):
            view.set_parameter("fusion", -0.5)
