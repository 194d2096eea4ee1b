import pandas as pd
import pytest

from pyterrier_expandr.reports import paper


def test_the_numbers_come_with_their_source():
    source = paper.raw()["source"]
    assert source["doi"] == "10.18653/v1/2025.emnlp-main.963" and "EMNLP 2025" in source["venue"]


def test_every_printed_score_is_a_row():
    scores = paper.paper_scores()
    counts = scores.groupby("table").size().to_dict()
    assert counts == {2: 17 * 13, 3: 9 * 14, 5: 17 * 9, 6: 17 * 13, 7: 17 * 3, 8: 17 * 6}
    assert scores["value"].between(0, 100).all() and not scores["value"].isna().any()
    units = scores.drop_duplicates(["table", "system"]).set_index(["table", "system"])["unit"]
    assert units[2, "BM25"] == 0.1 and units[2, "Contriever/Raw"] == 0.01 and (units[5] == 0.1).all()


def test_averages_over_the_rows_are_the_printed_ones_but_for_two_systems():
    checked = paper.check_averages()
    assert len(checked) == 2 * (13 + 9 + 13 + 3 + 6) + 14
    wrong = checked[~checked["verdict"].isin(["equal", "rounding"])].set_index(["table", "system", "average"])
    assert wrong["verdict"].to_dict() == {
        (6, "DPR", "Avg.BEIR14"): "swapped",
        (6, "DPR", "Avg.All"): "swapped",
        (8, "AnchorDR/vanilla", "Avg.BEIR14"): "differs from its rows",
        (8, "AnchorDR/vanilla", "Avg.All"): "differs from its rows",
    }
    assert wrong["computed"].round(2).tolist() == [47.74, 48.23, 43.03, 42.09]
    assert wrong["printed"].tolist() == [48.3, 47.7, 43.3, 42.4]
    pd.testing.assert_frame_equal(paper.inconsistencies(), wrong.reset_index()[checked.columns])


def test_what_only_rounding_explains_is_told_apart():
    rounding = paper.check_averages().query("verdict == 'rounding'")
    assert set(zip(rounding["table"], rounding["system"], strict=True)) == {
        (3, "Contriever/w/o Self-Reward"),
        (3, "Contriever/w/o Retriever Reward"),
        (3, "AnchorDR/w/o Self-Reward"),
        (3, "AnchorDR/w/o Retriever Reward"),
        (5, "Nomic-Embed"),
        (5, "WebDRO"),
    }


def test_tables_agree_with_one_another_where_they_print_the_same_run():
    scores = paper.paper_scores().set_index(["table", "system", "collection"])["value"].sort_index()
    same = [((2, f"Contriever/{kind}"), (7, f"Contriever/{kind}")) for kind in ("Raw", "FT")]
    same += [((2, "AnchorDR/ExpandR"), (5, "ExpandR")), ((2, "AnchorDR/Raw"), (8, "AnchorDR/query"))]
    names = {"Raw": "Query", "FT": "w/ Retriever Training", "ExpandR": "ExpandR"}
    same += [((2, f"{r}/{a}"), (3, f"{r}/{b}")) for r in ("Contriever", "AnchorDR") for a, b in names.items()]
    for one, other in same:
        difference = (scores[one] - scores[other]).dropna()
        assert len(difference) >= 8 and difference.abs().max() < 0.0501, (one, other)


def test_a_row_by_name_and_table():
    assert paper.paper_row("Contriever/ExpandR", "nDCG@10").values["TREC-COVID"] == 47.98
    assert paper.paper_row("7:Contriever/ExpandR", "nDCG@10").values["TREC-COVID"] == 48.18
    row = paper.paper_row("Contriever/ExpandR", "R@100")
    assert (row.table, row.system, row.measure, row.values["TREC-COVID"]) == (6, "Contriever/ExpandR", "R@100", 6.58)
    assert paper.paper_row("AnchorDR/w/o Self-Reward", "nDCG@10").values["Avg"] == 56.25
    assert paper.paper_row("Contriever/ExpandR", "AP") is None
    with pytest.raises(ValueError, match=r"no row 'contriever'.*Contriever/ExpandR"):
        paper.paper_row("contriever", "nDCG@10")
    with pytest.raises(ValueError, match="no row '5:BM25'"):
        paper.paper_row("5:BM25", "nDCG@10")
