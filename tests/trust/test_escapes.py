"""Nothing that came from data is obeyed by a browser, by LaTeX or by a terminal, and no key is kept."""

import html.parser
import json
import re
import sqlite3
from pathlib import Path

import pandas as pd
import pytest

from pyterrier_expandr import GenerationCache, LLMExpander
from pyterrier_expandr.analysis.case import CasePart, CaseStudy
from pyterrier_expandr.analysis.lengths import expansion_lengths, lengths_plot
from pyterrier_expandr.common.printable import printable
from pyterrier_expandr.expansion.backends.openai import OpenAIBackend
from pyterrier_expandr.reports.formats import latex
from pyterrier_expandr.reports.tables import Cell, Line, Table
from tests.servers import FaultyServer, completion
from tests.trust.fuzzing import NASTY

NAMES = [text for text in NASTY if text.strip() and text.isprintable()]


class Tags(html.parser.HTMLParser):
    """The tags and attributes of a page, and its text."""

    def __init__(self):
        super().__init__()
        self.tags, self.names, self.text = set(), set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.names |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text.append(data)


def read_page(text):
    tags = Tags()
    tags.feed(text)
    return tags


def test_a_case_shows_data_and_obeys_none_of_it():
    parts = tuple(CasePart(name, 0.5, 1, (name,)) for name in NAMES)
    for name in NAMES:
        found = read_page(CaseStudy(name, (name, name, name), "nDCG@10", parts, 2).to_html())
        assert not found.tags & {"script", "img", "svg"} and not [each for each in found.names if each.startswith("on")]


def test_latex_shows_data_and_obeys_none_of_it():
    lines = [Line(name, {"SciFact": Cell(name, mark=name)}) for name in NAMES]
    text = latex("title", [Table(name, lines, ["SciFact"], [], [name]) for name in NAMES[:5]], NAMES)
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert not re.search(r"(?<!\\textbackslash)\\(input|write18|end\{tabular\}\\)", body)
    assert body.count(r"\begin{tabular}") == body.count(r"\end{tabular}") == 5
    bare = re.sub(r"\\[{}%&#_$]", "", body)
    assert bare.count("{") == bare.count("}") and not re.search(
        r"[%#$_]", re.sub(r"\\textasciitilde|\\textasciicircum", "", bare)
    )


@pytest.mark.parametrize("name", ["$x_1^2$", "$\\evil$", "a$b", "50% & <b>"])
def test_figures_take_names_as_text(name, tmp_path):
    frame = pd.DataFrame({"qid": ["1"], "query_expansions": [["why the sky is blue"]]})
    lengths_plot(expansion_lengths({name: frame}), path=tmp_path / "f.svg")
    assert (tmp_path / "f.svg").stat().st_size > 0


def test_a_terminal_is_not_controlled_by_data(tmp_path, here):
    for text in NASTY:
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", printable(text))
    assert printable("蓝色\u3000天空 é") == "蓝色\u3000天空 é"
    folder = tmp_path / "b"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "d\\u001b[2J", "title": "", "text": "sky"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q\\u001b[31m", "text": "why \\u001b[2J \\u202e"}\n')
    (folder / "qrels" / "test.tsv").write_text("q\x1b[31m\td\x1b[2J\t1\n")
    texts = tmp_path / "e.jsonl"
    texts.write_text(json.dumps({"query_id": "q\x1b[31m", "query": "why", "passage": "x\x1b]0;title\x07"}) + "\n")
    said = here("analyse", "case", "q\x1b[31m", _results(tmp_path / "r"), "--collection", folder)
    assert "\x1b" not in said and "\\x1b[2J" in said


def _results(folder: Path) -> Path:
    from pyterrier_expandr.evaluation.result_store import ResultStore

    name = "sys\x1b[1m"
    store = ResultStore(folder, [name], ["b"], ["nDCG@10"], {"num_results": 1000, "split": "test"})
    run = pd.DataFrame({"qid": ["q\x1b[31m"], "docno": ["d\x1b[2J"], "rank": [0], "score": [1.0]})
    store.save_run(name, "b", run)
    record = {"fingerprint": "f", "means": {"nDCG@10": 1.0}, "n_queries": 1, "seconds": 1.0}
    store.commit(name, "b", pd.DataFrame({"qid": ["q\x1b[31m"], "measure": "nDCG@10", "value": [1.0]}), record)
    return folder


def test_a_key_that_a_server_repeats_is_kept_nowhere(tmp_path, monkeypatch):
    key = "sk-0123456789abcdefghij"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("EXPANDR_CACHE", str(tmp_path / "cache"))
    answer = (200, {}, completion(f"Your key is {key}, and the sky is blue."))
    with FaultyServer(lambda body, number: answer) as server:
        backend = OpenAIBackend("m", base_url=server.url)
        expander = LLMExpander(backend, cache=GenerationCache(tmp_path / "c.sqlite"), clean=False)
        texts = expander.transform(pd.DataFrame({"qid": ["1"], "query": ["why"]}))["query_expansions"][0]
    assert texts == ["Your key is ***, and the sky is blue."]
    with sqlite3.connect(tmp_path / "c.sqlite") as file:
        assert "***" in file.execute("SELECT text FROM generation").fetchone()[0]
    file.close()
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path
