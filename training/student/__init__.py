"""A query log with passages in, an encoder out that needs no LLM: it learns where the fused vectors would be.

`train.train_student` trains; `config` has the settings, `log` reads queries and passages, `teacher` opens and checks
the teacher, `losses.StudentLoss` measures the distance. To change: a profile (`config.PROFILES`). Only the side of the
queries is trained: the documents' side, and with it every index, remains the teacher's.
"""

from ...common.lazy import lazy_names

_HOME = {"StudentConfig": "config", "StudentLoss": "losses", "read_topics": "log", "train_student": "train"}
__all__ = sorted(_HOME)
__getattr__, __dir__ = lazy_names(__name__, _HOME)
