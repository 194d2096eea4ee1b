"""The three formats of a table, without any experiment."""

import re

import pytest

from pyterrier_expandr.reports.explore.report_tab import report_tab
from pyterrier_expandr.reports.explore.templates import render
from pyterrier_expandr.reports.formats import latex, markdown
from pyterrier_expandr.reports.tables import MISSING, Cell, Line, Table, with_best

NASTY = r"a|b_c & 50% <i> {x} $y^2$ #1 ~ \z *bold*"


def table(layout="collections", **changes):
    lines = [
        Line("BM25", {"SciFact": Cell("66.50"), "NQ": Cell("32.90"), "Avg": Cell("49.70")}),
        Line("Contriever/Raw", {"SciFact": Cell("64.92", underlined=True)}),
        Line("Contriever/ExpandR", {"SciFact": Cell("69.68", bold=True, mark="†"), "NQ": Cell("50.39", bold=True)}),
        Line("paper", {"SciFact": Cell("69.68 (+0.00)", mark="°")}, beside=True),
    ]
    settings = {
        "title": "nDCG@10",
        "lines": lines,
        "collections": ["SciFact", "NQ"],
        "averages": ["Avg"],
        "layout": layout,
    }
    return Table(**(settings | {"notes": ["† better"]} | changes))


def report_html(*tables):
    shared = [Table(**{**each.__dict__, "notes": ["shared", *each.notes]}) for each in tables]
    return render("report.html", report=report_tab(None, shared, None, None, []), notes=[], level=0.05)


def test_best_and_second_are_as_they_print():
    cells = with_best({"a": 1.004, "b": 1.0, "c": 0.5, "d": 0.504, "e": 0.1}, places=1)
    assert [cells[name].bold for name in "abcde"] == [True, True, False, False, False]
    assert [cells[name].underlined for name in "abcde"] == [False, False, True, True, False]
    assert with_best({"only": 3.0}) == {"only": Cell("3.00")}
    assert with_best({"a": 2.0, "b": 2.0}) == {"a": Cell("2.00"), "b": Cell("2.00")}, "all alike: none is best"
    assert with_best({}) == {}


def test_groups_and_rules():
    assert table().groups() == [("", 1), ("Contriever", 3)]
    assert table().rules() == {2} and table("systems").rules() == {1}
    assert table("systems").groups() == [] and table(averages=[]).rules() == set()
    assert table(lines=table().lines[:2]).groups() == [], "one column needs no name above it"


def test_markdown():
    text = markdown("A report", [table()], ["written today"])
    assert "| SciFact | 66.50 | <ins>64.92</ins> | **69.68**† | 69.68 (+0.00)° |" in text
    assert f"| NQ | 32.90 | {MISSING} | **50.39** | {MISSING} |" in text
    assert text.startswith("# A report\n\n## nDCG@10\n\n|  | BM25 | Contriever/Raw |") and "* written today" in text
    by_system = markdown("A report", [table("systems")], [])
    assert f"| Contriever/Raw | <ins>64.92</ins> | {MISSING} | {MISSING} |" in by_system


def unescaped_bars(line):
    return len(re.findall(r"(?<!\\)\|", line))


def test_markdown_escapes_and_keeps_its_columns():
    nasty = table(
        lines=[Line(NASTY, {"SciFact": Cell(NASTY)}), Line("b", {})], title=NASTY, notes=[NASTY + "\nline two"]
    )
    lines = markdown(NASTY, [nasty], []).splitlines()
    assert {unescaped_bars(line) for line in lines if line.startswith("|")} == {4}
    assert not re.search(r"(?<!\\)<i>", "\n".join(lines)) and "line two" in lines[-1]


def test_latex_is_balanced_and_every_row_has_all_columns():
    for layout in ("collections", "systems"):
        text = latex("A report", [table(layout), table(layout, title=NASTY, notes=[NASTY])], ["a note"])
        for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
            assert text.count(rule) >= 2
        assert text.count(r"\begin{") == text.count(r"\end{")
        bare = re.sub(r"\\[{}]", "", text)
        assert bare.count("{") == bare.count("}")
        columns = len(re.search(r"\\begin\{tabular\}\{(l+r+)\}", text).group(1))
        for row in re.findall(r"^(.* \\\\)$", text, re.M):
            spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", row))
            assert len(re.findall(r"(?<!\\)&", row)) + spans == columns - 1, row
    assert r"\multicolumn{3}{c}{Contriever}" in latex("", [table()], []) and r"\cmidrule(lr){3-5}" in latex(
        "", [table()], []
    )
    assert r"\textbf{69.68}\textsuperscript{\textdagger}" in latex("", [table()], [])
    assert r"50\% \textless{}i\textgreater{} \{x\} \$y\textasciicircum{}2\$ \#1" in text
    assert text.isascii()


@pytest.mark.parametrize("layout", ["collections", "systems"])
def test_html_is_escaped_and_every_row_has_all_columns(layout):
    nasty = table(
        layout, lines=[Line(NASTY + "<script>", {"NQ": Cell(NASTY)}), Line("b", {})], title=NASTY, notes=[NASTY]
    )
    text = report_html(table(layout), nasty)
    assert "<script" not in text and "<i>" not in text and "&lt;script&gt;" in text
    wide = len(table(layout).header())
    (first, *_) = re.findall(r"<table>.*?</table>", text, re.S)
    for row in re.findall(r"<tr.*?</tr>", first, re.S):
        spans = sum(int(n) - 1 for n in re.findall(r'colspan="(\d+)"', row))
        assert len(re.findall(r"<t[dh]\b", row)) + spans == wide, row
    assert "<b>69.68</b>†" in text and "<u>64.92</u>" in text and 'class="beside">69.68 (+0.00)°' in text
    assert text.count("<li>shared</li>") == 1, "a note that all tables share is given once"
