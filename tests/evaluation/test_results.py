import gzip
import json
import os
import subprocess
import sys

import ir_measures
import numpy as np
import pandas as pd
import pytest
from ir_measures import R, nDCG

from pyterrier_expandr.evaluation.averages import COLLECTIONS, FORUMS, parts_of
from pyterrier_expandr.evaluation.cell_files import CELL, RUN, read_run
from pyterrier_expandr.evaluation.result_store import EXPERIMENT, ResultStore
from pyterrier_expandr.evaluation.results import Results
from pyterrier_expandr.evaluation.significance import permutation_test

SETTINGS = {"num_results": 1000}


def fill(store, system, collection, values, fingerprint="f"):
    """Commit a cell whose queries are numbered and have these values of nDCG@10."""
    per_query = pd.DataFrame({"qid": [str(i) for i in range(len(values))], "measure": "nDCG@10", "value": values})
    mean = sum(values) / len(values)
    record = {"fingerprint": fingerprint, "means": {"nDCG@10": mean}, "n_queries": len(values), "seconds": 1.0}
    store.commit(system, collection, per_query, record)


def test_what_was_written_is_read(tmp_path):
    store = ResultStore(tmp_path, ["query alone", "a/b: 50%"], ["SciFact", "pocket"], ["nDCG@10"], SETTINGS)
    fill(store, "query alone", "SciFact", [0.0, 0.5, 1.0])
    fill(store, "a/b: 50%", "SciFact", [0.25, 1.0, 1.0])
    store.fail("a/b: 50%", "pocket", OSError("no such folder"))
    results = Results.load(tmp_path)
    assert (results.systems, results.collections) == (["query alone", "a/b: 50%"], ["SciFact", "pocket"])
    assert results.means().values.tolist() == [
        ["query alone", "SciFact", "nDCG@10", 0.5],
        ["a/b: 50%", "SciFact", "nDCG@10", 0.75],
    ]
    assert list(results.per_query.columns) == ["system", "collection", "qid", "measure", "value"]
    assert results.per_query["value"].dtype == float and len(results.per_query) == 6
    assert list(results.cells["state"]) == ["done", "pending", "done", "failed"]
    assert results.failures.values.tolist() == [["a/b: 50%", "pocket", "OSError: no such folder"]]
    assert "2 of 4 cells" in repr(results)


def test_a_folder_is_added_to_and_read_in_part(tmp_path):
    fill(ResultStore(tmp_path, ["a"], ["SciFact"], ["nDCG@10"], SETTINGS), "a", "SciFact", [1.0])
    fill(ResultStore(tmp_path, ["b"], ["SciFact", "NQ"], ["nDCG@10", "R@100"], SETTINGS), "b", "NQ", [0.0])
    results = Results.load(tmp_path)
    assert (results.systems, results.collections) == (["a", "b"], ["SciFact", "NQ"])
    assert results.measures == ["nDCG@10", "R@100"]
    assert results.means()[["system", "collection"]].values.tolist() == [["a", "SciFact"], ["b", "NQ"]]
    part = Results.load(tmp_path, systems=["b"], collections=["NQ"])
    assert part.means()[["system", "collection", "value"]].values.tolist() == [["b", "NQ", 0.0]]
    with pytest.raises(ValueError, match=r"no systems \['c'\]"):
        Results.load(tmp_path, systems=["c"])


def test_averages_are_arithmetic_and_stand_only_where_complete(tmp_path):
    single = [name for name in COLLECTIONS if name != "CQADupStack"]
    store = ResultStore(tmp_path, ["s"], [*single, *FORUMS], ["nDCG@10"], SETTINGS)
    for name in single[1:]:
        fill(store, "s", name, [0.2, 0.4])
    for number, name in enumerate(FORUMS):  # forums of unlike size: the mean is over forums, not over queries
        fill(store, "s", name, [number / 12] * (number + 1))
    results = Results.load(tmp_path)
    assert results.collections == [*single, "CQADupStack"]
    means = results.means().set_index("collection")["value"]
    assert means["CQADupStack"] == pytest.approx(sum(range(12)) / 12 / 12)
    assert means["Avg.BEIR14"] == pytest.approx((13 * 0.3 + means["CQADupStack"]) / 14)
    assert "Avg.All" not in means and not set(FORUMS) & set(means.index)
    fill(store, "s", "MS MARCO", [0.9])
    results = Results.load(tmp_path)
    means = results.means(forums=True).set_index("collection")["value"]
    assert means["Avg.All"] == pytest.approx((14 * means["Avg.BEIR14"] + 0.9) / 15)
    assert set(FORUMS) <= set(means.index)


def test_differences_are_tested(tmp_path):
    rng = np.random.default_rng(0)
    store = ResultStore(tmp_path, ["b", "x", "y"], ["NQ", "one"], ["nDCG@10"], SETTINGS)
    values = {"b": rng.random(50), "x": rng.random(50)}
    values["y"] = np.clip(values["b"] + 0.1, 0, 1)
    for system, numbers in values.items():
        fill(store, system, "NQ", numbers.tolist())
        fill(store, system, "one", [0.5])
    found = Results.load(tmp_path).compare("b", correction="holm", seed=7).set_index(["system", "collection"])
    expected = {system: permutation_test(values[system], values["b"], seed=7) for system in "xy"}
    for system, (difference, p_value) in expected.items():
        assert found.loc[(system, "NQ"), "difference"] == pytest.approx(difference)
        assert found.loc[(system, "NQ"), "p_value"] == p_value
    assert found.loc[("y", "NQ"), "p_corrected"] == pytest.approx(2 / 10_001)
    assert found.loc[("x", "one")].isna().tolist() == [False, False, True, True]  # one query: no test is possible
    with pytest.raises(ValueError, match="no system 'z'"):
        Results.load(tmp_path).compare("z")
    fill(store, "x", "NQ", [0.5] * 49)
    with pytest.raises(ValueError, match="do not share 1 of the queries of NQ"):
        Results.load(tmp_path).compare("b")


def test_the_tested_difference_of_an_average_is_the_printed_one(tmp_path):
    rng = np.random.default_rng(0)
    store = ResultStore(tmp_path, ["b", "x"], FORUMS, ["nDCG@10"], SETTINGS)
    for number, name in enumerate(FORUMS):  # one large forum where x loses, eleven small ones where it wins
        values = rng.random(400 if number == 0 else 5) / 2
        fill(store, "b", name, values.tolist())
        fill(store, "x", name, (values - 0.05 if number == 0 else values + 0.2).tolist())
    results = Results.load(tmp_path)
    means = results.means().set_index("system")["value"]
    (row,) = results.compare("b").itertuples()
    assert row.collection == "CQADupStack" and row.difference == pytest.approx(means["x"] - means["b"])
    assert row.difference == pytest.approx((11 * 0.2 - 0.05) / 12) and row.p_value < 0.001


def test_weights_add_up_to_one():
    assert sum(parts_of("Avg.All", set(COLLECTIONS)).values()) == pytest.approx(1)
    weights = parts_of("Avg.BEIR14", {*COLLECTIONS, *FORUMS} - {"CQADupStack", "MS MARCO"})
    assert sum(weights.values()) == pytest.approx(1) and len(weights) == 25
    assert parts_of("Avg.All", set(COLLECTIONS) - {"NQ"}) is None and parts_of("pocket", {"NQ"}) is None


def test_a_cell_with_another_fingerprint_is_given_up(tmp_path):
    store = ResultStore(tmp_path, ["a"], ["SciFact"], ["nDCG@10"], SETTINGS)
    fill(store, "a", "SciFact", [1.0], fingerprint="old")
    assert store.finished("a", "SciFact", "old")["means"] == {"nDCG@10": 1.0}
    assert store.finished("a", "SciFact", "new") is None
    assert Results.load(tmp_path).means().empty and list(Results.load(tmp_path).cells["state"]) == ["pending"]


def test_runs_are_read_by_others(tmp_path):
    store = ResultStore(tmp_path, ["my system"], ["SciFact"], ["nDCG@10"], SETTINGS)
    scores = pd.Series([1 / 3, 0.1, 1e-9, -2.5], dtype="float32")
    docnos = ['"quoted"', "d,1", "NA", "ñ"]
    run = pd.DataFrame({"qid": ["1", "1", "1", "01"], "docno": docnos, "rank": [0, 1, 2, 0], "score": scores})
    store.save_run("my system", "SciFact", run)
    path = store.cell("my system", "SciFact") / RUN
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    assert [len(line.split()) for line in lines] == [6] * 4
    back = read_run(path.parent)
    assert back["docno"].tolist() == docnos and back["qid"].tolist() == ["1", "1", "1", "01"]
    assert (back["score"].astype("float32") == scores).all()
    qrels = [ir_measures.Qrel("1", "NA", 1), ir_measures.Qrel("01", "ñ", 1)]
    (tmp_path / "plain.res").write_bytes(gzip.decompress(path.read_bytes()))
    measured = ir_measures.calc_aggregate(
        [nDCG @ 10, R @ 100], qrels, ir_measures.read_trec_run(str(tmp_path / "plain.res"))
    )
    assert measured == {nDCG @ 10: 0.75, R @ 100: 1.0}


@pytest.mark.parametrize("names", [["a", "a"], ["a/b", "A/B"], [""], ["a", " "]])
def test_systems_need_names_of_their_own(tmp_path, names):
    with pytest.raises(ValueError, match="name"):
        ResultStore(tmp_path, names, ["SciFact"], ["nDCG@10"], SETTINGS)


def test_folders_that_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        Results.load(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="is not the folder of an experiment"):
        ResultStore(tmp_path / "other", ["a"], ["SciFact"], ["nDCG@10"], SETTINGS)
    folder = tmp_path / "results"
    ResultStore(folder, ["a"], ["SciFact"], ["nDCG@10"], SETTINGS)
    with pytest.raises(ValueError, match="choose another folder"):
        ResultStore(folder, ["a"], ["SciFact"], ["nDCG@10"], {"num_results": 10})
    content = json.loads((folder / EXPERIMENT).read_text())
    (folder / EXPERIMENT).write_text(json.dumps(content | {"format_version": 99}))
    for opened in (lambda: Results.load(folder), lambda: ResultStore(folder, ["a"], ["b"], ["R@100"], SETTINGS)):
        with pytest.raises(ValueError, match="version 99 of the layout"):
            opened()
    (folder / EXPERIMENT).write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        Results.load(folder)


def test_a_damaged_cell_is_named(tmp_path):
    store = ResultStore(tmp_path, ["a"], ["SciFact", "NQ"], ["nDCG@10"], SETTINGS)
    fill(store, "a", "SciFact", [1.0])
    fill(store, "a", "NQ", [0.5])
    (store.cell("a", "SciFact") / CELL).write_text("{")
    results = Results.load(tmp_path)
    assert results.cells["state"].tolist() == ["failed", "done"]
    assert "cell.json' is damaged" in results.failures["error"].item()
    assert set(results.means()["collection"]) == {"NQ"}


def test_an_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    user = os.geteuid()
    if user == 0:  # root may write anywhere
        os.seteuid(65534)
    try:
        for folder in (tmp_path, tmp_path / "results"):
            with pytest.raises(PermissionError, match="cannot write to the folder .*choose another"):
                ResultStore(folder, ["a"], ["SciFact"], ["nDCG@10"], SETTINGS)
    finally:
        os.seteuid(user)


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "results").touch()
    with pytest.raises(FileExistsError, match="cannot write to the folder .*File exists"):
        ResultStore(tmp_path / "results", ["a"], ["SciFact"], ["nDCG@10"], SETTINGS)


def test_reading_results_stays_light():
    code = (
        "import sys, pyterrier_expandr.evaluation.results\n"
        "heavy = {'torch', 'transformers', 'faiss', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_kill_before_the_first_record_is_whole_does_no_harm(tmp_path):
    (tmp_path / ".part.experiment.json").write_text('{"format_ver')
    ResultStore(tmp_path, ["a"], ["SciFact"], ["RR@10"], {})
    assert [path.name for path in tmp_path.iterdir()] == ["experiment.json"]
