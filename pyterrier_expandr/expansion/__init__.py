"""Queries in, passages out: prompt -> backend (an LLM) -> cache of raw texts -> cleaned `query_expansions`.

In: a frame `[qid, query]`. Out: the same with `query_expansions`, a list of texts for each query. `backends/` has the
LLMs behind one protocol. To touch: a prompt (`prompts.PROMPTS`), what does not belong to a passage (`cleaning/`), a new
backend. Not to touch without a thought: what addresses the cache (`Backend.fingerprint`, `Request`), or every text is
asked anew.
"""

from ..common.lazy import lazy_names

_HOME = {
    "GenerationCache": "cache",
    "LLMExpander": "expander",
    "LexicalExpander": "lexical",
    "PROMPTS": "prompts",
    "RecordedExpander": "expander",
    "clean_passage": "cleaning.passage",
    "read_expansions": "recorded",
    "strip_preamble": "cleaning.preambles",
    "write_expansions": "recorded",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
