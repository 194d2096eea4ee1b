import json

import pandas as pd
import pytest

from benchmarks import generation_lengths, hybrid, report, scifact, student
from pyterrier_expandr.collections import pocket


def test_the_pages_say_what_the_results_say():
    for path, text in report.pages().items():
        assert text == path.read_text(encoding="utf-8"), "run: python -m benchmarks.report"


def test_the_recorded_speed_of_generation_is_of_all_backends_in_one_run():
    measured = json.loads((report.RESULTS / "generation.json").read_text())
    assert measured["settings"]["samples"] == 32
    assert [row["what"].split(" / ")[0] for row in measured["rows"]] == ["HuggingFaceBackend", "OpenAIBackend"]
    assert [row["result"] for row in measured["rows"]] == ["OK", "OK"]
    systems = {row["system"]: row["tokens_per_second"] for row in measured["systems"]}
    assert list(systems) == [
        "one-by-one generate",
        "HuggingFaceBackend",
        "VLLMBackend",
        "OpenAIBackend",
        "bare client",
    ]


def test_the_recorded_scifact_scores_are_the_expected_ones():
    rows = json.loads((report.RESULTS / "scifact.json").read_text())["rows"]
    assert {row["result"] for row in rows} <= {"OK", "-"}
    assert sum(row["result"] == "OK" for row in rows) == 12
    lines = [line["name"] for line in scifact.EXPECTED["lines"]]
    assert [row["system"] for row in rows[::2]] == lines and len(rows) == 2 * len(lines)
    compared = [row for row in rows if row["system"] != scifact.EXPECTED["baseline"]]
    assert all(0 < row["p_value"] <= row["p_corrected"] <= 1 for row in compared)


def test_every_recording_is_measured(expandr_data):
    files = {line["expansions"] for line in scifact.EXPECTED["lines"]} - {None}
    assert files == {path.name for path in (expandr_data / "expansions" / "scifact").glob("*.jsonl")}


def test_a_wrong_score_is_a_fail():
    rows = [
        (line["name"], "SciFact", measure, line.get(measure, 0.5) + error)
        for line in scifact.EXPECTED["lines"]
        for measure, error in (("nDCG@10", 0.0004), ("R@100", -0.0006))
    ]
    judged = scifact.judge(pd.DataFrame(rows, columns=["system", "collection", "measure", "value"]))
    verdicts = {(row["system"], row["measure"]): row["result"] for row in judged}
    assert verdicts["query alone", "nDCG@10"] == "OK" and verdicts["query alone", "R@100"] == "FAIL"
    assert verdicts["BM25 (PISA)", "nDCG@10"] == "-"


@pytest.mark.slow
def test_scifact_reproduces(expandr_data, minilm, tmp_path):
    rows = scifact.judge(scifact.run(expandr_data, tmp_path).means())
    assert not [row for row in rows if row["result"] == "FAIL"]


def test_the_recorded_hybrids_are_what_the_documentation_concludes():
    rows = json.loads((report.RESULTS / "hybrid.json").read_text())["rows"]
    assert {row["collection"] for row in rows} == {"SciFact", "Vaswani", "PubMedQA", "pocket"}
    found = {hybrid.key_of(row): row for row in rows if row["measure"] == "nDCG@10"}
    text = report.HYBRID.read_text(encoding="utf-8")
    for llm in ("Qwen2.5-7B", "Qwen2.5-72B"):
        row = found["SciFact", llm, "hybrid"]
        assert all(hybrid.gain(row[f"against {other}"]).endswith("†") for other in ("dense", "BM25"))
        assert f"{hybrid.gain(row['against hybrid'])[:6]}" in text.split("end of results")[1]
    for where, llm in (("SciFact", "SmolLM2, T=1"), ("Vaswani", "SmolLM2, T=1")):
        assert hybrid.gain(found[where, llm, "hybrid"]["against hybrid"]).endswith("‡")
    assert found["pocket", "none", "hybrid"]["value"] < found["pocket", "none", "dense"]["value"]
    cost = json.loads((report.RESULTS / "hybrid_cost.json").read_text())
    assert f"{cost['ratio']:.2f} times as long" in text and cost["ratio"] <= cost["target"]


@pytest.mark.slow
def test_hybrids_on_pocket(minilm, tmp_path):
    rows = hybrid.run(tmp_path / "no data", tmp_path, [f"pocket:again={pocket().expansions_path}"])
    recorded = json.loads((report.RESULTS / "hybrid.json").read_text())["rows"]
    expected = {
        (*hybrid.key_of(row), row["measure"]): row["value"] for row in recorded if row["collection"] == "pocket"
    }
    found = {(*hybrid.key_of(row), row["measure"]): row["value"] for row in rows}
    assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    assert found["pocket", "again", "hybrid", "nDCG@10"] == found["pocket", "recorded", "hybrid", "nDCG@10"]
    assert len(hybrid.markdown(rows).splitlines()) == 2 + 9


def test_the_recorded_students_are_what_the_page_concludes():
    results = json.loads((report.RESULTS / "student.json").read_text())
    rows, text = results["summary"], report.STUDENT.read_text(encoding="utf-8").split("end of results")[1]
    judged, alone = (rows[f"{name}, 240 / SciFact"] for name in ("distance + judgments", "distance"))
    assert judged["nDCG@10 p"] < 0.05 and judged["nDCG@10 share of the fused gain"] > 1 / 3
    assert alone["nDCG@10 p"] > 0.05 and alone["nDCG@10 share of the fused gain"] < 1 / 3
    for row in (judged, alone):
        assert f"{row['nDCG@10 share of the fused gain']:.0%}" in text and f"{row['nDCG@10 - query']:+.4f}" in text
    per_query = student.per_query(results["cells"], "distance + judgments, 240", "SciFact")
    assert per_query["nDCG@10"].mean() == pytest.approx(judged["nDCG@10"], abs=1e-4)
    assert sum(results["apart"]["fold"]) == judged["apart"]["queries"] == 225
    assert judged["apart"]["nDCG@10 p"] > 0.05 and f"{judged['apart']['nDCG@10 - query']:+.4f}" in text


def test_the_recorded_waste_of_ended_rows_is_what_the_page_says():
    assert generation_lengths.waste([10, 40], 60) == {"before": 0.375, "after": pytest.approx(1 / 6)}
    rows = json.loads((report.RESULTS / "generation_smollm2.json").read_text())["rows"]
    assert [(row["queries"], row["samples"]) for row in rows] == [(8, 1), (1, 32)]
    text = report.ENGINES.read_text(encoding="utf-8")
    for row in rows:
        assert row["waste"]["after"] < 1 / 8 and row["waste"]["after"] < row["waste"]["before"]
        batched, alone = (row["systems"][name] for name in ("HuggingFaceBackend", "one-by-one generate"))
        speeds = [system["tokens_per_processor_second"] for system in (batched, alone)]
        assert f"| {speeds[1]:.1f} | {speeds[0]:.1f} | {speeds[0] / speeds[1]:.1f} |" in text
        assert f"| {row['waste']['before']:.1%} | {row['waste']['after']:.1%} |" in text
