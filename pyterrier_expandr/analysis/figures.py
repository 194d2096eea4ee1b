"""The style of all figures: colours that colour-blind readers can distinguish, and marks that work in greyscale."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common.extras import needed_for
from ..common.files import path_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Okabe and Ito's palette without yellow, which is too light for print, and black, which hides hatches
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
#: a second cue besides colour, so that no figure depends on colour; one more than there are colours, so that the
#: combinations repeat only after 42 kinds; lines only, since circles make SVG files large
HATCHES = ("", "///", "---", "xx", "\\\\\\", "++", "|||")

FORMATS = (".svg", ".png", ".pdf")

STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "text.parse_math": False,  # names of systems are text, whatever is in them
    "svg.hashsalt": "expandr",
}


@contextmanager
def drawing(path: str | Path | None, **options: Any) -> Iterator[tuple[Figure, Any]]:
    """A figure and its axes to draw on; saved to `path` (.svg, .png or .pdf) afterwards, if given.

    The figure belongs to the caller: pyplot does not keep it, so a notebook shows it only once, when it is returned.

    Args:
        path: the figure's file; its folder is created. None saves nothing.
        **options: for `matplotlib.pyplot.subplots`.

    Raises:
        ImportError: matplotlib is missing. ValueError: any other suffix. OSError: the file cannot be written.
    """
    check_picture(path)
    with needed_for("plotting", "viz"):
        import matplotlib.pyplot as plt
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(layout="constrained", **options)
        plt.close(figure)
        yield figure, axes
        if path is not None:
            target = path_of(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            metadata = {"Date": None} if target.suffix.lower() == ".svg" else None
            figure.savefig(target, dpi=200, metadata=metadata)


def check_picture(path: str | Path | None) -> None:
    """Raise ValueError if a figure cannot be saved under this name; None saves nothing."""
    if path is not None and Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"the file name of a picture must end in one of {FORMATS}, got {str(path)!r}")


def look(number: int) -> dict[str, Any]:
    """Colour, edge and hatch of the `number`th kind of bar or box.

    Example:
        >>> look(1)["hatch"]
        '///'
    """
    return {
        "facecolor": PALETTE[number % len(PALETTE)],
        "edgecolor": "black",
        "hatch": HATCHES[number % len(HATCHES)],
        "linewidth": 0.6,
    }
