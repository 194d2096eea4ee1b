"""Removes what a chat model says after the passage: offers of more help, good wishes, notes on its own text."""
# ruff: noqa: RUF001  models write typographic quotes and full-width marks

from __future__ import annotations

import re

from .phrases import phrases

#: maximum length of an ending, in characters
LONGEST = 400

# The rest of a sentence; if somebody "said" or "wrote" it, it is a quotation.
_ANY = r"(?:(?!,[^\n,]{0,30}\b(?:said|says|asked|asks|wrote|writes|replied|sang|sings)\b)[^\n.!?]){0,120}"
_SOME = r"[^\n。！？]{0,40}"
_MORE = "(?:any|more|further|additional|other|another|anything|something)"
_PRODUCT = "(?:passage|paragraph|answer|response|text|explanation|information|overview|summary)"
_HESITATE = "(?:feel free|don't hesitate|do not hesitate) to (?:ask|let me know|reach out|contact me)"
_ASK_ME = f"(?:please )?(?:let me know|{_HESITATE}|just ask|ask me)(?: me)?"

# Only what a writer says to a reader: a passage that quotes one goes on after it or puts it in quotes.
_ENGLISH = phrases(rf"""
    (?:please )?let me know (?:if|whether|what|how|in case) (?:you(?:'d|'re|'ve)?|there|this|that|it|i)\b{_ANY}
    |{_ASK_ME}(?: (?:if|should|in case) you\b{_ANY}| {_MORE} questions?(?: (?:you|on|about)\b{_ANY})?
    | for (?:more|further|additional) (?:information|details?|help))?
    |(?:if|should) you\b{_ANY}(?:,|\bquestions?|\bdetails?|\binformation) {_ASK_ME}(?: and i\b{_ANY})?
    |(?:if|should) you\b{_ANY} i(?:'m| am|'d| would|'ll) (?:be )?(?:happy|glad|here)\b{_ANY}
    |(?:i )?hope (?:that )?(?:this|that|it|the)(?: {_PRODUCT})? (?:helps?|is|was|answers?|meets?|provides?)\b{_ANY}
    |would you like (?:me to|to know more|(?:some )?more (?:information|details?)|help with)\b{_ANY}
    |do you (?:have {_MORE} (?:other )?questions?|want me to|need {_MORE})\b{_ANY}
    |is there (?:anything|something) (?:else|specific|in particular)\b{_ANY}\b(?:i|you)\b{_ANY}
    |(?:can|may) i help you\b{_ANY}
    |i(?:'m| am) (?:always )?(?:here|happy|glad) to (?:help|assist|answer)\b{_ANY}
    |thank you for (?:asking|your question)
    |\(?(?:approximate |total )?word count:\W*(?:about |approximately |~)?\d+(?: words)?\)?
""")
_OTHERS = phrases(rf"""
    ich hoffe,? (?:das|dies|diese[rs]? \w+|es) (?:hilft|beantwortet|war|ist)\b{_ANY}
    |(?:lass(?:en sie)? (?:es )?mich (?:es )?(?:bitte )?wissen|sag(?:en sie mir)? bescheid)\b{_ANY}
    |(?:wenn|falls) (?:du|sie) (?:noch )?(?:weitere|andere|mehr)\b{_ANY}\b(?:wissen|fragen|gerne?|verfügung)\b{_ANY}
    |(?:haben sie|hast du) (?:noch )?(?:weitere|andere|mehr) fragen\b{_ANY}
    |kann ich (?:dir|ihnen) (?:sonst )?(?:noch|bei)\b{_ANY}\bhelfen
    |j'espère que (?:cela|ça|ceci|ce \w+|cette \w+)\b{_ANY}\b(?:aide|aidera|utile|répond|question)\b{_ANY}
    |(?:si vous\b{_ANY}, )?n'hésitez? pas à (?:me |m'){_ANY}
    |avez-vous d'autres questions\b{_ANY}
    |espero que (?:esto|esta \w+|este \w+|te|le)\b{_ANY}\b(?:ayud[ea]\w*|útil|sirva|responda)\b{_ANY}
    |si (?:tienes?|necesitas?|quieres?)\b{_ANY}(?:no dudes? en\b|házmelo saber|avísame|estoy aquí){_ANY}
    |(?:no dudes? en (?:preguntar|consultarme|decirme)|házmelo saber|avísame)\b{_ANY}
    |hay algo más en lo que\b{_ANY}
    |espero que (?:isso|isto|ess[ae] \w+|est[ae] \w+|te|tenha)\b{_ANY}\b(?:ajud\w+|útil|responda)\b{_ANY}
    |se (?:tiver|precisar|quiser)\b{_ANY}\b(?:perguntar|avise|avisar|disposição|ajudar|dizer)\b{_ANY}
    |(?:fique à vontade para|não hesite em|sinta-se à vontade para) (?:me )?perguntar\b{_ANY}
    |(?:há|tem) (?:algo mais|mais alguma coisa)\b{_ANY}\bajud\w+{_ANY}
    |希望(?:这|以上|上述|本){_SOME}(?:帮助|有用|满意|解答){_SOME}
    |如果?(?:您|你)(?:还)?(?:有|需要){_SOME}(?:告诉我|提问|问我|联系我|提出|告知){_SOME}
    |(?:请|欢迎)?随时(?:告诉我|提问|问我|向我提问){_SOME}
    |(?:您|你)?还有(?:什么|其他|别的){_SOME}(?:问题|帮){_SOME}吗
    |(?:この{_SOME}が)?(?:お役に立て(?:れ)?ば|参考になれば){_SOME}幸いです
    |{_SOME}(?:質問|ご不明な点|不明点){_SOME}(?:お知らせ|お聞かせ|お聞き|お尋ね|お問い合わせ|質問して)ください
""")
# A note only counts if it is about the text itself and says something that only the writer of the text would say.
_NOTE = phrases(rf"""
    (?:please )?note(?: that\b|\s*:)\W*(?:
    (?:i(?:'ve|'m| have| am| tried| kept| wrote)|as an? ai)\b[^\n]*
    |(?:this|the|my) (?:above |provided |following )?(?:{_PRODUCT}|content)(?: (?:above|provided|given))?
    (?: \w+){{0,4}}? (?:general|overview|fictional|hypothetical|generated|simplified|summary|brief|concise|based on
    |intended|meant|requested|informational|educational|exhaustive|up[\s-]to[\s-]date|words|substitute)\b[^\n]*)
    |注(?:意)?[:：]\s*(?:本|这|此|以上|上述)[^\n]{{0,6}}(?:段落|回答|答案|文章|文字|内容)[^\n]{{0,80}}
""")
_ENDING = re.compile(
    rf"[*_\s¡¿]*(?:(?:{_ENGLISH}|{_OTHERS})\s*[.!?。！？]*|[(（\[]?[*_]*{_NOTE}[)）\]]?)[*_\s]*[\U0001F300-\U0001FAFF☺️]*\s*",
    re.IGNORECASE,
)
# Between paragraphs, or after a sentence. Lines of a list or of a letter have no empty line before them.
_BOUNDARY = re.compile(
    r"\n(?:[ \t]*-{3,}[ \t]*|[ \t]*\n(?:\s*-{3,}[ \t]*)?)\n?\s*|(?<=[.!?…)\]*_”])[ \t]+|(?<=[。！？）])"
)
_LETTER = re.compile(
    r"\W*(?:dear|hi|hello|subject|sehr\s+geehrte|lieber?|cher|chère|estimad[oa]|querid[oa]|prezad[oa])\b", re.IGNORECASE
)


def without_closing(text: str) -> str:
    """`text` without offers, wishes and notes about itself at the end, such as "Let me know if you have questions!".

    Only whole sentences and paragraphs at the end of the text are removed. Text that a colon introduces is content, and
    so is the closing of a letter.

    Example:
        >>> without_closing("The sky is blue.\\n\\n(Note: This passage is a general overview.)")
        'The sky is blue.'
        >>> without_closing("Water boils at 100 degrees. (Note: on Mount Everest it boils at 71 degrees.)")
        'Water boils at 100 degrees. (Note: on Mount Everest it boils at 71 degrees.)'
    """
    if _LETTER.match(text):
        return text
    while (head := _before_closing(text)) is not None:
        text = head
    return text


def _before_closing(text: str) -> str | None:
    """The text before the last closing sentences or paragraph, or None if there are none."""
    for boundary in _BOUNDARY.finditer(text, max(0, len(text) - LONGEST)):
        head = text[: boundary.start()].rstrip()
        if _ENDING.fullmatch(text, boundary.end()) and re.search(r"\w", head) and head[-1] not in ":：":
            return head
    return None
