"""Training examples in, preference pairs out: candidates by the LLM -> rewards (Eq. 11 to 14) -> chosen and rejected.

`pairs.build_pairs` runs it into one folder; `candidates` draws the texts, `rewards` ranks them, `choice` filters and
decides, `pair_files` writes what TRL reads, `pair_report` says what came out. To touch: a reward (a callable in
`rewards.REWARDS`), a filter (`choice.FILTERS`). What is drawn is addressed by the generation cache; what is decided
is recomputed in minutes.
"""

from ...common.lazy import lazy_names

_HOME = {
    "CandidateSet": "candidates",
    "CandidateSettings": "candidates",
    "Decision": "choice",
    "PairReport": "pair_report",
    "PairsConfig": "pairs",
    "PreferenceSettings": "choice",
    "build_pairs": "pairs",
    "decide": "choice",
    "generate_candidates": "candidates",
    "read_pairs": "pair_files",
    "write_pairs": "pair_files",
}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
