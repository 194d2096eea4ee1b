"""Removes the introduction that a chat model puts before the requested passage (paper, appendix A.2)."""
# ruff: noqa: RUF001  models write typographic quotes, dashes and full-width colons

from __future__ import annotations

import re

#: maximum length of an introduction, in characters: anything longer is prose
LONGEST = 400

# What a chat model calls its own text. A colon after any other noun belongs to the passage.
_NOUN = (
    r"(?:passages?|paragraphs?|answers?|responses?|repl(?:y|ies)|texts?|explanations?|summar(?:y|ies)|overviews?"
    r"|descriptions?|documents?|articles?|excerpts?|snippets?|sentences|rewrites?|rewritten\s+(?:question|query)"
    r"|(?:list\s+of\s+)?(?:key\s?words?|key\s+terms)|information|reasoning|json(?:\s+(?:object|output))?"
    r"|r[ée]ponse|paragraphe|texte|explication|r[ée]sum[ée]|pasaje|p[áa]rrafo|respuesta|texto|explicaci[óo]n|resumen"
    r"|antwort|abschnitt|passus|absatz|erkl[äa]rung|zusammenfassung|risposta|passaggio|brano"
    r"|passagem|par[áa]grafo|resposta|trecho|explica[çc][ãa]o|resumo)"
)
# As a bare label ("Answer:"), only the name of what was asked for counts: "Texts:" also opens prose.
_LABEL = (
    r"(?:passage|paragraph|answer|response|reply|explanation|summary"
    r"|r[ée]ponse|paragraphe|pasaje|p[áa]rrafo|respuesta|antwort|abschnitt|risposta|passaggio|brano"
    r"|passagem|par[áa]grafo|resposta|trecho|段落|回答|答案|解答|答え|文章|답변|ответ|отрывок)"
)
_LIST_LABEL = r"(?:key\s?words|rewritten\s+(?:question|query))"
_ADJECTIVE = r"(?:(?:the|my|a|an|generated|relevant|sample|final|hypothetical|possible|suggested|short|brief)\s+)*"
_TASK = r"(?:questions?|quer(?:y|ies)|request|prompt|claim|topic)"
_QUOTED = r"(?:\"[^\"\n]*\"|“[^”\n]*”|(?<!\w)'[^'\n]*'(?!\w)|«[^»\n]*»)"
# The inside of one sentence: a quoted question may contain any marks, the rest neither a colon nor the end of a
# sentence.
_REST = rf"(?:{_QUOTED}|[^\n:：.!?]|[.?!](?=[\w\"”»]))*?"
_CLOSE = r"[*_\"”»」』`']*"
_COLON = rf"\s*{_CLOSE}\s*[:：]"
# A lower-case letter after a bare label makes it a title with its explanation ("Answer: a film of 1994").
_NO_GLOSS = r"(?![ \t]*(?-i:[a-zà-ÿ]))"
# "... the question: why is the sky blue?" on the same line repeats the task and belongs to the introduction.
_ASKED = rf"(?:(?:(?<=question:)|(?<=query:))[ \t]*[*_\"“«]*[^\n]{{1,250}}\?{_CLOSE}[ \t]*(?=\n))?"
_LINE_END = rf"{_CLOSE}[ \t]*\n"

_POLITE = (
    r"(?:sure(?:\s+thing)?|certainly|of\s+course|absolutely|definitely|okay|ok|alright|all\s+right"
    r"|great(?:\s+question|(?=\s*!))|good\s+question|got\s+it|no\s+problem|understood|thank(?:s|\s+you)(?:\s+for\s+(?:your|the)\s+\w+)?"
    r"|i\s+hope\s+this\s+helps|bien\s+s[ûu]r|d['’]accord|nat[üu]rlich|selbstverst[äa]ndlich|gerne|claro|por\s+supuesto"
    r"|com\s+certeza|certamente|ciertamente|好的|当然(?:可以)?|没问题"
    r"|はい|もちろん(?:です)?|承知(?:いた)?しました|かしこまりました|わかりました)"
)
_HELP = (
    r"(?:(?:i(?:['’]d|\s+would)\s+be\s+(?:happy|glad)\s+to|i(?:\s+can|['’]ll|\s+will))\s+"
    r"(?:help|assist|do\s+that|write|provide)\b[^.!:\n]*[.!:]\s*)"
)
_PURPOSE = (
    rf"(?:(?:as\s+(?:you\s+)?requested|(?:based\s+on|in\s+(?:response|answer|reply)\s+to|to\s+answer|regarding|for)\s+"
    rf"(?:the|your|this)\s+(?:given\s+|above\s+)?{_TASK}(?:\s+{_QUOTED})?)\s*,\s*)"
)
_LEAD = rf"(?:{_POLITE}\s*[!.,:;–—！。，、-]+\s*|{_HELP}|{_PURPOSE})*"

_OPENER = (
    r"(?:here(?:\s+is|\s+are|['’]s)|here\s+you\s+go\s*[,:;–—-]|below(?:\s+is|\s+are|,?\s+you(?:\s+will|['’]ll)\s+find)"
    r"|(?:the\s+)?following\s+(?:is|are)|i(?:['’]ve|\s+have)?\s+(?:written|wrote|prepared)"
    r"|(?:let\s+me|allow\s+me\s+to|i(?:['’]ll|\s+will))\s+(?:write|provide|give)"
    r"|voici|voil[àa]|aqu[íi]\s+(?:est[áa]|hay|tienes?)|hier\s+(?:ist|sind)|ecco|eis|segue(?:\s+abaixo)?"
    r"|aqui\s+(?:est[áa]|vai|tem)|(?:a\s+seguir|abaixo)\s+(?:est[áa]|apresento)|ci-dessous,?\s+(?:vous\s+trouverez|voici)"
    r"|a\s+continuaci[óo]n,?\s+(?:(?:se|te|le)\s+(?:presenta|presento|muestra|muestro|ofrece|ofrezco)"
    r"|hay|tienes?|est[áa])"
    r"|(?:nachfolgend|im\s+folgenden|unten)\s+(?:ist|steht|finde(?:st\s+du|n\s+sie)))"
)
_WORDS = r"(?:\s+[\w'’-]+,?){0,6}?\s+"
# A text "der Hymne:" or "que firmó Bolívar:" may follow on the same line; one that answers the question is the passage
# itself.
_LEADS_TO_A_PASSAGE = rf"(?=[^\n:：]*(?:[:：]{_CLOSE}[ \t]*\n|\b(?:frage|question|pregunta|pergunta|domanda)\b))"
# How a sentence about "a passage" continues if it introduces one, as opposed to prose ("the answer he gave").
_TAIL = (
    r"(?:\s+(?:of\s+text|below))?"
    r"(?:,?\s+(?:to|for|from|about|on|with|regarding|concerning|based|written|rewritten|responding|related|covering"
    r"|as\s+requested|in\s+(?:response|reply)|you\s+(?:asked|requested|can)"
    r"|(?:that|which)\s+(?:\w+ly\s+)?(?:answers?|address(?:es)?|explains?|discuss(?:es)?|describes?|provides?|highlights?"
    r"|summari[sz]es?|aims|offers?|responds?|could|would|might|should|may|can|will|covers?)"
    r"|(?:answer|address|explain|discuss|describ|provid|highlight|summari[sz]|offer)ing"
    r"|r[ée]pondant|expliquant|d[ée]crivant|respondi?endo|describiendo|explicando|descrevendo"
    rf"|(?:qui|que|die|der|das|che|à|a\s+la|auf|zur?|über|sur|sobre|su){_LEADS_TO_A_PASSAGE})\b{_REST})?"
)
_OF = rf"(?:\s+of\b{_REST})?"
_VERB = r"(?:answers?|address(?:es)?|explains?|discuss(?:es)?|describes?|provides?|responds?|summari[sz]es?)"

# Chinese and Japanese put the noun last. A colon on the same line may introduce what the noun is about.
_CHINESE = r"""
      (?:以下|下面|这里?)(?:就?是|为)[^\n。！？:：]{0,60}?
      (?:段落|回答|答案|答复|解答|文章|文字|文本|短文|内容|介绍|说明|解释|段话)[^\n。！？:：]{0,20}(?:[:：]|。)(?=\s*\n)
    | (?:以下|下面)是[^\n。！？:：]{0,60}?(?:问题|提问|查询|您|你)[^\n。！？:：]{0,20}(?:段落|回答|答案|文章|短文)[:：]
    | (?:以下|下面)是(?:一[个段篇])?(?:段落|回答|答案|短文)[:：]
"""
_JAPANESE = r"""
      (?:以下|次|こちら)(?:は|が|に|、)[^\n。:：]{0,60}?(?:文章|回答|段落|答え|解答|説明|テキスト)[^\n。:：]{0,20}[:：。](?=\s*\n)
    | ご?(?:質問|問い)(?:への|に対する)(?:回答|答え|解答)[^\n。:：]{0,20}[:：。](?=\s*\n)
    | [^\n。:：]{1,40}について(?:の)?(?:文章|段落|説明)(?:を[^\n。:：]{0,12}(?:します|しました)|です)[:：。](?=\s*\n)
"""
# "Title: ... Passage:", where the latter is not part of a name.
_NO_NAME = r"(?<!west)(?<!east)" + "".join(
    rf"(?<!\b{word})" for word in "the a of drake mona middle inside safe".split()
)
_PASSAGE_LABEL = rf"[*_#>\s]*{_ADJECTIVE}{_LABEL}{_COLON}{_NO_GLOSS}"
_TITLE = r"(?:title|t[íi]tulo|titre|titel|标题|タイトル)"

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
        | {_ADJECTIVE}{_LABEL}(?:\s+\d{{1,2}})?{_COLON}{_NO_GLOSS}
        | {_ADJECTIVE}{_LABEL}\s+to\s+(?:the|your|this)\s+{_TASK}{_COLON}
        | {_ADJECTIVE}{_LIST_LABEL}{_COLON}
        | {_CHINESE}
        | {_JAPANESE}
        | (?:question|query){_COLON}[^\n]*\n\s*(?={_PASSAGE_LABEL})                 # the prompt said again
        | {_TITLE}{_COLON}[^\n]*\n\s*(?={_PASSAGE_LABEL})
        | {_TITLE}{_COLON}[^\n]{{1,150}}?{_NO_NAME}[ \t]+(?=[*_]*passage{_COLON}{_NO_GLOSS}[^\n]*[.!?])
      )
    """,
    re.IGNORECASE | re.VERBOSE,
)
# A label alone on its line needs no colon: a heading, bold, or a line before an empty one.
_LINE = re.compile(
    rf"(?:[>#*_][ \t>#*_]*{_ADJECTIVE}(?:{_LABEL}|{_LIST_LABEL})[ \t]*[*_]*[ \t]*\n"
    rf"|(?:{_LABEL}|{_LIST_LABEL})[ \t]*\n[ \t]*(?=\n))",
    re.IGNORECASE,
)
# An interjection that is a sentence of its own; before a lower-case letter it is a name ("Certainly! is an album").
_INTERJECTION = re.compile(
    rf"(?:{_POLITE}\s*(?:[!.！。]+|[,:，：](?=[ \t]*\n))(?:\s*\n\s*|\s+(?-i:(?![a-zà-ÿ])))|{_HELP})+", re.IGNORECASE
)
# Marks that may come before an introduction, and rules that may come after it.
_MARKS = re.compile(r"[\s>#*_`~\"“”„«「『'‘¡]*")
_AFTER = re.compile(r"(?:\s*(?:-{3,}|\*{3,}|_{3,}|={3,})[ \t]*(?=\n))*\s*")
_CLOSING = {"“": "”", "„": "“", "«": "»", "‘": "’", "「": "」", "『": "』"}


def strip_preamble(text: str) -> str:
    """`text` without a leading introduction such as "Here is a passage that answers the question:" or "**Passage:**".

    Only a sentence or label at the very beginning is removed, in any letter case, including surrounding Markdown,
    quotes and full-width colons; never anything in the middle. A text without an introduction, or one that would be
    left without a word, is returned exactly as it was. Applying it twice gives the same as applying it once.

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
    """The text after the first introduction, or None if there is none."""
    start = _MARKS.match(text).end()  # type: ignore[union-attr]  # the pattern matches the empty string too
    head = text[: start + LONGEST]
    label = _LINE.match(head, len(text) - len(text.lstrip()))
    found = label or _INTRODUCTION.match(head, start) or _INTERJECTION.match(head, start)
    if not found:
        return None
    rest = text[found.end() :]
    if not label and not found[0].rstrip(" \t").endswith("\n"):
        rest = _without_closing(rest, text[:start].strip(" \t\r\n>#"))
    return rest[_AFTER.match(rest).end() :]  # type: ignore[union-attr]


def _without_closing(rest: str, opening: str) -> str:
    """`rest` without the marks that close those opened before the introduction."""
    closing = "".join(_CLOSING.get(mark, mark) for mark in reversed(opening))
    trimmed = rest.lstrip(" \t")
    return trimmed[len(closing) :] if closing and trimmed.startswith(closing) else rest
