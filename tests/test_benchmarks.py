import json

import pandas as pd
import pytest

from benchmarks import report, scifact


def test_the_readme_says_what_the_results_say():
    assert report.readme() == report.README.read_text(encoding="utf-8"), "run: python -m benchmarks.report"


def test_the_recorded_scifact_scores_are_the_expected_ones():
    rows = json.loads((report.RESULTS / "scifact.json").read_text())["rows"]
    assert {row["result"] for row in rows} <= {"OK", "-"}
    assert sum(row["result"] == "OK" for row in rows) == 6


def test_a_wrong_score_is_a_fail():
    expected = json.loads(scifact.EXPECTED.read_text())["lines"]
    table = pd.DataFrame(
        {
            "name": [line["name"] for line in expected],
            "ndcg_cut_10": [line.get("ndcg_cut_10", 0.5) + 0.0004 for line in expected],
            "recall_100": [line.get("recall_100", 0.5) - 0.0006 for line in expected],
        }
    )
    verdicts = {(row["system"], row["measure"]): row["result"] for row in scifact.judge(table)}
    assert verdicts["query alone", "nDCG@10"] == "OK" and verdicts["query alone", "R@100"] == "FAIL"
    assert verdicts["BM25 (PISA)", "nDCG@10"] == "-"


@pytest.mark.slow
def test_scifact_reproduces(expandr_data, minilm, tmp_path):
    rows = scifact.judge(scifact.run(expandr_data, tmp_path))
    assert not [row for row in rows if row["result"] == "FAIL"]
