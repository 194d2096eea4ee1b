import json
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense

from pyterrier_expandr import ExpandREncoder, FaissIndex, RecordedExpander
from pyterrier_expandr.cli.retrieve import search
from pyterrier_expandr.cli.train.student import student as train_student_command
from pyterrier_expandr.collections import pocket
from pyterrier_expandr.evaluation.beir_collections import resolve
from pyterrier_expandr.systems.expandr import ExpandR
from pyterrier_expandr.training.student import StudentConfig, StudentLoss, train_student
from pyterrier_expandr.training.student.losses import Judged
from tests.tiny_encoder import build_tiny_bert, open_tiny

PASSAGES = str(pocket().expansions_path)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Two saved encoders with one architecture and other weights; the first has dropout."""
    folder = tmp_path_factory.mktemp("encoders")
    for seed in (0, 1):
        bare = build_tiny_bert(folder / f"bare{seed}", seed=seed, dropout=0.1 * (1 - seed))
        open_tiny(bare).save(str(folder / f"bert{seed}"))
    return folder


@pytest.fixture(scope="module")
def index(encoders, tmp_path_factory):
    """The first encoder's index of pocket."""
    index = FaissIndex(tmp_path_factory.mktemp("index") / "pocket.faiss")
    encoder = ExpandREncoder(encoders / "bert0", device="cpu")
    (encoder.doc_encoder() >> index).index(pocket().get_corpus_iter())
    return index


def config(encoders, out, **options):
    """Pocket's 31 training queries in batches of 8: four steps an epoch."""
    settings = {"queries": "pocket", "expansions": PASSAGES, "batch_size": 8, "epochs": 3, "learning_rate": 2e-3}
    settings |= {"teacher": str(encoders / "bert0"), "device": "cpu", "checkpoints": 3, "contrastive_weight": 0}
    return StudentConfig(**{**settings, "out": str(out), **options})


@pytest.fixture(scope="module")
def student(encoders, index, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "student"
    return train_student(config(encoders, out, contrastive_weight=0.1, index=str(index.folder)))


def record(out):
    return json.loads((out / "student.json").read_text())


def weights(out, side):
    return load_file(next(out.rglob(f"{side}_0_*")) / "model.safetensors")


# --- what is learnt


def test_the_loss_is_the_formula():
    torch.manual_seed(0)
    vectors, targets, documents = torch.randn(3, 4), torch.randn(5, 4), torch.randn(4, 4)
    rows = torch.tensor([4, 0, 2])
    relevant = [[0, 3], [], [1], [], [2]]  # of rows 0 to 4: row 4 has document 2, row 0 has 0 and 3, row 2 has 1
    model = SentenceTransformer(modules=[Dense(4, 4)], device="cpu")
    cosine = 1 - torch.cosine_similarity(vectors, targets[rows]).mean()
    squared = ((vectors - targets[rows]) ** 2).mean()
    scores = vectors @ documents.T / 0.5
    # four documents in the batch, and a query's other relevant document is never its negative
    pairs = [(0, 2, [0, 1, 2, 3]), (1, 0, [0, 1, 2]), (1, 3, [1, 2, 3]), (2, 1, [0, 1, 2, 3])]
    contrast = torch.stack([scores[q, among].logsumexp(0) - scores[q, own] for q, own, among in pairs]).mean()
    judged = Judged(documents, relevant)
    for distance, expected in (("cosine", cosine), ("mse", squared)):
        loss = StudentLoss(model, targets, distance=distance, distance_weight=0.7)
        torch.testing.assert_close(loss.loss_from_embeddings(vectors, rows), 0.7 * expected)
        loss = StudentLoss(model, targets, distance=distance, contrastive_weight=2, judged=judged, temperature=0.5)
        torch.testing.assert_close(loss.loss_from_embeddings(vectors, rows), expected + 2 * contrast)


def test_a_student_moves_queries_and_no_document(encoders, student):
    found = record(student)
    assert found["data"] == {"queries": 31, "passages": 31, "targets": 31, "judged queries": 31}
    assert found["closeness"]["after"] > found["closeness"]["before"] + 0.005
    assert len(json.loads((student / "steps.json").read_text())) == 12
    teacher, taught = (ExpandREncoder(path, device="cpu") for path in (encoders / "bert0", student))
    texts = ["why is the sky blue", "air scatters short waves"]
    assert np.array_equal(teacher.encode_docs(texts), taught.encode_docs(texts))
    queries = np.asarray(taught.encode_queries(texts))
    assert np.abs(queries - np.asarray(teacher.encode_queries(texts))).max() > 0.01
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    opened = SentenceTransformer(str(student), device="cpu")
    np.testing.assert_allclose(queries, opened.encode_query(texts), atol=1e-6)
    assert "Mean cosine to the targets" in (student / "README.md").read_text()


def test_each_passage_or_their_mean(encoders, tmp_path):
    twice = tmp_path / "twice.jsonl"
    rows = [json.loads(line) for line in Path(PASSAGES).read_text().splitlines()]
    twice.write_text("\n".join(json.dumps(row | {"passages": ["Another text of the same query."]}) for row in rows))
    short = {"expansions": (PASSAGES, str(twice)), "epochs": 1}
    counts = {}
    for targets in ("mean", "each"):
        out = train_student(config(encoders, tmp_path / targets, targets=targets, **short))
        counts[targets] = record(out)["data"]
    assert counts["mean"]["targets"] == 31 and counts["each"]["targets"] == counts["each"]["passages"] == 62


def test_a_log_without_judgments_and_a_smaller_student(encoders, tmp_path):
    """A bare log of queries; the student is another model; SoftQE's loss without a judged query is its distance."""
    log = tmp_path / "log.jsonl"
    topics = pocket("train").get_topics()
    log.write_text("\n".join(json.dumps({"query": text}) for text in topics["query"]))
    options = {"queries": str(log), "base": str(encoders / "bert1"), "profile": "softqe", "test": ("pocket",)}
    out = train_student(config(encoders, tmp_path / "out", **options))
    found = record(out)
    assert found["data"]["judged queries"] == 0 and found["settings"]["distance"] == "mse"
    assert found["closeness"]["after"] > found["closeness"]["before"]
    teacher, taught = (ExpandREncoder(path, device="cpu") for path in (encoders / "bert0", out))
    assert np.array_equal(teacher.encode_docs(["a text"]), taught.encode_docs(["a text"]))


KILL = """
import json, os, signal, sys
from pyterrier_expandr.training.retriever import trainer
from pyterrier_expandr.training.student import StudentConfig, train_student
def training_step(self, *args, **kwargs):
    if self.state.global_step == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return super(trainer.RetrieverTrainer, self).training_step(*args, **kwargs)
trainer.RetrieverTrainer.training_step = training_step
train_student(StudentConfig(**json.loads(sys.argv[1])))
"""


@pytest.mark.slow  # `make test-crash` kills this stage more often
def test_after_kill_9_the_same_weights(encoders, index, student, tmp_path):
    settings = config(encoders, tmp_path / "out", contrastive_weight=0.1, index=str(index.folder))
    command = [sys.executable, "-c", KILL, json.dumps(asdict(settings))]
    killed = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert (tmp_path / "out.work" / "checkpoints" / "checkpoint-4").is_dir() and not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"epochs: 3 there, 4 here"):
        train_student(replace(settings, epochs=4))
    out = train_student(settings)
    assert record(out) == record(student) and not (tmp_path / "out.work").exists()
    for side in ("query", "document"):
        for name, value in weights(student, side).items():
            torch.testing.assert_close(weights(out, side)[name], value, atol=1e-6, rtol=1e-5)
    assert train_student(settings) == out  # a finished run is given back


# --- an encoder like others


def test_the_index_accepts_the_teacher_s_students_and_notices_others(encoders, index, student, tmp_path):
    topics = pocket().get_topics().head(3)
    own = ExpandREncoder(student, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = (own.query_encoder() >> index.retriever(5)).transform(topics)
    assert len(found) == 15 and index.accepts(own.source)
    stranger = train_student(config(encoders, tmp_path / "other", teacher=str(encoders / "bert1"), epochs=1))
    other = ExpandREncoder(stranger, device="cpu")
    assert not index.accepts(other.source)
    with pytest.warns(UserWarning, match=r"other' \(a student of '.*bert1'\), but the index"):
        (other.query_encoder() >> index.retriever(5)).transform(topics)
    with pytest.raises(ValueError, match="do not fit together.*a student of"):
        ExpandR(None, other, index)
    assert ExpandR(None, own, index).pipeline(5).transform(topics)["docno"].tolist() == found["docno"].tolist()


def test_a_student_of_a_student_belongs_to_the_first_teacher(encoders, index, student, tmp_path):
    second = train_student(config(encoders, tmp_path / "second", teacher=str(student), epochs=1))
    assert record(second)["teacher"] == record(student)["teacher"]
    assert index.accepts(ExpandREncoder(second, device="cpu").source)


def test_a_collection_is_not_indexed_again_for_a_student(encoders, student, tmp_path):
    (collection,) = resolve("pocket")
    teacher = ExpandR(None, ExpandREncoder(encoders / "bert0", device="cpu"))
    taught = ExpandR(None, ExpandREncoder(student, device="cpu"))
    first = teacher.for_collection(collection, tmp_path).faiss_index
    assert taught.for_collection(collection, tmp_path).faiss_index == first


def test_a_system_is_distilled_saved_and_loaded(encoders, index, tmp_path):
    system = ExpandR(RecordedExpander(PASSAGES), ExpandREncoder(encoders / "bert0", device="cpu"), index)
    train = pocket("train").get_topics()
    short = {"epochs": 1, "batch_size": 8, "contrastive_weight": 0.0}  # a frame of queries has no judgments
    student = system.distill(tmp_path / "student", train, **short)
    assert student.expander is None and student.faiss_index == index and student.encoder.teacher is not None
    again = system.distill(tmp_path / "again", "pocket", expansions=PASSAGES, **short)
    assert record(tmp_path / "again")["closeness"] == record(tmp_path / "student")["closeness"]
    topics = pocket().get_topics().head(4)
    expected = student.pipeline(5).transform(topics)
    loaded = ExpandR.load(student.save(tmp_path / "saved").path, device="cpu")
    pd.testing.assert_frame_equal(loaded.pipeline(5).transform(topics), expected)
    pd.testing.assert_frame_equal(again.pipeline(5).transform(topics), expected)
    with pytest.raises(ValueError, match="has no expander"):
        student.distill(tmp_path / "third", "pocket")


def test_the_commands_from_a_saved_system_to_a_search(encoders, index, tmp_path, capsys):
    ExpandR(None, ExpandREncoder(encoders / "bert0", device="cpu"), index).save(tmp_path / "system")
    files = {"queries": "pocket", "expansions": [PASSAGES], "out": tmp_path / "student"}
    train_student_command(str(tmp_path / "system"), **files, epochs=1, device="cpu")
    search(["why is the sky blue"], index.folder, str(tmp_path / "student"), device="cpu")
    said = capsys.readouterr().out
    assert '"judged queries": 31' in said and f"in {tmp_path / 'student'}" in said
    student = ExpandR(None, ExpandREncoder(tmp_path / "student", device="cpu"), index)
    ranking = student.pipeline(10).search("why is the sky blue")
    assert [line.split()[-1] for line in said.splitlines()[-10:]] == ranking["docno"].tolist()


# --- bad input is refused before training


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def refused(tmp_path, encoders, match, **options):
    with pytest.raises(ValueError, match=match):
        train_student(config(encoders, tmp_path / "out", **options))
    assert not (tmp_path / "out.work").exists() and not (tmp_path / "out").exists()


def test_test_queries_are_refused_by_id_and_by_text(encoders, tmp_path):
    test = pocket().get_topics().iloc[0]
    refused(tmp_path, encoders, "37 queries of 'pocket' are test queries", split="test")
    for row in ({"query": f" {test['query'].upper()}"}, {"query": "another", "query_id": test["qid"]}):
        log = lines(tmp_path / "log.jsonl", row, {"query": "a new one"})
        refused(tmp_path, encoders, "1 queries of .* are test queries of 'pocket'", queries=log, test="pocket")
    out = train_student(config(encoders, tmp_path / "all", split="test", allow_test_queries=True, epochs=1))
    assert record(out)["data"]["queries"] == 37


def test_an_empty_log_and_passages_of_other_queries(encoders, tmp_path):
    refused(tmp_path, encoders, "log.jsonl' is empty", queries=lines(tmp_path / "log.jsonl", {"query": " "}))
    others = lines(tmp_path / "others.jsonl", {"query_id": "x1", "query": "what else", "passage": "Something."})
    refused(tmp_path, encoders, "belong to other queries: none of the 31", expansions=others)
    first = pocket("train").get_topics().iloc[0]
    wrong = lines(tmp_path / "wrong.jsonl", {"query_id": first["qid"], "query": "what else", "passage": "Something."})
    refused(tmp_path, encoders, "wrong.jsonl' do not fit the query log", expansions=wrong)


def test_another_dimension_and_another_index(encoders, index, tmp_path):
    wide = SentenceTransformer(modules=[*open_tiny(str(encoders / "bare0"), normalize=False), Dense(32, 24)])
    wide.save(str(tmp_path / "wide"))
    base = str(tmp_path / "wide")
    refused(tmp_path, encoders, "24 dimensions, but the teacher .* and its index have 32", base=base)
    refused(tmp_path, encoders, "do not fit together", teacher=str(encoders / "bert1"), index=str(index.folder))
    unknown = FaissIndex(tmp_path / "unknown.faiss")
    unknown.index([{"docno": "d", "doc_vec": np.ones(5, np.float32)}])
    refused(tmp_path, encoders, r"vectors of 32 dimensions, but the index .* has 5", index=str(unknown.folder))


def test_a_teacher_that_is_not_normalised_as_recorded(encoders, tmp_path):
    """Its files have a module that normalises, and then one that undoes it."""
    modules = [*open_tiny(str(encoders / "bare0")), Dense(32, 32)]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "undone"))
    refused(
        tmp_path, encoders, "recorded as normalised, but its vectors have lengths", teacher=str(tmp_path / "undone")
    )


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"profile": "other"}, ValueError, "profile must be one of"),
        ({"distance": "dot"}, ValueError, "distance must be one of"),
        ({"distance_weight": 0}, ValueError, "nothing to learn"),
        ({"expansions": ()}, ValueError, "at least one file"),
        ({"fusion": lambda q, e: q}, TypeError, "a function cannot be recorded"),
        ({"epochs": "3"}, TypeError, "epochs must be a number"),
    ],
    ids=["profile", "distance", "weights", "no passages", "fusion", "text"],
)
def test_settings_are_checked(encoders, options, error, match):
    with pytest.raises(error, match=match):
        config(encoders, "out", **options)
