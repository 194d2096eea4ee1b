"""The int8 model: near the original, complete or absent, known to indexes; half precision where the hardware has it."""

import importlib.util
import json
import logging
import warnings

import numpy as np
import pytest
import torch

from pyterrier_expandr import ExpandREncoder, FaissIndex
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.common import hardware
from pyterrier_expandr.common.fingerprint import digest
from pyterrier_expandr.common.records.verify import verify_folder
from pyterrier_expandr.encoding import load_encoder, quantize
from pyterrier_expandr.encoding.quantized import RECORD
from pyterrier_expandr.encoding.vectors import same_vectors
from tests.tiny_encoder import build_tiny_bert

TEXTS = ["why is the sky blue", "a tidal wave", "how bees find their way home after they have gathered pollen"]


@pytest.fixture(scope="module")
def texts():
    return [document["text"] for document in pocket().get_corpus_iter(verbose=False)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return build_tiny_bert(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def encoder(tiny):
    return ExpandREncoder(tiny, device="cpu")


@pytest.fixture(scope="module")
def folder(tiny, texts, tmp_path_factory):
    if importlib.util.find_spec("nncf") is None:
        pytest.skip("needs the extra openvino")
    return quantize(tiny, tmp_path_factory.mktemp("int8") / "tiny", texts[:32])


def cosines(left, right):
    return np.sum(left * right, axis=1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)


class TestQuantized:
    def test_vectors_are_near_the_originals_but_not_equal(self, folder, encoder, texts):
        small = ExpandREncoder(folder)
        assert small.backend == "openvino" and small.device == "cpu"
        found = cosines(small.encode_docs(texts[40:60]), encoder.encode_docs(texts[40:60]))
        assert 0.95 < found.min() < 0.99999
        measured = json.loads((folder / RECORD).read_text())["cosine"]
        assert measured["texts"] == 32 and 0.95 < measured["min"] <= measured["mean"] < 1

    def test_a_text_does_not_depend_on_what_is_in_its_batch(self, folder):
        small = ExpandREncoder(folder)
        alone = np.concatenate([small.encode_docs([text]) for text in TEXTS])
        assert cosines(alone, small.encode_docs(TEXTS)).min() > 0.9999

    def test_the_folder_says_what_it_was_made_of_and_is_checked(self, folder, encoder, texts, tmp_path):
        record = json.loads((folder / RECORD).read_text())
        assert record["of"]["fingerprint"] == encoder.fingerprint()
        assert record["cosine"]["texts"] == 32 and record["cosine"]["sha256"] == digest(texts[:32])
        assert set(record["versions"]) >= {"openvino", "nncf", "torch"}
        assert logging.getLoggerClass() is logging.Logger, "NNCF would make all loggers its own"
        assert verify_folder(folder).problems == []
        weights = folder / "openvino.weights"
        whole = weights.read_bytes()
        try:
            weights.write_bytes(whole[:-1])
            with pytest.raises(ValueError, match=r"is damaged: openvino.weights has"):
                ExpandREncoder(folder)
        finally:
            weights.write_bytes(whole)

    def test_settings_of_the_encoder_apply(self, folder):
        shortened = ExpandREncoder(folder, truncate_dim=16, max_length=8)
        vectors = shortened.encode_docs(TEXTS)
        assert vectors.shape == (3, 16) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert cosines(vectors[2:], ExpandREncoder(folder, truncate_dim=16).encode_docs(TEXTS[2:]))[0] < 0.999
        with pytest.raises(ValueError, match="max_length must be between 1 and 64"):
            _ = ExpandREncoder(folder, max_length=65).model

    def test_an_index_knows_it_and_warns_of_float32_with_the_measured_difference(self, folder, encoder, tmp_path):
        small = ExpandREncoder(folder)
        assert not same_vectors(small.source, encoder.source)
        index = FaissIndex(tmp_path / "index")
        (small.doc_encoder() >> index).index({"docno": f"d{i}", "text": text} for i, text in enumerate(TEXTS))
        assert index.encoder["quantized"]["of"] == encoder.fingerprint()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            own = (index.query_encoder() >> index.retriever()).search("blue sky")
        mean = json.loads((folder / RECORD).read_text())["cosine"]["mean"]
        with pytest.warns(UserWarning, match=rf"one of the two is in int8: .* is {mean:.4f} in the mean"):
            other = (encoder.query_encoder() >> index.retriever()).search("blue sky")
        assert own["docno"].iloc[0] == other["docno"].iloc[0] == "d0"

    def test_queries_in_int8_before_an_index_in_float32_are_warned_of_once(self, folder, encoder, tmp_path):
        index, small = FaissIndex(tmp_path / "index"), ExpandREncoder(folder)
        (encoder.doc_encoder() >> index).index({"docno": f"d{i}", "text": text} for i, text in enumerate(TEXTS))
        mean = json.loads((folder / RECORD).read_text())["cosine"]["mean"]
        search = small.query_encoder() >> index.retriever()
        with pytest.warns(UserWarning) as caught:
            found = [search.search(query)["docno"].iloc[0] for query in ("blue sky", "a tidal wave")]
        assert found == ["d0", "d1"]
        (said,) = [str(warning.message) for warning in caught]
        assert f"of {str(folder)!r} in int8 and the vectors in the index" in said
        assert f"one of the two is in int8: the cosine between the vectors of both is {mean:.4f} in the mean" in said

    @pytest.mark.parametrize("first", ["float32", "int8"])
    def test_an_interrupted_build_does_not_go_on_in_the_other_precision(
        self, folder, encoder, tmp_path, monkeypatch, first
    ):
        monkeypatch.setattr("pyterrier_expandr.retrieval.faiss_build.CHUNK", 2)
        names = ["float32", "int8"] if first == "float32" else ["int8", "float32"]
        opened, index = {"float32": encoder, "int8": ExpandREncoder(folder)}, FaissIndex(tmp_path / "index")
        begun, other = (
            [{"docno": f"d{i}", "doc_vec": vector} for i, vector in enumerate(opened[name].encode_docs(TEXTS))]
            for name in names
        )

        def interrupted():
            yield from begun[:2]
            raise OSError("the network is gone")

        with pytest.raises(OSError, match="the network is gone"):
            index.index(interrupted())
        with pytest.raises(ValueError, match=r"' in int8.* all must come from the same encoder"):
            index.indexer("resume").index(other)
        index.indexer("resume").index(begun)  # what was committed is still there, and of one kind
        expected = np.stack([document["doc_vec"] for document in begun])
        assert np.array_equal(index.open().reconstruct_n(0, 3), expected)
        assert ("quantized" in index.encoder) == (first == "int8")

    def test_a_folder_that_exists_and_too_few_texts_are_refused(self, folder, tiny, tmp_path):
        with pytest.raises(FileExistsError, match="choose another folder"):
            quantize(tiny, folder, TEXTS * 2)
        with pytest.raises(ValueError, match="needs 5 to 50 texts that are not empty, got 3"):
            quantize(tiny, tmp_path / "few", TEXTS)
        assert list(tmp_path.iterdir()) == []


def test_the_backend_makes_its_folder_once_and_its_vectors_reopen(tiny, folder, tmp_path, monkeypatch, texts):
    monkeypatch.setenv("EXPANDR_CACHE", str(tmp_path))
    monkeypatch.setattr("pyterrier_expandr.encoding.quantized._pocket", lambda: texts[:24])  # seconds, not a minute
    fast = ExpandREncoder(tiny, backend="openvino")
    spec = fast.source
    (made,) = (tmp_path / "openvino").glob("[!.]*")
    before = (made / "openvino.weights").stat().st_mtime_ns
    again = ExpandREncoder.from_spec(spec)
    np.testing.assert_array_equal(again.encode_docs(TEXTS), fast.encode_docs(TEXTS))
    assert (made / "openvino.weights").stat().st_mtime_ns == before
    assert spec["model"] == tiny and spec["backend"] == "openvino"


def test_what_cannot_be_computed_is_refused_at_once(tiny, encoder):
    with pytest.raises(ValueError, match='must be "torch" or "openvino"'):
        ExpandREncoder(tiny, backend="onnx")
    with pytest.raises(ValueError, match="computes on the CPU, not on 'cuda'"):
        ExpandREncoder(tiny, backend="openvino", device="cuda")
    with pytest.raises(ValueError, match="needs files"):
        ExpandREncoder(encoder.model, backend="openvino")


class TestBfloat16:
    def test_it_is_near_float32_and_leaves_a_given_model_alone(self, encoder, texts):
        if not hardware.has_bfloat16("cpu"):
            pytest.skip("this processor has no arithmetic in bfloat16")
        half = ExpandREncoder(encoder.model, dtype="bfloat16", device="cpu")
        found = cosines(half.encode_docs(texts[:16]), encoder.encode_docs(texts[:16]))
        assert 0.999 < found.min() < 0.9999999
        assert next(encoder.model.parameters()).dtype == torch.float32
        assert half.source["dtype"] == "bfloat16" and "dtype" not in encoder.source
        assert same_vectors(half.source | {"fingerprint": 1}, encoder.source | {"fingerprint": 1})
        assert half.describe() != ExpandREncoder(encoder.model, device="cpu").describe()

    def test_a_processor_without_it_is_refused(self, tiny, tmp_path, monkeypatch):
        old = tmp_path / "cpuinfo"
        old.write_text("processor : 0\nflags : fpu sse2 avx2 avx512f\n")
        monkeypatch.setattr(hardware, "PROCESSOR", old)
        with pytest.raises(ValueError, match="no arithmetic in bfloat16"):
            ExpandREncoder(tiny, dtype="bfloat16", device="cpu")
        old.write_text("processor : 0\nflags : fpu avx512f avx512_bf16 amx_tile\n")
        assert ExpandREncoder(tiny, dtype="bfloat16", device="cpu").dtype == "bfloat16"
        with pytest.raises(ValueError, match='must be "float32" or "bfloat16"'):
            ExpandREncoder(tiny, dtype="float16")


def test_the_command_writes_what_every_other_command_opens(tiny, tmp_path):
    if importlib.util.find_spec("nncf") is None:
        pytest.skip("needs the extra openvino")
    from typer.testing import CliRunner

    from pyterrier_expandr.cli.commands import app

    result = CliRunner().invoke(app, ["quantize", tiny, str(tmp_path / "small")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "small" / RECORD).read_text())
    assert record["cosine"]["texts"] == 50
    assert load_encoder(tmp_path / "small", fuse=True).encode_queries(TEXTS).shape == (3, 32)
