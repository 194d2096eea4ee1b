"""An experiment that is full of HTML and scripts, and the data of a page."""

import base64
import gzip
import json
import re

import pandas as pd
import pyterrier as pt

from pyterrier_expandr.evaluation import beir

#: what must never run, in every text that comes from data; without white space, so that it can be an id
SCRIPT = "<script>window.hacked=1</script>"
IMAGE = "<img/src=x/onerror=window.hacked=1>"
CLOSING = "</script>" + SCRIPT + "<!--"

QUERIES = {"1": "why is the sky blue" + SCRIPT, "2" + IMAGE: CLOSING + " what are tides", "3": "what is a fugue 雨"}
DOCUMENTS = {
    "sky": ("The sky " + IMAGE, "Air scatters short waves, so the sky looks blue."),
    "moon" + SCRIPT: (CLOSING, "The moon pulls the sea " + IMAGE),
    "fugue": ("", "Several voices enter one after another."),
    "other": ("Bread", "Yeast makes dough rise. " * 200),
}
PASSAGES = {
    "1": ["Molecules of air scatter short waves more. " + IMAGE, "It is blue."],
    "2" + IMAGE: ["The moon pulls water. " + SCRIPT],
}
SYSTEMS = ["plain", "expanded " + IMAGE]


def write_collection(folder):
    """The collection in BEIR format."""
    (folder / "qrels").mkdir(parents=True)
    lines = [{"_id": docno, "title": title, "text": text} for docno, (title, text) in DOCUMENTS.items()]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "queries.jsonl").write_text("\n".join(json.dumps({"_id": i, "text": t}) for i, t in QUERIES.items()))
    judged = [("1", "sky", 2), ("1", "fugue", 0), ("2" + IMAGE, "moon" + SCRIPT, 1), ("3", "fugue", 1)]
    rows = ["query-id\tcorpus-id\tscore", *(f"{qid}\t{docno}\t{grade}" for qid, docno, grade in judged)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows))
    return folder


def ranking(order):
    """A run in which every query gets the documents in this order."""
    names = list(DOCUMENTS)
    rows = [(qid, names[at], rank, 9.0 - rank) for qid in QUERIES for rank, at in enumerate(order)]
    return pd.DataFrame(rows, columns=["qid", "docno", "rank", "score"])


def experiment(folder, **options):
    """The results of two fixed rankings, the second with passages."""
    collection = write_collection(folder / "nasty")
    second = ranking([0, 1, 2])
    second["query_expansions"] = [PASSAGES.get(qid, []) for qid in second["qid"]]
    frames = dict(zip(SYSTEMS, [ranking([3, 2, 1, 0]), second], strict=True))
    systems = {name: lambda c, frame=frame: pt.Transformer.from_df(frame) for name, frame in frames.items()}
    return beir.experiment(systems, str(collection), folder / "results", verbose=False, **options)


def data_of(html, name):
    """The value packed in the element `name` of a page."""
    (text,) = re.findall(rf'<script type="text/plain" id="{name}">([A-Za-z0-9+/=]*)</script>', html)
    return json.loads(gzip.decompress(base64.b64decode(text)))
