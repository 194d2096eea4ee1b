"""The report of an online training run: its evaluations as a table, and as curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....common.extras import needed_for
from ....common.files import path_of
from .signs import EVALUATIONS, collapse

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: the panels of the picture: title -> the figures in it
PANELS = {
    "Variety and faults": ("distinct_2", "truncated", "empty", "as_query"),
    "Words": ("words",),
    "KL to the untrained model (nats a token)": ("kl",),
}


def is_training_run(folder: str | Path) -> bool:
    """Whether a folder holds the evaluations of an online training run, finished or not.

    Example:
        >>> is_training_run("no-such-folder")
        False
    """
    return _file(path_of(folder)) is not None


def training_rows(folder: str | Path) -> list[dict[str, float]]:
    """The rows of a run's evaluations: `step` and what was measured; of an unfinished run those so far.

    Raises:
        FileNotFoundError: the folder holds none.
    """
    file = _file(path_of(folder))
    if file is None:
        raise FileNotFoundError(f"{folder} holds no training run by grpo or online-dpo: it has no {EVALUATIONS}")
    return list(json.loads(file.read_text(encoding="utf-8")))


def training_report(rows: Sequence[Mapping[str, float]]) -> str:
    """A Markdown table with a row for each evaluation, and below it each step at which the model was collapsing.

    Example:
        >>> print(training_report([{"step": 0, "reward": 0.25}, {"step": 5, "reward": 0.5}]).splitlines()[3])
        | 5 | 0.5 |
    """
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([f"{row[name]:.4g}" for name in names] for row in rows)]
    table = ["| " + " | ".join(cells) + " |" for cells in lines]
    checked = [(row["step"], collapse(rows[: place + 1])) for place, row in enumerate(rows) if "distinct_2" in row]
    signs = [f"- step {step:g}: {reason}" for step, reason in checked if reason is not None]
    return "\n".join([*table, *(["", "Signs of a collapse:", "", *signs] if signs else []), ""])


def training_picture(rows: Sequence[Mapping[str, float]], path: str | Path | None = None) -> Figure:
    """Curves over the steps: rewards and the measure, variety and faults, words, KL.

    Args:
        rows: as returned by `training_rows`.
        path: where to save it (.png, .svg or .pdf); None does not save it.

    Raises:
        ImportError: matplotlib is missing (extra: viz).
    """
    with needed_for("the picture", "viz"):
        from matplotlib.figure import Figure
    rewards = tuple(name for name in rows[0] if name.startswith("reward") or name == "measure")
    panels = {"On held-out queries": rewards, **PANELS}
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for name in names:
            axes.plot([row["step"] for row in rows], [row[name] for row in rows], marker=".", label=name)
        axes.set(title=title, xlabel="step")
        axes.title.set_fontsize(10)
        if len(names) > 1:
            axes.legend(fontsize=8)
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure


def _file(folder: Any) -> Path | None:
    """The file of a finished run, of one at work next to it, or of either in a recipe's stage."""
    folder = Path(folder)
    runs = (folder, folder / "adapter")
    places = [place for run in runs for place in (run, run.with_name(run.name + ".work"))]
    return next((place / EVALUATIONS for place in places if (place / EVALUATIONS).is_file()), None)
