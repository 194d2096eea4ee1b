import json
import resource
import subprocess
import sys
from collections import Counter

import pytest

from pyterrier_expandr.collections import pocket
from pyterrier_expandr.training.data.examples import (
    E5_RATIOS,
    TrainingExample,
    examples_from_jsonl,
    open_examples,
    split_examples,
    write_examples,
)
from pyterrier_expandr.training.data.judged import examples_of_collection


def lines(path, *rows):
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return path


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    documents = [("d1", "Sky", "Air scatters."), ("d2", "", "Yeast makes gas."), ("d3", "Rust", "Iron and water.")]
    lines(folder / "corpus.jsonl", *({"_id": i, "title": t, "text": x} for i, t, x in documents))
    lines(folder / "queries.jsonl", *({"_id": f"q{n}", "text": f"question {n}"} for n in range(1, 4)))
    header = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels" / "train.tsv").write_text(header + "q2\td2\t1\nq1\td3\t1\nq1\td1\t2\nq1\td2\t0\nq3\td1\t0\n")
    return folder


def test_a_beir_folder_gives_positives_by_grade_and_judged_negatives(beir):
    skipped = Counter()
    first, second = open_examples(beir, "train", skipped=skipped)
    assert first == TrainingExample(
        "q1", "question 1", ("d1", "d3"), ("Sky Air scatters.", "Rust Iron and water."), ("Yeast makes gas.",)
    )
    assert second.positives == ("Yeast makes gas.",) and second.query_id == "q2"
    assert skipped == {"no relevant document": 1}
    assert [e.positive_ids for e in open_examples(beir, "train", min_relevance=2)] == [("d1",)]


def test_no_document_has_the_grade(beir):
    with pytest.raises(ValueError, match=r"grade 3 or more: its grades are \[0, 1, 2\]"):
        list(open_examples(beir, "train", min_relevance=3))


def test_judgments_of_unknown_documents_and_queries(beir):
    with open(beir / "qrels" / "train.tsv", "a") as file:
        file.write("q1\tnowhere\t1\nnobody\td1\t1\n")
    with pytest.raises(ValueError, match=r"1 unknown queries: \['nobody'\]"):
        list(open_examples(beir, "train"))
    skipped = Counter()
    assert [e.query_id for e in open_examples(beir, "train", skipped=skipped)] == ["q1", "q2"]
    assert skipped == {"unknown query": 1, "unknown document": 1, "no relevant document": 1}
    lines(beir / "queries.jsonl", *({"_id": q, "text": q} for q in ("q1", "q2", "q3", "nobody")))
    with pytest.raises(ValueError, match=r"query 'q1' of .* unknown documents: \['nowhere'\]"):
        list(open_examples(beir, "train"))


def test_broken_documents_and_queries_of_a_folder(beir):
    corpus = beir / "corpus.jsonl"
    corpus.write_text(corpus.read_text() + '{"_id": "d9"}\n{"_id": "d8", "te\n')
    with pytest.raises(ValueError, match=r"corpus.jsonl:4 must be a JSON object.*found \['_id'\]"):
        list(open_examples(beir, "train"))
    with open(beir / "queries.jsonl", "a") as file:
        file.write("{\n")
    skipped = Counter()
    assert len(list(open_examples(beir, "train", skipped=skipped))) == 2 and skipped["broken line"] == 3
    with pytest.raises(ValueError, match="min_relevance must be 1 or more"):
        list(open_examples(beir, "train", min_relevance=0))


def test_what_no_file_can_hold_is_replaced(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"query": "a \\ud800 b", "positive": "\\udfff", "positive_id": 7}\n')
    [example] = open_examples(path)
    assert example.query == "a \ufffd b" and example.positive_ids == ("7",)
    assert write_examples(tmp_path / "y.jsonl", [example]) == 1


def test_ir_datasets_and_the_folder_give_the_same():
    folder = list(open_examples("pocket", "train"))
    assert folder == list(open_examples("irds:expandr-pocket/train"))
    assert len(folder) == len(pocket("train").get_topics())
    with pytest.raises(ValueError, match="has no dataset 'no/such'"):
        list(open_examples("irds:no/such"))
    with pytest.raises(ValueError, match="give one of its splits"):
        list(open_examples("irds:expandr-pocket"))
    with pytest.raises(ValueError, match="no training data in 'nowhere'"):
        open_examples("nowhere")


def test_the_e5_mixture_takes_a_share_of_each_file(tmp_path):
    for name in ("nq", "eli5"):
        rows = [{"query": f"{name} {n}", "positive": f"p{n}", "negative": f"n{n}"} for n in range(400)]
        lines(tmp_path / f"{name}.jsonl", *rows)
    found = list(open_examples(tmp_path, ratios={"eli5": 0.1}))
    by_file = Counter(e.query.split()[0] for e in found)
    assert by_file["nq"] == 400 and 20 <= by_file["eli5"] <= 60
    assert found[-1].query_id.startswith("nq-") and found[-1].negatives == ("n399",)
    more = [{"query": f"eli5 {n}", "positive": "p", "negative": "n"} for n in range(400, 500)]
    with open(tmp_path / "eli5.jsonl", "a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in more))
    longer = [e for e in open_examples(tmp_path, ratios={"eli5": 0.1}) if e.query.startswith("eli5")]
    assert longer[: by_file["eli5"]] == [e for e in found if e.query.startswith("eli5")]
    other = [e.query for e in open_examples(tmp_path, ratios={"eli5": 0.1}, seed=7) if e.query.startswith("eli5")]
    assert other != [e.query for e in longer]
    with pytest.raises(ValueError, match=r"do not exist: \['squad'\]"):
        list(open_examples(tmp_path, ratios={"squad": 0.5}))
    with pytest.raises(ValueError, match=r"do not exist: \['eli5_question_answer', 'msmarco_"):
        list(open_examples(tmp_path, ratios=E5_RATIOS))  # misnamed files would be taken whole
    with pytest.raises(ValueError, match="pocket is a collection"):
        open_examples("pocket", ratios={"nq": 0.5})
    with pytest.raises(ValueError, match=r"above 0 and at most 1"):
        list(open_examples(tmp_path, ratios={"nq": 2}))


def test_the_released_format_goes_there_and_back(tmp_path):
    examples = [
        TrainingExample("7", "q", ("d1", "d2"), ("one", "two"), ("no",), ("expansion", "another")),
        TrainingExample("8", "r", ("d3",), ("three",)),
    ]
    own, released = tmp_path / "own.jsonl", tmp_path / "released.jsonl"
    assert write_examples(own, examples) == 2 and list(open_examples(own)) == examples
    write_examples(released, examples, released=True)
    first = json.loads(released.read_text().splitlines()[0])
    assert first == {"query": "q", "pseudo_doc": "expansion", "pos": ["one", "two"], "neg": ["no"]}
    back = list(examples_from_jsonl(released))
    assert [e.expansions for e in back] == [("expansion",), ()]
    assert back[0].query_id == "released-1" and back[0].positive_ids == ("released-1+0", "released-1+1")


def test_real_training_files(expandr_data):
    nq = list(open_examples(expandr_data / "flagembedding_examples" / "nq.jsonl"))
    assert len(nq) == 10 and len(nq[0].negatives) == 100 and len(nq[0].positives) == 1
    pairs = list(open_examples(expandr_data / "scifact" / "train_pairs.jsonl"))
    assert len(pairs) == 919 and pairs[0].positive_ids == ("31715818",)
    judged = {e.query_id: e for e in open_examples(expandr_data / "scifact", "train")}
    assert len(judged) == 809 and sum(len(e.positives) for e in judged.values()) == 919
    assert pairs[0].positives[0] in judged[pairs[0].query_id].positives


def test_broken_lines_and_wrong_fields_are_named(tmp_path):
    good = {"query": "q", "positive": "p"}
    path = lines(tmp_path / "x.jsonl", good, '{"query": "q", "posi', good)
    with pytest.raises(ValueError, match=r"x.jsonl:2 is not valid JSON"):
        list(open_examples(path))
    path = lines(tmp_path / "x.jsonl", good, {"question": "q", "passage": "p"}, '["q"]', good)
    with pytest.raises(ValueError, match=r"x.jsonl:2 needs a query and a positive.*\['passage', 'question'\]"):
        list(open_examples(path))
    skipped = Counter()
    assert len(list(open_examples(path, skipped=skipped))) == 2
    assert skipped == {"wrong fields": 1, "broken line": 1}
    for row, message in (
        ({"query": 3, "positive": "p"}, "query must be a string"),
        ({"query": "q", "positive": []}, "at least one text"),
        ({"query": "q", "positive": {"text": "p"}}, "must be strings or lists of strings"),
        ({"query": "q", "positive": ["a", "b"], "positive_ids": ["1"]}, "1 positive ids but 2 positives"),
    ):
        with pytest.raises(ValueError, match=message):
            list(open_examples(lines(tmp_path / "x.jsonl", row)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"contains no \*\.jsonl"):
        list(open_examples(tmp_path / "empty"))


def queries(n):
    return [TrainingExample(str(i), f"query {i}", ("d",), ("text",)) for i in range(n)]


@pytest.mark.parametrize("parts", [{"llm": 0.2, "train": 0.7, "dev": 0.1}, {"llm": 200, "train": 700, "dev": 100}])
def test_a_split_is_seeded_and_stable_when_rows_are_added(parts):
    found = {e.query_id: part for part, e in split_examples(queries(1000), parts)}
    sizes = Counter(found.values())
    assert len(found) == 1000
    expected = {name: size * (1000 if size < 1 else 1) for name, size in parts.items()}
    tolerance = 0 if parts["llm"] > 1 else 50
    assert all(abs(sizes[name] - size) <= tolerance for name, size in expected.items())
    longer = {e.query_id: part for part, e in split_examples(queries(1200), parts)}
    assert {query_id: longer[query_id] for query_id in found} == found
    other = {e.query_id: part for part, e in split_examples(queries(1000), parts, seed=1)}
    assert other != found


def test_equal_queries_share_a_part():
    twice = [example for example in queries(300) for _ in range(2)]
    parts = {}
    for part, example in split_examples(twice, {"a": 300, "b": 400}):
        parts.setdefault(example.query, set()).add(part)
    assert all(len(found) == 1 for found in parts.values())


@pytest.mark.parametrize("parts", [{}, {"a": -1}, {"a": 0.7, "b": 0.7}, {"a": 10, "b": 0.5}])
def test_sizes_that_mean_nothing_are_refused(parts):
    with pytest.raises(ValueError, match="sizes must be"):
        list(split_examples(queries(3), parts))


def test_a_large_corpus_is_never_in_memory(tmp_path):
    folder = tmp_path / "large"
    (folder / "qrels").mkdir(parents=True)
    text = "word " * 400
    with open(folder / "corpus.jsonl", "w") as file:
        for n in range(60_000):  # 120 MB
            file.write(json.dumps({"_id": f"d{n}", "title": "", "text": f"{n} {text}"}) + "\n")
    lines(folder / "queries.jsonl", *({"_id": f"q{n}", "text": f"question {n}"} for n in range(500)))
    rows = "".join(f"q{n}\td{n * 100}\t1\n" for n in range(500))
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    code = (
        "import resource, sys\n"
        "from pyterrier_expandr.training.data.judged import examples_of_collection\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "import pyterrier_expandr.collections\n"
        "next(examples_of_collection('pocket', 'train'))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "found = sum(1 for e in examples_of_collection(sys.argv[1], 'train') if e.positives[0].split()[0] == str(int(e.query_id[1:]) * 100))\n"
        "print(found, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    found, grown = map(int, done.stdout.split())
    assert found == 500 and grown < 30


def test_a_full_disk_leaves_no_half_file(tmp_path):
    import signal

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_examples(tmp_path / "e.jsonl", queries(1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert list(tmp_path.iterdir()) == []


def test_pocket_by_collection_name():
    assert next(examples_of_collection("pocket", "test", min_relevance=2)).positives
