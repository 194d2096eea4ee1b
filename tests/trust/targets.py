"""What is fuzzed: each reader with a strategy for its input and a function that feeds it."""

import json
import shutil
from itertools import count
from pathlib import Path

import yaml
from hypothesis import strategies as st

from pyterrier_expandr import ExpandR, HuggingFaceBackend, RecordedExpander
from pyterrier_expandr.collections import beir_folder
from pyterrier_expandr.common.records.manifest import sealed
from pyterrier_expandr.encoding.registry import load_encoder
from pyterrier_expandr.evaluation.beir_collections import resolve
from pyterrier_expandr.expansion.backends.opening import open_backend
from pyterrier_expandr.systems.settings import HybridSettings, TunedSettings
from pyterrier_expandr.training.data.examples import examples_from_jsonl
from pyterrier_expandr.training.preferences import read_pairs
from pyterrier_expandr.training.recipe.recipe import read_recipe
from tests.encoders_tiny import build_bert
from tests.trust.fuzzing import mutated_bytes, mutated_json, strings
from tests.trust.small import WRITTEN, read_results, search_index, small_index, small_results, small_system

RECIPE = Path(__file__).parents[2] / "recipes" / "pocket.yaml"


def targets(folder, tiny_llama):
    """name -> (strategy, function of one input)."""
    return {
        **_collections(folder),
        **_settings(folder),
        **_training(folder),
        **_results(folder),
        **_systems(folder),
        **_adapters(folder, tiny_llama),
        **_names(),
    }


def _collections(folder):
    beir = Path(shutil.copytree(WRITTEN / "beir", folder / "beir"))
    collection = beir_folder(beir)
    passages = b'{"query_id": "1", "query": "why", "passages": ["air", "light"]}\n' * 3
    return {
        "corpus": _bytes_of(beir / "corpus.jsonl", lambda: list(collection.get_corpus_iter())),
        "queries": _bytes_of(beir / "queries.jsonl", collection.get_topics),
        "qrels": _bytes_of(beir / "qrels" / "test.tsv", collection.get_qrels),
        "recorded passages": (mutated_bytes(passages), _new_file(folder, "passages.jsonl", RecordedExpander)),
    }


def _settings(folder):
    tuned = folder / "tuned.json"
    TunedSettings(n=2, fusion=0.5, hybrid=HybridSettings()).save(tuned)
    recipe = yaml.safe_load(RECIPE.read_text())
    return {
        "tuned settings": _record_of(tuned, lambda: TunedSettings.load(tuned)),
        "tuned settings, bytes": _bytes_of(tuned, lambda: TunedSettings.load(tuned)),
        "recipe": (mutated_json(recipe), _new_file(folder, "recipe.yaml", read_recipe, _yaml)),
        "recipe, bytes": (mutated_bytes(RECIPE.read_bytes()), _new_file(folder, "recipe.yaml", read_recipe)),
    }


def _training(folder):
    pairs, examples = WRITTEN / "pairs" / "pairs.jsonl", WRITTEN / "pairs" / "examples.jsonl"
    return {
        "preference pairs": (
            mutated_bytes(pairs.read_bytes()),
            _new_file(folder, "pairs.jsonl", lambda path: list(read_pairs(path))),
        ),
        "training rows": (
            mutated_bytes(examples.read_bytes()),
            _new_file(folder, "examples.jsonl", lambda path: list(examples_from_jsonl(path))),
        ),
    }


def _results(folder):
    results = small_results(folder / "results")
    experiment, cell = results / "experiment.json", results / "one" / "eight" / "cell.json"
    return {
        "experiment": _record_of(experiment, lambda: read_results(results)),
        "experiment, bytes": _bytes_of(experiment, lambda: read_results(results)),
        "cell": _record_of(cell, lambda: read_results(results)),
    }


def _systems(folder):
    index = Path(small_index(folder / "index").path)
    system = small_system(folder / "system", build_bert(folder / "bert"))
    record = system / "expandr_system.json"
    return {
        "index record": _record_of(index / "expandr_faiss.json", lambda: search_index(index)),
        "system record": _record_of(record, lambda: ExpandR.load(system, device="cpu")),
        "system record, bytes": _bytes_of(record, lambda: ExpandR.load(system, device="cpu")),
    }


def _adapters(folder, tiny_llama):
    adapter = Path(shutil.copytree(WRITTEN / "adapter", folder / "adapter"))
    config = adapter / "adapter_config.json"

    def opened(llm):
        return HuggingFaceBackend(llm, adapter=adapter, device="cpu")

    return {
        "adapter": _bytes_of(config, lambda: opened(tiny_llama)),
        "adapter, opened": _record_of(config, lambda: opened(WRITTEN / "llm").load()),
    }


def _names():
    beginnings = ["", "hf:", "vllm:", "openai:", "openai:m@http://h/v1?", "hf:x?", "x"]
    return {
        "backend names": (st.tuples(st.sampled_from(beginnings), strings).map("".join), open_backend),
        "encoder names": (strings, load_encoder),
        "collection names": (strings, resolve),
    }


def _bytes_of(path, use):
    """Mutations of a file, each written in its place before `use`."""
    content = path.read_bytes()
    return mutated_bytes(content), _in_place(path, use, bytes)


def _record_of(path, use):
    """Mutations of a record whose seal is right, as a hostile writer would make them."""
    content = json.loads(path.read_text())
    content.pop("seal", None)
    return mutated_json(content), _in_place(path, use, _sealed)


def _sealed(value):
    return json.dumps(sealed(value) if isinstance(value, dict) else value).encode()


def _in_place(path, use, dump):
    """Feeds a value as the content of a file, which gets its own content back."""
    content = path.read_bytes()

    def run(value):
        path.write_bytes(dump(value))
        try:
            use()
        finally:
            path.write_bytes(content)

    return run


def _new_file(folder, name, use, dump=bytes):
    """Feeds a value as the content of a file of a new name."""
    numbers = count()

    def run(value):
        path = folder / f"{next(numbers)}.{name}"
        path.write_bytes(dump(value))
        use(path)
        path.unlink()

    return run


def _yaml(value):
    return yaml.safe_dump(json.loads(json.dumps(value))).encode("utf-8", "surrogatepass")
