"""What is fuzzed: each reader with a strategy for its input and a function that feeds it."""

import json
import shutil
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from hypothesis import strategies as st

from pyterrier_expandr import ExpandR, ExpandREncoder, FaissIndex, HuggingFaceBackend, RecordedExpander
from pyterrier_expandr.collections import beir_folder
from pyterrier_expandr.common.records.manifest import sealed
from pyterrier_expandr.encoding.registry import load_encoder
from pyterrier_expandr.evaluation import Results
from pyterrier_expandr.evaluation.beir_collections import resolve
from pyterrier_expandr.evaluation.result_store import ResultStore
from pyterrier_expandr.expansion.backends.opening import open_backend
from pyterrier_expandr.systems.settings import HybridSettings, TunedSettings
from pyterrier_expandr.training.data.examples import examples_from_jsonl
from pyterrier_expandr.training.preferences import read_pairs
from pyterrier_expandr.training.recipe.recipe import read_recipe
from tests.encoders_tiny import build_bert
from tests.trust.fuzzing import mutated_bytes, mutated_json, strings

WRITTEN = Path(__file__).parents[1] / "fixtures" / "written_before_rooms"
RECIPE = Path(__file__).parents[2] / "recipes" / "pocket.yaml"
DIM = 8


def small_index(folder):
    """An index of 40 documents."""
    vectors = np.random.default_rng(0).normal(size=(40, DIM)).astype(np.float32)
    docs = ({"docno": f"document-{n}", "doc_vec": vector} for n, vector in enumerate(vectors))
    return FaissIndex(folder).index(docs)


def small_results(folder):
    """An experiment of two systems on one collection, each with a ranking."""
    store = ResultStore(folder, ["one", "two"], ["eight"], ["nDCG@10"], {"num_results": 1000, "split": "test"})
    qids = [f"q{n}" for n in range(20)]
    for number, system in enumerate(["one", "two"], 1):
        run = pd.DataFrame(
            [(q, f"d{n}", n, 1 / (n + number)) for q in qids for n in range(10)],
            columns=["qid", "docno", "rank", "score"],
        )
        per_query = pd.DataFrame({"qid": qids, "measure": "nDCG@10", "value": np.linspace(0.1, 1, 20) / number})
        record = {
            "fingerprint": "f",
            "means": {"nDCG@10": 0.55 / number},
            "n_queries": 20,
            "queries_without_results": 0,
            "seconds": 1.0,
        }
        store.save_run(system, "eight", run)
        store.commit(system, "eight", per_query, record)
    return folder


def small_system(folder, encoder):
    """A saved system with a tiny encoder, an index and recorded passages."""
    index = FaissIndex(folder.with_name(f"{folder.name}.faiss"))
    model = ExpandREncoder(encoder, device="cpu", pooling="mean", normalize=True)
    recorded = RecordedExpander([{"query_id": "1", "query": "why is the sky blue", "passage": "air scatters light"}])
    corpus = [{"docno": f"d{n}", "text": f"short waves of light {n}"} for n in range(20)]
    ExpandR(recorded, model, index).index(corpus).save(folder)
    return folder


def read_results(folder):
    """Everything that results say."""
    results = Results.load(folder)
    return (
        results.means(),
        results.per_query,
        [results.run(s, c) for s, c in zip(results.cells["system"], results.cells["collection"], strict=True)],
    )


def search_index(folder):
    """Open an index, search it, and verify it."""
    index = FaissIndex(folder)
    query = pd.DataFrame({"qid": ["1"], "query_vec": [np.ones(DIM, np.float32)]})
    found = index.retriever(num_results=3).transform(query)
    index.verify()
    return found


def targets(folder, tiny_llama):
    """name -> (strategy, function of one input)."""
    numbers = count()
    beir = Path(shutil.copytree(WRITTEN / "beir", folder / "beir"))
    encoder = build_bert(folder / "bert")
    index, results = Path(small_index(folder / "index").path), small_results(folder / "results")
    system = small_system(folder / "system", encoder)
    cell = results / "one" / "eight" / "cell.json"
    tuned = folder / "tuned.json"
    TunedSettings(n=2, fusion=0.5, hybrid=HybridSettings()).save(tuned)

    def of_file(path, use, data=None):
        """Mutations of a file, each written in its place before `use`."""
        content = path.read_bytes() if data is None else data

        def run(mutated):
            path.write_bytes(mutated)
            try:
                use()
            finally:
                path.write_bytes(content)

        return mutated_bytes(content), run

    def of_record(path, use):
        """Mutations of a record whose seal is right, as a hostile writer would make them."""
        content = path.read_text()

        def run(mutated):
            path.write_text(json.dumps(sealed(mutated) if isinstance(mutated, dict) else mutated))
            try:
                use()
            finally:
                path.write_text(content)

        return mutated_json({name: value for name, value in json.loads(content).items() if name != "seal"}), run

    def new(suffix):
        return folder / f"{next(numbers)}{suffix}"

    def written(suffix, use, dump):
        def run(value):
            path = new(suffix)
            path.write_bytes(dump(value))
            use(path)
            path.unlink()

        return run

    recipe = yaml.safe_load(RECIPE.read_text())
    adapter = Path(shutil.copytree(WRITTEN / "adapter", folder / "adapter"))
    config = adapter / "adapter_config.json"
    expansions = b'{"query_id": "1", "query": "why", "passages": ["air", "light"]}\n' * 3
    collection = beir_folder(beir)

    def dump_yaml(value):
        return yaml.safe_dump(json.loads(json.dumps(value))).encode("utf-8", "surrogatepass")

    return {
        "corpus": of_file(beir / "corpus.jsonl", lambda: list(collection.get_corpus_iter())),
        "queries": of_file(beir / "queries.jsonl", collection.get_topics),
        "qrels": of_file(beir / "qrels" / "test.tsv", collection.get_qrels),
        "recorded passages": (mutated_bytes(expansions), written(".jsonl", RecordedExpander, bytes)),
        "tuned settings": of_record(tuned, lambda: TunedSettings.load(tuned)),
        "tuned settings, bytes": of_file(tuned, lambda: TunedSettings.load(tuned)),
        "recipe": (mutated_json(recipe), written(".yaml", read_recipe, dump_yaml)),
        "recipe, bytes": (mutated_bytes(RECIPE.read_bytes()), written(".yaml", read_recipe, bytes)),
        "preference pairs": (
            mutated_bytes((WRITTEN / "pairs" / "pairs.jsonl").read_bytes()),
            written(".jsonl", lambda path: list(read_pairs(path)), bytes),
        ),
        "training rows": (
            mutated_bytes((WRITTEN / "pairs" / "examples.jsonl").read_bytes()),
            written(".jsonl", lambda path: list(examples_from_jsonl(path)), bytes),
        ),
        "experiment": of_record(results / "experiment.json", lambda: read_results(results)),
        "experiment, bytes": of_file(results / "experiment.json", lambda: read_results(results)),
        "cell": of_record(cell, lambda: read_results(results)),
        "index record": of_record(index / "expandr_faiss.json", lambda: search_index(index)),
        "system record": of_record(system / "expandr_system.json", lambda: ExpandR.load(system, device="cpu")),
        "system record, bytes": of_file(system / "expandr_system.json", lambda: ExpandR.load(system, device="cpu")),
        "backend names": (
            st.tuples(
                st.sampled_from(["", "hf:", "vllm:", "openai:", "openai:m@http://h/v1?", "hf:x?", "x"]), strings
            ).map("".join),
            open_backend,
        ),
        "encoder names": (strings, load_encoder),
        "collection names": (strings, lambda name: resolve(name)),
        "adapter": of_file(config, lambda: HuggingFaceBackend(tiny_llama, adapter=adapter, device="cpu")),
        "adapter, opened": of_record(
            config, lambda: HuggingFaceBackend(WRITTEN / "llm", adapter=adapter, device="cpu").load()
        ),
    }
