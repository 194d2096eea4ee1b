"""AnchorDR inside sentence-transformers, and checkpoints that must not be opened as if all were well."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import T5Config, T5EncoderModel, T5Model

from pyterrier_expandr import ExpandREncoder
from pyterrier_expandr.encoding.models.anchordr import (
    AnchorDR,
    AnchorDRModel,
    AnchorDRTokenizer,
    is_anchordr,
    open_anchordr,
)
from pyterrier_expandr.encoding.models.library import size_of
from tests.anchordr_tiny import FIXTURES, build_tiny_anchordr

TEXTS = ["hello world", "The quick brown fox jumps over the lazy dog.", "", "dense retrieval finds 2,000 passages"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    return build_tiny_anchordr(tmp_path_factory.mktemp("anchordr") / "reference")


@pytest.fixture
def folder(reference, tmp_path) -> Path:
    return Path(shutil.copytree(reference, tmp_path / "copy"))


def raw_vectors(name, texts=TEXTS):
    """Embeddings one text at a time, by the model and the tokenizer alone."""
    model, tokenizer = AnchorDRModel.from_pretrained(name), AnchorDRTokenizer.from_pretrained(name)
    with torch.no_grad():
        return torch.cat([model.embed(torch.tensor([tokenizer(text)["input_ids"]])) for text in texts]).numpy()


def change_weights(folder, change):
    path = folder / "pytorch_model.bin"
    weights = torch.load(path, weights_only=True)
    torch.save(change(weights), path)


def test_the_module_encodes_batches_as_single_texts(reference):
    model = SentenceTransformer(modules=[AnchorDR.from_pretrained(reference)], device="cpu")
    vectors = model.encode(TEXTS, batch_size=3)
    np.testing.assert_allclose(vectors, raw_vectors(reference), atol=2e-4)
    assert size_of(model) == 32
    assert model.max_seq_length == 512
    assert np.linalg.norm(vectors, axis=1).max() > 1.5  # not normalised


def test_the_encoder_normalises_and_fuses(reference):
    encoder = ExpandREncoder(open_anchordr(str(reference), device="cpu"), device="cpu")
    expected = raw_vectors(reference)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode_docs(TEXTS), expected, atol=2e-4)
    raw = open_anchordr(str(reference), device="cpu", normalize=False)
    np.testing.assert_allclose(raw.encode(TEXTS), raw_vectors(reference), atol=2e-4)


def test_prompts_and_length(reference):
    model = SentenceTransformer(modules=[AnchorDR.from_pretrained(reference, max_seq_length=6)], device="cpu")
    long, cut = model.encode([TEXTS[1], "The quick brown fox"])  # the same first four pieces
    np.testing.assert_allclose(long, cut, atol=2e-4)
    np.testing.assert_allclose(model.encode("world", prompt="hello "), model.encode("hello world"), atol=1e-6)
    for value in (2, 1025):
        with pytest.raises(ValueError, match=f"between 3 and 1024, got {value}"):
            model.max_seq_length = value


def test_round_trips_in_a_fresh_process(reference, tmp_path):
    module = AnchorDR.from_pretrained(reference, max_seq_length=77)
    module.save_pretrained(tmp_path / "module")
    built = open_anchordr(str(reference), device="cpu")
    built.max_seq_length = 77
    built.save_pretrained(str(tmp_path / "st"))
    script = f"""
import sys, numpy as np
from sentence_transformers import SentenceTransformer
from pyterrier_expandr.encoding.models.anchordr import AnchorDR, open_anchordr
texts = {TEXTS!r}
found = [
    SentenceTransformer(modules=[AnchorDR.from_pretrained({str(tmp_path / "module")!r})], device="cpu"),
    open_anchordr({str(tmp_path / "st")!r}, device="cpu"),
    SentenceTransformer({str(tmp_path / "st")!r}, device="cpu", trust_remote_code=True),
]
assert all(model.max_seq_length == 77 for model in found)
np.save({str(tmp_path / "vectors.npy")!r}, np.stack([model.encode(texts) for model in found]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    vectors = np.load(tmp_path / "vectors.npy")
    bare = SentenceTransformer(modules=[module], device="cpu").encode(TEXTS)
    np.testing.assert_array_equal(vectors[0], bare)
    np.testing.assert_array_equal(vectors[1], built.encode(TEXTS))
    np.testing.assert_array_equal(vectors[2], vectors[1])


def test_saved_folders_hold_safetensors_without_copies(reference, tmp_path):
    AnchorDR.from_pretrained(reference).save_pretrained(tmp_path)
    assert not (tmp_path / "pytorch_model.bin").exists()
    names = set(load_file(tmp_path / "model.safetensors"))
    assert "shared.weight" in names and "encoder.embed_tokens.weight" not in names
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "anchordr"


def test_weights_types(reference, tmp_path):
    assert AnchorDR.from_pretrained(reference, dtype=torch.bfloat16).model.dtype == torch.bfloat16
    AnchorDR.from_pretrained(reference, dtype=torch.float16).save_pretrained(tmp_path)
    assert AnchorDR.from_pretrained(tmp_path).model.dtype == torch.float16


def test_copies_and_a_language_model_head_are_ignored(folder):
    expected = raw_vectors(folder)
    change_weights(folder, lambda weights: {**weights, "lm_head.weight": torch.zeros(162, 32)})
    np.testing.assert_array_equal(raw_vectors(folder), expected)
    change_weights(
        folder, lambda weights: {k: v for k, v in weights.items() if "embed_tokens" not in k and "lm" not in k}
    )
    np.testing.assert_array_equal(raw_vectors(folder), expected)


def test_safetensors_come_before_a_pickle(folder):
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    save_file({name: tensor.clone() for name, tensor in weights.items()}, folder / "model.safetensors")
    expected = raw_vectors(folder)
    (folder / "pytorch_model.bin").write_bytes(b"nothing")
    np.testing.assert_array_equal(raw_vectors(folder), expected)


def test_a_checkpoint_without_its_decoder_is_refused(folder):
    change_weights(folder, lambda weights: {k: v for k, v in weights.items() if not k.startswith("decoder.")})
    with pytest.raises(
        ValueError, match=r"(?s)Its decoder is missing.*Missing \(55\): decoder\.pos_embed\.weight"
    ) as caught:
        AnchorDR.from_pretrained(folder)
    assert "decoder.block.1.layer.2.layer_norm.bias" in str(caught.value)
    assert is_anchordr(str(folder))


def test_wrong_names_and_shapes_are_all_listed(folder):
    def change(weights):
        del weights["encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"]
        weights["encoder.final_layer_norm.weight"] = torch.ones(32)
        weights["decoder.pos_embed.weight"] = torch.zeros(1025, 32)
        return weights

    change_weights(folder, change)
    with pytest.raises(ValueError) as caught:
        AnchorDRModel.from_pretrained(folder)
    message = str(caught.value)
    assert "Missing (1): encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight" in message
    assert "Unknown (1): encoder.final_layer_norm.weight" in message
    assert "decoder.pos_embed.weight (1025, 32) instead of (1026, 32)" in message


@pytest.mark.parametrize("kind", [T5Model, T5EncoderModel])
def test_a_stock_t5_is_refused(folder, kind):
    config = T5Config(
        vocab_size=162, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=1, layer_norm_epsilon=1e-5
    )
    (folder / "pytorch_model.bin").unlink()
    kind(config).save_pretrained(folder)
    with pytest.raises(ValueError, match="it has plain T5 weights"):
        AnchorDR.from_pretrained(folder)
    assert not is_anchordr(str(folder))


def test_what_is_anchordr(reference, minilm, tmp_path):
    assert is_anchordr(str(reference))
    AnchorDR.from_pretrained(reference).save_pretrained(tmp_path)
    assert is_anchordr(str(tmp_path))
    assert not is_anchordr(minilm)
    assert not is_anchordr(str(FIXTURES))


def test_a_pickle_with_code_is_not_run(folder, tmp_path):
    class Payload:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"shared.weight": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"could run code.*model\.safetensors"):
        AnchorDR.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"x" * 400])
def test_damaged_weights(folder, file, content):
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read as weights|could run code"):
        AnchorDRModel.from_pretrained(folder)


def test_a_file_that_is_no_state_dict(folder):
    torch.save([torch.zeros(2)], folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="must contain a state dict, not a list"):
        AnchorDRModel.from_pretrained(folder)


def test_incomplete_folders(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    for change, message in (
        ({"pad_token_id": 0}, "pad_token_id must be between"),
        ({"model_type": "bert"}, "is a 'bert' model"),
        ({"d_model": "32"}, "config.json of .*d_model"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(ValueError, match=message):
            AnchorDR.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "pad_token_id"}))
    with pytest.raises(ValueError, match="pad_token_id must be between"):  # T5's default is 0
        AnchorDR.from_pretrained(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="must contain a JSON object, not a list"):
        AnchorDR.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        AnchorDR.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match="has no weights: neither"):
        AnchorDR.from_pretrained(folder)
    with pytest.raises(
        ValueError, match=r"no AnchorDR tokenizer: sp\.model, dict\.txt, tokenizer_config\.json missing"
    ):
        AnchorDR.from_pretrained(FIXTURES / "small_relu")
    with pytest.raises(ValueError, match="no config.json"):
        AnchorDRModel.from_pretrained(FIXTURES)
    with pytest.raises(ValueError, match="cannot open"):
        AnchorDR.from_pretrained(tmp_path / "nowhere")


def test_a_tokenizer_of_another_size_is_refused():
    tokenizer = AnchorDRTokenizer.from_pretrained(FIXTURES / "tokenizer")
    with pytest.raises(ValueError, match="162 ids .* 100 embeddings"):
        AnchorDR.from_pretrained(FIXTURES / "small_relu", tokenizer=tokenizer)


def test_foreign_modules_beside_it_are_refused(reference, tmp_path):
    open_anchordr(str(reference), device="cpu").save_pretrained(str(tmp_path))
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[1]["type"] = "evil.Module"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r"not this package's own and were not expected: \['evil.Module'\]"):
        open_anchordr(str(tmp_path))


def test_a_downloaded_hub_model_opens_offline(tmp_path):
    commit = "a" * 40
    repository = tmp_path / "hub" / "models--owner--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    build_tiny_anchordr(repository / "snapshots" / commit)
    script = """
from pyterrier_expandr.encoding.models.anchordr import AnchorDR, open_anchordr
assert open_anchordr("owner/tiny", device="cpu").encode("a text").shape == (32,)
try:
    AnchorDR.from_pretrained("owner/absent")
except ValueError as error:
    assert "among those downloaded before" in str(error)
else:
    raise SystemExit("an absent model was opened")
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
