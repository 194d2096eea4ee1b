"""How much damage is noticed, and how many hostile inputs give a raw error.

`python -m benchmarks.trust --only damage` measures it. Copies of each artefact with one file damaged (a bit flipped,
cut, cut at a line's end, a block of zeros, emptied, removed, bytes put in, halves exchanged) are opened as a user
would, each at a place of its own, and checked with `expandr verify`. Each reader gets mutated files and names; a raw
error is one that is not a sentence of ours.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from tests.tiny import build_tiny_llama
from tests.trust.damage import artefacts, try_damage
from tests.trust.fuzzing import fuzz
from tests.trust.targets import targets

Row = dict[str, Any]

#: opening an adapter takes a tenth of a second, other inputs milliseconds
SLOW = {"adapter, opened"}


def measurements(copies: int, inputs: int) -> Iterator[tuple[str, str, Callable[[], Row]]]:
    """(damage, artefact) and (fuzzing, reader), with the function that measures the row of the table.

    A row has `artefact`, `copies`, `noticed at opening`, `noticed by verify`, `raw errors` and `examples` of those, or
    `reader`, `inputs`, `raw errors` and `examples`. The function is called before the next one is asked for.
    """
    with tempfile.TemporaryDirectory(prefix="expandr-damage-") as name:
        folder = Path(name)
        os.environ["EXPANDR_CACHE"] = str(folder / "cache")
        build_tiny_llama(folder / "llama")
        (folder / "whole").mkdir()
        for number, artefact in enumerate(artefacts(folder / "whole", str(folder / "llama"))):
            yield "damage", artefact.name, partial(try_damage, artefact, folder / f"copies{number}", copies)
        (folder / "fuzz").mkdir()
        for reader, (strategy, run) in targets(folder / "fuzz", str(folder / "llama")).items():
            number = max(1, inputs // 20) if reader in SLOW else inputs
            yield "fuzzing", reader, partial(_fuzzed, reader, strategy, run, number)


def _fuzzed(reader: str, strategy: Any, run: Callable[[Any], object], inputs: int) -> Row:
    tried, raw = fuzz(strategy, run, inputs)
    return {"reader": reader, "inputs": tried, "raw errors": len(raw), "examples": raw[:3]}
