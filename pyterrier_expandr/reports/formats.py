"""Tables as Markdown and LaTeX (booktabs). Every text is escaped for its format; HTML is in `explore`."""

from __future__ import annotations

import re

from .tables import Cell, Table

MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#])")

LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "†": r"\textsuperscript{\textdagger}",
    "‡": r"\textsuperscript{\textdaggerdbl}",
    "°": r"\textsuperscript{\textopenbullet}",
    "≠": r"$\neq$",
    "–": "--",  # noqa: RUF001
    "−": "$-$",  # noqa: RUF001
}


def markdown(title: str, tables: list[Table], notes: list[str]) -> str:
    """One Markdown document: a heading, one table per measure, and notes as lists."""
    parts = [f"# {_markdown(title)}", *map(_markdown_table, tables)]
    if notes:
        parts.append("## About this report\n\n" + _markdown_list(notes))
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    lines = [_row([_markdown(text) for text in table.header()]), "|---|" + "---:|" * (len(table.header()) - 1)]
    lines += [_row([_markdown(label), *map(_markdown_cell, cells)]) for label, cells in table.rows()]
    body = "\n".join(lines)
    return f"## {_markdown(table.title)}\n\n{body}\n\n{_markdown_list(table.notes)}".rstrip()


def _row(texts: list[str]) -> str:
    return "| " + " | ".join(texts) + " |"


def _markdown_cell(cell: Cell) -> str:
    text = _markdown(cell.text)
    if cell.bold:
        text = f"**{text}**"
    if cell.underlined:
        text = f"<ins>{text}</ins>"  # the only tag for underlining that Markdown renderers allow
    return text + _markdown(cell.mark)


def _markdown_list(notes: list[str]) -> str:
    return "\n".join(f"* {_markdown(note)}" for note in notes)


def _markdown(text: str) -> str:
    return MARKDOWN_SPECIAL.sub(r"\\\1", " ".join(text.split()))


def latex(title: str, tables: list[Table], notes: list[str]) -> str:
    r"""Table environments for a document with `\usepackage{booktabs}`; notes are in small print under each table."""
    head = ["% Needs \\usepackage{booktabs}.", *(f"% {' '.join(line.split())}" for line in [title, *notes])]
    return "\n".join(head) + "\n\n" + "\n\n".join(map(_latex_table, tables)) + "\n"


def _latex_table(table: Table) -> str:
    columns = len(table.header()) - 1
    lines = [r"\begin{table*}", r"\centering\small", rf"\caption{{{_latex(table.title)}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * columns}}}", r"\toprule"]
    if groups := table.groups():
        spans = [rf"\multicolumn{{{count}}}{{c}}{{{_latex(name)}}}" for name, count in groups]
        lines.append(" & ".join(["", *spans]) + r" \\")
        lines.append(" ".join(_cmidrules(groups)))
    lines += [" & ".join(map(_latex, short_header(table))) + r" \\", r"\midrule"]
    for number, (label, cells) in enumerate(table.rows()):
        if number in table.rules():
            lines.append(r"\midrule")
        lines.append(" & ".join([_latex(label), *map(_latex_cell, cells)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\footnotesize {_latex(note)}" for note in table.notes]
    return "\n".join([*lines, r"\end{table*}"])


def _cmidrules(groups: list[tuple[str, int]]) -> list[str]:
    rules, column = [], 2
    for name, count in groups:
        if name:
            rules.append(rf"\cmidrule(lr){{{column}-{column + count - 1}}}")
        column += count
    return rules


def short_header(table: Table) -> list[str]:
    """The second header row, without the words already in the group above."""
    if not table.groups():
        return table.header()
    return ["", *(line.label[len(line.group) :].removeprefix("/") for line in table.lines)]


def _latex_cell(cell: Cell) -> str:
    text = _latex(cell.text)
    if cell.bold:
        text = rf"\textbf{{{text}}}"
    if cell.underlined:
        text = rf"\underline{{{text}}}"
    return text + _latex(cell.mark)


def _latex(text: str) -> str:
    return "".join(LATEX_SPECIAL.get(character, character) for character in " ".join(text.split()))
