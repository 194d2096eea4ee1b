"""What users really feed it: frames with odd ids, texts and columns give an answer or an error of ours, never a raw one."""

import os
import traceback
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

import pyterrier_expandr
from pyterrier_expandr import ExpandR, ExpandREncoder, FaissIndex, HuggingFaceBackend, LLMExpander, RecordedExpander
from pyterrier_expandr.evaluation.self_match import SelfMatchFilter
from tests.encoders_tiny import TEXTS, build_bert, with_modules
from tests.trust.fuzzing import NASTY

pytest.importorskip("faiss")

PACKAGE = str(Path(pyterrier_expandr.__file__).parent)
ODD_IDS = [
    "1",
    "2",
    "a b",
    "",
    "a\ud800",
    "\x00",
    "d1",
    1,
    2,
    1.5,
    float("nan"),
    None,
    pd.NA,
    True,
    ("t",),
    b"1",
    *NASTY[:16],
]
ODD_TEXTS = [
    TEXTS[0],
    TEXTS[1],
    "",
    "  ",
    "a\ud800b",
    "nul\x00",
    "sky " * 80,
    7,
    None,
    float("nan"),
    pd.NA,
    ["x"],
    b"x",
    *NASTY,
]
VECTOR = np.ones(32, np.float32)
ODD_VECTORS = [
    VECTOR,
    VECTOR,
    VECTOR * 2,
    list(VECTOR),
    VECTOR[:3],
    VECTOR * np.nan,
    None,
    "x",
    1.0,
    VECTOR[None],
    [[1], [2, 3]],
    [],
]
ODD_LISTS = [[], ["x"], ["a\ud800", " "], None, float("nan"), "text", [1], 5, np.array(["x"], object), {"a": 1}]
ODD_NUMBERS = [0, 1, 2.5, float("nan"), None, "3", float("inf"), -1, pd.NA]
POOLS = {
    "qid": ODD_IDS,
    "docno": ODD_IDS,
    "query": ODD_TEXTS,
    "text": ODD_TEXTS,
    "title": ODD_TEXTS,
    "query_vec": ODD_VECTORS,
    "doc_vec": ODD_VECTORS,
    "query_expansions": ODD_LISTS,
    "score": ODD_NUMBERS,
    "rank": ODD_NUMBERS,
}
PLAIN = {"qid": "1", "docno": "d1", "query": TEXTS[0], "text": TEXTS[1], "title": "", "query_vec": VECTOR}
PLAIN |= {"doc_vec": VECTOR, "query_expansions": ["sky"], "score": 1.0, "rank": 0}


@st.composite
def frames(draw, columns):
    """A frame of most of `columns` and some others; few cells are odd, so that every check is reached."""
    names = [name for name in columns if draw(st.integers(0, 9))]
    names += draw(st.lists(st.sampled_from(sorted(POOLS)), max_size=2, unique=not draw(st.booleans())))
    size = draw(st.integers(0, 4))
    parts = []
    for name in names:
        odd = draw(st.integers(0, 3)) == 0
        cells = [draw(st.sampled_from(POOLS[name])) if odd else PLAIN[name] for _ in range(size)]
        if name in ("qid", "docno") and not odd:
            cells = [f"{name[0]}{number}" for number in range(size)]
        column = np.empty(size, object)
        for place, cell in enumerate(cells):
            column[place] = cell
        series = pd.Series(column, dtype=object, name=name)
        parts.append(series.infer_objects() if draw(st.booleans()) and not _surrogates(cells) else series)
    frame = pd.concat(parts, axis=1) if parts else pd.DataFrame()
    if draw(st.booleans()) and len(frame):
        frame.index = draw(
            st.sampled_from([[0] * len(frame), [f"r{n}" for n in range(len(frame))], [None] * len(frame)])
        )
    return frame


def _surrogates(cells):
    return any("\ud800" <= character <= "\udfff" for cell in cells for character in str(cell))


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised by a check: a `raise` of this package, or PyTerrier's own check of columns."""
    if isinstance(error, pt.validate.InputValidationError):
        return True
    last = traceback.extract_tb(error.__traceback__)[-1]
    return isinstance(error, (ValueError, TypeError)) and os.path.realpath(last.filename).startswith(
        (PACKAGE, os.path.realpath(PACKAGE))
    )


@pytest.fixture(scope="module")
def targets(tmp_path_factory, tiny_llama):
    """name -> (columns that it reads, a function of a frame)."""
    folder = tmp_path_factory.mktemp("odd")
    encoder = ExpandREncoder(SentenceTransformer(with_modules(build_bert(folder / "bert"), "mean"), device="cpu"))
    recorded = RecordedExpander([{"query": TEXTS[0], "passage": "sky"}], on_missing="query-only")
    index = FaissIndex(folder / "index")
    (encoder.doc_encoder() >> index).index([{"docno": str(n), "text": text} for n, text in enumerate(TEXTS)])
    numbers = iter(range(10**9))

    def build(pipeline):
        def run(frame):
            target = FaissIndex(folder / f"i{next(numbers)}")
            built = pipeline(target).index(frame.to_dict("records"))
            return built.docnos

        return run

    llm = LLMExpander(HuggingFaceBackend(tiny_llama, device="cpu"), max_new_tokens=1)
    search = ExpandR(recorded, encoder, index).pipeline(2, drop_self_matches=True)
    return {
        "LLMExpander": (["qid", "query"], llm),
        "RecordedExpander": (["qid", "query"], recorded),
        "query encoder": (["qid", "query", "query_expansions"], encoder.query_encoder()),
        "document encoder": (["docno", "text", "title"], encoder.doc_encoder()),
        "scorer": (["qid", "query", "docno", "text"], encoder.text_scorer()),
        "scorer of vectors": (["qid", "docno", "query_vec", "doc_vec"], encoder.text_scorer()),
        "indexing vectors": (["docno", "doc_vec"], build(lambda target: target)),
        "indexing": (["docno", "text", "title"], build(lambda target: encoder.doc_encoder() >> target)),
        "retriever": (["qid", "query_vec"], index.retriever(2)),
        "self-matches": (["qid", "docno", "score", "rank"], SelfMatchFilter(2)),
        "pipeline": (["qid", "query"], search),
        "records": (["qid", "query"], lambda frame: search(frame.to_dict("records"))),
    }


def run_fuzz(targets, examples: int) -> tuple[int, list[str]]:
    """How many frames were tried, and the raw errors among them."""
    tried, raw = 0, []

    @seed(20250601)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def fuzz(data):
        nonlocal tried
        name = data.draw(st.sampled_from(sorted(targets)))
        columns, run = targets[name]
        frame = data.draw(frames(columns))
        tried += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                run(frame)
            except Exception as error:
                if not is_ours(error):
                    place = traceback.extract_tb(error.__traceback__)[-1]
                    raw.append(f"{name}: {type(error).__name__}: {error!s:.120} at {place.filename}:{place.lineno}")

    fuzz()
    return tried, raw


def test_odd_frames_give_no_raw_errors(targets):
    tried, raw = run_fuzz(targets, 500)
    assert tried >= 500
    assert not raw, "\n".join(sorted(set(raw)))


@pytest.mark.slow
def test_twenty_one_thousand_odd_frames_give_no_raw_errors(targets):
    tried, raw = run_fuzz(targets, 21_000)
    assert tried >= 21_000
    assert not raw, "\n".join(sorted(set(raw)))
