"""Removes the introduction that a chat model puts before the passage it was asked for (paper, appendix A.2)."""
# ruff: noqa: RUF001  typographic quotes, dashes and full-width colons are what models write

from __future__ import annotations

import re

#: longest introduction that is looked for, in characters: beyond that it is prose
LONGEST = 400

# What a chat model calls its own text. A colon after any other noun belongs to the passage.
_NOUN = (
    r"(?:passages?|paragraphs?|answers?|responses?|repl(?:y|ies)|texts?|explanations?|summar(?:y|ies)|overviews?"
    r"|descriptions?|documents?|articles?|excerpts?|snippets?|sentences|rewrites?|rewritten\s+(?:question|query)"
    r"|(?:list\s+of\s+)?(?:key\s?words?|key\s+terms)|information|reasoning"
    r"|r[ée]ponse|paragraphe|pasaje|p[áa]rrafo|respuesta|texto|antwort|abschnitt|passus|risposta|passaggio|brano)"
)
# As a bare label ("Answer:") only what names the thing that was asked for: "Texts:" opens prose as well.
_LABEL = (
    r"(?:passage|paragraph|answer|response|reply|explanation|summary|key\s?words|rewritten\s+(?:question|query)"
    r"|r[ée]ponse|paragraphe|pasaje|p[áa]rrafo|respuesta|antwort|abschnitt|risposta|passaggio|brano"
    r"|段落|回答|答案|解答|답변|ответ|отрывок)"
)
_ADJECTIVE = r"(?:(?:the|my|a|an|generated|relevant|sample|final|hypothetical|possible|suggested|short|brief)\s+)*"
_TASK = r"(?:questions?|quer(?:y|ies)|request|prompt|claim|topic)"
_QUOTED = r"(?:\"[^\"\n]*\"|“[^”\n]*”|(?<!\w)'[^'\n]*'(?!\w)|«[^»\n]*»)"
# The inside of one sentence: a quoted question may have any marks, the rest neither a colon nor a sentence's end.
_REST = rf"(?:{_QUOTED}|[^\n:：.!?]|[.?!](?=[\w\"”»]))*?"
_CLOSE = r"[*_\"”»」』`']*"
_COLON = rf"\s*{_CLOSE}\s*[:：]"
# "... the question: why is the sky blue?" on the same line repeats the task and belongs to the introduction.
_ASKED = rf"(?:(?:(?<=question:)|(?<=query:))[ \t]*[*_\"“«]*[^\n]{{1,250}}\?{_CLOSE}[ \t]*(?=\n))?"
_LINE_END = rf"{_CLOSE}[ \t]*\n"

_POLITE = (
    r"(?:sure(?:\s+thing)?|certainly|of\s+course|absolutely|definitely|okay|ok|alright|all\s+right|great(?:\s+question)?"
    r"|good\s+question|got\s+it|no\s+problem|understood|thank(?:s|\s+you)(?:\s+for\s+(?:your|the)\s+\w+)?"
    r"|i\s+hope\s+this\s+helps|bien\s+s[ûu]r|claro|nat[üu]rlich|gerne)"
)
_HELP = (
    r"(?:(?:i(?:['’]d|\s+would)\s+be\s+(?:happy|glad)\s+to|i(?:\s+can|['’]ll|\s+will))\s+"
    r"(?:help|assist|do\s+that|write|provide)\b[^.!:\n]*[.!:]\s*)"
)
_PURPOSE = (
    rf"(?:(?:as\s+(?:you\s+)?requested|(?:based\s+on|in\s+(?:response|answer|reply)\s+to|to\s+answer|regarding|for)\s+"
    rf"(?:the|your|this)\s+(?:given\s+|above\s+)?{_TASK}(?:\s+{_QUOTED})?)\s*,\s*)"
)
_LEAD = rf"(?:{_POLITE}\s*[!.,:;–—-]+\s*|{_HELP}|{_PURPOSE})*"

_OPENER = (
    r"(?:here(?:\s+is|\s+are|['’]s)|here\s+you\s+go\s*[,:;–—-]|below(?:\s+is|\s+are|,?\s+you(?:\s+will|['’]ll)\s+find)"
    r"|(?:the\s+)?following\s+(?:is|are)|i(?:['’]ve|\s+have)?\s+(?:written|wrote|prepared)"
    r"|(?:let\s+me|allow\s+me\s+to|i(?:['’]ll|\s+will))\s+(?:write|provide|give)"
    r"|voici|voil[àa]|aqu[íi]\s+(?:est[áa]|hay|tienes?)|hier\s+ist|ecco)"
)
_WORDS = r"(?:\s+[\w'’-]+,?){0,6}?\s+"
# How a sentence about "a passage" goes on when it introduces one, and not when it is prose ("the answer he gave").
_TAIL = (
    r"(?:\s+(?:of\s+text|below))?"
    r"(?:,?\s+(?:to|for|from|about|on|regarding|concerning|based|written|responding|related|covering|as\s+requested"
    r"|in\s+(?:response|reply)|you\s+(?:asked|requested|can)|(?:that|which)\s+(?:\w+ly\s+)?(?:answers?|address(?:es)?"
    r"|explains?|discuss(?:es)?|describes?|provides?|responds?|could|would|might|should|may|can|will|covers?)"
    r"|(?:answer|address|explain|discuss|describ|provid)ing|r[ée]pondant|respondiendo"
    rf"|qui|que|die|der|das|che|à|a\s+la|auf|zu|zur|sur|sobre|su)\b{_REST})?"
)
_OF = rf"(?:\s+of\b{_REST})?"
_VERB = r"(?:answers?|address(?:es)?|explains?|discuss(?:es)?|describes?|provides?|responds?|summari[sz]es?)"

_INTRODUCTION = re.compile(
    rf"""
      {_LEAD}
      (?:
          {_OPENER}{_WORDS}{_NOUN}{_TAIL}(?:{_COLON}{_ASKED}|\s*[–—-]?{_LINE_END}|[.!]{_LINE_END})
        | {_OPENER}{_WORDS}{_NOUN}{_OF}{_COLON}(?=\s*\n)                     # Here is an overview of the sky:
        | here(?:\s+is|['’]s){_WORDS}{_NOUN}{_REST}\b(?:the|your|this)\s+{_TASK}[.!](?=\s)
        | here\s+(?:you\s+go|we\s+go|goes|it\s+is)\s*[:!.]+(?=\s*\n)
        | here(?:['’]s|\s+is)\s+what\s+i\s+(?:found|wrote|know|came\s+up\s+with)\b{_REST}{_COLON}
        | this\s+is{_WORDS}{_NOUN}{_TAIL}{_COLON}{_ASKED}                    # This is the answer to the query:
        | (?:this|the\s+following)\s+(?:short\s+|brief\s+)?(?:passage|paragraph|text|answer|response)\s+{_VERB}\b{_REST}
          (?:(?<=question)|(?<=query)|(?=\s*[:：]\s*\n)){_COLON}             # This passage explains why ...:
        | (?:to\s+answer|in\s+answer\s+to|in\s+response\s+to)\s+(?:the|your|this)\s+{_TASK}(?:\s+{_QUOTED})?{_COLON}
        | the\s+(?:passage|answer|response)(?:\s+to\s+(?:the|your|this)\s+{_TASK})?\s+is(?:\s+as\s+follows)
          {_COLON}
        | the\s+(?:answer|response)\s+to\s+(?:the|your|this)\s+{_TASK}\s+is{_COLON}
        | {_ADJECTIVE}{_LABEL}(?:\s+\d{{1,2}})?(?:\s+to\s+(?:the|your|this)\s+{_TASK})?{_COLON}
        | 以下是[^\n:：]{{0,80}}(?:段落|回答|答案|文章|内容)[^\n:：]{{0,20}}[:：]
        | (?:question|query){_COLON}[^\n]*\n\s*(?=[*_\#>\s]*{_ADJECTIVE}{_LABEL}{_COLON})    # the prompt said again
      )
    """,
    re.IGNORECASE | re.VERBOSE,
)
# A label that stands alone on its line needs no colon: a heading, bold, or a line before an empty one.
_LINE = re.compile(
    rf"(?:[ \t]*[>#*_]+[ \t>#*_]*{_ADJECTIVE}{_LABEL}[ \t]*[*_]*[ \t]*\n|{_LABEL}[ \t]*\n[ \t]*(?=\n))", re.IGNORECASE
)
# An interjection that is a sentence of its own; before a small letter it is a name ("Certainly! is an album").
_INTERJECTION = re.compile(
    rf"(?:{_POLITE}\s*(?:[!.]+|[,:]?(?=[ \t]*\n))(?:\s*\n\s*|\s+(?-i:(?![a-zà-ÿ])))|{_HELP})+", re.IGNORECASE
)
# Marks that may stand before an introduction, and rules that may stand after it.
_MARKS = re.compile(r"[\s>#*_`~\"“”„«「『'‘]*")
_AFTER = re.compile(r"(?:\s*(?:-{3,}|\*{3,}|_{3,}|={3,})[ \t]*(?=\n))*\s*")
_CLOSING = {"“": "”", "„": "“", "«": "»", "‘": "’", "「": "」", "『": "』"}


def strip_preamble(text: str) -> str:
    """`text` without a leading introduction such as "Here is a passage that answers the question:" or "**Passage:**".

    Only a sentence or label at the very beginning is removed, in any letter case, with Markdown, quotes and full-width
    colons around it; never anything in the middle. A text that would be left without a word, and a text without an
    introduction, comes back exactly as it was. Applying it twice gives the same as once.

    Example:
        >>> strip_preamble("Sure! Here's a passage about the sky:\\n\\nThe sky is blue because ...")
        'The sky is blue because ...'
        >>> strip_preamble("Insulin: a hormone of the pancreas.")
        'Insulin: a hormone of the pancreas.'
    """
    while (rest := _strip_once(text)) is not None and re.search(r"\w", rest):
        text = rest
    return text


def _strip_once(text: str) -> str | None:
    """What follows the first introduction, or None if there is none."""
    start = _MARKS.match(text).end()  # type: ignore[union-attr]  # the pattern matches the empty string too
    head = text[: start + LONGEST]
    label = _LINE.match(head, len(text) - len(text.lstrip()))
    found = label or _INTRODUCTION.match(head, start) or _INTERJECTION.match(head, start)
    if not found:
        return None
    rest = text[found.end() :]
    if not label:
        rest = _without_closing(rest, text[:start].strip(" \t\r\n>#"))
    return rest[_AFTER.match(rest).end() :]  # type: ignore[union-attr]


def _without_closing(rest: str, opening: str) -> str:
    """`rest` without the marks that close those which stood open before the introduction."""
    closing = "".join(_CLOSING.get(mark, mark) for mark in reversed(opening))
    trimmed = rest.lstrip(" \t")
    return trimmed[len(closing) :] if closing and trimmed.startswith(closing) else rest
