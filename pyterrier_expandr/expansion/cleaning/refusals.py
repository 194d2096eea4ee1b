"""Recognises texts without a passage: a refusal, or an offer to answer a question that was already asked."""
# ruff: noqa: RUF001  models write typographic quotes and full-width marks

from __future__ import annotations

import re

from .phrases import phrases
from .sentences import sentences

#: maximum length of a refusal: a longer text also says something else
LONGEST = 700

_AI = r"""as an? (?:ai|artificial intelligence|large language model|language model)(?: language)?
    (?:[\s-]+(?:model|assistant|chatbot|system|program))?(?: (?:developed|created|trained|made) by \w+)?"""
_SORRY = r"""(?:(?:i'm|i am) (?:(?:very|really|so|truly|deeply) )?(?:sorry|afraid)|sorry|unfortunately
    |(?:i|my) (?:sincere )?apolog(?:i[sz]e|ies)(?: for [^,.!]{1,40})?|i understand[^,.!]{0,80}
    |thank you for[^,.!]{0,40})"""
_CANNOT = """(?:cannot|can not|can't|will not|won't(?: be able)?|must (?:respectfully )?decline|do not have|don't have
    |(?:am|'m) (?:not able|unable|not programmed|not capable|not comfortable))"""
# What an assistant is asked for. By contrast, a song may say that it cannot live without you.
_HELP = r"""(?:(?:to )?(?:provide|assist|help (?:you|with)|answer|fulfil?l|comply|create|generate|write|give
    |offer|engage|discuss|complete|access|browse|produce|share|recommend|predict|support|respond|process
    |do (?:that|this)|satisfy|verify|determine|confirm|find|identify|advise|speculate|perform|make|suggest|promote
    |proceed|continue|translate|summari[sz]e)
    |(?:personal|access|the ability|the capability|any information|enough|information|opinions|feelings
    |real-time|current|the \w+ (?:\w+ )?information))"""
_HELP_DE = "(?:beantworten|(?:weiter)?helfen|geben|bereitstellen|schreiben|erstellen|erfüllen|liefern|nachkommen)"
_HELP_FR = (
    "(?:(?:vous |t'|te )?(?:répondre|aider|fournir|donner|écrire|générer|satisfaire|traiter|accéder)|d'opinions?)"
)
_HELP_ES_PT = r"""(?:responder|ayudar\w*|ajud\w+|proporcionar\w*|dar\w*|escribir\w*|escrever|generar|gerar|ofrecer\w*
    |oferecer|fornecer|acceder|acessar|cumplir|atender|brindar\w*|hacer eso|fazer isso|opini[oõ]\w+|acc?es+o
    |informa\w+)"""
_REFUSES = re.compile(
    phrases(rf"""
    (?:(?:{_AI}|{_SORRY})[,.!]? (?:but |that )?(?:{_AI},? )?)?i\s*{_CANNOT} {_HELP}\b
    |{_AI}, (?:i (?:do not|don't|am not|lack|have no)\b|i'm not\b|my (?:purpose|knowledge)\b)
    |(?:es tut mir (?:sehr )?leid|leider|entschuldigung|als ki(?:-\w+)?)\b[^.!?:]*\bkann\b[^.!?:]*
    \b(?:nicht|keine?n?)\b[^.!?:]*\b{_HELP_DE}\b
    |(?:(?:je suis (?:vraiment )?)?désolée?|en tant qu'(?:ia|intelligence|assistant)[^,.]*),? (?:mais )?
    je ne (?:peux|suis|dispose|pourrai)[^.!?:]{{0,30}}? {_HELP_FR}\b
    |(?:lo siento|disculpa|lamento|desculpe|sinto muito|como (?:uma? |una )?(?:modelo|ia|assistente|inteligencia
    |inteligência)\b[^,.]*),? (?:pero |mas )?(?:eu |yo )?n[ãa]?o (?:\w+ ){{1,4}}?{_HELP_ES_PT}\b
    |(?:很|非常|十分)?(?:抱歉|对不起|遗憾)[，,。！]?\s*(?:但是?)?(?:作为[^，。]{{1,16}}，)?我?(?:们)?(?:无法|不能|没有办法|没法)
    [^，。]{{0,8}}(?:回答|提供|帮|协助|满足|完成|生成|写|给出|访问|讨论)
    |作为(?:一个|一名|一款)?(?:AI|人工智能|语言模型)[^，。]{{0,12}}，我?(?:无法|不能|没有|不具备)
    |(?:大変|誠に)?(?:申し訳(?:ありません|ございません)|すみません)[^。]*(?:答え|回答|提供|手伝い|対応|協力|作成|応じ)[^。]*
    (?:できません|できかねます|いたしかねます|られません|かねます)
    |(?:私は)?AI(?:言語モデル|アシスタント)?(?:として|なので|ですので)[^。]*(?:できません|持っていません|ありません)
    """),
    re.IGNORECASE,
)
# A refusal continues between the writer and the reader, or gives its reason ...
_BETWEEN_US = re.compile(
    phrases(r"""
    \b(?:I|I'm|I'd|I've|I'll|my)\b
    |\b(?i:please|let me|feel free|(?:if|would|could|do|can|are) you|you (?:may|might) want)\b
    |\b(?i:consult|contact|talk to|reach out|speak to|speak with|seek|harmful|illegal|unethical|inappropriate)\b
    |(?i:is there (?:anything|something))|\b(?i:ich|mich|bitte|gerne|je|vous|me|puedo|posso|consulte|gostaria)\b
    |我|您|你|ください|お手伝い|私
    """)
)
# ... and has no content: no statement of facts, no list, no quoted speech.
_CONTENT = re.compile(
    phrases(r"""
    \b(?:tell|say|explain|note|inform|add)\b[^.]{0,16}\bthat\b|[:：;；](?=\s*\S)|\bhere(?:'s| is| are)\b
    |\bbut (?!i\b|i'|if\b|you\b|please\b|feel\b|as\b)|\b(?:says?|said|sings?|sang|writes|wrote|asked|replied)\b
    |, (?:he|she|the \w+|an? \w+) \w+ed\b|^\s*(?:[-*•]|\d+[.)])\s|["“”«»「」]
    """),
    re.IGNORECASE | re.MULTILINE,
)
# A sentence that says what the words before "is" are, such as a motto, is not the assistant's own.
_REST = r"(?:(?!\b(?:is|was)\b)[^.!?:]){0,160}"
_OFFER = re.compile(
    phrases(rf"""
    (?:how|what) (?:can|may|could) i (?:help|assist|do)\b{_REST}\?
    |(?:i'm|i am) (?:ready|here|happy|glad|prepared) to (?:help|assist|answer)\b{_REST}[.!]
    |(?:i'd|i would) be (?:happy|glad) to (?:help|assist|answer)\b{_REST}[.!]
    |(?:i'll|i will) (?:do my best|try|get started|be happy)\b{_REST}[.!]
    |(?:what's|what is) (?:your|the) (?:question|query|request)(?: you\b{_REST})?\?
    |what would you like (?:to (?:know|ask|discuss|talk)|me to|help with)\b{_REST}\?
    |(?:please|(?:could|can) you(?: please)?)(?: go ahead and)? (?:provide|share|tell|give|ask|enter|type|clarify)
    (?: me)?(?: with)? (?:(?:the|your|a) (?:\w+ )?(?:question|query|passage|text|topic|prompt|document)s?
    |(?:some )?(?:more|additional|further) (?:context|details?|information))\b{_REST}[.!?]
    |(?:just )?(?:go ahead and )?ask (?:me )?your question\b{_REST}[.!]
    |it (?:seems|looks|appears) (?:like |that )?(?:you|your (?:question|message|query))\b{_REST}[.!]
    """),
    re.IGNORECASE,
)
_HELLO = re.compile(
    phrases(r"\A(?:(?:(?:hello|hi|hey|greetings|welcome)(?: there)?|sure|of course|certainly|great|okay|ok)[!.,]\s*)+"),
    re.IGNORECASE,
)


def is_refusal(text: str) -> bool:
    """Whether all of `text` only refuses to answer, or only offers to answer, and so contains no passage.

    A text that apologises and then says something about the matter is a passage.

    Example:
        >>> is_refusal("I'm sorry, but I can't help with that.")
        True
        >>> is_refusal("I'm sorry, but I can't give medical advice. Aspirin thins the blood.")
        False
    """
    if len(text) > LONGEST:
        return False
    said = [sentence.words for sentence in sentences(_HELLO.sub("", text.strip(" \t\r\n*_")))]
    if not said:
        return False
    if all(map(_OFFER.fullmatch, said)):
        return True
    return bool(_REFUSES.match(said[0])) and not _CONTENT.search(text) and all(map(_BETWEEN_US.search, said[1:]))
