"""Encoders by name, on small random checkpoints with the files and the architecture of the real ones."""

import shutil
from pathlib import Path

import numpy as np
import pyterrier_dr
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizer,
    DistilBertConfig,
    DistilBertModel,
    DPRConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from pyterrier_expandr import ExpandREncoder
from pyterrier_expandr.models.catalogue import ENCODERS, LLMS
from pyterrier_expandr.models.dpr import DPRTower, open_dpr
from pyterrier_expandr.models.registry import load_encoder, models_table
from tests.anchordr_tiny import build_tiny_anchordr

TEXTS = ["why is the sky blue", "short waves of light are scattered by air"]
WORDS = [*sorted({word for text in TEXTS for word in text.split()}), "query", "passage", ":"]
BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.2,
}


def save_bert_tokenizer(folder):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    BertTokenizer.from_pretrained(folder, model_max_length=512).save_pretrained(folder)
    return len(vocabulary)


def build_bert(folder, seed=0) -> str:
    size = save_bert_tokenizer(folder)
    torch.manual_seed(seed)
    BertModel(BertConfig(vocab_size=size, **BERT)).save_pretrained(folder)
    return str(folder)


def build_dpr(folder, kind, seed) -> str:
    size = save_bert_tokenizer(folder)
    torch.manual_seed(seed)
    kind(DPRConfig(vocab_size=size, **BERT)).save_pretrained(folder)
    return str(folder)


def build_gtr(folder) -> str:
    """T5's encoder, mean pooling, a projection and normalisation, as sentence-transformers saves them."""
    bare = folder / "bare"
    core = Tokenizer(
        models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2} | {w: i + 3 for i, w in enumerate(WORDS)}, "<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    ).save_pretrained(bare)
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(WORDS) + 3, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    T5EncoderModel(config).save_pretrained(bare)
    modules = [Transformer(str(bare)), Pooling(32, "mean"), Dense(32, 24, bias=False), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder / "st"))
    return str(folder / "st")


def states(folder, texts=TEXTS):
    """The last states and the mask of a bare checkpoint."""
    tokens = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state
    return hidden, tokens["attention_mask"][..., None]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["contriever", "bert"])
def test_mean_pooling_of_bare_checkpoints(name, tmp_path, caplog):
    folder = build_bert(tmp_path / name)
    encoder = load_encoder(name, checkpoint=folder, device="cpu")
    assert isinstance(encoder, ExpandREncoder)
    hidden, mask = states(folder)
    expected = unit(((hidden * mask).sum(1) / mask.sum(1)).numpy())
    np.testing.assert_allclose(encoder.encode_docs(TEXTS), expected, atol=1e-5)
    assert "assumed" not in caplog.text  # the table says what the files do not


@pytest.mark.parametrize("name", ["cocondenser", "rocketqa"])
def test_first_token_of_bare_checkpoints(name, tmp_path):
    folder = build_bert(tmp_path / name)
    encoder = load_encoder(name, checkpoint=folder, device="cpu")
    np.testing.assert_allclose(encoder.encode_docs(TEXTS), states(folder)[0][:, 0].numpy(), atol=1e-5)


def test_prefixes(tmp_path):
    folder = build_bert(tmp_path / "e5")
    encoder = load_encoder("e5", checkpoint=folder, fuse=True, device="cpu")
    for found, prefix in ((encoder.encode_queries(TEXTS), "query: "), (encoder.encode_docs(TEXTS), "passage: ")):
        hidden, mask = states(folder, [prefix + text for text in TEXTS])
        np.testing.assert_allclose(found, unit(((hidden * mask).sum(1) / mask.sum(1)).numpy()), atol=1e-5)


def test_dpr_has_two_encoders(tmp_path):
    question = build_dpr(tmp_path / "question", DPRQuestionEncoder, 1)
    context = build_dpr(tmp_path / "context", DPRContextEncoder, 2)
    encoder = load_encoder("dpr", checkpoint=(question, context), device="cpu")
    tokens = AutoTokenizer.from_pretrained(question)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        queries = DPRQuestionEncoder.from_pretrained(question)(**tokens).pooler_output
        passages = DPRContextEncoder.from_pretrained(context)(**tokens).pooler_output
    assert (queries - passages).abs().max() > 0.1
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), queries, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_docs(TEXTS), passages, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_expansions(TEXTS), passages, atol=1e-5)
    open_dpr(question, context, device="cpu").save_pretrained(str(tmp_path / "saved"))
    saved = SentenceTransformer(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)
    np.testing.assert_allclose(saved.encode_query(TEXTS), queries, atol=1e-5)
    np.testing.assert_allclose(saved.encode_document(TEXTS), passages, atol=1e-5)


def test_dpr_encoders_in_the_wrong_order_are_refused(tmp_path):
    question = build_dpr(tmp_path / "question", DPRQuestionEncoder, 1)
    with pytest.raises(ValueError, match="is no DPR context encoder"):
        DPRTower.from_pretrained(question, "context")
    with pytest.raises(ValueError, match="must be a pair"):
        load_encoder("dpr", checkpoint=question)


def test_gtr(tmp_path):
    folder = build_gtr(tmp_path)
    expected = SentenceTransformer(folder, device="cpu").encode(TEXTS)
    assert expected.shape == (2, 24)
    alone = load_encoder("gtr", checkpoint=folder, device="cpu")
    assert isinstance(alone, pyterrier_dr.GTR)
    np.testing.assert_allclose(alone.encode_docs(TEXTS), expected, atol=1e-5)
    fused = load_encoder("gtr", checkpoint=folder, fuse=True, device="cpu")
    assert isinstance(fused, ExpandREncoder)
    np.testing.assert_allclose(fused.encode_docs(TEXTS), expected, atol=1e-5)


def test_tas_b(tmp_path):
    size = save_bert_tokenizer(tmp_path)
    torch.manual_seed(0)
    DistilBertModel(DistilBertConfig(vocab_size=size, dim=32, n_layers=2, n_heads=4, hidden_dim=48)).save_pretrained(
        tmp_path
    )
    alone = load_encoder("tas-b", checkpoint=tmp_path, device="cpu")
    assert isinstance(alone, pyterrier_dr.TasB)
    fused = load_encoder("tas-b", checkpoint=tmp_path, fuse=True, device="cpu")
    np.testing.assert_allclose(alone.encode_docs(TEXTS), fused.encode_docs(TEXTS), atol=1e-5)


@pytest.mark.parametrize("name", ["anchordr", "expandr"])
def test_anchordr(name, tmp_path):
    folder = build_tiny_anchordr(tmp_path / "reference")
    by_name = load_encoder(name, checkpoint=folder, device="cpu").encode_docs(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(by_name, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(load_encoder(folder, device="cpu").encode_docs(TEXTS), by_name, atol=1e-6)
    source = load_encoder(name, checkpoint=folder, device="cpu").source  # an index can bring the encoder back
    np.testing.assert_allclose(ExpandREncoder.from_spec(source, device="cpu").encode_docs(TEXTS), by_name, atol=1e-6)
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    encoder_only = Path(shutil.copytree(folder, tmp_path / "encoder_only"))
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("decoder.")}
    torch.save(kept, encoder_only / "pytorch_model.bin")
    with pytest.raises(ValueError, match="Its decoder is missing"):
        ExpandREncoder(encoder_only).encode_docs(TEXTS)
    with pytest.raises(ValueError, match="first decoder position"):
        ExpandREncoder(folder, pooling="mean").encode_docs(TEXTS)
    frame = load_encoder(folder, device="cpu", fusion=0.5).query_encoder()
    assert "query_encoder" in repr(frame)


def test_folders_and_hub_ids(tmp_path, minilm):
    assert load_encoder(minilm, device="cpu").encode_docs(TEXTS).shape == (2, 384)
    assert repr(load_encoder("some-owner/some-model")) == "ExpandREncoder('some-owner/some-model')"
    assert repr(load_encoder("contriever")) == "ExpandREncoder('facebook/contriever')"
    bge = load_encoder("bge-large", device="cpu")
    assert bge.query_prompt.startswith("Represent this sentence") and bge.doc_prompt == ""


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("contreiver", {}, "did you mean 'contriever'"),
        ("BGE_large", {}, "did you mean 'bge-large'"),
        ("zzzzzz", {}, "unknown encoder 'zzzzzz': Names are contriever"),
        ("colbert", {}, "PyTerrier plugin pyterrier_colbert"),
        ("genq", {}, "PyTerrier plugin pyterrier_doc2query"),
        ("rocketqa", {}, "no checkpoint of 'rocketqa' is known here: published for PaddlePaddle"),
        ("bert", {"fuse": False}, "pyterrier_dr has no class for 'bert'"),
        ("owner/model", {"checkpoint": "x"}, "no name of the table"),
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
        if entry.home.startswith("pyterrier_dr."):
            assert hasattr(pyterrier_dr, entry.home.removeprefix("pyterrier_dr."))
    for name, llm in LLMS.items():
        assert f"\n\n{name}: {llm.model}" in table


def test_prefixes_and_ids_agree_with_pyterrier_dr():
    assert pyterrier_dr.E5.VARIANTS["base"] == ENCODERS["e5"].model
    assert pyterrier_dr.GTR.VARIANTS["base"] == ENCODERS["gtr"].model
    assert pyterrier_dr.Ance.VARIANTS["firstp"] == ENCODERS["ance"].model
    assert pyterrier_dr.TasB.VARIANTS["dot"] == ENCODERS["tas-b"].model
