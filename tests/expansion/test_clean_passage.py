"""`clean_passage` and `is_refusal` on a labelled list, on drawn texts and on texts that take other cleaners long."""

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_expandr import clean_passage
from pyterrier_expandr.expansion.cleaning import is_refusal
from pyterrier_expandr.expansion.cleaning.passage import CLEANING, cleaning_name, passages_in
from pyterrier_expandr.expansion.recorded import read_expansions

LABELLED = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "fixtures" / "cleaning_labelled.jsonl").read_text("utf-8").splitlines()
]
PROMPT = "Please write a passage to answer the question.\nQuestion: why is the sky blue\nPassage:"


def result(row):
    """What an expander keeps of a labelled text, None where that is nothing."""
    passages, _ = passages_in([row["text"]], row.get("prompt"))
    return passages[0] if passages else None


def rates(which):
    """Errors and texts: of those that must stay as they are, and of those that must be cleaned or left out."""
    rows = [(row, result(row)) for row in LABELLED if row["set"] == which]
    stay = [found != row["clean"] for row, found in rows if row["clean"] == row["text"]]
    go = [found != row["clean"] for row, found in rows if row["clean"] != row["text"]]
    return (sum(stay), len(stay)), (sum(go), len(go))


@pytest.mark.parametrize(("which", "touched", "missed"), [("seen", (2, 234), (0, 186)), ("unseen", (3, 87), (7, 82))])
def test_both_error_rates_on_the_labelled_list(which, touched, missed):
    """The numbers in docs/backends.md; "seen" texts were there when the rules were written, "unseen" ones were not."""
    found = rates(which)
    assert [total for _, total in found] == [touched[1], missed[1]]
    assert found[0][0] <= touched[0], f"false touches: {found[0]}"
    assert found[1][0] <= missed[0], f"misses: {found[1]}"


def test_the_list_is_long_and_has_lookalikes():
    texts = [row["text"] for row in LABELLED]
    assert len(texts) == len(set(texts)) >= 300
    assert sum(row["kind"] == "label-word" and row["clean"] == row["text"] for row in LABELLED) >= 20
    assert {row["lang"] for row in LABELLED} == {"en", "de", "fr", "es", "pt", "zh", "ja"}


@pytest.mark.parametrize(
    "text",
    [
        "Response time: the time that passes between a request and its answer.",
        "Sure, the deodorant brand, was launched in 1978.",
        "OK Computer is an album.",
        "Here is where the river splits: one arm runs east.",
        "Summary judgment: a ruling that a court enters without a full trial.",
        "Answer: a film of 1994 about two brothers who inherit a lighthouse.",
    ],
)
def test_what_only_looks_like_an_introduction_stays(text):
    assert clean_passage(text) == text and not is_refusal(text)


@pytest.mark.parametrize("row", [row for row in LABELLED if row["clean"] is None and row["set"] == "seen"])
def test_a_text_without_a_passage_is_left_out_and_counted(row):
    assert passages_in([row["text"], "Air scatters light."]) == (["Air scatters light."], 1)
    assert len(passages_in([row["text"]], keep_refusals=True)[0]) == 1


def test_of_recorded_passages_only_labels_are_taken_off(expandr_data):
    """2,400 passages of three chat models for SciFact: seven begin with "Passage:", nothing else is touched."""
    files = sorted((expandr_data / "expansions" / "scifact").glob("*.jsonl"))
    texts = [p for path in files for found in read_expansions(path)[0].values() for p in found.passages]
    assert len(texts) == 2400
    assert sum(text.startswith("Passage: ") for text in texts) == 7
    assert passages_in(texts) == ([text.removeprefix("Passage: ") for text in texts], 0)


PIECES = st.one_of(
    st.sampled_from([row["text"] for row in LABELLED]),
    st.sampled_from([*PROMPT.splitlines(), "<passage>", "</passage>", "[INST]", "[/INST]", "<|im_end|>", "```", "---"]),
    st.sampled_from(['{"passage": "', '"}', "\n\n", "\n", " ", "**", "(Note: this ", ". ", "assistant\n", "\ud800"]),
    st.text(max_size=20),
)
TEXTS = st.lists(PIECES, max_size=6).map("".join)


@settings(max_examples=400, deadline=None)
@given(TEXTS, st.sampled_from([None, PROMPT, "", "{query}", "Tell me."]))
def test_cleaning_shortens_and_does_it_once(text, prompt):
    once = clean_passage(text, prompt)
    assert bool(once.strip()) == bool(text.strip())
    assert clean_passage(once, prompt) == once
    # Nothing is added: a part of the text, or of what a JSON object in it says.
    assert once in text or (len(once) < len(text) and '"' in text)
    is_refusal(text)


@settings(max_examples=100, deadline=None)
@given(st.from_regex(r"([A-Z][a-z]{2,9}( [a-z]{2,9}){3,9}\. ){1,5}", fullmatch=True))
def test_plain_prose_stays(text):
    first = text.split()[0].lower()
    if not re.fullmatch(r"sure|okay|claro|gerne|sorry", first):
        assert passages_in([text]) == ([text], 0)


@pytest.mark.parametrize(
    "text",
    [
        "Air is blue. " + "Let me know if you have questions! " * 3000,
        "Air is blue.\n\n" + "".join(f"Let me know if you have {n} questions!\n\n" for n in range(1500)),
        "Passage: " * 10_000,
        "Sure! " * 20_000,
        "<|im_start|>assistant\n" * 5000 + "Air.",
        "[INST] " * 20_000,
        "<think>" * 20_000,
        "<passage>" * 20_000,
        "```\n" * 20_000,
        '{"passage":' * 20_000,
        "Question: x\n" * 20_000,
        "Title: x Passage: " * 5000,
        "\n" * 100_000 + "x",
        "_ " * 50_000,
        "Please write a passage to answer the question.\n" * 3000,
        "I'm sorry, but " * 20_000,
        "以下是" * 30_000,
    ],
    ids=lambda text: text[:20],
)
@pytest.mark.parametrize("prompt", [None, PROMPT])
def test_a_long_text_takes_no_time(text, prompt):
    start = time.perf_counter()
    is_refusal(clean_passage(text, prompt))
    assert time.perf_counter() - start < 5  # it takes under half a second; a busy machine may take longer


def test_a_cleaning_is_named_as_results_record_it():
    assert [cleaning_name(clean) for clean in (True, False, "strip_preamble", CLEANING)] == [
        CLEANING,
        None,
        "strip_preamble",
        CLEANING,
    ]
    with pytest.raises(ValueError, match=r"got 'clean_passage/9'.*later release"):
        cleaning_name("clean_passage/9")


def test_an_older_cleaning_takes_off_introductions_alone():
    texts = ["Answer: Air scatters light.\n\nLet me know if you have any questions!", " ", "I can't help with that."]
    kept = ["Air scatters light.\n\nLet me know if you have any questions!", "I can't help with that."]
    assert passages_in(texts, cleaning="strip_preamble") == (kept, 0)
    assert passages_in(texts, cleaning=None) == ([texts[0], texts[2]], 0)
