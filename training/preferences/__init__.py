"""Training examples in, preference pairs out: LLM candidates -> rewards (Eq. 11 to 14) -> chosen and rejected.

`pairs.build_pairs` runs it in one folder; `candidates` draws the texts, `rewards` ranks them, `choice` filters and
decides, `pair_files` writes what TRL reads, `pair_report` summarises the result. To change: a reward (a callable in
`rewards.REWARDS`), a filter (`choice.FILTERS`). Generated texts are kept in the generation cache; decisions can be
recomputed in minutes.
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
