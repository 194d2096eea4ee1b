"""The plans of docs/scale.md: what `expandr plan` works out from measured speeds and from assumed ones.

    python -m benchmarks.scale_plan

Measured: documents per second of a CPU core (docs/results/encoding.json) and recall (docs/results/scale.json). Assumed:
all other speeds in `places`, and its prices. The rest is arithmetic.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import encoding
from benchmarks.markdown import table
from benchmarks.scale import DIM
from pyterrier_expandr.cli.plan import GB, Run

RESULTS = Path(__file__).parent.parent / "docs" / "results"
#: passages and queries of `irds:msmarco-passage/dev/small`, as ir-datasets counts them
PASSAGES, QUERIES = 8_841_823, 6_980
#: texts for each query, and tokens of a text (docs/backends.md says where the latter was seen)
TEXTS, TOKENS = 8, 140
LARGER = (100_000_000, 1_000_000_000)
#: kinds of index as in benchmarks.scale, whose recall stands beside each, with more lists
FACTORIES = ("Flat", "SQfp16", "SQ8", "IVF65536,PQ48np")
CORES = 16


@dataclass(frozen=True)
class Place:
    """Machines of one kind.

    Args:
        name: as the tables call them.
        machines: their number.
        docs, tokens: documents that the encoder reads, and tokens that the LLM writes, in a second on each.
        price: of one machine for an hour.
    """

    name: str
    machines: int
    docs: float
    tokens: float
    price: float

    def run(self, documents: int, factory: str = "Flat") -> Run:
        """The run that `expandr plan` works out for this place."""
        return Run(documents, QUERIES, TEXTS, TOKENS, self.tokens, self.docs, DIM, factory, self.machines)

    def command(self, documents: int) -> str:
        """The options that say this place to `expandr plan`."""
        speeds = f"--docs-per-second {self.docs:.0f} --tokens-per-second {self.tokens:.0f}"
        return f"--documents {documents} {speeds} --machines {self.machines}"


def places(reports: dict[str, Any]) -> list[Place]:
    """The places of the tables, with the speed of a core with VNNI in int8 from the results of benchmarks.encoding.

    Of several collections the slowest counts, rounded down to a whole number.
    """
    rows = [
        row
        for one in reports["with VNNI"]["collections"].values()
        for row in one["rows"]
        if row["way"] == encoding.FAST
    ]
    core = int(min(row["docs/s"] for row in rows))
    return [
        Place("one GPU", 1, 5000, 5000, 2.00),
        Place("8 GPUs", 8, 5000, 5000, 2.00),
        Place(f"16 machines, {CORES} cores each", 16, CORES * core, 30, 0.60),
    ]


def commands(where: list[Place]) -> str:
    """The commands whose output the table has."""
    begin = f"expandr plan --collection pocket --queries {QUERIES} --n {TEXTS} --max-new-tokens {TOKENS} --dim {DIM} \\"
    return "\n".join(["```bash", *(f"{begin}\n    {place.command(PASSAGES)}" for place in where), "```"])


def marco_table(where: list[Place]) -> str:
    """Hours, machine hours and money for MS MARCO, the corpus and the texts apart."""
    hours = ["corpus, hours", "texts, hours", "machine hours"]
    lines = []
    for place in where:
        run = place.run(PASSAGES)
        corpus, texts = run.encoding_hours or 0, run.writing_hours or 0
        total = (corpus + texts) * place.machines
        speed = f"{place.docs:,.0f} docs/s, {place.tokens:,.0f} tokens/s"
        cells = [f"{corpus:.2f}", f"{texts:.2f}", f"{total:.1f}", f"{place.price:.2f}", f"{total * place.price:.2f}"]
        lines.append([place.name, speed, *cells])
    return table(["machines", "speed of each", *hours, "price of an hour", "money"], lines)


def larger_table(where: list[Place]) -> str:
    """Hours, machine hours and money for the encoding of larger collections."""
    lines = []
    for documents in LARGER:
        for place in where:
            hours = replace(place.run(documents), queries=0).encoding_hours or 0
            total = hours * place.machines
            cells = [f"{hours:,.1f}", f"{total:,.0f}", f"{total * place.price:,.0f}"]
            lines.append([f"{documents:,}", place.name, *cells])
    return table(["documents", "machines", "encoding, hours", "machine hours", "money"], lines)


def index_table(cells: list[dict[str, Any]]) -> str:
    """Bytes of each kind of index for MS MARCO and larger collections, with the recall at the largest size measured."""
    sizes = (PASSAGES, *LARGER)
    heads = ["factory", "bytes a vector", *(f"{size:,}: GB (to build)" for size in sizes), "recall@100, measured at"]
    lines = []
    for factory in FACTORIES:
        runs = [Run(size, QUERIES, TEXTS, TOKENS, None, None, DIM, factory) for size in sizes]
        numbers = [f"{run.index_bytes / GB:,.1f} ({run.build_bytes / GB:,.1f})" for run in runs]
        kind = re.sub(r"IVF\d+", "IVF", factory)
        measured = max((one for one in cells if one["kind"] == kind), key=lambda one: one["size"], default=None)
        recall = "" if measured is None else f"{measured['recall']['ours']:.3f}, {measured['size']:,} vectors"
        if measured is not None and measured["factory"] != factory:
            recall += f" ({measured['factory']})"
        each = f"{runs[-1].index_bytes / runs[-1].documents:,.0f}"
        lines.append([f"`{factory}`", each, *numbers, recall])
    return table(heads, lines)


def blocks() -> list[str]:
    """The generated parts of the plan in docs/scale.md, in their order."""
    where = places(json.loads((RESULTS / "encoding.json").read_text()))
    cells = json.loads((RESULTS / "scale.json").read_text())["cells"]
    return ["\n\n".join([commands(where), marco_table(where)]), index_table(cells), larger_table(where)]


if __name__ == "__main__":
    print("\n\n".join(blocks()))
