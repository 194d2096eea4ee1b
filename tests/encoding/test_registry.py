"""Encoders by name, on small random checkpoints with the files and the architecture of the real ones."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pyterrier_dr
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer, DPRContextEncoder, DPRQuestionEncoder, T5Config, T5Model

from pyterrier_expandr import ExpandREncoder
from pyterrier_expandr.encoding.models.catalogue import ENCODERS, FIRST_DECODER_POSITION, LLMS
from pyterrier_expandr.encoding.models.dpr import DPRTower, open_dpr
from pyterrier_expandr.encoding.registry import load_encoder, models_table
from tests.anchordr_tiny import build_tiny_anchordr
from tests.encoders_tiny import TEXTS, build_bert, build_dpr, build_t5, published_form

pytestmark = pytest.mark.usefixtures("pickles_allowed")

ANCHORDRS = [name for name, entry in ENCODERS.items() if entry.pooling == FIRST_DECODER_POSITION]
POOLINGS = {"contriever": "mean", "bert": "mean", "cocondenser": "cls", "rocketqa": "cls", "bge-large": "cls"}
POOLINGS |= {"nomic": "mean", "ance": "cls", "tas-b": "cls", "e5": "mean", "bge-m3": "cls", "gtr": "mean"}
NORMALISED = {"contriever", "bert", "bge-large", "nomic", "e5", "bge-m3", "gtr"}
PREFIXES = {
    "e5": ("query: ", "passage: "),
    "nomic": ("search_query: ", "search_document: "),
    "bge-large": ("Represent this sentence for searching relevant passages: ", ""),
}
HOSTED_BY_DR = [name for name, entry in ENCODERS.items() if entry.home.startswith("pyterrier_dr.")]


def by_hand(bare, after, pooling, normalised, texts):
    """Embeddings of a bare checkpoint by transformers alone."""
    model = AutoModel.from_pretrained(bare).eval()
    model = getattr(model, "encoder", model) if model.config.model_type == "t5" else model
    tokens = AutoTokenizer.from_pretrained(bare)(texts, padding=True, return_tensors="pt")
    mask = tokens["attention_mask"]
    with torch.no_grad():
        hidden = model(input_ids=tokens["input_ids"], attention_mask=mask).last_hidden_state
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        vectors = mean if pooling == "mean" else hidden[:, 0]
        for module in after:
            vectors = module.cpu()({"sentence_embedding": vectors})["sentence_embedding"]
    vectors = vectors.numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if normalised else vectors


@pytest.mark.filterwarnings("ignore:.*T5EncoderModel")
@pytest.mark.parametrize("name", POOLINGS)
def test_every_name_reads_and_pools_as_it_was_made_to(name, tmp_path, caplog):
    folder, bare, after = published_form(name, tmp_path / name)
    encoder = load_encoder(name, checkpoint=folder, fuse=True if name in HOSTED_BY_DR else None, device="cpu")
    assert isinstance(encoder, ExpandREncoder)
    query_prefix, doc_prefix = PREFIXES.get(name, ("", ""))
    for found, prefix in ((encoder.encode_queries(TEXTS), query_prefix), (encoder.encode_docs(TEXTS), doc_prefix)):
        expected = by_hand(bare, after, POOLINGS[name], name in NORMALISED, [prefix + text for text in TEXTS])
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert "assumed" not in caplog.text  # the table says what the files do not
    if name in HOSTED_BY_DR and name != "bge-m3":
        alone = load_encoder(name, checkpoint=folder, fuse=False, device="cpu")
        assert type(alone) is getattr(pyterrier_dr, ENCODERS[name].home.removeprefix("pyterrier_dr."))
        np.testing.assert_allclose(alone.encode_docs(TEXTS), encoder.encode_docs(TEXTS), atol=1e-5)
        np.testing.assert_allclose(alone.encode_queries(TEXTS), encoder.encode_queries(TEXTS), atol=1e-5)


def test_every_name_is_tried_here():
    elsewhere = {"colbert", "genq", "dpr", *ANCHORDRS}
    assert POOLINGS.keys() == ENCODERS.keys() - elsewhere
    for name, pooling in POOLINGS.items():
        assert ENCODERS[name].pooling in (pooling, None)


def test_a_class_that_ignores_expansions_says_so(tmp_path, caplog):
    folder, *_ = published_form("tas-b", tmp_path / "tas-b")
    with caplog.at_level(logging.WARNING):
        load_encoder("tas-b", checkpoint=folder, fuse=False, device="cpu")
        load_encoder("tas-b", checkpoint=folder, fuse=True, device="cpu")
        assert "expansions" not in caplog.text
        assert isinstance(load_encoder("tas-b", checkpoint=folder, device="cpu"), pyterrier_dr.TasB)
    assert "'tas-b' is pyterrier_dr.TasB, which ignores query_expansions: pass fuse=True" in caplog.text
    with pytest.raises(TypeError, match=r"TasB has no option fusion, pooling: pass fuse=True for an ExpandREncoder"):
        load_encoder("tas-b", checkpoint=folder, fusion=0.5, pooling="mean")
    with pytest.raises(ImportError, match=r"FlagEmbedding.*Or pass fuse=True"):
        load_encoder("bge-m3", checkpoint=folder)


def test_dpr_has_two_encoders(tmp_path):
    question = build_dpr(tmp_path / "question", DPRQuestionEncoder, 1)
    context = build_dpr(tmp_path / "context", DPRContextEncoder, 2)
    encoder = load_encoder("dpr", checkpoint=(question, context), device="cpu")
    assert repr(encoder) == f"ExpandREncoder({question!r})"
    tokens = AutoTokenizer.from_pretrained(question)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        queries = DPRQuestionEncoder.from_pretrained(question)(**tokens).pooler_output
        passages = DPRContextEncoder.from_pretrained(context)(**tokens).pooler_output
    assert (queries - passages).abs().max() > 0.1
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), queries, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_docs(TEXTS), passages, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_expansions(TEXTS), passages, atol=1e-5)
    with pytest.raises(ValueError, match="save it to a folder before indexing"):
        ExpandREncoder.from_spec(encoder.source)
    open_dpr(question, context, device="cpu").save_pretrained(str(tmp_path / "saved"))
    source = load_encoder(tmp_path / "saved", device="cpu").source  # of a folder an index can bring the encoder back
    saved = ExpandREncoder.from_spec(source, device="cpu")
    np.testing.assert_allclose(saved.encode_queries(TEXTS), queries, atol=1e-5)
    np.testing.assert_allclose(saved.encode_docs(TEXTS), passages, atol=1e-5)


def test_dpr_encoders_that_are_none_or_swapped_are_refused(tmp_path):
    question = build_dpr(tmp_path / "question", DPRQuestionEncoder, 1)
    with pytest.raises(ValueError, match="is not a DPR context encoder"):
        DPRTower.from_pretrained(question, "context")
    with pytest.raises(ValueError, match="must be a pair"):
        load_encoder("dpr", checkpoint=question)
    with pytest.raises(ValueError, match="one folder or hub id, got"):
        load_encoder("bert", checkpoint=(question, question))
    with pytest.raises(ValueError, match=r"(?s)cannot open the encoder.*nowhere.*Give a folder"):
        load_encoder("dpr", checkpoint=(tmp_path / "nowhere", question))


@pytest.mark.parametrize("name", ANCHORDRS)
def test_anchordr(name, tmp_path):
    folder = build_tiny_anchordr(tmp_path / "reference")
    by_name = load_encoder(name, checkpoint=folder, device="cpu").encode_docs(TEXTS)
    normalised = ENCODERS[name].normalize
    assert np.allclose(np.linalg.norm(by_name, axis=1), 1, atol=1e-6) == normalised
    by_folder = load_encoder(folder, device="cpu", normalize=normalised)
    np.testing.assert_allclose(by_folder.encode_docs(TEXTS), by_name, atol=1e-6)
    source = load_encoder(name, checkpoint=folder, device="cpu").source  # an index can bring the encoder back
    np.testing.assert_allclose(ExpandREncoder.from_spec(source, device="cpu").encode_docs(TEXTS), by_name, atol=1e-6)


def test_anchordr_without_its_decoder_is_refused(tmp_path):
    folder = build_tiny_anchordr(tmp_path / "reference")
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("decoder.")}
    torch.save(kept, folder / "pytorch_model.bin")
    for encoder in (ExpandREncoder(folder), load_encoder("expandr", checkpoint=folder)):
        with pytest.raises(ValueError, match="Its decoder is missing"):
            encoder.encode_docs(TEXTS)


def test_anchordr_and_other_models_do_not_pass_for_each_other(tmp_path):
    anchordr = build_tiny_anchordr(tmp_path / "anchordr")
    stock = Path(shutil.copytree(anchordr, tmp_path / "stock"))
    (stock / "pytorch_model.bin").unlink()
    T5Model(T5Config(vocab_size=162, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)).save_pretrained(stock)
    for folder, message in (
        (build_bert(tmp_path / "bert"), "is a 'bert' model, not AnchorDR"),
        (stock, "it has plain T5 weights"),
        (build_t5(tmp_path / "t5"), "it has plain T5 weights"),
    ):
        with pytest.raises(ValueError, match=message):
            load_encoder("anchordr", checkpoint=folder).encode_docs(TEXTS)
    for name in ("gtr", "tas-b", "contriever", "bge-large"):
        with pytest.raises(
            ValueError, match=rf"is an AnchorDR checkpoint, not a checkpoint of '{name}': use load_encoder\('anchor"
        ):
            load_encoder(name, checkpoint=anchordr)
    with pytest.raises(ValueError, match="always pools by its first decoder position: leave out pooling="):
        ExpandREncoder(anchordr, pooling="mean").encode_docs(TEXTS)


def test_options_that_are_none_leave_what_the_name_says():
    encoder = load_encoder("bge-large", pooling=None, normalize=None, max_length=None, fuse=True)
    assert (encoder.pooling, encoder.normalize, encoder.max_length) == ("cls", True, 512)
    assert load_encoder("bge-large", pooling="mean").pooling == "mean"


def test_folders_and_hub_ids(minilm):
    assert load_encoder(minilm, device="cpu").encode_docs(TEXTS).shape == (2, 384)
    assert repr(load_encoder("some-owner/some-model")) == "ExpandREncoder('some-owner/some-model')"
    assert repr(load_encoder("contriever")) == "ExpandREncoder('facebook/contriever')"


@pytest.mark.parametrize("name", ["expandr", "contriever", "tas-b", "gtr", "dpr", "some-owner/some-model"])
def test_what_was_never_downloaded(name):
    with pytest.raises(ValueError, match=r"never downloaded|downloaded before") as caught:
        load_encoder(name).encode_docs(TEXTS)
    assert (ENCODERS[name].model if name in ENCODERS else name) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("contreiver", {}, "did you mean 'contriever'"),
        ("BGE_large", {}, "did you mean 'bge-large'"),
        ("bge", {}, "did you mean 'bge-large' or 'bge-m3'"),
        ("zzzzzz", {}, "unknown encoder 'zzzzzz': The names are contriever"),
        ("", {}, "unknown encoder '': The names are contriever"),
        ("llama3-8b", {}, "is a language model, not an encoder: HuggingFaceBackend"),
        ("colbert", {}, "PyTerrier plugin pyterrier_colbert"),
        ("genq", {}, "PyTerrier plugin pyterrier_doc2query"),
        ("rocketqa", {}, r"published for PaddlePaddle.*Give one: load_encoder\('rocketqa', checkpoint="),
        ("bert", {"fuse": False}, "pyterrier_dr has no class for 'bert'"),
        ("owner/model", {"checkpoint": "x"}, "not in the table"),
    ],
)
def test_names_that_cannot_be_loaded(name, options, message):
    with pytest.raises(ValueError, match=message):
        load_encoder(name, **options)


def test_the_table_holds_what_the_paper_names():
    table = models_table()
    for name, entry in ENCODERS.items():
        assert f"\n\n{name}: " in table
        assert entry.model is None or f"https://huggingface.co/{entry.model}" in table
        assert entry.model or entry.note
    assert "colbert: the PyTerrier plugin pyterrier_colbert\n" in table
    assert "rocketqa: no hub id: give checkpoint=\n" in table
    for name, llm in LLMS.items():
        assert f"\n\n{name}: {llm.model}" in table


def test_prefixes_and_ids_agree_with_pyterrier_dr():
    assert pyterrier_dr.E5.VARIANTS["base"] == ENCODERS["e5"].model
    assert pyterrier_dr.GTR.VARIANTS["base"] == ENCODERS["gtr"].model
    assert pyterrier_dr.Ance.VARIANTS["firstp"] == ENCODERS["ance"].model
    assert pyterrier_dr.TasB.VARIANTS["dot"] == ENCODERS["tas-b"].model


def test_a_saved_dpr_opens_in_sentence_transformers(tmp_path):
    question = build_dpr(tmp_path / "question", DPRQuestionEncoder, 1)
    context = build_dpr(tmp_path / "context", DPRContextEncoder, 2)
    model = open_dpr(question, context, device="cpu")
    model.save_pretrained(str(tmp_path / "saved"))
    saved = SentenceTransformer(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)
    np.testing.assert_array_equal(saved.encode_query(TEXTS), model.encode_query(TEXTS))
    np.testing.assert_array_equal(saved.encode_document(TEXTS), model.encode_document(TEXTS))
