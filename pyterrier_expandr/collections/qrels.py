"""Relevance judgments: files of them in two formats, and the checks that all readers share."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from ..common.utf8 import read_utf8

logger = logging.getLogger(__name__)

#: possible names of the last column of a qrels file, if it has a header
HEADINGS = ("score", "label", "relevance", "rel")

#: (query id, document id, grade)
Judgment = tuple[str, str, int]


def read_qrels(path: Path) -> pd.DataFrame:
    """`[qid, docno, label]` of a qrels file, with int labels.

    The file has either the three tab-separated columns of BEIR (query-id, corpus-id, score; optionally with a header)
    or the four columns of TREC separated by white space (query id, iteration, document id, grade).

    Raises:
        ValueError: the file is not UTF-8, or a line has other columns (the message names the format found), a grade
            that is not made of decimal digits only, or a judgment that contradicts an earlier line (both lines are
            named).
    """
    return pd.DataFrame(distinct(_rows(path), str(path)), columns=["qid", "docno", "label"])


def distinct(judgments: Iterable[tuple[str, Judgment]], source: str) -> Iterator[Judgment]:
    """Each judgment once; the number of repeated ones is logged.

    Args:
        judgments: (place, judgment); the place is named in errors.
        source: what the judgments belong to, for the log.

    Raises:
        ValueError: two places judge the same pair differently.

    Example:
        >>> list(distinct([("line 1", ("q", "d", 1)), ("line 2", ("q", "d", 1))], "qrels"))
        [('q', 'd', 1)]
    """
    seen: dict[tuple[str, str], tuple[int, str]] = {}
    again = 0
    for place, (qid, docno, label) in judgments:
        first, where = seen.setdefault((qid, docno), (label, place))
        if first != label:
            raise ValueError(
                f"{where} judges document {docno!r} for query {qid!r} with grade {first}, but {place} with {label}: "
                "keep one of them"
            )
        if where == place:
            yield qid, docno, label
        else:
            again += 1
    if again:
        logger.warning("%s: %d judgments are repeated; each counts once", source, again)


def _rows(path: Path) -> Iterator[tuple[str, Judgment]]:
    with io.StringIO(read_utf8(path), newline=None) as file:
        for number, line in enumerate(file, 1):
            cells = line.rstrip("\r\n").split("\t")
            if not line.strip() or (number == 1 and _is_header(line)):
                continue
            if len(cells) != 3 and len(trec := line.split()) == 4:
                cells = [trec[0], *trec[2:]]
            if len(cells) != 3 or not re.fullmatch("-?[0-9]+", cells[2]):
                raise ValueError(
                    f"{path}:{number} must be query-id, corpus-id and a whole number, separated by tabs, "
                    f"or TREC's four columns, but has {_format(line)}: {line.strip()[:80]!r}"
                )
            yield f"{path}:{number}", (cells[0], cells[1], int(cells[2]))


def _is_header(line: str) -> bool:
    return re.split(r"[\t,; ]", line.strip())[-1].lower() in HEADINGS


def _format(line: str) -> str:
    """A description of the format of a line that cannot be read."""
    for name, parts in (("tabs", line.split("\t")), ("commas", line.split(",")), ("white space", line.split())):
        if len(parts) > 1:
            return f"{len(parts)} columns between {name}"
    return "one column"
