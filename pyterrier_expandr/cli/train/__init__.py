"""`expandr train ...`: data and training for both models. Options in, folders out; a rerun resumes.

`pairs` makes preference data, `expander` and `retriever` train on it, `online` trains by a reward, `recipe` runs all of
it from one file. To change: an option, its help. What a command does belongs in the package `training`.
"""

from . import pairs, expander, online, retriever, student, recipe  # noqa: F401, I001  they register themselves, in the order of the help
