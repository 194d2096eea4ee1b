# ruff: noqa: RUF001  typographic quotes and full-width colons are what models write
import string
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyterrier_expandr import strip_preamble

BODY = "The sky is blue: air scatters short waves of light. Here is a passage: no."

OPENINGS = [
    "Here is a passage that answers the question: ",
    "Here is a passage that answers the question:\n\n",
    "here is a passage that answers the question:\n",
    "HERE IS THE PASSAGE: ",
    "Here is a passage about the colour of the sky:\n\n",
    "Here is a passage to answer the question:\n",
    "Here's a passage to answer your question:\n\n",
    "Here’s a passage on Rayleigh scattering:\n\n",
    "Here is a short, informative passage on the subject:\n\n",
    "Here is the answer:\n",
    "Here is the answer to the question: ",
    "Here is an answer to your question:\n\n",
    "Here is a possible answer:\n",
    "Here is a response to the query: ",
    "Here is a concise explanation for the question:\n",
    "Here is a paragraph that explains why the sky is blue:\n\n",
    "Here is a passage of text that answers the question:\n\n",
    "Here is a passage which directly addresses the claim:\n\n",
    "Here is a passage based on the question:\n\n",
    "Here is a passage that could answer the question:\n\n",
    "Here is a passage answering the question:\n\n",
    "Here are some keywords for the question:\n",
    "Here is a list of keywords: ",
    "Here is the rewritten question: ",
    "Here is a passage that answers the question.\n\n",
    "Here is a passage about the sky\n\n",
    "Here you go: here is a passage:\n\n",
    "Below is a passage that answers the question:\n\n",
    "Below is the passage:\n",
    "Below, you will find a passage that answers the question:\n",
    "The following is a passage that answers the question:\n\n",
    "The following passage answers the question:\n\n",
    "This passage explains why the sky is blue:\n\n",
    "This is the answer to the query: ",
    "This is a passage that answers the question:\n",
    "This is the passage:\n",
    "I have written a passage that answers the question:\n\n",
    "I've prepared a short passage for you:\n\n",
    "Sure! Here is a passage:\n\n",
    "Sure, here's a passage about the sky:\n\n",
    "Sure thing! Here is a passage that answers the question:\n\n",
    "Certainly! Below is a passage that answers the question:\n\n",
    "Certainly. Here is the passage:\n",
    "Of course! Here is a passage:\n\n",
    "Of course, here's the passage you requested:\n\n",
    "Absolutely! Here is the answer:\n",
    "Okay, here is a passage:\n\n",
    "OK. Here's a passage that answers the question:\n",
    "Great question! Here is an answer:\n\n",
    "I'd be happy to help! Here is a passage that answers the question:\n\n",
    "I would be glad to help with that. Here's a passage:\n\n",
    "Sure!\n\n",
    "Of course. ",
    "Certainly!\n",
    "Passage: ",
    "passage:\n",
    "PASSAGE: ",
    "Answer: ",
    "Answer:\n\n",
    "Response: ",
    "Generated passage: ",
    "The answer: ",
    "Answer to the question: ",
    "Answer to your query:\n",
    "Passage： ",
    "Passage : ",
    "Réponse : ",
    "Respuesta: ",
    "Antwort: ",
    "回答：",
    "答案: ",
    "Voici un passage qui répond à la question :\n\n",
    "Hier ist ein Abschnitt zur Frage:\n\n",
    "Aquí hay un pasaje que responde a la pregunta:\n\n",
    "**Passage:** ",
    "**Passage**: ",
    "**Passage:**\n\n",
    "**Passage**\n\n",
    "*Answer:* ",
    "__Answer:__ ",
    "## Passage\n\n",
    "### Answer:\n\n",
    "# **Passage**\n\n",
    "> Passage: ",
    "`Passage:` ",
    "“Passage:” ",
    "**Here is a passage that answers the question:**\n\n",
    "*Here is the passage:*\n\n---\n\n",
    "Here is a passage:\n\n---\n\n",
    "\n\n  Here is a passage:\n",
    "Question: why is the sky blue\nPassage: ",
    "Question: why is the sky blue?\n\n**Answer:** ",
    "In response to the question: ",
    "To answer your question: ",
    "Sure! Here is a passage:\n\nPassage: ",
    "Here is a passage that answers the question:\n\n**Passage:**\n\n",
    "> **Passage**\n\n",
    "Passage\n\n",
    "*Passage*\n\n",
    "« Passage » : ",
    "「答案」：",
    "以下是回答问题的段落：\n\n",
    'Here is a passage to answer the question: "why is the sky blue?"\n\n',
    "Okay, here goes:\n\n",
    "Here's the passage —\n\n",
    "As requested, here is a passage:\n\n",
    "Let me write a passage for you:\n\n",
    "Based on the question, here is a passage:\n\n",
    "Here you go:\n\n",
    "Here's what I found:\n\n",
    "I hope this helps! Here is the passage:\n\n",
    "Thank you for your question. Here is a passage:\n\n",
    "Here is a brief overview of the sky:\n\n",
    "Alright! ",
    "Passage 1: ",
    "The answer to the question is: ",
    "The passage is as follows:\n\n",
    "Here are a few sentences that answer the question:\n\n",
    "Voici un passage répondant à la question :\n\n",
    'Certainly, below is a passage that answers the question "what is it? why?":\n',
]

UNTOUCHED = [
    BODY,
    "Here is where the river meets the sea: a delta.",
    "Here is the river.",
    "Here, the answer is known: 42.",
    "This is the answer that Darwin gave: natural selection.",
    "This is the answer.",
    "This answer was given in 1859: species change.",
    "The following is true: water boils at 100 C.",
    "The answer is 42.",
    "The passage of time: a physicist's view.",
    "Insulin: a hormone that regulates glucose.",
    "Passages: the plural of passage.",
    "Passage grave: a tomb with a corridor.",
    "Passage of the Red Sea: a story from Exodus.",
    "Query optimisation: how a database plans.",
    "Answering questions: a task of NLP.",
    "Sure-footed goats live on cliffs.",
    "Sure, the sky is blue.",
    "Certainly the most famous of them: Newton.",
    "Of course the sky is blue.",
    "Of coursework: grades are made.",
    "Texts: cuneiform tablets were found.",
    "Document-oriented databases: MongoDB is one.",
    "Response time: the interval between request and reply.",
    "**Insulin:** a hormone.",
    "## Insulin\n\nA hormone.",
    '"To be or not to be": a question.',
    "I can see the sea.",
    "Question: what is a prime? Numbers, said Euclid.",
    "Below is the cellar; above is the roof.",
    "Great Britain: an island.",
    "This article explains how DNA works. It is long: three metres.",
    "The following article describes: x.",
    "This document describes the protocol: it has parts.",
    "In response to the question of slavery: Lincoln argued.",
    "Certainly! is an album by a band.",
    "I have written a text on law. It was long.",
    "Here is the passage where Caesar writes: veni, vidi, vici.",
    "Here is an article of faith: there is one god.",
    "Okay, Oklahoma: a town.",
    "Here are the steps: first, boil.",
    "Here is a text by Goethe about colours. A theory: light.",
    "Sure enough, the answer was: 4.",
    "",
    "  ",
    "Passage:",
    "Here is a passage that answers the question:",
    "Sure!",
]


@pytest.mark.parametrize("opening", OPENINGS)
def test_an_opening_is_removed_and_nothing_else(opening):
    assert strip_preamble(opening + BODY) == BODY


def test_the_table_is_long_enough():
    assert len(set(OPENINGS)) >= 60


@pytest.mark.parametrize("text", UNTOUCHED)
def test_a_text_without_an_introduction_is_untouched(text):
    assert strip_preamble(text) == text


def test_marks_of_the_passage_itself_are_kept():
    assert strip_preamble("Here is a passage:\n\n**Sky** is blue.") == "**Sky** is blue."
    assert strip_preamble('Here is a passage: "The sky is blue."') == '"The sky is blue."'
    assert strip_preamble("Passage:\n\n- first\n- second") == "- first\n- second"


def test_an_introduction_in_the_middle_stays():
    text = "The sky is blue. Here is a passage that answers the question: it is not black."
    assert strip_preamble(text) == text


PIECES = st.sampled_from([*OPENINGS, BODY, "Passage", ":", "**", '"', "\n", " ", "Sure", "!", "Here is", "the answer"])
TEXTS = st.one_of(
    st.text(alphabet=string.printable + "“”：é段", max_size=80), st.lists(PIECES, max_size=6).map("".join)
)


@settings(max_examples=400, deadline=None)
@given(TEXTS)
def test_never_empties_and_is_idempotent(text):
    once = strip_preamble(text)
    assert text.endswith(once)
    assert bool(once.strip()) == bool(text.strip())
    assert strip_preamble(once) == once


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(OPENINGS), st.from_regex(r"[A-Z][a-z]{3,9} [a-z]{2,8} [a-z ]{0,40}\.", fullmatch=True))
def test_any_plain_sentence_survives_any_opening(opening, sentence):
    if strip_preamble(sentence) == sentence:
        assert strip_preamble(opening + sentence) == sentence


@pytest.mark.parametrize(
    "text",
    [
        "Sure, " * 5000,
        "Here is " + "a " * 50_000,
        'Here is a passage about "' * 4000,
        "* _" * 30_000,
        "the my a " * 9000,
        "Here is a passage to " + "x" * 100_000,
    ],
)
def test_a_long_text_that_almost_matches_takes_no_time(text):
    start = time.perf_counter()
    assert strip_preamble(text) == text
    assert time.perf_counter() - start < 1
