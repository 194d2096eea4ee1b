"""Tables as Markdown, LaTeX (booktabs) and HTML. Every text is escaped for its format."""

from __future__ import annotations

import html
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

STYLE = """
body {font: 15px/1.45 sans-serif; color: #111; background: #fff; margin: 2em auto; padding: 0 1em; max-width: 80em}
.wide {overflow-x: auto}
table {border-collapse: collapse; border-top: 2px solid #111; border-bottom: 2px solid #111; margin: 1em 0}
th, td {padding: .25em .7em; text-align: right; white-space: nowrap}
th:first-child {text-align: left}
thead tr:last-child th {border-bottom: 1px solid #111}
tr.rule th, tr.rule td {border-top: 1px solid #111}
.beside {color: #444; font-size: 90%}
ul {padding-left: 1.2em}
"""


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
    lines += [" & ".join(map(_latex, _short(table))) + r" \\", r"\midrule"]
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


def _short(table: Table) -> list[str]:
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


def page(title: str, tables: list[Table], notes: list[str]) -> str:
    """One self-contained HTML page."""
    parts = [f"<h1>{html.escape(title)}</h1>", *map(_html_table, tables)]
    if notes:
        parts.append(f"<h2>About this report</h2>\n{_html_list(notes)}")
    head = f'<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n<style>{STYLE}</style>'
    body = "\n".join(parts)
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def _html_table(table: Table) -> str:
    lines = [f"<h2>{html.escape(table.title)}</h2>", '<div class="wide"><table>', "<thead>"]
    if groups := table.groups():
        spans = [f'<th colspan="{count}" scope="colgroup">{html.escape(name)}</th>' for name, count in groups]
        lines.append("<tr><th></th>" + "".join(spans) + "</tr>")
    heads = [f'<th scope="col">{html.escape(text)}</th>' for text in _short(table)]
    lines += ["<tr>" + "".join(heads) + "</tr>", "</thead>", "<tbody>"]
    by_row = table.layout == "systems"
    for number, (label, cells) in enumerate(table.rows()):
        rule = ' class="rule"' if number in table.rules() else ""
        flags = [table.lines[number].beside] * len(cells) if by_row else [line.beside for line in table.lines]
        texts = [_html_cell(cell, beside) for cell, beside in zip(cells, flags, strict=True)]
        lines.append(f'<tr{rule}><th scope="row">{html.escape(label)}</th>{"".join(texts)}</tr>')
    return "\n".join([*lines, "</tbody>", "</table></div>", _html_list(table.notes)])


def _html_cell(cell: Cell, beside: bool) -> str:
    text = html.escape(cell.text)
    if cell.bold:
        text = f"<b>{text}</b>"
    if cell.underlined:
        text = f"<u>{text}</u>"
    tag = '<td class="beside">' if beside else "<td>"
    return f"{tag}{text}{html.escape(cell.mark)}</td>"


def _html_list(notes: list[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{html.escape(note)}</li>" for note in notes) + "\n</ul>" if notes else ""
