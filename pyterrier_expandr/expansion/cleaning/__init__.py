"""Texts as an LLM wrote them in, passages out: what a chat model puts around a passage is taken off.

In: one text, and the prompt where it is known. Out: the passage in it, never more than the text had. One file for each
kind: `markup` (templates, tags, fences, JSON), `echoes` (the prompt again), `preambles`, `endings` (offers, notes),
`repetition`; `refusals` tells texts that hold no passage. `passage` puts them together. To touch: a phrase that is
missed, with a line in tests/fixtures/cleaning_labelled.jsonl. Not to touch without a new `passage.CLEANING`: anything
that changes a result.
"""

from ...common.lazy import lazy_names

_HOME = {
    "clean_passage": "passage",
    "is_refusal": "refusals",
    "strip_preamble": "preambles",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
