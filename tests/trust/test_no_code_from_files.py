"""Models, adapters and tokenizers from a stranger: no Python of theirs runs, and no pickle is opened."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from pyterrier_expandr import ExpandR, ExpandREncoder, FaissIndex, HuggingFaceBackend, LLMExpander
from pyterrier_expandr.analysis.lengths import expansion_lengths
from pyterrier_expandr.common.records.manifest import sealed
from pyterrier_expandr.encoding.models.anchordr import AnchorDR
from pyterrier_expandr.encoding.models.dpr import DPRTower
from pyterrier_expandr.encoding.models.own_modules import has_own_modules
from pyterrier_expandr.training.expander.merge import merge_adapter
from tests.anchordr_tiny import build_tiny_anchordr
from tests.encoders_tiny import build_bert, with_modules

WRITTEN = Path(__file__).parents[1] / "fixtures" / "written_before_rooms"
OURS = "pyterrier_expandr.encoding.models.anchordr.AnchorDR"


def hostile(folder: Path, canary: Path, *, model_type: str | None = None) -> Path:
    """`folder` with code that leaves a file when it is imported, named by every configuration that can name code."""
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\nclass Evil: pass\nclass EvilConfig: pass\n")
    autos = "AutoConfig AutoModel AutoModelForCausalLM AutoModelForSequenceClassification".split()
    for file in ("config.json", "tokenizer_config.json"):
        path = folder / file
        config = json.loads(path.read_text()) if path.is_file() else {}
        config["auto_map"] = {name: "evil.EvilConfig" if name == "AutoConfig" else "evil.Evil" for name in autos}
        config["auto_map"]["AutoTokenizer"] = ["evil.Evil", "evil.Evil"]
        if model_type is not None and file == "config.json":
            config["model_type"] = model_type
        if model_type is not None and file == "tokenizer_config.json":
            config["tokenizer_class"] = "Evil"
        path.write_text(json.dumps(config))
    return folder


def tried(open_it):
    """Open it; an error must be one of ours, a ValueError in words."""
    try:
        open_it()
    except ValueError as error:
        return str(error)
    return ""


@pytest.fixture
def no_questions(monkeypatch):
    """transformers asks on the terminal where nothing was decided: that would be a question, so it fails."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the user was asked"))


@pytest.mark.parametrize("model_type", [None, "evil"], ids=["a known architecture", "its own architecture"])
@pytest.mark.usefixtures("no_questions")
class TestNoCodeRuns:
    def test_of_an_encoder(self, tmp_path, model_type):
        bare = hostile(Path(build_bert(tmp_path / "bare")), tmp_path / "ran", model_type=model_type)
        tried(lambda: ExpandREncoder(bare, device="cpu", pooling="mean", normalize=True).encode_docs(["sky"]))
        saved = tmp_path / "saved"
        SentenceTransformer(with_modules(build_bert(tmp_path / "two"), "mean"), device="cpu").save_pretrained(
            str(saved)
        )
        hostile(saved, tmp_path / "ran", model_type=model_type)
        tried(lambda: ExpandREncoder(saved, device="cpu").encode_docs(["sky"]))
        assert not (tmp_path / "ran").exists()

    def test_of_a_language_model_and_its_tokenizer(self, tmp_path, model_type, tiny_llama):
        llm = hostile(Path(shutil.copytree(tiny_llama, tmp_path / "llm")), tmp_path / "ran", model_type=model_type)
        backend = HuggingFaceBackend(llm, device="cpu")
        said = [tried(lambda: backend.tokenizer), tried(backend.load)]
        assert model_type is None or all("cannot open the language model" in text for text in said)
        tried(lambda: expansion_lengths({}, llm))
        assert not (tmp_path / "ran").exists()

    def test_of_an_adapter_s_base(self, tmp_path, model_type):
        base = hostile(
            Path(shutil.copytree(WRITTEN / "llm", tmp_path / "llm")), tmp_path / "ran", model_type=model_type
        )
        adapter = Path(shutil.copytree(WRITTEN / "adapter", tmp_path / "adapter"))
        config = json.loads((adapter / "adapter_config.json").read_text())
        code = {"base_model_class": "Evil", "parent_library": "evil"}
        config |= {"base_model_name_or_path": str(base), "auto_mapping": code}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        record = json.loads((adapter / "expander.json").read_text())
        record["settings"] |= {"trust_remote_code": True, "base_fingerprint": {}}
        record["base"] = str(base)
        (adapter / "expander.json").write_text(json.dumps(record))
        tried(lambda: HuggingFaceBackend(base, adapter=adapter, device="cpu").load())
        tried(lambda: merge_adapter(adapter, tmp_path / "merged", device="cpu"))
        assert not (tmp_path / "ran").exists()

    def test_beside_modules_of_this_package(self, tmp_path, model_type, monkeypatch):
        monkeypatch.setenv("EXPANDR_ALLOW_PICKLE", "1")
        folder = tmp_path / "st"
        AnchorDR.from_pretrained(build_tiny_anchordr(tmp_path / "reference")).save_pretrained(folder)
        modules = [{"idx": 0, "name": "0", "path": "", "type": OURS}]
        (folder / "modules.json").write_text(json.dumps(modules))
        hostile(folder, tmp_path / "ran", model_type=None)
        (folder / "pyterrier_expandr.py").write_text((folder / "evil.py").read_text())
        tried(lambda: ExpandREncoder(folder, device="cpu").encode_docs(["sky"]))
        assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("inside", ["router", "activation", "nested router"])
def test_trusted_modules_cannot_bring_others_along(tmp_path, inside):
    """A folder with a module of ours is opened with trust; what else it names must be plain."""
    kind = (
        "sentence_transformers.base.modules.Dense"
        if inside == "activation"
        else "sentence_transformers.base.modules.Router"
    )
    modules = [{"idx": 0, "path": "", "type": OURS}, {"idx": 1, "path": "1_More", "type": kind}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_More").mkdir()
    (tmp_path / "1_More" / "config.json").write_text(json.dumps({"activation_function": "os.getcwd"}))
    inner = kind if inside == "nested router" else "evil.Evil"
    (tmp_path / "1_More" / "router_config.json").write_text(json.dumps({"types": {"query_0": inner}}))
    with pytest.raises(ValueError, match=r"not expected"):
        has_own_modules(str(tmp_path))


def as_pickle(folder: Path) -> str:
    """Weights as PyTorch saves them, instead of safetensors; the name of the file."""
    from safetensors.torch import load_file

    (safe,) = folder.glob("*.safetensors")
    name = "adapter_model.bin" if safe.stem == "adapter_model" else "pytorch_model.bin"
    torch.save(load_file(safe), folder / name)
    safe.unlink()
    return name


def openers(tmp_path, tiny_llama):
    """(what, its folder with a pickle, how it is opened)"""
    bert = Path(build_bert(tmp_path / "bert"))
    modules = [Transformer(str(bert)), Pooling(32, "mean"), Dense(32, 8)]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / "dense"))
    dense = next((tmp_path / "dense").glob("*Dense"))
    llm = Path(shutil.copytree(tiny_llama, tmp_path / "llm"))
    adapter = Path(shutil.copytree(WRITTEN / "adapter", tmp_path / "adapter"))
    yield bert, lambda: ExpandREncoder(bert, device="cpu", pooling="mean", normalize=True).encode_docs(["sky"])
    yield dense, lambda: ExpandREncoder(dense.parent, device="cpu").encode_docs(["sky"])
    yield bert, lambda: DPRTower.from_pretrained(bert, "question")
    yield llm, lambda: HuggingFaceBackend(llm, device="cpu").load()
    yield adapter, lambda: HuggingFaceBackend(WRITTEN / "llm", adapter=adapter, device="cpu").load()


def test_weights_in_a_pickle_are_refused_by_name_unless_allowed(tmp_path, tiny_llama, monkeypatch):
    for folder, open_it in openers(tmp_path, tiny_llama):
        name = as_pickle(folder) if list(folder.glob("*.safetensors")) else "pytorch_model.bin"
        with pytest.raises(ValueError, match=rf"{name}' is not opened, because a pickle .* EXPANDR_ALLOW_PICKLE=1"):
            open_it()
        monkeypatch.setenv("EXPANDR_ALLOW_PICKLE", "1")
        said = tried(open_it)
        assert not said or "is not a DPR question encoder" in said
        monkeypatch.delenv("EXPANDR_ALLOW_PICKLE")


def test_anchordr_in_a_pickle_is_refused_by_name(tmp_path):
    folder = build_tiny_anchordr(tmp_path / "reference")
    for open_it in (lambda: AnchorDR.from_pretrained(folder), lambda: ExpandREncoder(folder).encode_docs(["sky"])):
        with pytest.raises(ValueError, match=r"pytorch_model.bin' is not opened, because a pickle"):
            open_it()


def test_a_pickle_beside_safetensors_is_left_alone(tmp_path):
    bert = Path(build_bert(tmp_path / "bert"))
    (bert / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n.")
    assert ExpandREncoder(bert, device="cpu", pooling="mean", normalize=True).encode_docs(["sky"]).shape == (1, 32)


def test_a_system_s_record_cannot_switch_on_trust(tmp_path, tiny_llama):
    encoder = ExpandREncoder(Path(build_bert(tmp_path / "bert")), device="cpu", pooling="mean", normalize=True)
    llm = hostile(Path(shutil.copytree(tiny_llama, tmp_path / "llm")), tmp_path / "ran", model_type="evil")
    index = FaissIndex(tmp_path / "i")
    (encoder.doc_encoder() >> index).index([{"docno": "1", "text": "sky"}])
    ExpandR(LLMExpander(HuggingFaceBackend(llm, device="cpu")), encoder, index).save(tmp_path / "system")
    path = tmp_path / "system" / "expandr_system.json"
    record = json.loads(path.read_text())
    for part in (record["expander"]["place"], record["encoder"], record["expander"]):
        part["trust_remote_code"] = True
    path.write_text(json.dumps(sealed(record)))
    system = ExpandR.load(tmp_path / "system", device="cpu")
    assert not system.encoder.trust_remote_code and not system.expander.backend.trust_remote_code
    tried(system.expander.backend.load)
    assert not (tmp_path / "ran").exists()
