"""Results in, tables out: Markdown, LaTeX and HTML, beside the numbers that the paper published (`paper.json`).

`page.report` writes the whole page of an experiment from `tables` and `paper_comparison`; `formats` prints a table. To
touch: a format, a table. Nothing here computes a score.
"""

from ..common.lazy import lazy_names

_HOME = {"check_averages": "paper", "inconsistencies": "paper", "paper_scores": "paper", "report": "page"}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
