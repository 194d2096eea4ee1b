"""The rooms of the package, which of them may import which, and what their files really import.

python -m tests.rooms docs/rooms.svg    draws the picture of docs/architecture.md from the imports
"""

import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import grimp

ROOT = Path(__file__).parent.parent

#: from the top down; rooms in one line know nothing of one another
ORDER = [
    "cli",
    "training",
    "systems",
    "reports | analysis",
    "evaluation",
    "retrieval",
    "encoding",
    "expansion",
    "collections",
    "common",
]
TRAINING = [
    "recipe",
    "student",
    "expander | retriever | smalllm",
    "preferences",
    "data",
    "stage | run_folder | checkpoints | progress | setting_checks | identity",
]

#: what a room hands to those above it, as the picture says it; in its rows from left to right
GIVES = {
    "cli": "expandr ...",
    "reports": "tables, pages",
    "systems": "ExpandR: one artefact",
    "training": "adapters, encoders, tables",
    "analysis": "figures",
    "evaluation": "Results",
    "retrieval": "rankings",
    "collections": "queries, documents, judgments",
    "expansion": "query_expansions",
    "encoding": "query_vec, doc_vec",
    "common": "files, checks, fingerprints",
}

#: the package under another name, so that the installed one does not get in the way
COPY = "rooms_of_expandr"


def rooms(order):
    """The names in `order`, layer by layer."""
    return [[room.strip() for room in line.split("|")] for line in order]


@contextmanager
def imports(extra=None):
    """The imports of the package as it is installed, with `training` in it; `extra` adds lines to files of a copy.

    Imports within functions count, those for annotations alone do not.
    """
    with tempfile.TemporaryDirectory() as folder:
        package, hidden = Path(folder) / COPY, shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "pyterrier_expandr", package, ignore=hidden)
        shutil.copytree(ROOT / "training", package / "training", ignore=hidden)
        for file, line in (extra or {}).items():
            with open(package / file, "a") as module:
                module.write(f"\n{line}\n")
        sys.path.insert(0, folder)
        try:
            yield grimp.build_graph(COPY, exclude_type_checking_imports=True, cache_dir=None)
        finally:
            sys.path.remove(folder)
            sys.modules.pop(COPY, None)


def arrows(graph):
    """(room, room that it imports) of the package, less those that follow from others."""
    names = {room for layer in rooms(ORDER) for room in layer}
    direct = set()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            pair = tuple(name.split(".")[1] for name in (module, other) if name.count("."))
            if len(pair) == 2 and pair[0] != pair[1] and set(pair) <= names:
                direct.add(pair)
    reach = {name: {b for a, b in direct if a == name} for name in names}
    for _ in names:
        reach = {a: below | {c for b in below for c in reach[b]} for a, below in reach.items()}
    return sorted((a, b) for a, b in direct if not any(b in reach[c] for c in reach[a] if (a, c) in direct and c != b))


def levels(pairs):
    """The rooms of `arrows` in rows: each stands above all that it imports, as low as it can."""
    height = {room: 0 for pair in pairs for room in pair}
    for _ in height:
        for upper, lower in pairs:
            height[upper] = max(height[upper], height[lower] + 1)
    return [[room for room in GIVES if height.get(room) == level] for level in range(max(height.values()) + 1)]


def draw(graph, path):
    """The rooms, each above what it imports, with the arrows of `arrows`, as an SVG."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    drawn = arrows(graph)
    rows = levels(drawn)
    place = {
        room: ((number - (len(row) - 1) / 2) * 3.3, float(level))
        for level, row in enumerate(rows)
        for number, room in enumerate(row)
    }
    figure, axes = plt.subplots(figsize=(10, 6.5))
    axes.set(xlim=(-5.2, 5.2), ylim=(-0.5, len(rows) - 0.5))
    boxes = {}
    for room, (x, y) in place.items():
        box = {"boxstyle": "round,pad=0.45", "facecolor": "#eef4fa", "edgecolor": "#30506e"}
        text = f"{room}\n{GIVES[room]}"
        boxes[room] = axes.text(x, y, text, ha="center", va="center", fontsize=10, linespacing=1.5, bbox=box)
    figure.canvas.draw()  # only now have the boxes a size, at whose edge an arrow ends
    for upper, lower in drawn:
        ends = {"patchA": boxes[upper].get_bbox_patch(), "patchB": boxes[lower].get_bbox_patch()}
        style = {"arrowstyle": "-|>", "color": "#30506e", "shrinkA": 0, "shrinkB": 2, **ends}
        axes.annotate("", xy=place[lower], xytext=place[upper], arrowprops=style, zorder=0)
    axes.axis("off")
    plt.rcParams["svg.hashsalt"] = "rooms"
    description = "; ".join(f"{upper} -> {lower}" for upper, lower in drawn)
    figure.savefig(path, metadata={"Date": None, "Description": description}, bbox_inches="tight")
    plt.close(figure)


if __name__ == "__main__":
    with imports() as found:
        draw(found, sys.argv[1])
