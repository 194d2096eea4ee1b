"""Texts as an LLM wrote them in, passages out: what a chat model adds around a passage is removed.

In: one text, and the prompt if it is known. Out: the passage in it, never more than the text contained. There is one
file for each kind: `markup` (templates, tags, fences, JSON), `echoes` (the prompt repeated), `preambles`, `endings`
(offers, notes), `repetition`; `refusals` recognises texts without a passage. `passage` combines them. Meant to be
changed: the phrases, adding missed ones together with a line in tests/fixtures/cleaning_labelled.jsonl. Anything that
changes a result needs a new `passage.CLEANING`.
"""

from ...common.lazy import lazy_names

_HOME = {
    "clean_passage": "passage",
    "is_refusal": "refusals",
    "strip_preamble": "preambles",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
