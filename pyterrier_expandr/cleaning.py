"""Removes the introduction that a chat model puts before the passage it was asked for (paper, appendix A.2)."""

from __future__ import annotations

import re

#: longest introduction that is looked for, in characters: beyond that it is prose
LONGEST = 400

# What a chat model calls its own text. A colon after any other noun belongs to the passage.
_NOUN = (
    r"(?:passages?|paragraphs?|answers?|responses?|repl(?:y|ies)|texts?|explanations?|summar(?:y|ies)|overviews?"
    r"|descriptions?|documents?|articles?|excerpts?|snippets?|rewrites?|rewritten\s+(?:question|query)"
    r"|(?:list\s+of\s+)?(?:key\s?words?|key\s+terms)|information|reasoning"
    r"|r[ée]ponse|paragraphe|pasaje|p[áa]rrafo|respuesta|texto|antwort|abschnitt|passus|risposta|passaggio|brano)"
)
# As a bare label ("Answer:") only what names the thing that was asked for: "Texts:" or "Information:" opens prose as well.
_LABEL = (
    r"(?:passage|paragraph|answer|response|reply|explanation|summary|key\s?words|rewritten\s+(?:question|query)"
    r"|r[ée]ponse|paragraphe|pasaje|p[áa]rrafo|respuesta|antwort|abschnitt|risposta|passaggio|brano)"
)
_LABEL_ADJECTIVE = (
    r"(?:(?:the|my|a|an|generated|relevant|sample|final|hypothetical|possible|suggested|short|brief)\s+)*"
)
_FOREIGN_LABEL = r"(?:段落|回答|答案|解答|답변|ответ|отрывок)"
# How a sentence about "a passage" goes on when it introduces one, and not when it is prose ("the answer he gave").
_TAIL = (
    r"(?:\s+(?:of\s+text|below))?"
    r"(?:[,]?\s+(?:to|for|about|on|regarding|concerning|based|written|responding|related|covering|as\s+requested|in\s+(?:response|reply)"
    r"|you\s+(?:asked|requested|can)|(?:that|which)\s+(?:\w+ly\s+)?(?:answers?|address(?:es)?|explains?|discuss(?:es)?|describes?"
    r"|provides?|responds?|could|would|might|should|may|can|will|covers?)|(?:answer|address|explain|discuss|describ|provid)ing"
    r"|qui|que|die|der|das|che|à|a\s+la|auf|zu|zur|sur|sobre|su)\b[^\n:：]*)?"
)
_INTERJECTION = (
    r"(?:(?:sure(?:\s+thing)?|certainly|of\s+course|absolutely|okay|ok|alright|all\s+right|great(?:\s+question)?|got\s+it"
    r"|no\s+problem|understood|bien\s+s[ûu]r|claro|natürlich)\s*[!.,:;–—-]+\s*)"
)
_HELP = (
    r"(?:(?:i(?:'d|’d|\s+would)\s+be\s+(?:happy|glad)\s+to|i(?:\s+can|'ll|’ll|\s+will))\s+"
    r"(?:help|assist|do\s+that|write|provide|answer)[^.!:\n]*[.!:]\s*)"
)
_OPENER = (
    r"(?:here(?:\s+is|\s+are|'s|’s)|here\s+you\s+go\s*[,:;–—-]|below(?:\s+is|\s+are|,?\s+you(?:\s+will|'ll)\s+find)"
    r"|(?:the\s+)?following\s+(?:is|are)|i(?:'ve|’ve|\s+have)?\s+(?:written|wrote|prepared)|voici|voil[àa]|aqu[íi]\s+(?:est[áa]|hay|tienes?)"
    r"|hier\s+ist|ecco)"
)
_ADJECTIVES = r"(?:\s+[\w'’-]+,?){0,6}?\s+"
_COLON = r"\s*[*_\"”]*\s*[:：]"
_PASSAGE_VERB = r"(?:answers?|address(?:es)?|explains?|discuss(?:es)?|describes?|provides?|responds?|summari[sz]es?)"

_INTRODUCTION = re.compile(
    rf"""
      (?:{_INTERJECTION}|{_HELP})*
      (?:
          {_OPENER}{_ADJECTIVES}{_NOUN}{_TAIL}(?:{_COLON}|[.!](?=\s)|\s*\n)   # Here is a passage that answers ...:
        | this\s+is{_ADJECTIVES}{_NOUN}{_TAIL}{_COLON}                       # This is the answer to the query:
        | (?:this|the\s+following){_ADJECTIVES}?\s*{_NOUN}\s+{_PASSAGE_VERB}\b[^\n:：]*{_COLON}
        | (?:to\s+answer|in\s+answer\s+to|in\s+response\s+to)\s+(?:the|your|this)\s+(?:question|query)\b[^\n:：.]*{_COLON}
        | {_LABEL_ADJECTIVE}{_LABEL}(?:\s+to\s+(?:the|your)\s+(?:question|query))?{_COLON}
        | {_FOREIGN_LABEL}{_COLON}
        | question{_COLON}[^\n]*\n\s*(?=[*_\#>\s]*{_LABEL_ADJECTIVE}{_LABEL}{_COLON})  # the prompt said again
      )
    """,
    re.IGNORECASE | re.VERBOSE,
)
_HEADING = re.compile(rf"#{{1,6}}\s*[*_]*{_LABEL_ADJECTIVE}{_LABEL}[*_]*\s*\n", re.IGNORECASE)
_BARE_LABEL = re.compile(rf"(\*\*|__)\s*{_LABEL_ADJECTIVE}{_LABEL}\s*\1\s*\n", re.IGNORECASE)
_LONE_INTERJECTION = re.compile(
    rf"(?:(?:sure(?:\s+thing)?|certainly|of\s+course|absolutely|great\s+question|no\s+problem|understood|got\s+it)\s*[!.]+\s+|{_HELP}(?=\s|\S))+",
    re.IGNORECASE,
)
# Marks that may stand before an introduction, and rules that may stand after it.
_MARKS = re.compile(r"[\s>#*_`~\"“”„«'‘]*")
_AFTER = re.compile(r"(?:\s*(?:-{3,}|\*{3,}|_{3,}|={3,})[ \t]*(?=\n))*\s*")


def strip_preamble(text: str) -> str:
    """`text` without a leading introduction such as "Here is a passage that answers the question:" or "**Passage:**".

    Only a sentence or label at the very beginning is removed, in any letter case, with Markdown, quotes and full-width
    colons around it; never anything in the middle. A text that would become empty, and a text without an introduction,
    comes back exactly as it was. Applying it twice gives the same as once.

    Example:
        >>> strip_preamble("Sure! Here's a passage about the sky:\\n\\nThe sky is blue because ...")
        'The sky is blue because ...'
        >>> strip_preamble("Insulin: a hormone of the pancreas.")
        'Insulin: a hormone of the pancreas.'
    """
    while (rest := _strip_once(text)) is not None and rest.strip():
        text = rest
    return text


def _strip_once(text: str) -> str | None:
    """What follows the first introduction, or None if there is none."""
    marks = _MARKS.match(text)
    start = marks.end() if marks else 0
    head = text[: start + LONGEST]
    heading_at = len(text) - len(text.lstrip())
    for pattern, at in (
        (_HEADING, heading_at),
        (_BARE_LABEL, heading_at),
        (_INTRODUCTION, start),
        (_LONE_INTERJECTION, start),
    ):
        found = pattern.match(head, at)
        if found:
            rest = text[found.end() :]
            if pattern in (_INTRODUCTION, _LONE_INTERJECTION):
                rest = _without_closing(rest, text[:start].strip(" \t\r\n>#"))
            return rest[_AFTER.match(rest).end() :]  # type: ignore[union-attr]
    return None


_CLOSING = {"“": "”", "„": "“", "«": "»", "‘": "’"}


def _without_closing(rest: str, opening: str) -> str:
    """`rest` without the marks that close those which stood open before the introduction."""
    closing = "".join(_CLOSING.get(mark, mark) for mark in reversed(opening))
    trimmed = rest.lstrip(" \t")
    return trimmed[len(closing) :] if closing and trimmed.startswith(closing) else rest
