"""The stages of the package, each as a command on tiny models, with inputs that are made once."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyterrier_expandr.collections import pocket
from tests.crash.children import command, finished


@dataclass(frozen=True)
class Stage:
    """A command that writes into a folder.

    Attributes:
        name: as the table shows it.
        arguments: (folder of the inputs, folder to write into) -> arguments of `expandr`.
        inputs: what it reads, of `INPUTS`.
        before: run in the folder before it is copied for a round; a command, as above.
        imports: modules that are imported once, before children are forked.
    """

    name: str
    arguments: Callable[[Path, Path], list[Any]]
    inputs: tuple[str, ...] = ()
    before: Callable[[Path, Path], list[Any]] | None = None
    imports: tuple[str, ...] = (
        "torch",
        "transformers",
        "sentence_transformers",
        "faiss",
        "pyterrier_expandr.cli.commands",
    )


def _llm(folder):
    from tests.tiny import build_tiny_llama

    build_tiny_llama(folder)


def _bert(folder):
    from tests.tiny_encoder import build_tiny_bert, open_tiny

    build_tiny_bert(folder / "bare")
    open_tiny(str(folder / "bare")).save_pretrained(str(folder), create_model_card=False)
    shutil.rmtree(folder / "bare")


def _pairs(folder):
    from pyterrier_expandr.expansion.prompts import PROMPTS, render

    folder.mkdir()
    rows = [
        {
            "query_id": str(i),
            "prompt": list(render(PROMPTS["q2d"], query=f"question {i}")),
            "chosen": [{"role": "assistant", "content": f"Short waves of light are scattered, {i}."}],
            "rejected": [{"role": "assistant", "content": f"sky why {i} sky"}],
        }
        for i in range(20)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _adapter(folder):
    from tests.training.expander.test_merge import make_adapter

    make_adapter(str(folder.parent / "llm"), folder)


def _recipe(folder):
    import yaml

    from tests.training.recipe.test_recipe import TINY

    folder.mkdir()
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"encoder": str(folder.parent / "bert")}))


def _many(folder):
    """A folder in BEIR format with three commits of documents."""
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{i}", "title": "", "text": f"waves of light {i}"} for i in range(2500)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "1", "text": "why is the sky blue"}) + "\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\td1\t1\n")


def _index(folder):
    command(*_index_into(folder.parent, folder, "Flat"))()


def _results(folder):
    command(*_experiment(folder.parent, folder))()


#: what stages read: name -> function that makes it in a folder of that name
INPUTS = {
    "llm": _llm,
    "bert": _bert,
    "pairs": _pairs,
    "adapter": _adapter,
    "recipe": _recipe,
    "many": _many,
    "index": _index,
    "results": _results,
}
NEEDS = {"adapter": ("llm",), "recipe": ("bert",), "index": ("bert",), "results": ("bert",)}


def _index_into(inputs, out, factory, *more, collection="pocket"):
    return [
        *("index", "--collection", collection, "--encoder", inputs / "bert", "--index", out / "i"),
        *("--factory", factory, "--device", "cpu", "--batch-size", 16, *more),
    ]


def _expand(inputs, out):
    return [
        *("expand", "--collection", "pocket", "--llm", f"{inputs / 'llm'}?batch_size=4", "--out", out / "e.jsonl"),
        *("--n", 2, "--max-new-tokens", 16, "--limit", 12, "--device", "cpu"),
    ]


def _pairs_into(inputs, out):
    return [
        *("train", "pairs", "--dataset", "pocket", "--llm", inputs / "llm", "--encoder", inputs / "bert"),
        *("--limit", 12, "--threshold", -1, "--choose-truncated", "--temperature", 0.8, "--temperature", 1.1),
        *("--samples", 2, "--max-new-tokens", 12, "--device", "cpu", "--out", out / "pairs"),
    ]


def _expander(inputs, out):
    return [
        *("train", "expander", "--base", inputs / "llm", "--pairs", inputs / "pairs" / "pairs.jsonl"),
        *("--out", out / "adapter", "--learning-rate", 2e-3, "--batch-size", 4, "--evaluations", 5),
        *("--report-prompts", 2, "--report-tokens", 8),
    ]


def _merge(inputs, out):
    return ["train", "merge", "--adapter", inputs / "adapter", "--out", out / "merged", "--device", "cpu"]


def _retriever(inputs, out):
    return [
        *("train", "retriever", "--data", "pocket", "--expansions", pocket().expansions_path),
        *("--base", inputs / "bert", "--out", out / "retriever", "--batch-size", 8, "--epochs", 2),
        *("--max-length", 64, "--learning-rate", 1e-3, "--dev-fraction", 0.2, "--evaluations", 5),
        *("--mini-batch-size", 8, "--device", "cpu"),
    ]


def _student(inputs, out):
    return [
        *("train", "student", "--teacher", inputs / "bert", "--queries", "pocket", "--batch-size", 8),
        *("--expansions", pocket().expansions_path, "--out", out / "student", "--epochs", 3, "--checkpoints", 5),
        *("--learning-rate", 2e-3, "--device", "cpu"),
    ]


def _experiment(inputs, out):
    return [
        *("experiment", "--collection", "pocket", "--out", out / "results", "--device", "cpu"),
        *("--system", "BM25=bm25", "--system", f"dense={inputs / 'bert'}"),
        *("--system", f"ExpandR={inputs / 'bert'}+{pocket().expansions_path}", "--num-results", 100),
    ]


def _report(inputs, out):
    return ["report", inputs / "results" / "results", "--format", "html", "--out", out / "report.html"]


def _explore(inputs, out):
    return [
        *("explore", inputs / "results" / "results", "--baseline", "dense", "--maps", 20, "--device", "cpu"),
        *("--out", out / "explore.html"),
    ]


def _tune(inputs, out):
    return [
        *("tune", "--collection", "pocket", "--split", "train", "--index", inputs / "index" / "i"),
        *("--expansions", pocket().expansions_path, "--out", out / "tuned.json", "--device", "cpu", "--n", 1),
    ]


def _run(inputs, out):
    return ["train", "run", inputs / "recipe" / "tiny.yaml", "--folder", out / "runs", "--device", "cpu"]


def _create(factory):
    return lambda inputs, out: _index_into(inputs, out, factory)


def _resume(factory):
    return lambda inputs, out: _index_into(inputs, out, factory, collection=inputs / "many")


def _overwrite(factory):
    return lambda inputs, out: _index_into(inputs, out, factory, "--mode", "overwrite", "--max-length", 32)


#: Those of pocket are committed once, at the end; a build that is "resumed" makes three commits between which it is killed.
FACTORIES = {"Flat": "Flat", "IVF": "IVF4,Flat", "HNSW": "HNSW16"}
TRAINING = (*Stage.imports, "trl", "peft", "datasets", "accelerate")
STAGES = {
    stage.name: stage
    for stage in (
        Stage("expand", _expand, ("llm",)),
        *(Stage(f"index {name}", _create(factory), ("bert",)) for name, factory in FACTORIES.items()),
        *(Stage(f"index {name}, resumed", _resume(factory), ("bert", "many")) for name, factory in FACTORIES.items()),
        *(
            Stage(f"index {name}, overwritten", _overwrite(factory), ("bert",), before=_create("Flat"))
            for name, factory in FACTORIES.items()
        ),
        Stage("index --lexical", lambda i, o: _index_into(i, o, "Flat", "--lexical"), ("bert",)),
        Stage("pairs", _pairs_into, ("llm", "bert"), imports=TRAINING),
        Stage("expander", _expander, ("llm", "pairs"), imports=TRAINING),
        Stage("merge", _merge, ("llm", "adapter"), imports=TRAINING),
        Stage("retriever", _retriever, ("bert",), imports=TRAINING),
        Stage("student", _student, ("bert",), imports=TRAINING),
        Stage("recipe", _run, ("bert", "recipe"), imports=TRAINING),
        Stage("experiment", _experiment, ("bert",)),
        Stage("report", _report, ("bert", "results")),
        Stage("tune", _tune, ("bert", "index")),
        Stage("explore", _explore, ("bert", "results")),
    )
}


def make_inputs(stage, inputs):
    """Make what a stage reads, in children, so that this process stays as it is."""
    for name in stage.inputs:
        if not (inputs / name).exists():
            for needed in NEEDS.get(name, ()):
                assert (inputs / needed).exists(), f"{stage.name} must list {needed} before {name}"
            finished(lambda name=name: INPUTS[name](inputs / name))
