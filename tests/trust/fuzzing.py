"""Hostile and broken input for everything that reads something: mutated files and names, from a kept corpus of strings."""

import copy
import json
import os
import traceback
import warnings
from pathlib import Path

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import pyterrier_expandr

PACKAGE = str(Path(pyterrier_expandr.__file__).parent)
TRAINING = str(Path(pyterrier_expandr.__file__).parents[1] / "training")
NASTY = json.loads((Path(__file__).parents[1] / "fixtures" / "nasty_strings.json").read_text())
#: what may stand where a JSON value of another kind was expected
VALUES = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**63,
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [None],
    {"": None},
    [[1], {"a": [2]}],
]

strings = st.one_of(
    st.sampled_from(NASTY), st.text(max_size=8), st.lists(st.sampled_from(NASTY), max_size=3).map("".join)
)
values = st.one_of(st.sampled_from(VALUES).map(copy.deepcopy), strings)


@st.composite
def mutated_json(draw, content):
    """`content` with one or two of its values, keys or items replaced, removed or added."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(content))
        holder, key = draw(st.sampled_from(places)) if places else (None, None)
        if holder is None:
            return draw(values)
        what = draw(st.sampled_from(["value", "value", "value", "remove", "add"]))
        if what == "remove":
            del holder[key]
        elif what == "add" and isinstance(holder, dict):
            holder[draw(strings)] = draw(values)
        else:
            holder[key] = draw(values)
    return content


def _places(content):
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield content, key
        yield from _places(value)


@st.composite
def mutated_bytes(draw, data):
    """`data` with pieces cut out, repeated, overwritten, or nasty strings put in."""
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data)))
        end = min(len(data), place + draw(st.integers(0, 12)))
        kind = draw(st.sampled_from(["cut", "end", "bytes", "string", "repeat", "encoding"]))
        if kind == "cut":
            data = data[:place] + data[end:]
        elif kind == "end":
            data = data[:place]
        elif kind == "bytes":
            data = data[:place] + draw(st.binary(max_size=4)) + data[end:]
        elif kind == "repeat":
            data = data[:end] + data[place:]
        elif kind == "encoding":
            data = data.decode("utf-8", "replace").encode(
                draw(st.sampled_from(["utf-16", "latin-1", "utf-8-sig"])), "replace"
            )
        else:
            data = data[:place] + draw(strings).encode("utf-8", "surrogatepass") + data[end:]
    return data


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised by a check of this package, in words."""
    kinds = (ValueError, TypeError, FileNotFoundError, FileExistsError, ImportError)
    place = os.path.realpath(traceback.extract_tb(error.__traceback__)[-1].filename)
    return isinstance(error, kinds) and place.startswith((os.path.realpath(PACKAGE), os.path.realpath(TRAINING)))


def fuzz(strategy, run, examples: int) -> tuple[int, list[str]]:
    """How many inputs were tried, and the raw errors among them, each place once."""
    tried, raw = 0, {}

    @seed(20250919)
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def one(value):
        nonlocal tried
        tried += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                run(value)
            except Exception as error:
                if not is_ours(error):
                    last = traceback.extract_tb(error.__traceback__)[-1]
                    place = f"{last.filename}:{last.lineno}"
                    raw.setdefault(place, f"{type(error).__name__}: {error!s:.150} at {place} for {value!r:.200}")

    one()
    return tried, list(raw.values())
