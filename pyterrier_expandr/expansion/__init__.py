"""Queries in, passages out: prompt -> backend (an LLM) -> cache of raw texts -> cleaned `query_expansions`.

In: a frame `[qid, query]`. Out: the same frame with `query_expansions`, a list of texts for each query. `backends/`
puts all LLMs behind one protocol. Meant to be changed: the prompts (`prompts.PROMPTS`), the rules for what does not
belong in a passage (`cleaning/`), and the set of backends. Change with care: anything that forms the cache address
(`Backend.fingerprint`, `Request`), because every text would have to be generated again.
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
    "read_querygym": "querygym",
    "strip_preamble": "cleaning.preambles",
    "write_expansions": "recorded",
    "write_querygym": "querygym",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
