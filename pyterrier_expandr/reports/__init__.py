"""Results in, tables out: Markdown, LaTeX and HTML, next to the paper's published numbers (`paper.json`).

`page.report` writes the whole page of an experiment from `tables` and `paper_comparison`; `formats` renders a table. To
change: a format, a table. Nothing here computes a score.
"""

from ..common.lazy import lazy_names

_HOME = {"check_averages": "paper", "inconsistencies": "paper", "paper_scores": "paper", "report": "page"}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
