"""What parts show of themselves in a notebook: settings, escaped, without loading a model."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from pyterrier_expandr import ExpandR, ExpandREncoder, FaissIndex, HuggingFaceBackend, LLMExpander, RecordedExpander

BEFORE = Path(__file__).parent.parent / "fixtures" / "written_before_rooms"


def tables(part):
    """The table of settings as parsed XML (so that unescaped text is an error), and what PyTerrier draws before it."""
    title = f"<table><caption>{type(part).__name__}</caption>"
    drawing, _, table = part._repr_html_().rpartition(title)
    return drawing, ElementTree.fromstring(title + table)


def rows(table):
    return {row.find("th").text: "".join(row.find("td").itertext()) for row in table.findall("tr")}


def test_an_expander_is_drawn_and_tells_its_settings(tiny_llama):
    expander = LLMExpander(HuggingFaceBackend(tiny_llama), prompt="<b>{query}</b>", n=3, seed=7)
    drawing, table = tables(expander)
    assert "LLM Expander" in drawing, "PyTerrier's own drawing stays"
    told = rows(table)
    assert told["prompt"] == "<b>{query}</b>" and told["n"] == "3" and told["seed"] == "7"


def test_long_records_are_cut():
    expander = RecordedExpander([{"query": f"q{n}", "passage": "<script>alert(1)</script>"} for n in range(100)])
    assert "<script>alert" not in expander._repr_html_()
    assert rows(tables(expander)[1])["records"].endswith(" ...")


def test_an_encoder_shows_itself_without_its_model():
    encoder = ExpandREncoder("no/such-model", pooling="mean", fusion=0.7)
    told = rows(tables(encoder)[1])
    assert told == {"model_name": "no/such-model", "pooling": "mean", "fusion": "0.7", "device": encoder.device}
    assert encoder._model is None


def test_an_index_tells_what_is_in_it(tmp_path):
    told = rows(tables(FaissIndex(BEFORE / "index"))[1])
    assert told["documents"] == "8" and told["dimensions"] == "32" and told["factory"] == "Flat"
    assert rows(tables(FaissIndex(tmp_path / "a&b"))[1])["documents"] == "not built"


def test_a_system_shows_its_parts():
    parts = [caption.text for caption in tables(ExpandR.load(BEFORE / "system"))[1].iter("caption")]
    assert parts == ["ExpandR", "RecordedExpander", "ExpandREncoder", "FaissIndex"]
