"""How AnchorDR's tokenizer rewrites a text before sentencepiece sees it."""

from __future__ import annotations

import re
import unicodedata

# The only literal strings in a text that are read as special tokens; sentinels and [MASK] are ordinary text.
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
_SPECIAL = re.compile("(" + "|".join(map(re.escape, SPECIAL_TOKENS)) + ")")
_TYPOGRAPHIC = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u00b4": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"}
)
_CLITICS = (
    (re.compile(r"' ([smdtSMDT])\b"), r"'\1"),
    (re.compile(r"' (ll|re|ve)\b"), r"'\1"),
    (re.compile(r"' (LL|RE|VE)\b"), r"'\1 "),
)


class _Punctuation(dict[str, bool]):
    """Whether a character is punctuation: ASCII signs, and the Unicode categories P*."""

    def __missing__(self, char: str) -> bool:
        code = ord(char)
        ascii_sign = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
        self[char] = known = ascii_sign or unicodedata.category(char).startswith("P")
        return known


_PUNCTUATION = _Punctuation()


def split_specials(text: str) -> list[str]:
    """`text` split at literal special tokens, which are kept as parts; white space next to them is dropped.

    Example:
        >>> split_specials("one <s>two")
        ['one', '<s>', 'two']
    """
    parts = _SPECIAL.split(text)
    last = len(parts) - 1
    kept = []
    for number, part in enumerate(parts):  # odd parts are special tokens
        if number % 2 == 0:
            part = part.lstrip() if number > 0 else part
            part = part.rstrip() if number < last else part
        if part:
            kept.append(part)
    return kept


def detach(word: str) -> str:
    """`word` with its leading and trailing punctuation separated by spaces; punctuation inside is kept.

    Example:
        >>> detach('("quoted")')
        '(" quoted ")'
    """
    if len(word) == 1 or not (_PUNCTUATION[word[0]] or _PUNCTUATION[word[-1]]):
        return word
    start, end = 0, len(word)
    while start < end and _PUNCTUATION[word[start]]:
        start += 1
    if start == end:
        return word
    while _PUNCTUATION[word[end - 1]]:
        end -= 1
    return " ".join(filter(None, (word[:start], word[start:end], word[end:])))


def pretokenize(text: str, lower: bool) -> str:
    """`text` with plain quotes and dashes, punctuation detached, English clitics rejoined, and lower-cased if asked.

    Example:
        >>> pretokenize("It's “fine”.", lower=True)
        'it\\'s " fine ".'
    """
    text = text.strip().replace("``", '"').replace("''", '"').translate(_TYPOGRAPHIC)
    text = " ".join(map(detach, text.split()))
    if "' " in text:
        for pattern, replacement in _CLITICS:
            text = pattern.sub(replacement, text)
        text = " ".join(text.split())
    return text.lower() if lower else text
